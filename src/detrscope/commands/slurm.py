"""Train as a job of a Slurm cluster, by submitit: submitted, saved before it is preempted, and submitted again."""

from __future__ import annotations

import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

from detrscope.commands.train import JOBS, begun_by, train_in_folder
from detrscope.console import LogLevel, log, setup_console
from detrscope.core.errors import UserError, WorkFailed, in_one_line
from detrscope.core.files import check_writable_folder
from detrscope.inference.packages import require_packages
from detrscope.training.config import RunConfig
from detrscope.training.interrupt import Preempted
from detrscope.training.run_folder import RunFolder
from detrscope.training.setup import resolve_run
from detrscope.training.slurm_options import SlurmOptions


class Submitted(NamedTuple):
    """A job that waits or runs."""

    job_id: str
    log_file: Path  # of the first process
    job: Any  # submitit's, which knows whether it is done


@dataclass(frozen=True)
class TrainJob:
    """What each process of the job runs.

    A job that is started again, by itself or by Slurm, resumes the run that it has begun, and no other.

    Attributes:
        config: the settings.
        out: the run folder.
        resume: continue the run in it.
        overwrite: replace the run in it.
        quiet: as on the command line.
        level: as on the command line.
        mark: names the job in the run folder; Slurm gives numbers of jobs again, after years.
    """

    config: RunConfig
    out: Path
    resume: bool = False
    overwrite: bool = False
    quiet: bool = False
    level: LogLevel = "info"
    mark: str = field(default_factory=lambda: uuid4().hex)

    def __call__(self) -> None:
        """Train; exit with the codes of the command line."""
        import submitit

        if submitit.JobEnvironment().cluster == "local":  # srun tells its processes where the others are
            environment = submitit.helpers.TorchDistributedEnvironment()
            environment.master_addr = "127.0.0.1"
            environment.export(set_cuda_visible_devices=False, overwrite=True)
        setup_console(self.quiet, self.level)
        try:
            self._train()
        except KeyboardInterrupt as stopped:
            if isinstance(stopped, Preempted) or preempted_by_slurm(submitit.JobEnvironment()):
                self._submit_again()
            sys.exit(130)
        except Exception as error:
            described = in_one_line(error)
            if described is None:
                raise
            print(f"detrscope: {described[0]}", file=sys.stderr, flush=True)
            sys.exit(described[1])

    def _train(self) -> None:
        """Resume the run where it is this job's, or that is asked for; begin it otherwise.

        Raises:
            UserError: another run has replaced that of this job, and more, as `train`.
        """
        folder = RunFolder(self.out)
        begun = begun_by(folder)
        own = begun[-1:] == [self.mark]
        resume = self.resume or (own and folder.in_use)
        if not resume:
            if self.mark in begun and not own:
                raise UserError(
                    f"{folder.path}: another run has replaced the one that this job began: submit it again with"
                    " another folder"
                )
            folder.refuse_if_in_use(self.overwrite)
        config = resolve_run(self.config, resume=folder if resume else None)
        train_in_folder(config, folder, resume, self.mark)

    def checkpoint(self) -> Any:
        """Return the job that submitit submits in this one's place: the same."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)

    def _submit_again(self) -> None:
        """Hand over to submitit's own handler, now that the state is saved; it waits for a signal."""
        import submitit

        environment = submitit.JobEnvironment()
        if environment.global_rank != 0:
            sys.exit(0)  # the first process puts the job back into the queue, which ends the others
        number = environment.job_id
        try:
            signal.raise_signal(environment._usr_sig())
        except SystemExit:  # its handler ends the process when the job is in the queue
            log.info("job %s: saved; submitted again", number)
            raise
        except submitit.core.utils.UncompletedJobError:
            log.warning("job %s: out of time, no requeues left; saved: continue with resume", number)
            sys.exit(130)
        except (OSError, subprocess.SubprocessError) as error:
            log.error("job %s: saved, but not submitted again (%s); continue with resume", number, error)
            sys.exit(1)


def preempted_by_slurm(environment: Any) -> bool:
    """Return whether SIGTERM came since another job takes the machine, and not since somebody cancelled this one.

    Slurm puts a preempted job back into the queue only where it has not ended by itself.
    """
    if environment.cluster != "slurm":
        return False
    command = ["scontrol", "--oneliner", "show", "job", environment.job_id]
    try:
        shown = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError) as error:
        log.warning(
            "scontrol does not say whether the job was preempted (%s): it is not submitted again", error
        )
        return False
    found = re.search(r"PreemptTime=(\S+)", shown)
    return found is not None and found[1] not in ("None", "Unknown")


