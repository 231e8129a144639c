"""The four estimators against closed forms on Gaussian data, in float64, for x = x0 + sigma noise and for flows."""

import pytest
import torch
from linear_gaussian import LinearGaussian

from pack.guidance.combine import steer
from pack.guidance.gradient import ESTIMATORS, Term
from pack.guidance.step import Step
from pack.guidance.tensors import append_dims, norm

LEVELS = torch.tensor([0.01, 0.05, 0.2, 0.35, 0.5, 0.7, 0.85, 0.95, 0.99], dtype=torch.float64)
MODELS = pytest.mark.parametrize("flow", [False, True], ids=["sigma", "flow"])
CLEAN = [name for name in ESTIMATORS if name != "at noisy"]


def world_at(flow):
    """A step of a batch of noise levels, in a world whose J = d denoised / dx is known."""
    sigma = LEVELS if flow else LEVELS * 20
    level = append_dims(sigma, 4)
    world = LinearGaussian((1 - level) if flow else torch.ones_like(level), level)
    shape = (len(sigma), 2, 3, 4)
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * (1 + level)
    slope = world.a * world.covariance / world.b**2
    step = Step(x, sigma, world.denoised(x), flow, data_std=world.spread, pull_back=lambda c: slope * c)
    return world, step


def clean_energy(world):
    """-log p(y | x0) of each sample."""
    return lambda x0, sigma: ((x0 - world.y) ** 2).flatten(1).sum(1) / (2 * world.error**2)


def term(energy, estimator, scale=1.0, relative=False, mask=None, name="guide"):
    return Term(name, energy, scale, relative, estimator, mask)


def direction(step, *terms, cap=0.0, inner_steps=3):
    return steer(step, terms, cap, inner_steps).direction


@MODELS
def test_at_noisy_gives_the_exact_posterior_mean(flow):
    world, step = world_at(flow)

    def energy(x, sigma):
        """-log p(y | X) in the scaling that noise-aware networks are told: X = x0 + sigma noise."""
        seen, level = step.noisy(x)
        told = LinearGaussian(torch.ones_like(world.a), append_dims(level, 4))
        return -told.log_y(seen).flatten(1).sum(1)

    found = step.denoised + direction(step, term(energy, "at noisy"))
    torch.testing.assert_close(found, world.posterior_mean(step.x), rtol=1e-10, atol=1e-10)


@MODELS
@pytest.mark.parametrize("estimator", ["at denoised", "through denoiser"])
def test_clean_gradients_are_covariance_times_the_likelihoods_gradient(flow, estimator):
    world, step = world_at(flow)
    expected = world.covariance * (world.y - step.denoised) / world.error**2
    found = direction(step, term(clean_energy(world), estimator))
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@MODELS
@pytest.mark.parametrize("inner_steps", [2, 3, 4, 16])
def test_two_inner_steps_are_the_exact_posterior_mean_of_gaussian_data(flow, inner_steps):
    """One curvature for all numbers of a sample, covariance / error^2 up to 8, where one step overshoots."""
    world, step = world_at(flow)
    found = direction(step, term(clean_energy(world), "at denoised optimised"), inner_steps=inner_steps)
    assert (world.covariance / world.error**2 > 7).any()
    torch.testing.assert_close(step.denoised + found, world.posterior_mean(step.x), rtol=1e-10, atol=1e-10)


@MODELS
def test_one_inner_step_is_the_gradient_at_the_denoised_sample(flow):
    world, step = world_at(flow)
    names = "at denoised", "at denoised optimised"
    once = [direction(step, term(clean_energy(world), name), inner_steps=1) for name in names]
    assert torch.equal(*once)


