"""Conformance of every variant: shapes, records, edits, padding, checkpoints, gradients."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from detrscope.blocks import deformable_attention as deformable
from detrscope.blocks.queries import PointQueries
from detrscope.checkpoints.native import load_checkpoint, save_checkpoint
from detrscope.core.edits import Bias, Gain, Swap
from detrscope.core.errors import UserError
from detrscope.core.probe import Probe
from detrscope.core.records import DeformableRecord, DenseRecord
from detrscope.core.types import Batch, Level, Outputs, Windows
from detrscope.families import FAMILIES, VARIANTS, build, family_of, family_query_count
from detrscope.inference.detector import Detector
from detrscope.inference.torch_engine import TorchEngine
from detrscope.ops import attention
from tests.support.tiny_models import CLASSES, built, distinct, padded_batch, tiny

every_variant = pytest.mark.parametrize("variant", distinct())


def dense_decoder_sites(variant: str) -> tuple[str, str]:
    """Sites of the decoder whose attention is dense, as a pattern, and the one of the second layer."""
    probe = Probe(["decoder.1.cross"], values=False)
    run(variant, padded_batch(), probe)
    kind = "cross" if isinstance(probe.records["decoder.1.cross"], DenseRecord) else "self"
    return f"decoder.*.{kind}", f"decoder.1.{kind}"


def run(variant: str, batch: Batch, probe: Probe | None = None) -> Outputs:
    with torch.no_grad():
        return built(variant).model(batch, probe=probe)


def without(x: torch.Tensor, channels: slice) -> torch.Tensor:
    """Return a copy with some channels set to zero."""
    x = x.clone()
    x[..., channels] = 0
    return x


def masked(variant: str) -> bool:
    return built(variant).card.has_masks


@every_variant
def test_shapes_and_vocabulary(variant: str) -> None:
    model = built(variant).model
    assert [name for name, _ in model.named_children()] == [
        "backbone", "neck", "encoder", "queries", "decoder", "heads", *(["mask_head"] if masked(variant) else []),
    ]  # fmt: skip
    outputs = run(variant, padded_batch())
    layers, images, queries, logits = outputs.logits.shape
    assert (images, queries) == (2, 7)
    assert logits == len(CLASSES) + (model.scoring == "softmax")
    assert layers == (1 if variant.startswith("minimal") else 2)
    assert outputs.boxes_cxcywh.shape == (layers, 2, 7, 4)
    assert (outputs.masks is not None) == masked(variant)
    assert outputs.masks is None or outputs.masks.logits.shape == (2, 7, 16, 24)  # stride 4
    room = 0.0 if outputs.distributions is None else 0.5  # each edge moves by itself, and may leave the image
    assert outputs.boxes_cxcywh.min() >= -room and outputs.boxes_cxcywh.max() <= 1 + room
    assert outputs.boxes_cxcywh[-1, 0].std(0).max() > 1e-3, "all queries predict the same box"


@every_variant
def test_recording_changes_nothing(variant: str) -> None:
    plain, probe = run(variant, padded_batch()), Probe()
    seen = run(variant, padded_batch(), probe)
    assert torch.equal(plain.logits, seen.logits) and torch.equal(plain.boxes_cxcywh, seen.boxes_cxcywh)
    if plain.masks is not None and seen.masks is not None:
        assert torch.equal(plain.masks.logits, seen.masks.logits)
    assert tuple(probe.records) == built(variant).model.sites


@every_variant
def test_records_rebuild_every_layer(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """rows @ value equals what the door gave to the output projection, at every site."""
    outputs: list[torch.Tensor] = []  # [B, Q, h*d] each
    attend, sample = torch.nn.functional.scaled_dot_product_attention, deformable.sample

    def attend_and_tell(*args: torch.Tensor, **options: Any) -> torch.Tensor:
        out = attend(*args, **options)
        outputs.append(out.transpose(1, 2).flatten(2))
        return out

    def sample_and_tell(*args: torch.Tensor, **options: Any) -> torch.Tensor:
        outputs.append(sample(*args, **options))
        return outputs[-1]

    join = attention.join_windows

    def join_and_tell(x: torch.Tensor, windows: Windows, level: Level) -> torch.Tensor:
        outputs[-1] = (out := join(x, windows, level)).transpose(1, 2).flatten(2)
        return out

    monkeypatch.setattr(attention, "join_windows", join_and_tell)
    monkeypatch.setattr(attention.F, "scaled_dot_product_attention", attend_and_tell)
    monkeypatch.setattr(deformable, "sample", sample_and_tell)
    probe = Probe()
    run(variant, padded_batch(), probe)
    assert len(outputs) == len(probe.records) > 0
    for (site, record), expected in zip(probe.records.items(), outputs, strict=True):
        scale = max(1.0, float(expected.abs().max()))
        torch.testing.assert_close(record.output(), expected, atol=1e-5 * scale, rtol=0, msg=site)
        mass = record.rows().sum(-1)
        if isinstance(record, DenseRecord) and record.extra:  # some attention goes to class tokens
            assert mass.min() > 0 and mass.max() < 1, site
        elif isinstance(record, DenseRecord):
            torch.testing.assert_close(mass, torch.ones(mass.shape), msg=site)
        else:  # points outside of the maps find nothing
            assert mass.min() >= 0 and 0.5 < mass.max() <= 1 + 1e-5, site
            torch.testing.assert_close(record.weights.sum(-1), torch.ones(mass.shape), msg=site)


@every_variant
def test_neutral_edits_change_nothing(variant: str) -> None:
    plain = run(variant, padded_batch())
    edits = (Bias("*", torch.zeros(1, 1, 1, 1)), Gain("*", factor=1.0))
    edited = run(variant, padded_batch(), Probe(sites=[], edits=edits))
    torch.testing.assert_close(edited.logits, plain.logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(edited.boxes_cxcywh, plain.boxes_cxcywh, atol=1e-5, rtol=0)


@every_variant
def test_muted_head_equals_zeroing_its_slice(variant: str) -> None:
    loaded = tiny(variant)
    site, head = "decoder.1.cross", 2
    with torch.no_grad():
        edited = loaded.model(padded_batch(), probe=Probe(sites=[], edits=[Gain(site, heads=(head,))]))
        plain = loaded.model(padded_batch())
        attention_block = loaded.model.decoder.layers[1].cross_attention
        size = loaded.card.config["width"] // attention_block.heads
        of_head = slice(head * size, (head + 1) * size)
        if isinstance(attention_block.output, nn.Identity):
            attention_block.output.register_forward_hook(lambda *call: without(call[-1], of_head))
        else:
            attention_block.output.weight[:, of_head] = 0
        expected = loaded.model(padded_batch())
    torch.testing.assert_close(edited.logits, expected.logits, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(edited.logits, plain.logits, atol=1e-5)


@every_variant
def test_hidden_key_gets_no_attention(variant: str) -> None:
    sites, site = dense_decoder_sites(variant)
    before = Probe(sites=[site])
    run(variant, padded_batch(), before)
    record = before.records[site]
    assert isinstance(record, DenseRecord) and record.rows()[:, :, :, 1].max() > 0
    scores = torch.zeros(1, 1, 1, record.key.shape[2])
    scores[..., 1] = float("-inf")
    probe = Probe(sites=[sites], edits=[Bias(sites, scores)])
    run(variant, padded_batch(), probe)
    for record in probe.records.values():
        assert record.rows()[..., 1].abs().max() == 0


@every_variant
def test_muted_key_is_not_read(variant: str) -> None:
    before = Probe(sites=["*.cross"])
    plain = run(variant, padded_batch(), before)
    read = torch.stack([record.rows().amax((0, 1, 2)) for record in before.records.values()]).amax(0)  # [S]
    key = int(read.argmax())
    assert read[key] > 0
    probe = Probe(sites=["*.cross"], edits=[Gain("*.cross", keys=(key,))])
    edited = run(variant, padded_batch(), probe)
    assert all(record.rows()[..., key].abs().max() == 0 for record in probe.records.values())
    assert not torch.equal(plain.logits, edited.logits)


@every_variant
def test_swap_by_the_same_tensors_changes_nothing(variant: str) -> None:
    site = "decoder.1.cross"
    first = Probe(sites=[site])
    plain = run(variant, padded_batch(), first)
    record = first.records[site]
    edits = [Swap(site, "value", record.value)]
    if isinstance(record, DenseRecord):
        edits.append(Swap(site, "query", record.query))
    else:
        edits += [Swap(site, "points", record.points), Swap(site, "weights", record.weights)]
    assert torch.equal(run(variant, padded_batch(), Probe(sites=[], edits=edits)).logits, plain.logits)
    last = edits[-1]
    with pytest.raises(UserError, match=rf"swap of the {last.part} at '{site}': expected"):
        wrong = Swap(site, last.part, last.tensor[:, :, :1])
        run(variant, padded_batch(), Probe(sites=[], edits=[wrong]))


@every_variant
def test_unknown_site_is_refused(variant: str) -> None:
    with pytest.raises(
        UserError, match=r"site 'decoder.1.cros' is not in this model; did you mean 'decoder.1.cross'"
    ):
        Probe(sites=["decoder.1.cros"]).check(built(variant).model.sites)


@every_variant
def test_batch_of_two_equals_two_of_one(variant: str) -> None:
    images = padded_batch().images
    both = run(variant, Batch(images))
    for i in range(2):
        one = run(variant, Batch(images[i : i + 1]))
        torch.testing.assert_close(one.logits[:, 0], both.logits[:, i], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(one.boxes_cxcywh[:, 0], both.boxes_cxcywh[:, i], atol=1e-4, rtol=0)


@every_variant
def test_more_padding_same_boxes(variant: str) -> None:
    """Whole cells of padding at the right and at the bottom are not looked at; only the image's edge feels them."""
    if variant.startswith("minimal"):
        pytest.skip("the minimal model's listing knows no padding in its positions")
    image = torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(3))
    padded = torch.zeros(1, 3, 192, 256)
    padded[..., :128, :128] = image
    padding = torch.ones(1, 192, 256, dtype=torch.bool)
    padding[:, :128, :128] = False
    probe_plain, probe_padded = Probe(), Probe()
    run(variant, Batch(image), probe_plain)
    run(variant, Batch(padded, padding), probe_padded)
    record, plain = probe_padded.records["decoder.0.cross"], probe_plain.records["decoder.0.cross"]
    if isinstance(record, DeformableRecord):
        assert isinstance(plain, DeformableRecord)
        _check_deformable_padding(record, plain, isinstance(built(variant).model.queries, PointQueries))
        return
    assert isinstance(plain, DenseRecord)
    assert record.rows()[..., _padding_of(probe_padded.levels)].max() == 0
    if built(variant).model.scoring == "softmax":  # learned queries: the same ones in the same order
        torch.testing.assert_close(record.query, plain.query, atol=0.2, rtol=0.2)


