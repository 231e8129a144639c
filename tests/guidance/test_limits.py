"""Energies that are no log-probabilities are limited: exactly where a longer step would overshoot, and nowhere else."""

import pytest
import torch

from pack.guidance.combine import steer
from pack.guidance.gradient import Term, stable_length
from pack.guidance.step import FURTHEST, Step
from pack.guidance.tensors import norm

GOAL = 0.3


def drawn(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def step_at(sigma, following=0.0, flow=False, x=None, denoised=None):
    x = 3 * drawn(2, 3, 4, 4) if x is None else x
    level = torch.full((len(x),), sigma, dtype=torch.float64)
    return Step(x, level, 0.2 * x if denoised is None else denoised, flow, 0.5, now=1 - following / sigma)


def parabola(stiffness):
    return lambda x, sigma: stiffness * (x - GOAL).square().flatten(1).sum(1) / 2


def direction(step, energy, scale=1.0, least=0.0, estimator="at noisy", relative=False, cap=0.0):
    return steer(step, [Term("guide", energy, scale, relative, estimator, None, least)], cap, 3).direction


def euler(step, direction):
    denoised = step.denoised + direction
    return denoised + (1 - step.now) * (step.x - denoised)


@pytest.mark.parametrize("flow", [False, True], ids=["sigma", "flow"])
@pytest.mark.parametrize("stiffness", [10.0, 1e4, 1e12])
def test_a_stiff_energy_moves_the_sample_to_the_bottom_of_its_parabola_and_no_further(flow, stiffness):
    step = step_at(0.8, 0.5, flow)
    found = direction(step, parabola(stiffness))
    moved = euler(step, found) - euler(step, torch.zeros_like(found))
    torch.testing.assert_close(moved, GOAL - step.x, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("stiffness", [1e-3, 0.1, 1.0])
def test_where_the_limit_is_not_met_every_bit_is_that_of_the_gradient(stiffness):
    step = step_at(0.8, 0.6)
    assert (stiffness * step.shift * step.now < 1).all()
    limited, free = (direction(step, parabola(stiffness), least=least) for least in (0.0, None))
    assert torch.equal(limited, free)


def test_a_log_probability_is_never_limited():
    step = step_at(3.0)
    torch.testing.assert_close(direction(step, parabola(1e9), least=None), 9e9 * (GOAL - step.x), rtol=1e-12, atol=0)


def test_the_limit_does_not_depend_on_the_weight_or_its_sign_beyond_the_direction():
    step = step_at(2.0, 1.0)
    once, more, away = (direction(step, parabola(1e3), scale) for scale in (1.0, 1e6, -1.0))
    torch.testing.assert_close(once, more, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(once, -away, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("curvatures", [(1.0, 1e4), (0.3, 7.0), (1e-3, 1e9)])
def test_no_step_of_any_convex_energy_leads_away_from_its_minimum(curvatures):
    """Anisotropic: what is stiff one way and soft the other, from every side, over a whole run of steps."""
    scale = torch.linspace(*curvatures, 48, dtype=torch.float64).view(1, 3, 4, 4)

    def energy(x, sigma):
        return (scale * (x - GOAL).square()).flatten(1).sum(1) / 2

    x = 50 * drawn(4, 3, 4, 4, seed=2)
    for sigma, following in ((9.0, 7.0), (7.0, 1.0), (1.0, 0.9), (0.9, 0.1), (0.1, 0.0)):
        step = step_at(sigma, following, x=x, denoised=x)  # the model itself moves nothing
        moved = euler(step, direction(step, energy))
        assert (norm(moved - GOAL) <= norm(x - GOAL) * (1 + 1e-12)).all()
        x = moved


@pytest.mark.parametrize("flow", [False, True], ids=["sigma", "flow"])
@pytest.mark.parametrize("estimator, relative", [("at noisy", False), ("at noisy", True), ("at denoised", False)])
def test_nothing_is_pushed_beyond_a_multiple_of_the_data_whatever_the_sample(flow, estimator, relative):
    for sigma, size in ((0.3, 1e3), (0.9, 1e6), (0.999, 1e9)) if flow else ((0.1, 1e3), (10.0, 1e9), (2e4, 1e30)):
        step = step_at(sigma, flow=flow, x=size * drawn(2, 3, 4, 4))
        found = direction(step, lambda x, sigma: 1e9 * x.flatten(1).norm(dim=1), 1e3, 0.0, estimator, relative)
        assert (norm(found) / found[0].numel() ** 0.5 <= FURTHEST * step.data_std * (1 + 1e-9)).all()
        torch.testing.assert_close(step.furthest, FURTHEST * (48 * step.clean_variance).sqrt(), rtol=1e-12, atol=0)


def test_the_stable_length_is_polyaks_step():
    step = step_at(4.0, 1.0)
    height, slope = torch.tensor([2.0, 0.0]).double(), torch.tensor([0.5, 0.0]).double()
    assert stable_length(height, slope, step).tolist() == [pytest.approx(2 * 2.0 / 0.5 / 0.75), 0.0]


def test_the_reading_says_that_a_guide_was_limited():
    step = step_at(0.8)
    found = steer(step, [Term("stiff", parabola(1e3), 1.0, False, "at noisy", None, 0.0)], 0.0, 1)
    assert found.readings[0].limited.all() and found.capped.all()
    torch.testing.assert_close(found.readings[0].lambda_, norm(found.direction) / step.distance, rtol=1e-12, atol=1e-12)