@pytest.mark.parametrize("stiffness", [1.0, 80.0, 1e4])
def test_inner_steps_come_to_the_exact_proximal_point_and_more_are_never_worse(stiffness):
    """Four curvatures between 0 and `stiffness` / Cov, in directions across all numbers: (I + Cov H) (z - z*) = 0."""
    _, step = world_at(False)
    level = append_dims(step.clean_variance, 2)
    generator = torch.Generator().manual_seed(5)
    turn = torch.linalg.qr(torch.randn(24, 24, dtype=torch.float64, generator=generator))[0]
    curvatures = stiffness * torch.tensor([0.01, 0.2, 0.5, 1.0], dtype=torch.float64).repeat(6)
    goal = torch.randn(24, dtype=torch.float64, generator=generator)

    def gradient(z):
        return ((z - goal) @ turn * curvatures / level) @ turn.T

    def energy(z, sigma):
        return (((z.flatten(1) - goal) @ turn).square() * curvatures / level).sum(1) / 2

    start = step.denoised.flatten(1)
    proximal = ((goal @ turn * curvatures + start @ turn) / (1 + curvatures)) @ turn.T
    residuals = []
    for inner_steps in range(1, 9):
        found = direction(step, term(energy, "at denoised optimised"), inner_steps=inner_steps)
        z = start + found.flatten(1)
        residuals.append(norm(start - level * gradient(z) - z))
    scale = norm(start - goal) * (1 + stiffness)
    for before, after in zip(residuals, residuals[1:], strict=False):
        assert (after <= before + 1e-10 * scale).all()
    assert (residuals[6] <= 1e-9 * scale).all()
    assert (norm(z - proximal) <= 1e-9 * scale).all()


def test_more_inner_steps_are_never_worse_for_an_energy_far_from_quadratic():
    """A well of fourth power, ten million times too stiff for one explicit step: E + |z - D|^2 / (2 Cov) sinks."""
    _, step = world_at(False)
    level = step.clean_variance

    def energy(z, sigma):
        return 1e7 * (z - 0.3).square().flatten(1).sum(1).square()

    def objective(found):
        z = step.denoised + found
        return level * energy(z, None) + norm(found).square() / 2

    best = objective(torch.zeros_like(step.x))
    for inner_steps in range(2, 17):
        value = objective(direction(step, term(energy, "at denoised optimised"), inner_steps=inner_steps))
        assert (value <= best * (1 + 1e-9)).all()
        best = value


@MODELS
@pytest.mark.parametrize("estimator", list(ESTIMATORS))
def test_a_relative_weight_is_a_length_and_points_down_the_energy(flow, estimator):
    world, step = world_at(flow)
    found = direction(step, term(clean_energy(world), estimator, scale=0.3, relative=True), inner_steps=1)
    torch.testing.assert_close(norm(found), 0.3 * step.reach, rtol=1e-10, atol=1e-10)
    downhill = world.y - (step.x if estimator == "at noisy" else step.denoised)
    cosine = (found * downhill).flatten(1).sum(1) / (norm(found) * norm(downhill))
    torch.testing.assert_close(cosine, torch.ones_like(cosine), rtol=1e-10, atol=1e-10)


@MODELS
def test_the_reach_is_the_models_own_step_at_little_noise_and_the_datas_size_at_much(flow):
    _, step = world_at(flow)
    a = 1 - step.sigma if flow else torch.ones_like(step.sigma)
    torch.testing.assert_close(
        step.reach / step.distance, step.clean_variance.sqrt() / step.sigma, rtol=1e-12, atol=1e-12
    )
    assert (step.reach <= step.distance / a.clamp(min=1e-9)).all()


