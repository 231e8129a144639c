"""Directions of attributes: what a fit must find, how it is measured, and that independent means orthogonal."""

import pytest
import torch

from pack.guidance import directions
from pack.guidance.directions import (
    FITS,
    Linear,
    accepted,
    cross_validated,
    difference_of_means,
    fit_logistic,
    orthogonal,
)

WIDTH = 12


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def cosine(a, b):
    return torch.nn.functional.cosine_similarity(a.double(), b.double(), dim=0).item()


def sorted_by(weight, bias=0.0, count=4000):
    """Codes of deviation 1 on either side of a border."""
    z = draw(count, WIDTH, seed=1)
    side = z @ weight + bias > 0
    return z[side], z[~side]


def two_clouds(distance, count=60, seed=2):
    """Codes about +distance/2 and -distance/2 along the first axis."""
    positive, negative = draw(2, count, WIDTH, seed=seed)
    positive[:, 0] += distance / 2
    negative[:, 0] -= distance / 2
    return positive, negative


@pytest.fixture
def known():
    weight = draw(WIDTH, seed=3)
    return weight / weight.norm()


@pytest.mark.parametrize("method", FITS)
def test_a_known_direction_is_found(method, known):
    line = FITS[method](*sorted_by(known))
    assert cosine(line.weight, known) > 0.99
    assert line.weight.dtype == torch.float32 and line.weight.shape == (WIDTH,)


def test_logistic_regression_finds_the_border_too(known):
    positive, negative = sorted_by(known, bias=0.4)
    line = fit_logistic(positive, negative)
    assert line.bias / line.weight.norm().item() == pytest.approx(0.4, abs=0.1)
    assert (line.log_odds(positive) > 0).float().mean() > 0.9
    assert (line.log_odds(negative) < 0).float().mean() > 0.9


def test_logistic_regression_stands_at_its_minimum():
    """Mean over both sets of sigmoid(-y f) y z balances the penalty 2 lambda w; for the bias there is none."""
    positive, negative = (part.double() for part in two_clouds(1.5))
    line = fit_logistic(positive, negative)
    weight = line.weight.double()
    push = torch.sigmoid(-(positive @ weight + line.bias)), torch.sigmoid(negative @ weight + line.bias)
    gradient = ((push[1][:, None] * negative).mean(0) - (push[0][:, None] * positive).mean(0)) / 2
    torch.testing.assert_close(gradient + 2 * directions.PENALTY * weight, torch.zeros_like(weight), rtol=0, atol=3e-5)
    assert (push[1].mean() - push[0].mean()).abs() < 1e-3


@pytest.mark.parametrize("method", FITS)
@pytest.mark.parametrize("larger", ["positive", "negative"])
def test_both_sets_count_the_same_however_many_codes_they_have(method, larger):
    positive, negative = two_clouds(1.5)
    line = FITS[method](positive, negative)
    if larger == "positive":
        again = FITS[method](positive.repeat(10, 1), negative)
    else:
        again = FITS[method](positive, negative.repeat(10, 1))
    torch.testing.assert_close(again.weight, line.weight, rtol=1e-6, atol=1e-6)
    assert again.bias == pytest.approx(line.bias, abs=1e-3)


def test_exchanged_sets_give_the_opposite_direction():
    positive, negative = two_clouds(1.5)
    one, other = fit_logistic(positive, negative), fit_logistic(negative, positive)
    torch.testing.assert_close(one.weight, -other.weight, rtol=1e-6, atol=1e-6)
    assert one.bias == pytest.approx(-other.bias, abs=1e-3)


def test_separable_sets_give_a_finite_line():
    line = fit_logistic(*two_clouds(40.0, count=2))
    assert torch.isfinite(line.weight).all() and line.weight.norm() < 10


def test_a_fit_works_inside_inference_mode():
    positive, negative = two_clouds(1.5)
    expected = fit_logistic(positive, negative)
    with torch.inference_mode():
        found = fit_logistic(positive + 0, negative + 0)
    assert torch.equal(found.weight, expected.weight) and found.bias == expected.bias


def test_the_mean_difference_is_what_it_says_with_the_border_midway():
    positive, negative = two_clouds(1.5)
    line = difference_of_means(positive, negative)
    assert torch.equal(line.weight, positive.mean(0) - negative.mean(0))
    middle = (positive.mean(0) + negative.mean(0)) / 2
    assert line.log_odds(middle[None]).item() == pytest.approx(0, abs=1e-5)
    assert line.log_odds(positive.mean(0)[None]).item() == pytest.approx(
        line.weight.square().sum().item() / 2, rel=1e-4
    )


