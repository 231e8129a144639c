"""Which of the training steps are kept."""

import pytest

from pack.guidance.sampling import respaced


@pytest.mark.parametrize(("text", "last"), [("ddim25", 960), ("ddim10", 900), ("ddim50", 980), ("ddim250", 996)])
def test_ddim_keeps_one_integer_stride_from_zero(text, last):
    kept = respaced(text)
    assert len(kept) == int(text[4:]) and kept[0] == 0 and kept[-1] == last
    assert len({b - a for a, b in zip(kept, kept[1:], strict=False)}) == 1


def test_one_section_holds_both_ends():
    assert respaced("250")[:4] == [0, 4, 8, 12] and respaced("250")[-2:] == [995, 999]
    assert respaced("25")[:4] == [0, 42, 83, 125] and respaced("25")[-2:] == [957, 999]


def test_sections_are_spaced_each_for_itself():
    kept = respaced("10,10,3,2,2")
    assert kept[:2] == [0, 22] and kept[9:11] == [199, 200]
    assert kept[20:] == [400, 500, 599, 600, 799, 800, 999]


def test_linspace_is_asyrps_list():
    kept = respaced("linspace40")
    assert len(kept) == 40 and kept[0] == 0 and kept[-1] == 999 and kept[1] == 25


@pytest.mark.parametrize("text", ["ddim37", "0", "1001", "10,400,3,2,2", "linspace1", "fast", "ddim", ""])
def test_what_does_not_fit_is_refused_in_words(text):
    with pytest.raises(ValueError, match="respacing"):
        respaced(text)
