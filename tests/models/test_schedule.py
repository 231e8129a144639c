"""Noise schedules against the values of the published code."""

import pytest
import torch

from pack.models.schedule import NoiseSchedule

LINEAR = {0: 0.0100005, 100: 0.342260, 500: 3.442967, 999: 157.40728}
COSINE = {0: 0.0064254, 100: 0.171044, 500: 1.015551, 999: 20291.17}


@pytest.mark.parametrize(("name", "expected"), [("linear", LINEAR), ("cosine", COSINE)])
def test_sigmas_are_the_published_ones(name, expected):
    sigmas = NoiseSchedule.named(name).sigmas
    for t, sigma in expected.items():
        assert sigmas[t].item() == pytest.approx(sigma, rel=2e-5)


def test_the_constant_schedule_ends_at_its_closed_form():
    assert NoiseSchedule.named("const0.008").alphas_cumprod[999].item() == pytest.approx(0.992**1000, rel=1e-12)


def test_tables_follow_from_the_alphas():
    schedule = NoiseSchedule.named("linear")
    torch.testing.assert_close(
        schedule.betas, torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), rtol=0, atol=1e-12
    )
    assert schedule.posterior_variance[0] == 0
    assert schedule.posterior_log_variance[0] == schedule.posterior_variance[1].log()