def submit_training(
    options: SlurmOptions,
    config: RunConfig,
    out: str | Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
    level: LogLevel = "info",
) -> Submitted:
    """Submit a training; it is checked first as far as this machine can.

    Args:
        options: resources of the job.
        config: settings, with those of `options.train_settings`.
        out: the run folder, which all nodes must see under this path.
        resume: continue the run in `out`.
        overwrite: replace it.
        quiet: show warnings and errors only in the job's log.
        level: least severe messages of the job's log.

    Raises:
        UserError: a wrong setting, a run folder in use, or a machine without Slurm.
        WorkFailed: Slurm refuses the job.
    """
    require_packages("train on Slurm", "submitit", extra="slurm")
    import submitit

    if not config.data.source:
        raise UserError("no dataset: expected one, such as data=coco:path/to/coco")
    out = Path(out).resolve()
    folder = RunFolder(out)
    if resume:
        folder.config()  # raises where there is no run
    else:
        folder.refuse_if_in_use(overwrite)
    check_writable_folder(out)
    job = TrainJob(config, out, resume, overwrite, quiet, level)
    jobs = out / JOBS
    try:
        executor = submitit.AutoExecutor(
            jobs,
            cluster=options.cluster,
            slurm_max_num_timeout=options.requeues,
            local_max_num_timeout=options.requeues,
        )
    except RuntimeError as error:
        raise UserError(
            f"slurm: this machine has no Slurm ({str(error).rstrip('?').split(',')[0]}); submit from a login node of"
            " the cluster, or try the job here with cluster=local"
        ) from None
    executor.update_parameters(**_parameters(options))
    try:
        submitted = executor.submit(job)
    except (submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = next(
            (line for line in lines if "sbatch: error" in line), lines[-1] if lines else "no reason given"
        )
        raise WorkFailed(f"slurm: sbatch refuses the job: {reason[:200]}") from None
    return Submitted(submitted.job_id, Path(submitted.paths.stdout), submitted)


def batch_script(options: SlurmOptions, out: str | Path) -> str:
    """Return the script that would be submitted.

    Raises:
        UserError: submitit is not installed, or the job is not for Slurm.
    """
    require_packages("train on Slurm", "submitit", extra="slurm")
    from submitit.slurm import slurm

    if options.cluster != "slurm":
        raise UserError("slurm: cluster=local has no batch script; leave it out")
    jobs = Path(out).resolve() / JOBS
    names: Mapping[str, str] = {str(k): str(v) for k, v in slurm.SlurmExecutor._equivalence_dict().items()}
    given = {key.removeprefix("slurm_"): value for key, value in _parameters(options).items()}
    plain: dict[str, Any] = {names.get(key, key): value for key, value in given.items()}
    if "mem" in plain:
        plain["mem"] = f"{plain['mem']}GB"
    command = f"{shlex.quote(sys.executable)} -u -m submitit.core._submit {shlex.quote(str(jobs))}"
    return str(slurm._make_sbatch_string(command=command, folder=jobs, **plain))


def _parameters(options: SlurmOptions) -> dict[str, Any]:
    """Return the arguments of submitit's executors; those of Slurm alone begin with `slurm_`."""
    given: dict[str, Any] = {
        "name": options.name,
        "timeout_min": options.minutes,
        "nodes": options.nodes,
        "tasks_per_node": options.devices,
        "gpus_per_node": options.gpus or None,
        "cpus_per_task": options.cpus,
        "mem_gb": options.memory,
        "slurm_partition": options.partition,
        "slurm_account": options.account,
        "slurm_qos": options.qos,
        "slurm_constraint": options.constraint,
        "slurm_exclude": options.exclude,
        "slurm_signal_delay_s": options.notice,
        "local_setup": [options.setup] if options.setup and options.cluster == "local" else None,
        "slurm_setup": [options.setup] if options.setup else None,
        # A process that fails ends the others; preempted jobs go back into the queue.
        "slurm_srun_args": ["--kill-on-bad-exit=1"],
        "slurm_additional_parameters": {"requeue": True},
        "stderr_to_stdout": True,
    }
    mine = "local_" if options.cluster == "slurm" else "slurm_"
    return {k: v for k, v in given.items() if v is not None and not k.startswith(mine)}
