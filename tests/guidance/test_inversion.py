"""x0 -> x_T and back, against the numbers of kwonminki/Asyrp_official."""

import golden_files
import pytest
import torch
from asyrp_golden import CASES, Published

from pack.guidance.inversion import invert
from pack.guidance.sampling import sample_ddim


@pytest.fixture(scope="module", params=CASES)
def run(request):
    return Published(request.param)


def test_the_kept_steps_are_the_published_ones(run):
    assert run.timesteps == run.golden["timesteps"].tolist()


def test_the_inverted_picture_is_the_published_one(run):
    x_T = invert(run.denoise, run.golden["image"] * run.scale(run.rising[0]), run.rising) / run.scale(run.rising[-1])
    assert golden_files.relative_error(x_T, run.golden["inverted"]) < 1e-4


def test_the_plain_trajectory_is_the_published_one(run):
    """Deterministic down to t_boost, fresh noise (eta 1) below."""
    x = run.golden["inverted"] * run.scale(run.sigmas[0])
    x = sample_ddim(run.predict, x, run.sigmas[: run.boosted + 1], run.noise)
    x = sample_ddim(run.predict, x, run.sigmas[run.boosted :], lambda k: run.noise(run.boosted + k), eta=1.0)
    assert golden_files.relative_error(x, run.golden["sample.plain"]) < 1e-5


@pytest.mark.parametrize("flow", [False, True])
def test_inverting_and_sampling_gaussian_data_is_the_exact_flow_of_the_ode(flow):
    """For x0 ~ N(0, 1) the ODE scales x by the ratio of standard deviations; fine steps must reach it."""

    def std(sigma):
        return (((1 - sigma) if flow else 1) ** 2 + sigma**2) ** 0.5

    def denoise(x, sigma):
        s = sigma[0].item()
        return x * ((1 - s) if flow else 1) / std(s) ** 2

    sigmas = torch.linspace(1e-4, 0.9, 4000, dtype=torch.float64).tolist()
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(invert(denoise, x, sigmas), x * std(sigmas[-1]) / std(sigmas[0]), rtol=1e-3, atol=0)
