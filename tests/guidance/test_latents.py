"""Arithmetic of z_sem and x_T against closed forms, and the latent prior against a Gaussian that is known exactly."""

import math

import pytest
import torch

from pack.guidance.latents import lerp, moved, normalised, sample_prior, slerp

SHAPES = {"z_sem": (1, 64), "x_T": (1, 3, 8, 8)}
FRAMES = torch.linspace(0, 1, 9)


def draw(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def along(fractions, ndim):
    return fractions.reshape((-1,) + (1,) * (ndim - 1))


@pytest.fixture(params=SHAPES)
def ends(request):
    shape = SHAPES[request.param]
    return draw(*shape), 3 * draw(*shape, seed=1) + 0.1


@pytest.mark.parametrize("between", [lerp, slerp])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_the_ends_are_the_codes_bit_for_bit(between, dtype, ends):
    a, b = (end.to(dtype) for end in ends)
    frames = between(a, b, FRAMES)
    assert frames.dtype == dtype and frames.shape == (9, *a.shape[1:])
    assert torch.equal(frames[:1], a) and torch.equal(frames[-1:], b)


@pytest.mark.parametrize("between", [lerp, slerp])
def test_a_frame_equals_itself_alone(between, ends):
    frames = between(*ends, FRAMES)
    assert all(torch.equal(between(*ends, FRAMES[k : k + 1]), frames[k : k + 1]) for k in range(9))


def test_lerp_is_the_line_also_beyond_its_ends(ends):
    a, b = ends
    places = torch.tensor([-1.0, 0.25, 0.5, 2.0])
    expected = a + along(places, a.ndim) * (b - a)
    torch.testing.assert_close(lerp(a, b, places), expected, rtol=1e-6, atol=1e-6)


def test_slerp_is_the_published_formula_over_the_whole_tensor(ends):
    """DiffAE's notebook: theta from the flattened cosine, coefficients on the codes as they are."""
    a, b = (end.double() for end in ends)
    theta = torch.acos((a.flatten() @ b.flatten()) / (a.norm() * b.norm()))
    share = along(FRAMES.double(), a.ndim)
    expected = (torch.sin((1 - share) * theta) * a + torch.sin(share * theta) * b) / torch.sin(theta)
    torch.testing.assert_close(slerp(a, b, FRAMES.double()), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(slerp(*ends, FRAMES), expected.float(), rtol=1e-6, atol=1e-6)


def test_slerp_between_orthogonal_codes_is_cosine_and_sine():
    a, b = torch.zeros(1, 4, dtype=torch.float64), torch.zeros(1, 4, dtype=torch.float64)
    a[0, 0], b[0, 1] = 2, 2
    angle = FRAMES.double() * math.pi / 2
    frames = slerp(a, b, FRAMES.double())
    torch.testing.assert_close(frames[:, 0], 2 * angle.cos(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(frames[:, 1], 2 * angle.sin(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(frames.norm(dim=1), torch.full((9,), 2.0, dtype=torch.float64), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("scale", [1.0, 2.5, -1.0])
def test_slerp_between_parallel_codes_is_the_line(scale, ends):
    a, _ = ends
    assert torch.equal(slerp(a, scale * a, FRAMES), lerp(a, scale * a, FRAMES))


def test_slerp_approaches_the_line_as_the_angle_vanishes():
    a, aside = draw(1, 64, dtype=torch.float64), draw(1, 64, seed=1, dtype=torch.float64)
    for tilt in (1e-2, 1e-3, 1e-4, 1e-5):
        b = a + tilt * aside
        difference = (slerp(a, b, FRAMES.double()) - lerp(a, b, FRAMES.double())).abs().max()
        assert difference < 2 * tilt**2


def test_moving_by_nothing_changes_no_bit():
    z, mean, std = draw(5, 64), draw(64, seed=1), draw(64, seed=2).abs()
    assert torch.equal(moved(z, draw(64, seed=3), 0.0, mean, std), z)


@pytest.mark.parametrize("amount", [0.3, -1.0, 2.0])
def test_the_amount_is_in_units_of_sqrt_d_deviations(amount):
    """zn + a sqrt(D) w / |w| in normalised space (the published manipulation), whatever the direction's length."""
    z, mean, std = (draw(5, 64, dtype=torch.float64), *draw(2, 64, seed=1, dtype=torch.float64))
    std = std.abs() + 0.1
    direction = 7 * draw(64, seed=2, dtype=torch.float64)
    after = moved(z, direction, amount, mean, std)
    way = normalised(after, mean, std) - normalised(z, mean, std)
    expected = amount * 8 * direction / direction.norm()
    torch.testing.assert_close(way, expected.expand(5, 64), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(after, (normalised(z, mean, std) + expected) * std + mean, rtol=1e-10, atol=1e-10)


def test_moving_there_and_back_is_no_move():
    z, mean, std = draw(5, 64), draw(64, seed=1), draw(64, seed=2).abs() + 0.1
    direction = draw(64, seed=3)
    back = moved(moved(z, direction, 0.7, mean, std), direction, -0.7, mean, std)
    torch.testing.assert_close(back, z, rtol=1e-6, atol=1e-6)


# --- the latent prior

AB = torch.cumprod(torch.full((1000,), 1 - 0.008, dtype=torch.float64), 0)  # DiffAE's constant betas
SIGMAS = ((1 - AB) / AB).sqrt()
MEAN, STD = draw(16, seed=4, dtype=torch.float64), draw(16, seed=5, dtype=torch.float64).abs() + 0.2


def exact_eps(x, t):
    """E[eps | x_t] for codes N(MEAN, STD^2): sqrt(1 - ab) (x - sqrt(ab) m) / (ab s^2 + 1 - ab)."""
    ab = AB[t][:, None]
    return (1 - ab).sqrt() * (x - ab.sqrt() * MEAN) / (ab * STD**2 + 1 - ab)


@pytest.mark.parametrize("steps", [5, 20, 100, 1000])
def test_sampling_a_gaussian_prior_is_the_product_of_its_steps(steps):
    """Each DDIM step from sigma to p takes X - m to (X - m) (s^2 + p sigma) / (s^2 + sigma^2)."""
    timesteps = list(range(0, 1000, 1000 // steps))
    noise = draw(6, 16, dtype=torch.float64)
    levels = [*SIGMAS[timesteps].flip(0).tolist(), 0.0]
    expected = noise * (1 + levels[0] ** 2) ** 0.5 - MEAN
    for sigma, following in zip(levels[:-1], levels[1:], strict=True):
        expected = expected * (STD**2 + following * sigma) / (STD**2 + sigma**2)
    found = sample_prior(exact_eps, noise, timesteps, SIGMAS)
    torch.testing.assert_close(found, expected + MEAN, rtol=1e-9, atol=1e-9)


def test_more_steps_approach_the_exact_flow_of_the_ode():
    """Which takes X - m to (X - m) s / sqrt(s^2 + sigma^2): from noise to codes of the prior's mean and deviation."""
    noise, errors = draw(6, 16, dtype=torch.float64), []
    for stride in (100, 10, 1):
        timesteps = list(range(0, 1000, stride))
        top = SIGMAS[timesteps[-1]]
        exact = MEAN + (noise * (1 + top**2) ** 0.5 - MEAN) * STD / (STD**2 + top**2) ** 0.5
        found = sample_prior(exact_eps, noise, timesteps, SIGMAS)
        errors.append(((found - exact).abs().max() / exact.abs().max()).item())
    assert errors[0] > 4 * errors[1] > 16 * errors[2]
    assert errors[2] < 0.01


def test_a_code_does_not_depend_on_the_others():
    noise, timesteps = draw(6, 16, dtype=torch.float64), list(range(0, 1000, 50))
    together = sample_prior(exact_eps, noise, timesteps, SIGMAS)
    for k in range(6):
        alone = sample_prior(exact_eps, noise[k : k + 1], timesteps, SIGMAS)
        torch.testing.assert_close(alone, together[k : k + 1], rtol=1e-12, atol=1e-12)


def test_the_network_sees_the_kept_steps_falling_and_x_t():
    """x_t has unit size where the code has it: eps gets X / sqrt(1 + sigma^2)."""
    seen, reported = [], []

    def eps(x, t):
        seen.append((t.tolist(), x.clone()))
        return x

    noise, timesteps = draw(2, 16, dtype=torch.float64), [0, 100, 450, 900]
    sample_prior(eps, noise, timesteps, SIGMAS, reported.append)
    assert [t for t, _ in seen] == [[900, 900], [450, 450], [100, 100], [0, 0]]
    assert reported == [0, 1, 2, 3]
    torch.testing.assert_close(seen[0][1], noise, rtol=1e-12, atol=1e-12)