@pytest.mark.parametrize("estimator", CLEAN)
def test_the_cap_limits_the_sum_of_clean_guides_and_keeps_its_direction(estimator):
    world, step = world_at(False)
    terms = [term(clean_energy(world), estimator, scale=5.0, relative=True), term(clean_energy(world), estimator)]
    free, capped = direction(step, *terms), direction(step, *terms, cap=0.5)
    limit = torch.minimum(norm(free), 0.5 * step.reach)
    torch.testing.assert_close(norm(capped), limit, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(capped * append_dims(norm(free) / limit, 4), free, rtol=1e-9, atol=1e-9)


def test_an_exact_guide_is_never_capped():
    world, step = world_at(False)
    exact = term(lambda x, sigma: -1e4 * world.log_y(x).flatten(1).sum(1), "at noisy")
    torch.testing.assert_close(direction(step, exact, cap=0.1), direction(step, exact), rtol=0, atol=0)


def test_guides_are_normalised_each_by_itself_then_weighed_and_summed():
    world, step = world_at(False)
    small = term(clean_energy(world), "at denoised", 0.2, True)
    huge = term(lambda x, sigma: 1e6 * x.flatten(1).sum(1), "at denoised", 0.1, True)
    both = direction(step, small, huge)
    torch.testing.assert_close(both, direction(step, small) + direction(step, huge), rtol=1e-12, atol=1e-12)
    assert torch.allclose(norm(direction(step, huge)), 0.1 * step.reach)


def test_the_jacobian_is_taken_once_for_all_guides():
    world, step = world_at(False)
    calls = []
    counting = Step(**{**vars(step), "pull_back": lambda c: calls.append(1) or step.pull_back(c)})
    terms = [term(clean_energy(world), "through denoiser", 0.2, True) for _ in range(3)]
    steer(counting, terms, 0.0, 1)
    assert len(calls) == 1


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("estimator", CLEAN)
def test_a_sample_whose_gradient_is_not_finite_is_left_alone_and_the_others_are_not(bad, estimator):
    world, step = world_at(False)
    broken = torch.ones(len(step.x), dtype=torch.float64)
    broken[2] = bad

    def energy(x, sigma):
        return clean_energy(world)(x, sigma) * broken

    found = steer(step, [term(energy, estimator)], 0.0, 1)
    expected = direction(step, term(clean_energy(world), estimator), inner_steps=1)
    assert (found.direction[2] == 0).all()
    others = [k for k in range(len(step.x)) if k != 2]
    torch.testing.assert_close(found.direction[others], expected[others], rtol=1e-12, atol=1e-12)
    assert found.readings[0].dropped.tolist() == [k == 2 for k in range(len(step.x))]


def test_a_masked_guide_moves_nothing_outside_and_is_as_strong_inside():
    world, step = world_at(False)
    mask = torch.zeros(1, 1, 3, 4, dtype=torch.float64)
    mask[..., :2] = 1
    found = direction(step, term(clean_energy(world), "at denoised", 0.3, True, mask))
    assert (found[..., 2:] == 0).all()
    ratio = norm(found[..., :2]) / norm((step.x - step.denoised)[..., :2])
    torch.testing.assert_close(ratio, 0.3 * step.reach / step.distance, rtol=1e-10, atol=1e-10)


def test_a_mask_holds_although_the_jacobian_spreads_what_it_is_given():
    world, step = world_at(False)
    spreading = Step(**{**vars(step), "pull_back": lambda c: c + c.flip(-1)})
    mask = torch.zeros(1, 1, 3, 4, dtype=torch.float64)
    mask[..., :2] = 1
    for relative in (True, False):
        found = direction(spreading, term(clean_energy(world), "through denoiser", 0.3, relative, mask))
        assert (found[..., 2:] == 0).all() and (found[..., :2] != 0).all()


@pytest.mark.parametrize("estimator", list(ESTIMATORS))
def test_samples_of_a_batch_do_not_know_of_each_other(estimator):
    world, step = world_at(False)
    whole = direction(step, term(clean_energy(world), estimator, 0.4, True), cap=0.3)
    for k in range(len(step.x)):
        rows = slice(k, k + 1)
        slope = (world.a * world.covariance / world.b**2)[rows]
        one = Step(step.x[rows], step.sigma[rows], step.denoised[rows], False, world.spread, lambda c, j=slope: j * c)
        alone = direction(one, term(clean_energy(world), estimator, 0.4, True), cap=0.3)
        torch.testing.assert_close(whole[rows], alone, rtol=1e-12, atol=1e-12)


def test_the_readings_say_loss_gradient_and_length():
    world, step = world_at(False)
    found = steer(step, [term(clean_energy(world), "at denoised", 0.3, True, name="goal")], 0.0, 1)
    (reading,) = found.readings
    assert reading.name == "goal"
    torch.testing.assert_close(reading.loss, clean_energy(world)(step.denoised, step.sigma), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        reading.grad_norm, norm((step.denoised - world.y) / world.error**2), rtol=1e-12, atol=1e-12
    )
    torch.testing.assert_close(reading.lambda_, norm(found.direction) / step.distance, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("rank", [3, 4, 5])
def test_latents_of_any_rank_are_steered(rank):
    shape = (2, 3, 4, 5, 6)[:rank]
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    step = Step(x, torch.ones(2), 0.5 * x)
    found = direction(step, term(lambda z, sigma: z.square().flatten(1).sum(1), "at denoised", 0.3, True))
    assert found.shape == shape
    torch.testing.assert_close(norm(found), 0.3 * step.reach, rtol=1e-6, atol=1e-6)
