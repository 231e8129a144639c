"""Every form of CFG against its paper's formula, written out for one sample at a time, in float64."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from cfg_formulas import CASES
from cfg_worlds import SCALE, SHAPE, SLOPES, largest_error, run_of, world

from pack.guidance.cfg import combine, similarity
from pack.guidance.cfg_result import Rescale
from pack.guidance.samplers import first_order, renoised_scale

EACH_CASE = [
    pytest.param(methods, reference, kind, negative_scale, id=f"{name}-{kind}")
    for name, (methods, reference, kinds, negative_scale) in CASES.items()
    for kind in kinds
]


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 2e-13), (torch.float32, 1e-5)], ids=["double", "single"])
@pytest.mark.parametrize("methods, reference, kind, negative_scale", EACH_CASE)
def test_a_method_is_its_papers_formula_at_every_step(methods, reference, kind, negative_scale, dtype, tolerance):
    memory, pasts = {}, [{} for _ in range(SHAPE[0])]
    for step in run_of(kind):
        found = combine(step.mix(dtype, negative_scale=negative_scale), methods, memory)
        expected = [reference(sample, past) for sample, past in zip(step.samples, pasts, strict=True)]
        assert found.dtype == dtype
        assert largest_error(found, torch.from_numpy(np.stack(expected))) < tolerance


AT_SCALES = [
    pytest.param(name, scale, id=f"{name} at {scale}")
    for name, case in CASES.items()
    if case[3] is None
    for scale in (1.5, 0.5, 0.0, -1.0)
]


@pytest.mark.parametrize("name, scale", AT_SCALES)
def test_a_method_is_its_papers_formula_at_every_scale(name, scale):
    methods, reference, kinds, _ = CASES[name]
    memory, pasts = {}, [{} for _ in range(SHAPE[0])]
    for step in run_of(kinds[0]):
        step.scale = scale
        expected = [reference(sample, past) for sample, past in zip(step.samples, pasts, strict=True)]
        assert largest_error(combine(step.mix(), methods, memory), torch.from_numpy(np.stack(expected))) < 2e-13


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if not case[0][0].neutral])
def test_no_reference_of_these_tests_is_plain_cfg(name):
    """A formula that changes nothing would agree with a method that does nothing."""
    methods, reference, kinds, negative_scale = CASES[name]
    pasts = [{} for _ in range(SHAPE[0])]
    for step in run_of(kinds[0]):
        found = torch.from_numpy(np.stack([reference(s, p) for s, p in zip(step.samples, pasts, strict=True)]))
    assert largest_error(found, step.mix(negative_scale=negative_scale).denoised) > 1e-3


def test_rescaling_knows_the_deviation_of_the_data_that_v_was_made_for():
    """EDM2: F = (D - c_skip x) / c_out with sigma_data 0.5 (Karras et al. 2022)."""
    step, data, phi = world("eps"), 0.5, 0.7
    mix = replace(step.mix(), slope=SLOPES["v"](step.sigma / data))
    found = combine(mix, [Rescale(phi)], {})
    for k, s in enumerate(step.samples):
        total = s.sigma**2 + data**2
        skip, out = data**2 / total, s.sigma * data / np.sqrt(total)
        cond, uncond = (s.cond - skip * s.x) / out, (s.uncond - skip * s.x) / out
        guided = uncond + SCALE * (cond - uncond)
        guided = phi * guided * cond.std() / guided.std() + (1 - phi) * guided
        expected = torch.from_numpy(skip * s.x + out * guided)
        assert largest_error(found[k : k + 1], expected[None]) < 5e-15


# CFG++


def euler(x, denoised, sigma, following):
    return x + (x - denoised) / sigma * (following - sigma)


@pytest.mark.parametrize("strength", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("following", [0.7, 0.3, 0.0])
@pytest.mark.parametrize("flow", [False, True], ids=["sigma", "flow"])
def test_cfg_at_the_renoised_scale_makes_the_euler_step_of_cfg_plus_plus(strength, following, flow):
    """x0 with lambda between the predictions, noise from the negative alone (Chung et al. 2024, alg. 1)."""
    sigma = 0.9
    step = world("flow" if flow else "eps", 5)
    x, uncond, cond = step.x, step.uncond, step.cond
    signal, following_signal = (1 - sigma, 1 - following) if flow else (1, 1)
    noise = (x - signal * uncond) / sigma
    expected = following_signal * (uncond + strength * (cond - uncond)) + following * noise
    guided = combine(step.mix(scale=renoised_scale(first_order(sigma, following, flow=flow), strength)), [], {})
    assert largest_error(euler(x, guided, sigma, following), expected) < 1e-12


def test_cfg_at_the_renoised_scale_makes_the_ddim_step_of_cfg_plus_plus():
    """In the papers' own coordinates: x_vp = sqrt(ab) x0 + sqrt(1 - ab) eps."""
    step, sigma, following, strength = world("eps", 5), 2.0, 1.5, 0.6
    ab, ab_following = 1 / (1 + sigma**2), 1 / (1 + following**2)
    x_vp = step.x * ab**0.5
    noise = (x_vp - ab**0.5 * step.uncond) / (1 - ab) ** 0.5
    clean = step.uncond + strength * (step.cond - step.uncond)
    expected = ab_following**0.5 * clean + (1 - ab_following) ** 0.5 * noise
    guided = combine(step.mix(scale=renoised_scale(first_order(sigma, following), strength)), [], {})
    assert largest_error(euler(step.x, guided, sigma, following) * ab_following**0.5, expected) < 1e-12


def test_the_renoised_scale_of_the_last_step_is_its_strength():
    for flow in (False, True):
        assert renoised_scale(first_order(0.9, 0.0, flow=flow), 0.6) == 0.6


# Similarity


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_similarity_is_the_cosine_of_each_samples_two_pictures(dtype):
    step = world("eps", 3)
    expected = []
    for s in step.samples:
        a, b = s.cond, s.uncond
        expected.append((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))
    np.testing.assert_allclose(similarity(step.mix(dtype)).numpy(), expected, rtol=1e-6)
