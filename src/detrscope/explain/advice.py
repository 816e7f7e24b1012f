"""What to change about the errors of a detector: one sentence for each stage, with the setting and the numbers."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Sequence

from detrscope.core.preprocessing import Preprocessing
from detrscope.core.verdicts import Stage, StageCost, Verdict

LEAST_GAIN = 0.001  # of AP: stages that cost less get no advice


class Advisor:
    """Turns errors into advice.

    Args:
        verdicts: all errors.
        queries: queries of the model.
        token: median width and height of a token of the finest map, in pixels of the images.
        fullest: most objects in an image.
        preprocessing: of the model.
    """

    def __init__(
        self,
        verdicts: Sequence[Verdict],
        *,
        queries: int,
        token: tuple[float, float],
        fullest: int,
        preprocessing: Preprocessing,
    ) -> None:
        self.verdicts, self.queries, self.token, self.fullest = verdicts, queries, token, fullest
        self.preprocessing = preprocessing

    def advise(self, costs: Sequence[StageCost]) -> list[str]:
        """Return the advice for each stage that costs AP, the dearest first."""
        sentences: dict[Stage, Callable[[list[Verdict]], str]] = {
            "smaller than a token": self._small,
            "more objects than queries": self._crowded,
            "one query for two": self._shared,
            "not among the proposals": self._unreached,
            "never reached": self._unreached,
            "lost in a layer": self._lost,
            "badly placed": self._placed,
            "wrong class": self._confused,
            "low score": self._low,
            "duplicate": self._repeated,
            "on nothing": self._nothing,
        }
        advice = []
        for cost in costs:
            if cost.ap >= LEAST_GAIN or cost.ap50 >= LEAST_GAIN:
                of_stage = [verdict for verdict in self.verdicts if verdict.stage == cost.stage]
                advice.append(
                    f"{cost.stage} ({100 * max(cost.ap, 0.0):+.1f} AP): {sentences[cost.stage](of_stage)}"
                )
        return advice

    def _small(self, verdicts: list[Verdict]) -> str:
        sides = [((v.box_xyxy[2] - v.box_xyxy[0]) * (v.box_xyxy[3] - v.box_xyxy[1])) ** 0.5 for v in verdicts]
        side, token = statistics.median(sides), (self.token[0] * self.token[1]) ** 0.5
        factor = token / max(side, 1e-6)
        advice = "divide images into tiles (tiling), or take a family with a finer feature map"
        if factor <= 1:
            return advice
        lengths = {"short_side": self.preprocessing.short_side, "long_side": self.preprocessing.long_side}
        if self.preprocessing.box is not None:
            lengths = {"square": max(self.preprocessing.box)}
        settings = " ".join(f"data.{name}={round(length * factor)}" for name, length in lengths.items())
        return (
            f"the median box is {side:.1f} pixels across, a token {token:.1f}: enlarge images {factor:.1f} times"
            f" ({settings}), {advice}"
        )

    def _crowded(self, verdicts: list[Verdict]) -> str:
        return (
            f"the fullest image has {self.fullest} objects, the model {self.queries} queries:"
            f" train with model.overrides.queries={self.fullest} or more"
        )

    def _shared(self, verdicts: list[Verdict]) -> str:
        names = Counter(verdict.name for verdict in verdicts).most_common(1)
        return (
            f"{len(verdicts)} objects, most often {names[0][0]}, lie so close to another that one query serves both:"
            " train longer, on more images of such crowds, or with larger images (data.short_side)"
        )

    def _unreached(self, verdicts: list[Verdict]) -> str:
        names = Counter(verdict.name for verdict in verdicts).most_common(1)
        return (
            f"no query came to {len(verdicts)} objects, most often {names[0][0]} ({names[0][1]}):"
            " train longer or on more examples of them; if AP no longer rises, give the model more queries"
            f" (model.overrides.queries, now {self.queries}) or larger images (data.short_side)"
        )

    def _lost(self, verdicts: list[Verdict]) -> str:
        ((layer, count),) = Counter(v.layer for v in verdicts).most_common(1)
        return (
            f"{count} of {len(verdicts)} are lost in decoder layer {layer}: `detrscope ablate` shows which of its heads"
            " do it; train longer, since later layers learn last"
        )

    def _placed(self, verdicts: list[Verdict]) -> str:
        overlap = statistics.median(verdict.evidence.iou[-1] for verdict in verdicts)
        return (
            f"the median overlap is {overlap:.2f}, and .5 is wanted: train longer (boxes become exact last), enlarge"
            " images (data.short_side), and look at how tightly the boxes are annotated"
        )

    def _confused(self, verdicts: list[Verdict]) -> str:
        pairs = Counter(
            (v.name, v.other) if v.kind == "missed" else (v.other, v.name) for v in verdicts if v.other
        )
        ((own, other), count) = pairs.most_common(1)[0]
        suspected = sum(verdict.suspected for verdict in verdicts)
        doubt = f"; {suspected} may be annotated wrongly: look at them first" if suspected else ""
        words = f"{own} is taken for {other} {count} times: add examples of both, or make them one class"
        return f"{words}{doubt}"

    def _low(self, verdicts: list[Verdict]) -> str:
        score = statistics.median(verdict.score or 0.0 for verdict in verdicts)
        return (
            f"the median score is {score:.2f}: a threshold of {score:.2f} finds half of them; `evaluate` lists what"
            " that costs in precision. Training longer, or on more such objects, raises scores"
        )

    def _repeated(self, verdicts: list[Verdict]) -> str:
        proved = sum(bool(verdict.edit) for verdict in verdicts)
        return (
            f"{proved} of {len(verdicts)} give way when self-attention sees the other query better: the model can tell,"
            " and has not learned to; train longer, or raise the threshold"
        )

    def _nothing(self, verdicts: list[Verdict]) -> str:
        suspected = sum(verdict.suspected for verdict in verdicts)
        doubt = (
            f"{suspected} score so high that an annotation may be missing: look at them first; "
            if suspected
            else ""
        )
        return f"{doubt}add images of such places without objects, or raise the threshold"
