"""Windows and curves."""

import pytest

from pack.guidance.weight import CURVES, Weight


def test_a_weight_is_zero_outside_its_window_and_constant_inside():
    weight = Weight(2.0, 0.2, 0.6)
    assert [weight(p) for p in (0.0, 0.19, 0.2, 0.5, 0.6, 1.0)] == [0, 0, 2, 2, 0, 0]


def test_a_window_up_to_the_end_includes_the_end():
    assert Weight(1.5)(1.0) == 1.5


@pytest.mark.parametrize("at", [0.0, 0.3, 1.0])
def test_an_empty_window_is_never_active(at):
    weight = Weight(1.0, at, at)
    assert all(weight(k / 100) == 0 for k in range(101))


@pytest.mark.parametrize(
    "curve, start, middle, end",
    [
        ("constant", 1, 1, 1),
        ("linear", 0, 0.5, 1),
        ("linear down", 1, 0.5, 0),
        ("cosine", 0, 0.5, 1),
        ("cosine down", 1, 0.5, 0),
        ("bell", 0, 1, 0),
    ],
)
def test_a_curve_runs_over_the_window(curve, start, middle, end):
    weight = Weight(4.0, 0.5, 1.0, curve)
    assert [weight(p) for p in (0.5, 0.75, 1.0)] == pytest.approx([4 * start, 4 * middle, 4 * end], abs=1e-12)


@pytest.mark.parametrize("curve", [name for name in CURVES if name != "constant"])
def test_a_curve_does_half_the_work_of_a_constant_weight(curve):
    weight = Weight(4.0, 0.25, 0.75, curve)
    places = [0.25 + 0.5 * (k + 0.5) / 1000 for k in range(1000)]
    assert sum(map(weight, places)) / 1000 == pytest.approx(2.0, rel=1e-10)


def test_every_curve_is_tested():
    assert set(CURVES) == {"constant", "linear", "linear down", "cosine", "cosine down", "bell"}


@pytest.mark.parametrize(
    "arguments, words",
    [
        ((float("nan"),), "finite number"),
        ((float("inf"),), "finite number"),
        ((1.0, 0.7, 0.2), "ends .0.2. before it starts .0.7."),
        ((1.0, -0.1, 0.5), "not within 0 and 1"),
        ((1.0, 0.0, 1.0, "wave"), "no curve 'wave'"),
    ],
)
def test_what_is_no_weight_is_refused_in_words(arguments, words):
    with pytest.raises(ValueError, match=words):
        Weight(*arguments)
