"""Class labels as people write them."""

import pytest

from pack.guidance.classifier_energy import NO_CLASS
from pack.guidance.labels import parse_labels

NAMES = ("tench, Tinca tinca", "goldfish", "great white shark")


def test_one_label_serves_the_whole_batch():
    assert parse_labels("goldfish", NAMES, 3) == [1, 1, 1]


def test_names_may_hold_commas_and_any_case_and_stand_one_a_line_or_between_semicolons():
    assert parse_labels("Tench, tinca TINCA\n 2 ;goldfish", NAMES, 3) == [0, 2, 1]


def test_names_that_differ_in_case_alone_are_told_apart():
    assert [parse_labels(name, ("cardigan", "Cardigan"), 1) for name in ("Cardigan", "cardigan")] == [[1], [0]]


def test_an_empty_text_means_no_class():
    assert parse_labels("", NAMES, 2) == [NO_CLASS, NO_CLASS]


def test_an_empty_line_means_no_class_for_its_image():
    assert parse_labels("goldfish;;1", NAMES, 3) == [1, NO_CLASS, 1]


def test_an_unknown_name_is_answered_with_near_ones():
    with pytest.raises(ValueError, match="no class 'goldfich'; did you mean goldfish"):
        parse_labels("goldfich", NAMES, 1)


@pytest.mark.parametrize("index", ["3", "-1"])
def test_an_index_out_of_range_is_answered_with_the_range(index):
    with pytest.raises(ValueError, match="3 classes run from 0 to 2"):
        parse_labels(index, NAMES, 1)


def test_a_wrong_number_of_labels_is_answered_with_both_numbers():
    with pytest.raises(ValueError, match="2 labels came for a batch of 3"):
        parse_labels("0;1", NAMES, 3)
