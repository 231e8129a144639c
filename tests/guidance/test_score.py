"""The guided prediction is the exact posterior mean wherever that can be worked out on paper."""

import pytest
import torch
from exact_denoiser import ExactDenoiser
from linear_gaussian import LinearGaussian

from pack.guidance.gradient import gradient
from pack.guidance.sampling import sample_ddim
from pack.guidance.score import guided_denoised, shift_per_gradient
from training import scenes

LEVELS = torch.tensor([0.01, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 0.85, 0.95, 0.99], dtype=torch.float64)


def some(count):
    return torch.randn(count, 1, 1, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 2


@pytest.mark.parametrize("flow", [False, True])
def test_on_gaussian_data_the_guided_prediction_is_the_posterior_mean(flow):
    sigma = LEVELS if flow else LEVELS * 20
    level = sigma[:, None, None, None]
    world = LinearGaussian((1 - level) if flow else torch.ones_like(level), level)
    x = some(len(sigma)) * (1 + level)
    grad = -gradient(lambda x, sigma: -world.log_y(x).flatten(1).sum(1), x, sigma)
    guided = guided_denoised(world.denoised(x), grad, sigma, flow)
    torch.testing.assert_close(guided, world.posterior_mean(x), rtol=1e-10, atol=1e-10)


@pytest.mark.host
@pytest.mark.parametrize("kind", ["EPS", "V_PREDICTION", "EDM", "X0", "CONST"])
def test_the_same_holds_for_what_the_hosts_parametrisations_make_of_a_networks_output(comfy, kind):
    import comfy.model_sampling

    flow = kind == "CONST"
    sigma = LEVELS if flow else LEVELS * 20
    level = sigma[:, None, None, None]
    world = LinearGaussian((1 - level) if flow else torch.ones_like(level), level)
    x = some(len(sigma)) * (1 + level)
    rule = getattr(comfy.model_sampling, kind)()
    data = rule.sigma_data = 0.7
    exact = world.denoised(x)
    scale = (level**2 + data**2) ** 0.5
    output = {
        "EPS": (x - exact) / level,
        "CONST": (x - exact) / level,
        "X0": exact,
        "V_PREDICTION": (x * data**2 / scale**2 - exact) * scale / (level * data),
        "EDM": (exact - x * data**2 / scale**2) * scale / (level * data),
    }[kind]
    grad = -gradient(lambda x, sigma: -world.log_y(x).flatten(1).sum(1), x, sigma)
    guided = guided_denoised(rule.calculate_denoised(sigma, output, x), grad, sigma, flow)
    torch.testing.assert_close(guided, world.posterior_mean(x), rtol=1e-10, atol=1e-10)


def test_a_flow_model_is_not_guided_where_it_knows_nothing():
    assert shift_per_gradient(torch.ones(2), flow=True).tolist() == [0.0, 0.0]


@pytest.fixture(scope="module")
def exact():
    drawn = scenes.draw(256, torch.Generator().manual_seed(0))
    return ExactDenoiser(scenes.render(drawn, 16).image, drawn.shape)


@pytest.mark.parametrize("sigma", [0.1, 0.3, 0.6, 1.0, 2.0, 4.0, 8.0, 16.0, 50.0, 150.0])
def test_on_a_finite_set_of_scenes_guidance_gives_the_classes_own_posterior_mean(exact, sigma):
    generator = torch.Generator().manual_seed(2)
    x = exact.pictures[:4] + sigma * torch.randn(4, 3, 16, 16, dtype=torch.float64, generator=generator)
    level = torch.full((4,), sigma, dtype=torch.float64)
    y = int(exact.labels[0])
    grad = -gradient(lambda x, sigma: -exact.log_probability(x, sigma, y), x, level)
    guided = guided_denoised(exact(x, level), grad, level)
    torch.testing.assert_close(guided, exact.of_class(y)(x, level), rtol=2e-12, atol=2e-12)


def test_with_euler_the_score_form_is_algorithm_2(exact):
    """A plain Euler step on the guided prediction, written out, against the DDIM loop."""
    sigmas = [20.0, 8.0, 3.0, 1.0, 0.3, 0.0]
    y = 3
    start = 20 * torch.randn(2, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(3))

    def grad(x, sigma):
        return -gradient(lambda x, sigma: -exact.log_probability(x, sigma, y), x, sigma)

    looped = sample_ddim(lambda x, sigma: (exact(x, sigma), None), start, sigmas, lambda k: start, gradient=grad)
    x = start
    for s, p in zip(sigmas[:-1], sigmas[1:], strict=True):
        level = torch.full((2,), s, dtype=torch.float64)
        denoised = guided_denoised(exact(x, level), grad(x, level), level)
        x = x + (p - s) * (x - denoised) / s
    torch.testing.assert_close(looped, x, rtol=1e-9, atol=1e-9)
    assert set(exact.log_weights(looped, torch.full((2,), 0.05)).argmax(1).tolist()) <= set(
        (exact.labels == y).nonzero()[:, 0].tolist()
    )
