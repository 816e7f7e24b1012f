"""Rollout and relevance against the same rules written out with whole maps and gradients from autograd."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from detrscope.core.errors import UserError
from detrscope.core.probe import Probe
from detrscope.core.records import DeformableRecord, DenseRecord
from detrscope.core.types import Batch, Level, Windows
from detrscope.inference.detector import Detector
from detrscope.inference.torch_engine import require_torch_engine
from detrscope.lens.relevance import gradient_attention, relevance
from detrscope.lens.rollout import rollout
from detrscope.trace_interface import Trace
from tests.support.tiny_models import distinct
from tests.support.traces import detector_of, picture, traced

every_variant = pytest.mark.parametrize("variant", distinct())
QUERY = 3


class Written:
    """Both doors with the whole map written out as a tensor of the graph, so that autograd gives its gradient."""

    def __init__(self) -> None:
        self.maps: dict[str, Tensor] = {}  # [1, h, Q, S]

    def attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        heads: int,
        site: str,
        padding: Tensor | None = None,
        mask: Tensor | None = None,
        dropout: float = 0.0,
        probe: Probe | None = None,
        levels: tuple[Level, ...] | None = None,
        windows: Windows | None = None,
    ) -> Tensor:
        assert padding is None and mask is None
        q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (query, key, value))
        scores = q @ k.transpose(2, 3) / q.shape[-1] ** 0.5
        if windows is not None:
            assert levels is not None
            extra = k.shape[2] - levels[0].tokens
            each = torch.arange(windows.count).repeat_interleave(extra // windows.count)
            window = torch.cat([windows.of_tokens(levels[0]), each])
            scores = scores.masked_fill(window[:, None] != window, float("-inf"))
        return self._mixed(site, scores.softmax(-1), v)

    def sample(
        self,
        value: Tensor,
        points: Tensor,
        scores: Tensor,
        *,
        levels: Sequence[Level],
        point_levels: Sequence[int],
        reference: Tensor,
        site: str,
        probe: Probe | None = None,
    ) -> Tensor:
        v = value.transpose(1, 2)  # [B, h, S, d]
        weights = scores.softmax(-1).transpose(1, 2)
        record = DeformableRecord(
            points.transpose(1, 2), weights, v, tuple(point_levels), tuple(levels), reference
        )
        return self._mixed(site, record.rows(), v)

    def _mixed(self, site: str, attention: Tensor, value: Tensor) -> Tensor:
        self.maps[site] = attention if attention.requires_grad else attention.requires_grad_()
        return (attention @ value).transpose(1, 2).flatten(2)


def written(
    detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Maps [h, Q, S] and the gradient of the best class's logit of QUERY with respect to each."""
    doors = Written()
    for module in ("attention", "conditional_attention"):
        monkeypatch.setattr(f"detrscope.blocks.{module}.attend", doors.attend)
    monkeypatch.setattr("detrscope.blocks.deformable_attention.sample", doors.sample)
    image = detector.card.preprocessing.apply(picture())[None]
    model = require_torch_engine(detector.engine, "test").model
    logits = model(Batch(image)).logits[-1, 0, QUERY]
    if model.scoring == "softmax":
        logits = logits[:-1]
    slopes = torch.autograd.grad(logits.max(), list(doors.maps.values()))
    monkeypatch.undo()
    return (
        {site: one[0].detach() for site, one in doors.maps.items()},
        {site: slope[0] for site, slope in zip(doors.maps, slopes, strict=True)},
    )


def rules(trace: Trace, maps: dict[str, Tensor], slopes: dict[str, Tensor]) -> Tensor:
    """The paper's rules with matrices, in double precision: the row of R_qi."""
    bar = {site: (slopes[site] * one).clamp(min=0).mean(0).double() for site, one in maps.items()}
    tokens, queries = sum(h * w for h, w in trace.levels), trace.queries
    r_ii = torch.eye(tokens, dtype=torch.float64)
    r_qq = torch.eye(queries, dtype=torch.float64)
    r_qi = torch.zeros(queries, tokens, dtype=torch.float64)

    def normal(r: Tensor) -> Tensor:
        rest = r - torch.eye(len(r), dtype=r.dtype)
        return (rest / rest.sum(-1, keepdim=True)).nan_to_num() + torch.eye(len(r), dtype=r.dtype)

    for site in trace.sites_of(trace.token_kind):
        own = trace.tokens_at(site)
        among_tokens = torch.zeros(tokens, tokens, dtype=torch.float64)
        count = trace.record(site).shape[1]  # without class tokens, which lie on no map
        among_tokens[own, own] = bar[site][:count, :count]
        r_ii = r_ii + among_tokens @ r_ii
    for layer in range(trace.layers("decoder.cross")):
        among = bar[f"decoder.{layer}.self"]
        r_qq, r_qi = r_qq + among @ r_qq, r_qi + among @ r_qi
        r_qi = r_qi + normal(r_qq).T @ bar[f"decoder.{layer}.cross"] @ normal(r_ii)
    return r_qi[QUERY]


