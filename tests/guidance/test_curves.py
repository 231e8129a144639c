"""The language of curves: names, powers, beta densities and points."""

import math

import pytest

from pack.guidance.weight import CURVES, LANGUAGE, Weight, curve

PLACES = [k / 20 for k in range(21)]


def mean(share, points=20000):
    return sum(share((k + 0.5) / points) for k in range(points)) / points


@pytest.mark.parametrize("name", list(CURVES))
def test_a_name_is_its_curve_in_any_case_and_spacing(name):
    for text in (name, name.upper(), f"  {name.replace(' ', '   ')} "):
        assert [curve(text)(u) for u in PLACES] == [CURVES[name](u) for u in PLACES]


@pytest.mark.parametrize("name", [name for name in CURVES if name != "constant"])
def test_a_weight_is_the_height_of_a_curve_whose_area_is_half_of_constants(name):
    assert max(CURVES[name](u) for u in PLACES) == pytest.approx(1, abs=1e-10)
    assert mean(CURVES[name]) == pytest.approx(mean(CURVES["constant"]) / 2, abs=1e-10)


@pytest.mark.parametrize("k", [0, 0.5, 1, 2, 3.7])
def test_a_power_is_the_place_to_that_power(k):
    found = curve(f"power {k}")
    assert [found(u) for u in PLACES] == pytest.approx(
        [math.exp(k * math.log(u)) if u else float(k == 0) for u in PLACES]
    )


def test_power_one_is_linear_and_power_nought_constant():
    assert [curve("power 1")(u) for u in PLACES] == PLACES
    assert [curve("power 0")(u) for u in PLACES] == [1] * len(PLACES)


@pytest.mark.parametrize("a, b", [(1, 1), (2, 3), (3, 2), (1, 4), (7, 7), (50, 50)])
def test_beta_is_the_density_of_whole_numbers(a, b):
    """(a + b - 1)! / ((a - 1)! (b - 1)!) u^(a - 1) (1 - u)^(b - 1)."""
    scale = math.factorial(a + b - 1) // (math.factorial(a - 1) * math.factorial(b - 1))
    found = curve(f"beta {a} {b}")
    assert [found(u) for u in PLACES] == pytest.approx([scale * u ** (a - 1) * (1 - u) ** (b - 1) for u in PLACES])


@pytest.mark.parametrize("a, b", [(1, 1), (2, 3), (1, 2), (2.5, 1.5), (4.2, 9.1), (50, 50), (50, 1)])
def test_a_beta_density_is_one_on_the_mean(a, b):
    assert mean(curve(f"beta {a} {b}")) == pytest.approx(1, abs=1e-4)


def test_a_weight_of_a_beta_curve_spends_its_value_over_its_window():
    weight = Weight(3.0, 0.25, 0.75, "beta 2 3")
    assert mean(weight) == pytest.approx(3.0 * 0.5, abs=1e-4)


@pytest.mark.parametrize("a, b", [(2, 3), (3, 2), (5, 5)])
def test_a_beta_density_is_nought_at_both_ends_and_largest_at_its_mode(a, b):
    found, mode = curve(f"beta {a} {b}"), (a - 1) / (a + b - 2)
    assert found(0.0) == found(1.0) == 0
    assert all(found(mode) >= found(u) for u in PLACES)


@pytest.mark.parametrize(
    "text, shares",
    [
        ("0:1 0.5:0.2 1:0", {0: 1, 0.25: 0.6, 0.5: 0.2, 0.75: 0.1, 1: 0}),
        ("0.2:1 0.6:3", {0: 1, 0.1: 1, 0.2: 1, 0.3: 1.5, 0.6: 3, 0.9: 3, 1: 3}),
        ("0.5:2", {0: 2, 0.5: 2, 1: 2}),
        ("0:-1 1:1", {0: -1, 0.5: 0, 1: 1}),
        ("0:0 0.5:0 0.5:1 1:1", {0: 0, 0.499: 0, 0.501: 1, 1: 1}),
        ("  0:1   1:0 ", {0: 1, 0.5: 0.5, 1: 0}),
        ("0:1e-1 1:1E0", {0: 0.1, 1: 1}),
    ],
)
def test_points_are_joined_by_straight_lines_level_outside(text, shares):
    assert {u: curve(text)(u) for u in shares} == pytest.approx(shares)


