"""The grammar of edits, and their JSON."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from detrscope.core.edit_file import edits_from_json, load_edits, save_edits
from detrscope.core.edit_text import edits_of, parse_edit
from detrscope.core.edits import Bias, Gain, KeyBias, Swap
from detrscope.core.errors import UserError

REGION = (120.0, 80.0, 300.0, 260.5)
numbers = st.lists(st.integers(-20, 900), min_size=1, max_size=9).map(tuple) | st.none()
selections = st.fixed_dictionaries(
    {name: numbers for name in ("heads", "queries", "keys", "points", "levels")}
)
sites = st.sampled_from(["*", "decoder.*.cross", "encoder.0.self"])
floats = st.floats(-1e6, 1e6, allow_nan=False).map(lambda x: float(f"{x:.8g}"))
corners = st.tuples(st.integers(0, 99), st.integers(0, 99), st.integers(100, 200), st.integers(100, 200))


@pytest.mark.parametrize(
    ("text", "edit"),
    [
        ("decoder.*.cross: heads 2,3 x0", Gain("decoder.*.cross", 0.0, heads=(2, 3))),
        ("a: x0.5", Gain("a", 0.5)),
        (
            "a:head 1 query 0-3,7 levels -1 x2",
            Gain("a", 2.0, heads=(1,), queries=(0, 1, 2, 3, 7), levels=(-1,)),
        ),
        ("a: points 1, 2 x0", Gain("a", points=(1, 2))),
        ("encoder.*.self: hide region 120,80,300,260.5", KeyBias("encoder.*.self", region_xyxy=REGION)),
        ("a: region 120, 80, 300, 260.5 favour", KeyBias("a", 1.0, REGION)),
        ("a: favor keys 5 -2.5", KeyBias("a", -2.5, keys=(5,))),
        ("a: favour +3 levels 0", KeyBias("a", 3.0, levels=(0,))),
        ("decoder.*.self: hide keys 5", KeyBias("decoder.*.self", keys=(5,))),
    ],
)
def test_texts_are_edits(text: str, edit: Gain | KeyBias) -> None:
    assert parse_edit(text) == edit
    assert parse_edit(edit.describe()) == edit


@given(site=sites, factor=floats, selected=selections)
def test_every_gain_has_a_text(site: str, factor: float, selected: dict) -> None:
    edit = Gain(site, factor, **selected)
    assert parse_edit(edit.describe()) == edit


@given(site=sites, score=floats | st.none(), selected=selections, box=corners)
def test_every_key_bias_has_a_text(site: str, score: float | None, selected: dict, box: tuple) -> None:
    edit = KeyBias(site, score, tuple(map(float, box)), **selected)  # type: ignore[arg-type]
    assert parse_edit(edit.describe()) == edit


@given(st.text(max_size=40) | st.text("ab:xhideregonlvs 0123456789,.-+*", max_size=60))
def test_any_text_is_an_edit_or_a_clear_error(text: str) -> None:
    for given_text in (text, f"decoder.*.cross: {text}"):
        try:
            parse_edit(given_text)
        except UserError as error:
            assert str(error).startswith(("edit '", "region", "KeyBias", "Gain"))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("decoder.0.cross x0", "expected SITE: WHAT"),
        ("a: heads 1", "expected what to do: x0 (mute)"),
        ("a: haeds 1 x0", "'haeds': did you mean 'heads'?"),
        ("a: heads two x0", "heads 'two': expected numbers such as 2,3 or 0-5"),
        ("a: heads 5-3 x0", "expected a range such as 0-5"),
        ("a: heads 1 heads 2 x0", "heads are given twice"),
        ("a: x0 hide", "one action at a time"),
        ("a: xfive", "'five': expected a number"),
        ("a: hide", "hide what? expected a region, keys, levels or points"),
        ("a: region 1,2,3,4 x0", "a region takes hide or favour, not a factor"),
        ("a: hide region 1,2,3", "expected four numbers x0,y0,x1,y1"),
        ("a: hide region 9,2,3,4", "with x0 < x1 and y0 < y1"),
        ("a: favour keys 1 +1 +2", "'+2'"),
    ],
)
def test_the_wrong_word_is_named(text: str, problem: str) -> None:
    with pytest.raises(UserError) as error:
        parse_edit(text)
    assert problem in str(error.value) and text in str(error.value)


def test_texts_and_edits_mix() -> None:
    assert edits_of(["a: x0", Gain("b")]) == (Gain("a"), Gain("b"))


def test_files_give_the_same_edits_again(tmp_path: Path) -> None:
    scores = torch.tensor([[0.1, float("-inf")], [1 / 3, 2.0]])
    tensor = torch.randn(1, 2, 3, 4)
    edits = [
        Gain("a", 0.25, heads=(1,)),
        KeyBias("b", region_xyxy=REGION),
        Bias("c", scores),
        Swap("d", "key", tensor),
    ]
    loaded = load_edits(save_edits(edits, tmp_path / "edits.json"))
    assert loaded[:2] == tuple(edits[:2])
    assert isinstance(loaded[2], Bias) and torch.equal(loaded[2].scores, scores)
    assert isinstance(loaded[3], Swap) and loaded[3].part == "key" and torch.equal(loaded[3].tensor, tensor)


@pytest.mark.parametrize(
    ("tree", "problem"),
    [
        (3, "f.json: expected a list of edits, found"),
        ({"format": 2, "edits": []}, "edits of format 2; expected format 1"),
        ({"format": 1, "edit": []}, "unknown key 'edit'"),
        (["a: x0", "a: x"], "f.json: edit 1: edit 'a: x': 'x'"),
        ([{"site": "a"}], "f.json: edit 0: expected a text such as"),
        ([{"site": "a", "scores": [[1], [1, 2]]}], "f.json: edit 0: expected numbers in nested lists"),
        ([{"site": "a", "scores": ["nan"]}], "f.json: edit 0: Bias: scores: expected numbers, found NaN"),
        ([{"site": "a", "part": "keys", "tensor": [1]}], "f.json: edit 0: Swap: part"),
    ],
)
def test_files_that_are_no_edits_are_named(tree: object, problem: str) -> None:
    with pytest.raises(UserError) as error:
        edits_from_json(tree, "f.json")
    assert problem in str(error.value)
