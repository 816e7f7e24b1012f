"""Matching one decoder layer beside the published matcher; the same pairs on both sides, checked.

python -m benchmarks.matching --clone DIR [--rounds 15]
"""

from __future__ import annotations

import argparse

import torch

from benchmarks.published import import_published
from benchmarks.ratio import compare, machine
from detrscope.core.types import Outputs, Target
from detrscope.training.matcher import Matcher, SoftmaxCost

CASES = ((16, 100, 7), (16, 300, 20), (16, 900, 20))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clone", required=True, help="a clone of github.com/facebookresearch/detr")
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    import_published(arguments.clone)
    from models.matcher import HungarianMatcher

    theirs, ours = HungarianMatcher(1, 5, 2), Matcher(SoftmaxCost(), 1, 5, 2)
    print(machine())
    generator = torch.Generator().manual_seed(0)
    for images, queries, boxes in CASES:
        logits = torch.randn(images, queries, 92, generator=generator)
        predicted = torch.rand(images, queries, 4, generator=generator) * 0.5 + 0.2
        targets = [
            Target(
                torch.randint(0, 91, (boxes,), generator=generator),
                torch.rand(boxes, 4, generator=generator) * 0.5 + 0.2,
            )
            for _ in range(images)
        ]
        published_targets = [{"labels": t.labels, "boxes": t.boxes_cxcywh} for t in targets]
        outputs = Outputs(logits[None], predicted[None])
        published = {"pred_logits": logits, "pred_boxes": predicted}
        _check(theirs(published, published_targets), ours(outputs, targets), boxes)
        compare(
            f"matching {images} images x {queries} queries x {boxes} boxes",
            {
                "published": lambda p=published, t=published_targets: theirs(p, t),
                "detrscope": lambda o=outputs, t=targets: ours(o, t),
            },
            rounds=arguments.rounds,
            warm_up=3,
        )


def _check(theirs: list[tuple[torch.Tensor, torch.Tensor]], ours: object, boxes: int) -> None:
    """Stop where one pair differs."""
    expected = {(b, int(q), int(t)) for b, (qs, ts) in enumerate(theirs) for q, t in zip(qs, ts, strict=True)}
    rows = zip(ours.images.tolist(), ours.queries[0].tolist(), ours.targets[0].tolist(), strict=True)
    found = {(b, q, t - b * boxes) for b, q, t in rows}
    assert found == expected, "the two matchers disagree"


if __name__ == "__main__":
    main()