def _check_deformable_padding(record: DeformableRecord, plain: DeformableRecord, learned: bool) -> None:
    """Nothing is found in padding, and the same learned references lie on the same places of the image."""
    values = record.value.split([h * w for h, w in record.levels], dim=2)
    for value, level, bare in zip(values, record.levels, plain.levels, strict=True):
        grid = value.unflatten(2, tuple(level))  # [B, h, H, W, d]
        assert grid[:, :, bare.height :].abs().max() == 0 and grid[:, :, :, bare.width :].abs().max() == 0
        assert grid.abs().max() > 0
    if learned:
        part = record.reference.new_tensor(
            [
                [b.width / a.width, b.height / a.height]
                for a, b in zip(record.levels, plain.levels, strict=True)
            ]
        )  # [L, 2]
        torch.testing.assert_close(record.reference, plain.reference * part)


def _padding_of(levels: Sequence[Level]) -> torch.Tensor:
    """The padding tokens of a batch of 192 x 256 pixels whose image is 128 x 128: [S] bool."""
    masks = []
    for height, width in levels:
        inside = torch.zeros(height, width, dtype=torch.bool)
        inside[: height * 128 // 192, : width * 128 // 256] = True
        masks.append(~inside.flatten())
    return torch.cat(masks)


@every_variant
def test_checkpoint_round_trip(variant: str, tmp_path: Path) -> None:
    loaded = built(variant)
    save_checkpoint(tmp_path / "m.safetensors", loaded.model, loaded.card)
    model, card = load_checkpoint(tmp_path / "m.safetensors")
    assert card == loaded.card and card.classes.ids == (1, 7, 900)
    with torch.no_grad():
        assert torch.equal(model(padded_batch()).logits, loaded.model(padded_batch()).logits)


@every_variant
def test_folding_norms_keeps_the_numbers(variant: str) -> None:
    loaded = tiny(variant)
    with torch.no_grad():
        for module in loaded.model.backbone.modules():
            if isinstance(getattr(module, "running_var", None), torch.Tensor):
                module.running_var.uniform_(0.5, 2.0)
                module.running_mean.uniform_(-0.5, 0.5)
        plain = loaded.model(padded_batch())
    detector = Detector(TorchEngine.optimised(loaded.model, torch.device("cpu"), torch.float32), loaded.card)
    batch = padded_batch()
    folded = detector.predict(batch.images, batch.padding)
    torch.testing.assert_close(folded.logits, plain.logits, atol=1e-4, rtol=1e-4)


@every_variant
def test_bf16_boxes_stay_close(variant: str) -> None:
    loaded = tiny(variant)
    with torch.no_grad():
        plain = loaded.model(padded_batch())
    detector = Detector(TorchEngine.optimised(loaded.model, torch.device("cpu"), torch.bfloat16), loaded.card)
    batch = padded_batch()
    rough = detector.predict(batch.images, batch.padding)
    assert rough.boxes_cxcywh.dtype == torch.float32
    apart = torch.cdist(
        rough.boxes_cxcywh[-1], plain.boxes_cxcywh[-1]
    )  # a two-stage family may reorder its queries
    assert apart.amin(-1).median() < 0.02


@every_variant
def test_feature_maps_of_every_convolution(variant: str) -> None:
    model = built(variant).model
    probe = Probe(sites=[], features=["backbone.*"])
    run(variant, padded_batch(), probe)
    assert tuple(sorted(probe.feature_maps)) == tuple(sorted(model.feature_sites))
    first = model.feature_sites[0]
    assert probe.feature_maps[first].shape[2:] == ((4, 6) if first == "backbone.embedding" else (32, 48))


@every_variant
def test_gradients_reach_all_trainable_parameters(variant: str) -> None:
    model = tiny(variant).model.train()
    support = model.training_support
    extra = None
    if support.denoising is not None:
        labels = torch.zeros(2, 3, dtype=torch.int64)
        extra = support.denoising.queries(labels, torch.rand(2, 3, 4), torch.zeros(3, 3, dtype=torch.bool))
    outputs = model(padded_batch(), extra=extra)
    parts = [outputs.logits, outputs.boxes_cxcywh]
    if (proposals := outputs.proposals) is not None:
        parts += [proposals.logits, proposals.boxes_cxcywh]
        parts += [p for p in (proposals.dense_logits, proposals.dense_boxes_cxcywh) if p is not None]
        assert proposals.any_class == (support.proposals == "any-class")
    if outputs.masks is not None:
        parts.append(outputs.masks.logits)
    if outputs.mask_factors is not None:
        parts.append(torch.cat([(q @ p.flatten(2)).flatten() for q, p in _mask_factors(outputs)]))
        parts[-1] = parts[-1] + outputs.mask_factors.bias
    assert len(parts) == 2 + masked(variant) + 2 * (support.proposals is not None) + 2 * support.one_to_many
    if outputs.distributions is not None:
        parts.append(outputs.distributions.start_cxcywh)
    assert support.distributions == (outputs.distributions is not None)
    torch.stack([part.sum() for part in parts]).sum().backward()
    silent = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not silent
    frozen = [n for n, p in model.named_parameters() if not p.requires_grad]
    stages = getattr(VARIANTS[variant].config.backbone, "trainable_stages", 5)  # of stem and 4 stages
    expected = ("backbone.body.conv1", "backbone.body.layer1") if stages == 3 else ()
    assert all(n.startswith(expected) for n in frozen) and bool(frozen) == bool(expected)


def _mask_factors(outputs: Outputs) -> Iterator[tuple[Tensor, Tensor]]:
    """The factors of the masks of every layer, and of the proposals."""
    proposals = None if outputs.proposals is None else outputs.proposals.mask_factors
    for factors in (outputs.mask_factors, proposals):
        if factors is not None:
            yield from zip(factors.queries, factors.pixels, strict=True)


def test_variant_and_family_tables_agree() -> None:
    assert set(VARIANTS) == {v.name for f in FAMILIES.values() for v in f.variants}
    assert family_of("detr-r50").name == "detr"
    assert family_query_count("detr-r50", {}) == 100 and family_query_count("detr-r50", {"queries": 10}) == 10


def test_misspelt_names_get_suggestions() -> None:
    with pytest.raises(UserError, match="model 'detr-r5' is not known; did you mean 'detr-r50'"):
        family_of("detr-r5")
    with pytest.raises(UserError, match=r"unknown key 'decoder.layer'; did you mean 'layers'"):
        build("detr-r50", {"decoder": {"layer": 3}}, 3)
    with pytest.raises(UserError, match=r"decoder.layers is 'many': expected a valid integer"):
        build("detr-r50", {"decoder": {"layers": "many"}}, 3)


@pytest.mark.parametrize(
    ("variant", "overrides", "said"),
    [
        ("detr-r50", {"encoder": {"heads": 7}}, "encoder.heads is 7: expected a divisor of the width 256"),
        ("detr-r50", {"decoder": {"dropout": 1.0}}, "decoder.dropout is 1.0: expected less than 1"),
        ("minimal-r50", {"decoder": {"layers": 0}}, "decoder.layers is 0: expected 1 or more"),
        ("detr-r50", {"width": 130}, "width is 130: expected a multiple of 4"),
        ("sprint-dense-n", {"sizes": [0.1, 0.2]}, "sizes is .*: expected one for each of backbone.stages"),
        ("sprint-dense-n", {"backbone": {"stages": [4]}}, "backbone.stages is .*: expected some of 1 to 3"),
    ],
)
def test_invalid_settings_are_refused(variant: str, overrides: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=said):
        build(variant, overrides, 3)
