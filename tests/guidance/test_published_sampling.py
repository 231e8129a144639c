"""DDPM and DDIM trajectories of openai/guided-diffusion, plain and guided, in pure torch."""

import golden_files
import pytest
import torch
from adm_golden import CASES, Published

from pack.guidance import sampling

SAMPLERS = {
    "ddpm": lambda run, **how: sampling.sample_ddpm(run.predict, run.x_T, run.sigmas, run.noise, **how),
    "ddim": lambda run, **how: sampling.sample_ddim(run.predict, run.x_T, run.sigmas, run.noise, **how),
    "ddim_eta1": lambda run, **how: sampling.sample_ddim(run.predict, run.x_T, run.sigmas, run.noise, eta=1.0, **how),
}


@pytest.fixture(scope="module", params=CASES)
def run(request):
    return Published(request.param)


@pytest.mark.parametrize("guided", ["plain", "guided"])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_trajectories_are_the_published_ones(run, sampler, guided):
    after = {}

    def keep(index, x, denoised, sigma):
        after[index] = x / (1 + append(sigma) ** 2) ** 0.5

    def append(sigma):
        return sigma[:, None, None, None]

    final = SAMPLERS[sampler](run, gradient=run.gradient if guided == "guided" else None, on_step=keep)
    golden = run.golden
    assert golden_files.relative_error(after[1], golden[f"{sampler}.{guided}.first"]) < 5e-6
    assert golden_files.relative_error(final, golden[f"{sampler}.{guided}.final"]) < run.tolerance(guided)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_gradient_matters_in_the_golden_numbers(run, sampler):
    plain, guided = run.golden[f"{sampler}.plain.final"], run.golden[f"{sampler}.guided.final"]
    assert golden_files.relative_error(guided, plain) > 1e-3


def test_the_retained_steps_are_the_published_ones(run):
    assert sampling.respaced(run.arguments["diffusion"]["timestep_respacing"]) == run.golden["timestep_map"].tolist()


def test_the_alphas_are_the_published_ones(run):
    kept = run.schedule.alphas_cumprod[run.golden["timestep_map"]]
    torch.testing.assert_close(kept, run.golden["alphas_cumprod"], rtol=0, atol=1e-12)
