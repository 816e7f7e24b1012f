"""The main paths on other kinds of CPU, emulated in processes of their own: what they lack must not be assumed.

The variables are those by which torch and oneDNN are kept below what the CPU has.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from detrscope.core.preprocessing import Preprocessing
from detrscope.data.drawn_dogs import write_drawn
from detrscope.data.image_reader import read_image
from detrscope.ops.kernels import native_precision
from detrscope.ops.kernels.native_precision import SWITCH
from tests.conftest import ROOT

AVX2 = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
# Neither wide registers nor oneDNN: what a Mac or an ARM server lacks of an Intel native_precision.
PLAIN = {"ONEDNN_MAX_CPU_ISA": "SSE41", "ATEN_CPU_CAPABILITY": "default", SWITCH: "0"}
MACHINES = {"this": {}, "avx2": AVX2, "plain": PLAIN}
# Where this machine has AVX2 only, the variables change nothing, and slow runs would be made twice.
AVX2_BELOW_THIS = pytest.param(
    "avx2",
    marks=pytest.mark.skipif(
        not torch.backends.cpu.get_cpu_capability().startswith("AVX512"),
        reason="this machine has no more than AVX2: the same as 'this'",
    ),
)

EVERY_FAMILY = """
import json, sys
import torch
import detrscope as ds
from detrscope.core.records import DenseRecord
from detrscope.families import FAMILIES
from detrscope.training.run_folder import RunFolder
from tests.support.tiny_models import tiny_settings

torch.set_num_threads(1)
out, precision, families, dogs = sys.argv[1:]
found = {}
data = f"coco:{dogs}"
for family in families.split(",") if families else FAMILIES:
    variant = FAMILIES[family].variants[0].name
    run = f"{out}/{variant}"
    # As many queries as tokens: which of nearly equal ones are selected would be a matter of rounding. Where the token
    # of each rank gets learned content of its own, their order would be one, too: a single query.
    queries = 1 if family in ("lw_detr", "rf_detr") else 300
    overrides = {**tiny_settings(variant), "queries": queries}
    model = {"variant": variant, "backbone_weights": "none", "overrides": overrides}
    ds.train(
        data=data,
        out=run,
        overrides={
            "model": model,
            "data": {"batch_size": 4, "workers": 0, "short_side": 96, "long_side": 128},
            "augment": {"sizes": [], "crop": 0.0},
            "train": {"epochs": 1, "precision": precision, "lr": 1e-5, "muon": {"enabled": True, "lr": 1e-4}},
        },
    )
    scores = ds.evaluate(run, data)
    detector = ds.load(run, precision=precision)
    picture = (torch.arange(3 * 48 * 64) % 251).to(torch.uint8).view(3, 48, 64)
    detections = detector.detect(picture, threshold=0.0)
    trace = detector.trace(picture)
    values = trace.cross_attention(query=0, layer=-1).values
    assert values.isfinite().all()
    found[variant] = [RunFolder(run).rows()[-1]["train/loss"], float(detections.scores[0]), scores.AP]
print(json.dumps(found))
"""

PICTURES = """
import sys
from pathlib import Path
import torch
from detrscope.core.preprocessing import Preprocessing
from detrscope.data.drawn_dogs import write_drawn
from detrscope.data.image_reader import read_image

out, dogs = map(Path, sys.argv[1:])
write_drawn(out / "dogs", count=4, size=96)
drawn = [read_image(path) for path in sorted((out / "dogs/images").iterdir())]
given = [read_image(path) for path in sorted((dogs / "images").iterdir())]
resized = [Preprocessing(side, side).resize(image) for image in given for side in (64, 120)]
torch.save([*drawn, *resized], out / "pictures.pt")
"""


def run(arguments: list[str], environment: dict[str, str], folder: Path) -> str:
    result = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        timeout=900,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), **environment},
    )
    assert result.returncode == 0, f"{result.stdout[-1000:]}\n{result.stderr[-3000:]}"
    return result.stdout + result.stderr


@pytest.fixture(scope="module")
def dogs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images drawn here, so that all machines learn from the same pixels."""
    folder = tmp_path_factory.mktemp("dogs") / "dogs"
    write_drawn(folder, count=4, size=96)
    return folder


@pytest.fixture(scope="module")
def on_this_machine(dogs: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("this")
    lines = run(["-c", EVERY_FAMILY, str(folder), "fp32", "", str(dogs)], {}, folder).splitlines()
    return json.loads(next(line for line in lines if line.startswith("{")))


@pytest.mark.parametrize("name", [AVX2_BELOW_THIS, "plain"])
def test_results_agree_between_machines(
    name: str, on_this_machine: dict[str, Any], dogs: Path, tmp_path: Path
) -> None:
    lines = run(
        ["-c", EVERY_FAMILY, str(tmp_path), "fp32", "", str(dogs)], MACHINES[name], tmp_path
    ).splitlines()
    found = json.loads(next(line for line in lines if line.startswith("{")))
    assert found.keys() == on_this_machine.keys()
    for variant, numbers in on_this_machine.items():
        assert found[variant] == pytest.approx(numbers, rel=1e-3, abs=1e-4), variant


@pytest.mark.parametrize("name", ["avx2", "plain"])
def test_drawn_and_resized_images_differ_by_one_level_at_most(name: str, dogs: Path, tmp_path: Path) -> None:
    run(["-c", PICTURES, str(tmp_path), str(dogs)], MACHINES[name], tmp_path)
    drawn = [read_image(path) for path in sorted((dogs / "images").iterdir())]
    resized = [Preprocessing(side, side).resize(image) for image in drawn for side in (64, 120)]
    for found, expected in zip(torch.load(tmp_path / "pictures.pt"), [*drawn, *resized], strict=True):
        assert (found.int() - expected.int()).abs().max() <= 1


@pytest.mark.parametrize(("name", "precision"), [("avx2", "bf16"), ("plain", "bf16"), ("this", "auto")])
def test_emulated_bf16_works_with_one_warning(name: str, precision: str, dogs: Path, tmp_path: Path) -> None:
    output = run(
        ["-c", EVERY_FAMILY, str(tmp_path), precision, "sprint", str(dogs)], MACHINES[name], tmp_path
    )
    emulated = precision == "bf16" and (
        name == "plain" or not native_precision.is_native_precision(torch.bfloat16) or name == "avx2"
    )
    assert output.count("this CPU emulates it") == (1 if emulated else 0)


@pytest.mark.parametrize("name", ["this", AVX2_BELOW_THIS, "plain"])
def test_demo(name: str, tmp_path: Path) -> None:
    output = run(["-m", "detrscope", "demo", "--quick", "--out", "demo"], MACHINES[name], tmp_path)
    assert (tmp_path / "demo" / "index.html").is_file()
    assert "Traceback" not in output


@pytest.mark.parametrize("name", MACHINES)
def test_doctor_reports_auto_choices(name: str, tmp_path: Path) -> None:
    found = json.loads(run(["-m", "detrscope", "doctor", "--json"], MACHINES[name], tmp_path))
    rows = {row["name"]: row["value"] for row in found}
    assert rows["precision, training"] in (("fp32",) if name != "this" else ("fp32", "bf16"))
    assert rows["oneDNN"] == ("no" if name == "plain" else "yes" if native_precision.has_onednn() else "no")
    assert rows["deformable attention on cpu"] == "numba"