@pytest.mark.parametrize("method", FITS)
def test_noise_is_found_to_be_noise(method):
    found = [cross_validated(method, *two_clouds(0.0, count=100, seed=seed)) for seed in range(10)]
    assert abs(sum(found) / len(found) - 0.5) < 0.04


@pytest.mark.parametrize("method", FITS)
def test_separable_sets_are_told_apart_always(method):
    assert cross_validated(method, *two_clouds(12.0)) == 1.0


@pytest.mark.parametrize("sizes", [(23, 7), (5, 5), (2, 40)])
def test_a_line_never_sees_the_codes_that_it_is_tried_on(sizes, monkeypatch):
    """Every code is left out once, and codes carry their number so that leaks show."""
    numbers = [torch.arange(count, dtype=torch.float32) + 1000 * side for side, count in enumerate(sizes)]
    positive, negative = (part[:, None].repeat(1, WIDTH) for part in numbers)
    tried = []

    class Spy(Linear):
        def log_odds(self, z):
            tried.extend(z[:, 0].tolist())
            assert not set(z[:, 0].tolist()) & self.seen
            return super().log_odds(z)

    def fit(positive, negative):
        assert len(positive) and len(negative)
        spy = Spy(torch.zeros(WIDTH))
        object.__setattr__(spy, "seen", set(positive[:, 0].tolist()) | set(negative[:, 0].tolist()))
        return spy

    monkeypatch.setitem(FITS, "spy", fit)
    cross_validated("spy", positive, negative)
    assert sorted(tried) == sorted(torch.cat(numbers).tolist())


def test_the_accuracy_is_the_mean_over_both_sets(monkeypatch):
    """A line that always says yes is right half the time, however unequal the sets."""
    monkeypatch.setitem(FITS, "yes", lambda positive, negative: Linear(torch.zeros(WIDTH), 1.0))
    assert cross_validated("yes", draw(90, WIDTH), draw(10, WIDTH)) == pytest.approx(0.5)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_an_orthogonal_direction_has_nothing_of_the_others(count):
    weight, others = draw(WIDTH), draw(count, WIDTH, seed=1)
    left = orthogonal(weight, others)
    assert left.dtype == weight.dtype
    assert (others @ left).abs().max() < 1e-5
    torch.testing.assert_close(left @ weight, left @ left, rtol=1e-6, atol=1e-6)  # a projection: nothing added
    torch.testing.assert_close(orthogonal(left, others), left, rtol=1e-6, atol=1e-6)


def test_a_direction_that_is_orthogonal_already_stays():
    weight, other = torch.zeros(WIDTH), torch.zeros(1, WIDTH)
    weight[0], other[0, 1] = 2.0, 5.0
    torch.testing.assert_close(orthogonal(weight, other), weight, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("weights", [[1.0, 0.0], [-3.0, 0.0], [2.0, -1.0]])
def test_a_direction_within_the_others_is_refused(weights):
    others = draw(2, WIDTH, seed=1)
    with pytest.raises(ValueError, match="nothing would be left of it"):
        orthogonal(torch.tensor(weights) @ others, others)


@pytest.mark.parametrize(
    "p, least, share", [(0.3, 0.0, 0.3), (0.3, 0.3, 0.3), (0.8, 0.5, 0.8), (0.3, 0.5, 0.0), (1, 0, 1)]
)
def test_a_code_is_kept_with_the_probability_of_its_attribute_and_never_below_the_least(p, least, share):
    """So the kept ones of p(z) are those of p(z | y)."""
    uniform = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    kept = accepted(torch.full((1000,), float(p), dtype=torch.float64), uniform, least)
    assert abs(kept.double().mean() - share) < 1e-10


def test_kept_codes_of_a_normal_prior_have_the_posteriors_mean():
    """z ~ N(0, 1) on a grid of its quantiles, log odds 2 z: against the integral of p(z | y), by the same grid."""
    z = torch.special.ndtri((torch.arange(4000, dtype=torch.float64) + 0.5) / 4000)
    p = Linear(torch.tensor([2.0], dtype=torch.float64)).log_odds(z[:, None]).sigmoid()
    uniform = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    kept = accepted(p[:, None].expand(-1, 1000).flatten(), uniform.repeat(4000)).view(4000, 1000)
    found = (kept * z[:, None]).sum() / kept.sum()
    assert abs(found - (p * z).sum() / p.sum()) < 1e-4
