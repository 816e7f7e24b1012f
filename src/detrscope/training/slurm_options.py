"""What a Slurm job of a training asks for, as words such as `partition=gpu nodes=2 gpus=8 time=12:00:00`."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from detrscope.config import build, require_config, setting, settings
from detrscope.core.errors import UserError

TIME = re.compile(r"(?:(?P<days>\d+)-)?(?P<first>\d+)(?::(?P<second>\d{1,2}))?(?::(?P<third>\d{1,2}))?")
SOURCE = "slurm"


@settings
class SlurmOptions:
    """Resources and limits of the job."""

    partition: str | None = setting(None, "partition to submit to; null: the cluster's default")
    nodes: int = setting(1, "number of nodes", ge=1)
    gpus: int = setting(0, "GPUs of each node, with one process for each", ge=0)
    processes: int = setting(0, "processes on each node; 0: one for each GPU, or one without GPUs", ge=0)
    cpus: int = setting(4, "CPU cores of each process, those of its data.workers included", ge=1)
    memory: int | None = setting(None, "memory of each node in GB; null: the cluster's default", ge=1)
    time: str = setting("24:00:00", "time limit as Slurm writes it: minutes, H:M:S, D-H or D-H:M:S")
    requeues: int = setting(
        20, "how often a job that runs out of time is submitted again; preemptions do not count", ge=0
    )
    notice: int = setting(
        120, "seconds before the time limit at which the run saves; a step must take less", ge=10
    )
    name: str = setting("detrscope", "name of the job")
    account: str | None = setting(None, "account to charge")
    qos: str | None = setting(None, "quality of service")
    constraint: str | None = setting(None, "features that nodes must have")
    exclude: str | None = setting(None, "nodes to avoid")
    setup: str | None = setting(None, "shell command that is run first, such as 'module load cuda'")
    cluster: Literal["slurm", "local"] = setting(
        "slurm", "local runs the job on this machine, without Slurm, to try it out"
    )

    def __post_init__(self) -> None:
        require_config(
            parse_minutes(self.time) > 0, "time", self.time, "minutes, H:M:S, D-H or D-H:M:S, above 0"
        )
        require_config(
            not (self.gpus and self.processes not in (0, self.gpus)),
            "processes",
            self.processes,
            f"one for each of the {self.gpus} GPUs: leave it out",
        )
        require_config(
            self.cluster == "slurm" or self.nodes == 1, "nodes", self.nodes, "1 with cluster=local"
        )
        require_config(
            self.notice < 60 * parse_minutes(self.time),
            "notice",
            self.notice,
            f"less than the time limit, {self.time}",
        )

    @property
    def devices(self) -> int:
        """Processes on each node."""
        return self.gpus or self.processes or 1

    def train_settings(self, given: Mapping[str, Any]) -> dict[str, int]:
        """Return the settings of a run that follow from the job's resources.

        Args:
            given: settings that are given beside, by their dotted or nested keys.

        Raises:
            UserError: they say otherwise.
        """
        train = given.get("train", {})
        if not isinstance(train, Mapping):
            raise UserError(f"train is {train}: expected settings of it, such as train.epochs=50")
        for name, count in (("nodes", self.nodes), ("devices", self.devices)):
            found = given.get(f"train.{name}", train.get(name, count))
            if found != count:
                raise UserError(
                    f"train.{name} is {found}, but the Slurm job has {count}: leave the setting out"
                )
        return {"train.nodes": self.nodes, "train.devices": self.devices}

    @property
    def minutes(self) -> int:
        """Time limit in minutes."""
        return parse_minutes(self.time)

    @classmethod
    def parsed(cls, texts: Sequence[str]) -> SlurmOptions:
        """Parse texts of words `key=value`; a value with spaces is quoted as in a shell.

        Raises:
            UserError: an unknown key (the nearest is named), one that is given twice, or a wrong value.
        """
        tree: dict[str, str] = {}
        for text in texts:
            try:
                words = shlex.split(text)
            except ValueError as error:
                raise UserError(f"{SOURCE}: '{text}': {str(error).lower()}") from None
            for word in words:
                key, equals, value = word.partition("=")
                if not equals or not value:
                    raise UserError(f"{SOURCE}: '{word}': expected key=value, such as partition=gpu")
                if key in tree:
                    raise UserError(f"{SOURCE}: '{key}' is given twice")
                tree[key] = value
        return build(cls, tree, source=SOURCE)


def parse_minutes(text: str) -> int:
    """Return a time limit in minutes, seconds rounded up; 0 where it is none.

    Args:
        text: as Slurm writes it: M, M:S, H:M:S, D-H, D-H:M, D-H:M:S.
    """
    found = TIME.fullmatch(text)
    if found is None:
        return 0
    first, second, third = (int(found[name] or 0) for name in ("first", "second", "third"))
    if found["days"] is not None or found["third"] is not None:
        hours, minutes, seconds = first, second, third
    else:
        hours, minutes, seconds = 0, first, second
    return (int(found["days"] or 0) * 24 + hours) * 60 + minutes + -(-seconds // 60)
