"""Examples at the end of the help of each command."""

from __future__ import annotations

EXAMPLES: dict[str, tuple[str, ...]] = {
    "demo": ("detrscope demo --quick",),
    "detect": (
        "detrscope detect photo.jpg --model detr-r50 --threshold 0.7",
        "detrscope detect clip.mp4 --track",
    ),
    "see": (
        "detrscope see photo.jpg --model detr-r50",
        "detrscope see photo.jpg --view heads --query 37 --layer 5",
    ),
    "train": (
        "detrscope train --preset photos --data coco:DIR --out run",
        "detrscope train --preset finetune --from detr-r50 --data coco:DIR --train.epochs=20",
        "detrscope train --resume --out run",
    ),
    "plot": ("detrscope plot run other-run --out curves.png",),
    "evaluate": ("detrscope evaluate --model run --data coco:DIR --why",),
    "compare": (
        "detrscope compare photo.jpg --model detr-r50 --model run",
        "detrscope compare --model run --model other-run --data coco:DIR",
    ),
    "benchmark": ("detrscope benchmark --model run --engine torch --engine onnx",),
    "export": ("detrscope export --model run --out model.onnx",),
    "explore": ("detrscope explore photo.jpg --model detr-r50", "detrscope explore run"),
    "publish": ("detrscope publish --model run --sample photo.jpg --out site",),
    "ablate": ("detrscope ablate photo.jpg --model run",),
    "faithfulness": ("detrscope faithfulness --model run --data coco:DIR",),
    "timelapse": ("detrscope timelapse run --out film",),
    "models": ("detrscope models",),
    "doctor": ("detrscope doctor",),
    "data check": ("detrscope data check coco:DIR --page problems.html",),
    "data show": ("detrscope data show coco:DIR --out sheet.jpg --augment.flip=1",),
    "data subset": ("detrscope data subset coco:DIR --category dog --out dogs",),
    "data convert": ("detrscope data convert yolo:DIR --out my-coco",),
    "data draw": ("detrscope data draw --count 100 --seed 0 --out dogs",),
    "hub push": ("detrscope hub push run alice/cells --license apache-2.0 --dry-run",),
}


def example_text(command: str) -> str:
    """Return the examples of a command with their heading, for its help."""
    heading = "Examples:" if len(EXAMPLES[command]) > 1 else "Example:"
    # Click rewraps paragraphs; lines after "\b" it keeps.
    return "\n".join((heading, "", "\b", *EXAMPLES[command]))
