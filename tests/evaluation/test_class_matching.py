"""Matching of class tables."""

import logging

import pytest

from detrscope.core.classes import ClassTable
from detrscope.core.errors import UserError
from detrscope.evaluation.class_matching import match_classes

MODEL = ClassTable((1, 7, 900), ("dog", "cat", "owl"))


def test_same_ids_and_names_need_no_translation() -> None:
    assert match_classes(MODEL, MODEL) == {1: 1, 7: 7, 900: 900}


def test_names_decide_where_ids_differ(caplog: pytest.LogCaptureFixture) -> None:
    dataset = ClassTable((1, 2, 7), ("cat", "dog", " OWL"))  # 1 and 7 are ids of other classes here
    with caplog.at_level(logging.INFO, logger="detrscope"):
        assert match_classes(MODEL, dataset) == {7: 1, 1: 2, 900: 7}
    assert "3 classes have other ids" in caplog.text


def test_classes_that_the_dataset_lacks_are_left_out() -> None:
    assert match_classes(MODEL, ClassTable((7,), ("cat",))) == {7: 7}


def test_missing_class_error_lists_both_class_tables() -> None:
    with pytest.raises(UserError) as error:
        match_classes(MODEL, ClassTable((1, 2), ("dog", "emu")))
    assert str(error.value) == (
        "the model has no class for 1 of the dataset's classes ('emu'); classes of the model: 'dog', 'cat', 'owl'; "
        "of the dataset: 'dog', 'emu'; fine-tune the model on this dataset (from_=MODEL of train), or take one with its"
        " classes"
    )


def test_classes_without_boxes_need_not_match() -> None:
    """Some exporters put a group that holds all classes in front."""
    dataset = ClassTable((0, 1), ("animals", "dog"))
    assert match_classes(MODEL, dataset, needed={1}) == {1: 1}


def test_equal_ids_with_other_names_do_not_match() -> None:
    with pytest.raises(UserError, match="'emu'"):
        match_classes(ClassTable((1,), ("dog",)), ClassTable((1,), ("emu",)))