REFUSED = [
    "",
    " ",
    "wave",
    "linear up",
    "power",
    "power two",
    "power -1",
    "power nan",
    "power inf",
    "power 1 2",
    "beta",
    "beta 2",
    "beta 2 x",
    "beta 0.5 2",
    "beta 2 0.99",
    "beta 0 0",
    "beta nan 2",
    "beta 51 2",
    "beta 2 inf",
    "beta 2 3 4",
    "0:1 0.5",
    "0:1 0.5:",
    ":1",
    "0:1:2",
    "0:1, 1:0",
    "0:a 1:0",
    "0:nan 1:0",
    "0:inf 1:0",
    "nan:0 1:0",
    "1:0 0:1",
    "0:1 0.7:2 0.3:1",
    "-0.1:1 1:0",
    "0:1 1.1:0",
    "0:1e308 1:1e308",
    "power 1e400",
]


@pytest.mark.parametrize("text", REFUSED, ids=lambda text: repr(text))
def test_what_is_no_curve_is_refused_with_what_came_and_what_there_is(text):
    for make in (curve, lambda given: Weight(1.0, curve=given)):
        with pytest.raises(ValueError) as caught:
            make(text)
        assert repr(text) in str(caught.value) and LANGUAGE in str(caught.value)


def test_the_language_names_every_curve_and_its_example_is_one():
    assert all(name in LANGUAGE for name in CURVES)
    assert curve(LANGUAGE.rsplit(" as ", 1)[1])(0.5) == pytest.approx(0.2)
    assert curve("power 2") and curve("beta 2 3") and "power K" in LANGUAGE and "beta A B" in LANGUAGE


@pytest.mark.parametrize("text", ["power 2", "beta 2 3", "0:1 0.5:0.2 1:0"])
def test_a_sentence_runs_over_the_window_and_counts_nowhere_else(text):
    weight = Weight(4.0, 0.2, 0.7, text)
    for u in (0.0, 0.2, 0.5, 0.9):
        assert weight(0.2 + 0.5 * u) == pytest.approx(4.0 * curve(text)(u))
    assert weight(0.1) == weight(0.7) == weight(1.0) == 0


# Weights that are off at 1


def test_above_a_floor_is_the_floor_outside_the_window_and_the_value_inside():
    weight = Weight(7.5, 0.2, 0.6)
    assert [weight.above(1.0, p) for p in (0.0, 0.19, 0.2, 0.5, 0.6, 1.0)] == [1, 1, 7.5, 7.5, 1, 1]


def test_above_a_floor_a_full_share_is_the_value_to_the_last_bit():
    for value in (0.1, 7.3, 1e-9, -2.7):
        for floor in (1.0, 0.3, 1e9):
            assert Weight(value).above(floor, 0.3) == value
            assert Weight(value, curve="linear").above(floor, 1.0) == value


@pytest.mark.parametrize("value", [7.5, 1.0, 0.0, -3.0])
def test_above_a_floor_the_curve_runs_between_floor_and_value(value):
    weight = Weight(value, 0.5, 1.0, "power 2")
    for u in (0.0, 0.25, 0.5, 1.0):
        assert weight.above(1.0, 0.5 + u / 2) == pytest.approx(1 + (value - 1) * u**2)


def test_above_nought_is_the_weight_itself():
    weight = Weight(4.5, 0.1, 0.9, "cosine")
    assert [weight.above(0.0, p) for p in PLACES] == [weight(p) for p in PLACES]


def test_a_weight_at_its_floor_stays_there_under_every_curve():
    for text in (*CURVES, "power 2", "beta 2 3", "0:1 0.5:0.2 1:0"):
        assert all(Weight(1.0, 0.2, 0.8, text).above(1.0, p) == 1 for p in PLACES)


def test_above_a_floor_an_empty_window_is_the_floor_everywhere():
    assert all(Weight(7.5, 0.5, 0.5).above(1.0, p) == 1 for p in PLACES)
