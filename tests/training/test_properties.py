"""Properties of matching and of settings, for all the inputs that hypothesis draws."""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detrscope.config import describe_config, parse_overrides, to_yaml
from detrscope.core.errors import UserError
from detrscope.core.types import Outputs, Target
from detrscope.training.config import RunConfig, resolve_training_config
from detrscope.training.matcher import FocalCost, Matcher, SoftmaxCost

KEYS = [setting.key for setting in describe_config(RunConfig)]
COSTS = {"softmax": SoftmaxCost(), "focal": FocalCost()}


@st.composite
def problems(draw: st.DrawFn) -> tuple[Outputs, list[Target]]:
    layers, queries = draw(st.integers(1, 3)), draw(st.integers(1, 5))
    counts = draw(st.lists(st.integers(0, 4), min_size=1, max_size=3))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    logits = torch.randn(layers, len(counts), queries, 4, generator=generator)
    boxes = torch.rand(layers, len(counts), queries, 4, generator=generator) * 0.5 + 0.2
    targets = [
        Target(
            torch.randint(0, 3, (count,), generator=generator),
            torch.rand(count, 4, generator=generator) * 0.5 + 0.2,
        )
        for count in counts
    ]
    return Outputs(logits, boxes), targets


@given(problems(), st.sampled_from(sorted(COSTS)))
def test_matching_is_the_cheapest_of_all_assignments(
    problem: tuple[Outputs, list[Target]], cost_name: str
) -> None:
    outputs, targets = problem
    matcher = Matcher(COSTS[cost_name])
    matches, cost = matcher(outputs, targets), matcher.cost(outputs, targets)
    first = 0
    for image, target in enumerate(targets):
        boxes, queries = len(target.labels), outputs.logits.shape[2]
        mine = matches.images == image
        assert int(mine.sum()) == min(boxes, queries)
        for layer in range(len(outputs.logits)):
            pairs = list(
                zip(
                    (matches.targets[layer, mine] - first).tolist(),
                    matches.queries[layer, mine].tolist(),
                    strict=True,
                )
            )
            assert len({m for m, _ in pairs}) == len({q for _, q in pairs}) == len(pairs)
            table = cost[layer, image, :boxes].double()
            total = sum(float(table[m, q]) for m, q in pairs)
            assert total == pytest.approx(cheapest(table), abs=1e-4)
        first += boxes


def cheapest(table: torch.Tensor) -> float:
    """The least cost of all assignments, one by one."""
    boxes, queries = table.shape
    if boxes > queries:
        return cheapest(table.T)
    return min(
        (
            sum(float(table[m, q]) for m, q in enumerate(order))
            for order in itertools.permutations(range(queries), boxes)
        ),
        default=0.0,
    )


@given(problems(), st.randoms(use_true_random=False))
def test_matching_follows_the_order_of_queries_and_boxes(
    problem: tuple[Outputs, list[Target]], shuffle: Any
) -> None:
    outputs, targets = problem
    matcher = Matcher(SoftmaxCost())
    order = list(range(outputs.logits.shape[2]))
    shuffle.shuffle(order)
    turned = Outputs(outputs.logits[:, :, order], outputs.boxes_cxcywh[:, :, order])
    orders = []
    for target in targets:
        rows = list(range(len(target.labels)))
        shuffle.shuffle(rows)
        orders.append(rows)
    mixed = [Target(t.labels[rows], t.boxes_cxcywh[rows]) for t, rows in zip(targets, orders, strict=True)]
    first = [sum(len(t.labels) for t in targets[:b]) for b in range(len(targets))]
    plain, other = matcher(outputs, targets), matcher(turned, mixed)
    for layer in range(len(outputs.logits)):
        expected = set(
            zip(
                plain.images.tolist(),
                plain.queries[layer].tolist(),
                plain.targets[layer].tolist(),
                strict=True,
            )
        )
        found = set()
        for b, q, m in zip(
            other.images.tolist(), other.queries[layer].tolist(), other.targets[layer].tolist(), strict=True
        ):
            found.add((b, order[q], first[b] + orders[b][m - first[b]]))
        assert found == expected


CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "train.epochs": st.integers(1, 10**6),
        "train.lr": st.floats(0, 1, allow_subnormal=False),
        "train.clip": st.floats(0, 1e6),
        "train.seed": st.integers(0, 2**32 - 1),
        "train.schedule.drop_epochs": st.lists(st.integers(1, 500), max_size=4),
        "train.lr_factors": st.dictionaries(
            st.text("abc.*_", min_size=1, max_size=6), st.floats(0, 10), max_size=2
        ),
        "train.loggers": st.lists(st.sampled_from(["tensorboard", "wandb", "mlflow"]), unique=True),
        "train.max_steps": st.none() | st.integers(1, 10**9),
        "data.source": st.text(max_size=12).filter(lambda text: text.isprintable()),
        "data.val_split": st.none() | st.text("abc:~yesno123 ", max_size=6),
        "augment.zoom": st.floats(0.1, 1).flatmap(
            lambda low: st.floats(low, 2).map(lambda high: [low, high])
        ),
        "augment.flip": st.floats(0, 1),
        "model.overrides": st.fixed_dictionaries({"queries": st.integers(1, 900)}),
        "model.backbone_weights": st.just("none"),
    },
)


@settings(max_examples=30)
@given(CHANGES)
def test_settings_are_equal_after_writing_and_reading(changes: dict[str, Any]) -> None:
    config = resolve_training_config(overrides=changes)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.yaml"
        path.write_text(to_yaml(config), encoding="utf-8")
        assert resolve_training_config(file=path) == config


@given(st.sampled_from(KEYS), st.data())
def test_a_key_with_a_typing_error_names_the_nearest(key: str, data: st.DataObject) -> None:
    section, _, name = key.rpartition(".")
    if len(name) < 4:
        return
    place = data.draw(st.integers(1, len(name) - 1))
    wrong = f"{section}.{name[:place]}{name[place + 1 :]}" if section else name[:place] + name[place + 1 :]
    if wrong in KEYS or any(known.startswith(f"{wrong}.") for known in KEYS):
        return
    with pytest.raises(UserError) as error:
        resolve_training_config(overrides={wrong: 1})
    text = str(error.value)
    assert "\n" not in text and ("did you mean" in text or "valid" in text), text


@given(st.lists(st.text(max_size=12), max_size=4))
def test_any_words_are_settings_or_a_clear_error(words: list[str]) -> None:
    try:
        tree = parse_overrides([f"--{word}" for word in words])
    except UserError as error:
        assert "\n" not in str(error)
    else:
        assert isinstance(tree, dict)