def row_of(one: object) -> Tensor:
    return torch.cat([part.flatten() for part in one.parts])  # type: ignore[attr-defined]


@every_variant
def test_relevance_equals_the_rules_written_out(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    detector = detector_of(variant)
    trace = detector.trace(picture(), explain=[QUERY])
    maps, slopes = written(detector, monkeypatch)
    assert maps.keys() == set(trace.sites)
    expected = rules(trace, maps, slopes)
    assert expected.max() > 0 and expected.std() / expected.mean() > 0.01, "nothing to compare"
    found = relevance(trace, QUERY)
    torch.testing.assert_close(row_of(found).double(), expected, atol=0.01 * float(expected.std()), rtol=0)
    assert "relevance for query 3" in found.caption
    last = (slopes["decoder.1.cross"] * maps["decoder.1.cross"]).clamp(min=0).mean(0)[QUERY]
    alone = row_of(gradient_attention(trace, QUERY))
    torch.testing.assert_close(alone, last, atol=1e-4 * float(last.max()), rtol=1e-3)


@every_variant
def test_rollout_equals_the_product_over_queries_and_tokens(variant: str) -> None:
    """One stream of queries and tokens together, each layer a square matrix over both."""
    trace = traced(variant)
    tokens, queries = sum(h * w for h, w in trace.levels), trace.queries

    def layer(kind: str, index: int) -> Tensor:
        site = trace.site(kind, index)  # type: ignore[arg-type]
        rows = trace.record(site).rows()[0].mean(0)
        whole = torch.eye(queries + tokens)
        own = trace.tokens_at(site)
        own = slice(queries + own.start, queries + own.stop)
        place = {
            trace.token_kind: (own, own),
            "decoder.self": (slice(0, queries), slice(0, queries)),
            "decoder.cross": (slice(0, queries), slice(queries, None)),
        }[kind]
        mixing = torch.zeros_like(whole)
        mixing[place] = rows
        changed = whole.clone()
        changed[place[0]] = 0.5 * whole[place[0]] + 0.5 * mixing[place[0]]
        return changed

    product = torch.eye(queries + tokens)
    for index in range(trace.layers(trace.token_kind)):
        product = layer(trace.token_kind, index) @ product
    encoder = product[queries:, queries:]
    for index in range(trace.layers("decoder.cross")):
        product = layer("decoder.cross", index) @ layer("decoder.self", index) @ product
    found = rollout(trace, query=QUERY)
    torch.testing.assert_close(row_of(found), product[QUERY, queries:])
    point = (70.0, 12.0)
    if not trace.layers(trace.token_kind):
        with pytest.raises(UserError, match="this model has 0 layers with encoder"):
            rollout(trace, point=point)
        return
    first = trace.site(trace.token_kind, 0)
    token = trace.tokens_at(first).start + trace.token_at(point, 0, first)
    torch.testing.assert_close(row_of(rollout(trace, point=point)), encoder[token])
    if not any(isinstance(r, DeformableRecord) for r in trace.records.values()):
        assert rollout(trace, point=point).mass == pytest.approx(1, abs=1e-5)
        assert found.mass == pytest.approx(1 - 0.5 ** trace.layers("decoder.cross"), abs=1e-5)


@every_variant
def test_gradients_change_no_prediction(variant: str) -> None:
    detector = detector_of(variant)
    plain, explained = traced(variant), detector.trace(picture(), explain=[0, QUERY])
    torch.testing.assert_close(explained.logits, plain.logits, atol=1e-4, rtol=1e-4)
    assert [g.query for g in explained.gradients] == [0, QUERY]
    assert not any(t.requires_grad for t in (explained.logits, explained.boxes_cxcywh))
    for site, gradient in explained.gradients[1].sites.items():
        assert gradient.shape == explained.record(site).output().shape and not gradient.requires_grad


@pytest.mark.parametrize("make", [relevance, gradient_attention])
def test_missing_gradients_and_sites_are_named(make: Callable[[Trace, int], object]) -> None:
    with pytest.raises(
        UserError, match=r"no gradients of query 1 in this trace \(of 0\); make it with explain=\[1\]"
    ):
        make(traced("detr-r18", (0,)), 1)
    partly = detector_of("detr-r18").trace(picture(), sites=["decoder.0.self"], explain=[1])
    with pytest.raises(
        UserError, match=r"no gradient at 'decoder.1|'decoder.1.(self|cross)' was not recorded"
    ):
        make(partly, 1)
    with pytest.raises(UserError, match="rollout: give query=, or point="):
        rollout(partly)
    assert isinstance(partly.record("decoder.0.self"), DenseRecord)
