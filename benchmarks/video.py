"""How fast `detrscope detect` is from a video file to an annotated one, and how much memory it takes.

    python -m benchmarks.video [--frames 300] [--model sprint-dense-n] [--precision auto] [--threads 2]

Draws a 320 x 240 video of dogs that move, runs the whole command in a process of its own, on it and on one four times
as long, and prints frames a second, CPU milliseconds a frame by stage and the peak memory of both. Without --track and
--attention their cost is not included.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.ratio import machine
from detrscope.synthetic.scene import Scene, draw_scene
from detrscope.views.mp4 import write_mp4

WIDTH, HEIGHT, RATE = 320, 240, 25
DOGS = 2
CHILD = """
import json, resource, sys, time
from detrscope.cli.app import app
from detrscope.commands.detection_stream import DetectionStream

streams = []
def keep(make):
    def init(self, *arguments):
        streams.append(self)
        make(self, *arguments)
    return init
DetectionStream.__init__ = keep(DetectionStream.__init__)
start = time.perf_counter(), time.process_time()
app(sys.argv[1:], standalone_mode=False)
(stream,) = streams
print(json.dumps({
    "frames": stream.frames,
    "seconds": stream.seconds,
    "stages": {stage.name: [stage.busy, stage.cpu] for stage in stream.times},
    "command": [time.perf_counter() - start[0], time.process_time() - start[1]],
    "cpu": stream.cpu_seconds,
    "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--frames", type=int, default=300, help="frames of the short video")
    parser.add_argument("--model", default="sprint-dense-n")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--threads", type=int, default=2, help="threads of PyTorch")
    parser.add_argument("--track", action="store_true")
    parser.add_argument("--attention", default="", help="class whose attention is drawn")
    options = parser.parse_args()
    print(machine())
    print(
        f"{options.model}, {options.precision}, in a process of its own with {options.threads} threads of PyTorch"
    )
    extra = ["--precision", options.precision, "--engine", options.engine, "--threshold", "0.5", "--quiet"]
    extra += ["--track"] if options.track else []
    extra += ["--attention", options.attention] if options.attention else []
    with tempfile.TemporaryDirectory() as folder:
        for factor in (1, 4):
            clip = draw_video(Path(folder) / f"dogs-{factor}.mp4", factor * options.frames)
            arguments = ["detect", str(clip), "--out", f"{folder}/out", "--model", options.model, *extra]
            threads = {name: str(options.threads) for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS")}
            done = subprocess.run(
                [sys.executable, "-c", CHILD, *arguments],
                check=True,
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, **threads},
            )
            report(json.loads(done.stdout.splitlines()[-1]))


def report(run: dict[str, object]) -> None:
    """Print one run."""
    frames, seconds = float(str(run["frames"])), float(str(run["seconds"]))
    stages = run["stages"]
    assert isinstance(stages, dict)
    parts = ", ".join(
        f"{name} {1000 * cpu / frames:.2f} (busy {busy / seconds:.0%})"
        for name, (busy, cpu) in stages.items()
    )
    print(
        f"{frames:.0f} frames: {frames / seconds:.1f} frames/s file to file; CPU ms a frame: {parts}; "
        f"all threads {1000 * float(str(run['cpu'])) / frames:.2f}; peak memory {float(str(run['memory'])):.0f} MiB"
    )


def draw_video(path: Path, frames: int, seed: int = 1) -> Path:
    """Write a video of dogs that walk to and fro over a background."""
    scenes = (draw_scene(seed, index, 240) for index in range(200))
    dogs: list[tuple[np.ndarray, np.ndarray]] = []
    background: np.ndarray | None = None
    for scene in scenes:
        if len(scene.boxes_xyxy) == 0 and background is None:
            background = np.concatenate([scene.image, scene.image[:, ::-1]], axis=1)[:, :WIDTH]
        elif len(dogs) < DOGS and len(scene.boxes_xyxy) == 1 and scene.visible[0] == 1:
            dogs.append(_cut_out(scene))
        if background is not None and len(dogs) == DOGS:
            break
    assert background is not None and len(dogs) == DOGS
    with write_mp4(path, RATE) as add:
        for number in range(frames):
            frame = background.copy()
            for row, (pixels, mask) in enumerate(dogs):
                height, width = mask.shape
                room = WIDTH - width
                x = abs((number * (row + 2) + row * 150) % (2 * room) - room)
                y = min(HEIGHT - height, 10 + row * 100)
                part = frame[y : y + height, x : x + width]
                part[mask] = pixels[mask]
            add(frame)
    return path


def _cut_out(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """Return pixels and mask of the only dog of a scene, half its size."""
    x0, y0, x1, y1 = scene.boxes_xyxy[0].astype(int).tolist()
    step = 2 if y1 - y0 > 110 else 1
    return scene.image[y0:y1:step, x0:x1:step], scene.instance[y0:y1:step, x0:x1:step] == 1


if __name__ == "__main__":
    main()
