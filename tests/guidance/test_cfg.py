"""Every form of CFG against its paper's formula, written out for one sample at a time, in float64."""

import itertools
import random
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from pack.guidance.cfg import (
    BRANCHES,
    DIRECTION,
    ORDER,
    OUTPUTS,
    RESULT,
    Branch,
    Mix,
    combine,
    renoised_scale,
    similarity,
)
from pack.guidance.cfg_branches import MagnitudeAware, PerpNeg, Tangential, ZeroStar
from pack.guidance.cfg_direction import Bands, Cap, Momentum, Parallel
from pack.guidance.cfg_result import DynamicThreshold, History, MimicThreshold, Rescale

SHAPE, VIDEO = (3, 4, 8, 8), (2, 4, 3, 8, 8)
SCALE = 7.5
SIGMAS = {"eps": (14.6, 2.0, 0.3), "v": (14.6, 2.0, 0.3), "flow": (0.95, 0.5, 0.1)}
LENGTHS = (1.0, 0.1, 0.02)  # of cond - uncond, by sample: a cap holds some and leaves others


def draw(seed, *shape):
    """Normal numbers that float32 holds, too, so both precisions start from the same ones."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def spread(values, ndim):
    return torch.tensor(values, dtype=torch.float64).view(-1, *(1,) * (ndim - 1))


def plain(uncond, cond, scale):
    return uncond + (cond - uncond) * scale


def largest_error(found, expected):
    """The largest difference in any sample over its largest value."""
    found, expected = found.double().flatten(1), expected.double().flatten(1)
    return float(((found - expected).abs().amax(1) / expected.abs().amax(1)).max())


@dataclass
class Sample:
    """One image of one step, in numpy; `output` is what the network itself predicts there."""

    kind: str
    sigma: float
    x: np.ndarray
    uncond: np.ndarray
    cond: np.ndarray
    negative: np.ndarray
    scale: float

    def output(self, denoised):
        if self.kind == "v":  # v = a eps - b x0 with a = 1 / sqrt(1 + sigma^2), b = sigma a (Salimans & Ho 2022)
            return ((self.x - denoised) / self.sigma - self.sigma * denoised) / np.sqrt(1 + self.sigma**2)
        return (self.x - denoised) / self.sigma  # eps; the velocity of a flow is the same

    def denoised(self, output):
        if self.kind == "v":  # x0 = a x_vp - b v, x_vp = a x
            return self.x / (1 + self.sigma**2) - self.sigma / np.sqrt(1 + self.sigma**2) * output
        return self.x - self.sigma * output

    @property
    def cfg(self):
        return self.uncond + self.scale * (self.cond - self.uncond)


@dataclass
class World:
    """One step of a batch: the tensors, and the same as samples."""

    kind: str
    sigma: torch.Tensor
    x: torch.Tensor
    uncond: torch.Tensor
    cond: torch.Tensor
    negative: torch.Tensor
    scale: float = SCALE

    @property
    def samples(self):
        tensors = [part.numpy() for part in (self.x, self.uncond, self.cond, self.negative)]
        return [Sample(self.kind, float(s), *(t[i] for t in tensors), self.scale) for i, s in enumerate(self.sigma)]

    def mix(self, dtype=torch.float64, scale=None, negative_scale=None):
        x, uncond, cond, negative = (p.to(dtype) for p in (self.x, self.uncond, self.cond, self.negative))
        branches = [Branch(cond, uncond, self.scale if scale is None else scale)]
        if negative_scale is not None:
            branches.append(Branch(negative, uncond, negative_scale))
        return Mix(x, OUTPUTS[self.kind](self.sigma.to(dtype)), uncond, tuple(branches))


def world(kind="eps", seed=0, shape=SHAPE, shrink=1.0):
    sigma = torch.tensor(SIGMAS[kind][: shape[0]], dtype=torch.float64) * shrink
    level = sigma.view(-1, *(1,) * (len(shape) - 1))
    uncond = draw(seed, *shape)
    cond = uncond + draw(seed + 1, *shape) * spread(LENGTHS[: shape[0]], len(shape))
    x = (1 - level if kind == "flow" else 1) * uncond + level * draw(seed + 2, *shape)
    negative = uncond + draw(seed + 3, *shape)
    exact = [part.float().double() for part in (sigma, x, uncond, cond, negative)]
    return World(kind, *exact)


def run_of(kind, steps=4):
    """The steps of a short run, the noise falling."""
    return [world(kind, 10 * k, shrink=0.8**k) for k in range(steps)]


# The papers' formulas: a sample and what is known of its run -> D.


def rescaled(phi):
    """Lin et al. 2023, eq. 15 and 16, on the network's output."""

    def reference(s, past):
        cond, uncond = s.output(s.cond), s.output(s.uncond)
        guided = uncond + s.scale * (cond - uncond)
        return s.denoised(phi * guided * cond.std(ddof=1) / guided.std(ddof=1) + (1 - phi) * guided)

    return reference


def dynamic(percentile, cap=None):
    """Saharia et al. 2022, sec. 2.3: percentile of |x0|, by linear interpolation; the cap is DeepFloyd IF's."""

    def reference(s, past):
        values = np.sort(np.abs(s.cfg).ravel())
        place = percentile * (len(values) - 1)
        low, share = int(place), place - int(place)
        limit = values[low] * (1 - share) + values[min(low + 1, len(values) - 1)] * share
        limit = max(1.0, limit) if cap is None else min(max(1.0, limit), cap)
        return np.clip(s.cfg, -limit, limit) / limit

    return reference


def mimicked(mimic_scale, percentile, phi):
    """sd-dynamic-thresholding: separate channels, startpoint MEAN, variability AD."""

    def reference(s, past):
        found = s.cfg.copy()
        mimic = s.uncond + mimic_scale * (s.cond - s.uncond)
        for channel in range(len(found)):
            mean = s.cfg[channel].mean()
            centred = s.cfg[channel] - mean
            goal = np.abs(mimic[channel] - mimic[channel].mean()).max()
            limit = max(goal, np.quantile(np.abs(centred), percentile))
            limited = np.clip(centred, -limit, limit) / limit * goal + mean
            found[channel] = phi * limited + (1 - phi) * s.cfg[channel]
        return found

    return reference


def projected(beta, rms, eta):
    """APG (Sadat et al. 2024), algorithm 1, with its r = rms sqrt(n)."""

    def reference(s, past):
        difference = s.cond - s.uncond
        if "average" in past:
            difference = difference + beta * past["average"]
        past["average"] = difference
        length = np.sqrt((difference**2).sum())
        difference = difference * min(1.0, rms * np.sqrt(difference.size) / length)
        unit = s.cond / np.sqrt((s.cond**2).sum())
        parallel = (difference * unit).sum() * unit
        return s.cond + (s.scale - 1) * (difference - parallel + eta * parallel)

    return reference


def zero_star(strength):
    """Fan et al. 2025, eq. 7, on velocities: k v_u + scale (v_c - k v_u); at strength 1 k is their optimum."""

    def reference(s, past):
        v_c, v_u = s.output(s.cond), s.output(s.uncond)
        k = 1 + strength * ((v_c * v_u).sum() / (v_u**2).sum() - 1)
        return s.denoised(k * v_u + s.scale * (v_c - k * v_u))

    return reference


def tangential(strength):
    """Kwon et al. 2025, algorithm 1: the first right-singular vector of [eps_u; eps_c]."""

    def reference(s, past):
        eps_c, eps_u = (s.x - s.cond) / s.sigma, (s.x - s.uncond) / s.sigma
        rows = torch.from_numpy(np.stack([eps_u.ravel(), eps_c.ravel()]))
        first = torch.linalg.svd(rows, full_matrices=False).Vh[0].numpy().reshape(eps_u.shape)
        damped = strength * (eps_u * first).sum() * first + (1 - strength) * eps_u
        return s.x - s.sigma * (damped + s.scale * (eps_c - damped))

    return reference


def perp_negative(weight, strength):
    """Armandpour et al. 2023, eq. 8: De + w (P - k (N - its part along P))."""

    def reference(s, past):
        wanted, unwanted = s.cond - s.uncond, s.negative - s.uncond
        along = (unwanted * wanted).sum() / (wanted**2).sum() * wanted
        return s.uncond + s.scale * (wanted - weight * (unwanted - strength * along))

    return reference


def magnitude_aware(alpha):
    """MAMBO-G: w' = 1 + (w - 1) exp(-alpha |V_c - V_u| / |V_u|) of the network's output."""

    def reference(s, past):
        cond, uncond = s.output(s.cond), s.output(s.uncond)
        ratio = np.sqrt(((cond - uncond) ** 2).sum()) / np.sqrt((uncond**2).sum())
        return s.denoised(uncond + (1 + (s.scale - 1) * np.exp(-alpha * ratio)) * (cond - uncond))

    return reference


def history(strength, memory):
    """D + m (D - EMA of the past D), the EMA beginning with the first D."""

    def reference(s, past):
        if "mean" not in past:
            past["mean"] = s.cfg
            return s.cfg
        mean = past["mean"]
        past["mean"] = memory * mean + (1 - memory) * s.cfg
        return s.cfg + strength * (s.cfg - mean)

    return reference


def banded(low, high):
    """FDG (Sadat et al. 2025), algorithm 2, two levels: the bands of D_c + (w_band - 1) Delta, put together again."""

    def reference(s, past):
        difference = s.cond - s.uncond
        coarse = np.stack([pyramid_coarse(channel) for channel in difference])
        return s.cond + (s.scale - 1) * (low * coarse + high * (difference - coarse))

    return reference


# Gaussian pyramid as kornia's pyrdown and pyrup, which the paper uses


def blurred(picture):
    """5-tap Gaussian, rows then columns; the border is mirrored without the edge itself."""
    for axis in (0, 1):
        padded = np.pad(picture, [(2, 2) if axis == a else (0, 0) for a in (0, 1)], mode="reflect")
        n = picture.shape[axis]
        parts = [weight * padded.take(range(k, k + n), axis) for k, weight in enumerate((1, 4, 6, 4, 1))]
        picture = sum(parts) / 16
    return picture


def halved(picture):
    """Bilinear at half the size: each number is the mean of four."""
    h, w = picture.shape
    return picture.reshape(h // 2, 2, w // 2, 2).mean((1, 3))


def doubled(picture):
    """Bilinear at twice the size: 3/4 of the nearest and 1/4 of the next, the edge repeated."""
    for axis in (0, 1):
        n = picture.shape[axis]
        near = np.repeat(np.arange(n), 2)
        beside = np.clip(near + np.tile([-1, 1], n), 0, n - 1)
        picture = 0.75 * picture.take(near, axis) + 0.25 * picture.take(beside, axis)
    return picture


def pyramid_coarse(picture):
    return blurred(doubled(halved(blurred(picture))))


# name -> methods, reference, kinds of models, scale of a second, negative condition
CASES = {
    "rescale": ((Rescale(0.7),), rescaled(0.7), ("eps", "v", "flow"), None),
    "rescale fully": ((Rescale(1.0),), rescaled(1.0), ("eps", "v", "flow"), None),
    "dynamic threshold": ((DynamicThreshold(0.995),), dynamic(0.995), ("eps",), None),
    "dynamic threshold, capped": ((DynamicThreshold(0.95, 1.7),), dynamic(0.95, 1.7), ("eps",), None),
    "static threshold": ((DynamicThreshold(0.95, 1.0),), dynamic(0.95, 1.0), ("eps",), None),
    "mimic threshold": ((MimicThreshold(3.0),), mimicked(3.0, 1.0, 1.0), ("eps",), None),
    "mimic threshold, percentile": ((MimicThreshold(2.0, 0.9, 0.6),), mimicked(2.0, 0.9, 0.6), ("eps",), None),
    "APG": ((Momentum(-0.5), Cap(0.06), Parallel(0.0)), projected(-0.5, 0.06, 0.0), ("eps", "flow"), None),
    "APG, half": ((Momentum(-0.75), Cap(0.3), Parallel(0.4)), projected(-0.75, 0.3, 0.4), ("eps",), None),
    "momentum": ((Momentum(0.4),), projected(0.4, 1e9, 1.0), ("eps",), None),
    "cap": ((Cap(0.1),), projected(0.0, 0.1, 1.0), ("eps",), None),
    "parallel": ((Parallel(0.25),), projected(0.0, 1e9, 0.25), ("eps",), None),
    "CFG-Zero*": ((ZeroStar(1.0),), zero_star(1.0), ("flow",), None),
    "CFG-Zero*, half": ((ZeroStar(0.5),), zero_star(0.5), ("flow",), None),
    "TCFG": ((Tangential(1.0),), tangential(1.0), ("eps", "flow"), None),
    "TCFG, half": ((Tangential(0.5),), tangential(0.5), ("eps",), None),
    "perp-neg": ((PerpNeg(1.0),), perp_negative(0.6, 1.0), ("eps", "v", "flow"), -0.6 * SCALE),
    "perp-neg, half": ((PerpNeg(0.5),), perp_negative(1.0, 0.5), ("eps",), -SCALE),
    "plain NOT": ((PerpNeg(0.0),), perp_negative(1.0, 0.0), ("eps",), -SCALE),
    "MAMBO-G": ((MagnitudeAware(8.0),), magnitude_aware(8.0), ("eps", "v", "flow"), None),
    "HiGS": ((History(0.5, 0.6),), history(0.5, 0.6), ("eps",), None),
    "HiGS, strong": ((History(1.75, 0.25),), history(1.75, 0.25), ("flow",), None),
    "FDG": ((Bands(0.45, 1.0),), banded(0.45, 1.0), ("eps", "flow"), None),
}

EACH_CASE = [
    pytest.param(methods, reference, kind, negative_scale, id=f"{name}-{kind}")
    for name, (methods, reference, kinds, negative_scale) in CASES.items()
    for kind in kinds
]


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-6), (torch.float32, 1e-5)], ids=["double", "single"])
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
        assert largest_error(combine(step.mix(), methods, memory), torch.from_numpy(np.stack(expected))) < 1e-6


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
    mix = replace(step.mix(), slope=OUTPUTS["v"](step.sigma / data))
    found = combine(mix, [Rescale(phi)], {})
    for k, s in enumerate(step.samples):
        total = s.sigma**2 + data**2
        skip, out = data**2 / total, s.sigma * data / np.sqrt(total)
        cond, uncond = (s.cond - skip * s.x) / out, (s.uncond - skip * s.x) / out
        guided = uncond + SCALE * (cond - uncond)
        guided = phi * guided * cond.std() / guided.std() + (1 - phi) * guided
        expected = torch.from_numpy(skip * s.x + out * guided)
        assert largest_error(found[k : k + 1], expected[None]) < 1e-6


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
    guided = combine(step.mix(scale=renoised_scale(strength, sigma, following, flow)), [], {})
    assert largest_error(euler(x, guided, sigma, following), expected) < 1e-12


def test_cfg_at_the_renoised_scale_makes_the_ddim_step_of_cfg_plus_plus():
    """In the papers' own coordinates: x_vp = sqrt(ab) x0 + sqrt(1 - ab) eps."""
    step, sigma, following, strength = world("eps", 5), 2.0, 1.5, 0.6
    ab, ab_following = 1 / (1 + sigma**2), 1 / (1 + following**2)
    x_vp = step.x * ab**0.5
    noise = (x_vp - ab**0.5 * step.uncond) / (1 - ab) ** 0.5
    clean = step.uncond + strength * (step.cond - step.uncond)
    expected = ab_following**0.5 * clean + (1 - ab_following) ** 0.5 * noise
    guided = combine(step.mix(scale=renoised_scale(strength, sigma, following, False)), [], {})
    assert largest_error(euler(step.x, guided, sigma, following) * ab_following**0.5, expected) < 1e-12


def test_the_renoised_scale_of_the_last_step_is_its_strength():
    for flow in (False, True):
        assert renoised_scale(0.6, 0.9, 0.0, flow) == 0.6


# Similarity


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_similarity_is_the_cosine_of_each_samples_two_pictures(dtype):
    step = world("eps", 3)
    expected = []
    for s in step.samples:
        a, b = s.cond, s.uncond
        expected.append((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))
    np.testing.assert_allclose(similarity(step.mix(dtype)).numpy(), expected, rtol=1e-6)


# Bands


@pytest.mark.parametrize("size", [(8, 8), (9, 7), (3, 5), (64, 6)])
def test_constants_are_all_coarse(size):
    value = torch.ones(2, 4, *size, dtype=torch.float64) * spread((0.3, -7.0), 4)
    assert largest_error(Bands(0.5, 3.0)(value, None, {}), 0.5 * value) < 1e-12


def test_a_checkerboard_is_all_fine():
    rows, columns = torch.arange(8)[:, None], torch.arange(8)
    value = ((-1.0) ** (rows + columns)).double().expand(1, 2, 8, 8)
    assert largest_error(Bands(0.5, 3.0)(value, None, {}), 3.0 * value) < 1e-12


@pytest.mark.parametrize("shape", [(2, 4, 8, 8), (2, 4, 9, 7), (1, 4, 3, 5), VIDEO])
def test_equal_bands_are_one_factor_and_the_bands_add_up(shape):
    value = draw(4, *shape)
    assert largest_error(Bands(0.3, 0.3)(value, None, {}), 0.3 * value) < 1e-12
    low, high = Bands(1.0, 0.0)(value, None, {}), Bands(0.0, 1.0)(value, None, {})
    assert largest_error(low + high, value) < 1e-12
    assert (low - value).abs().max() > 0.1 and low.abs().max() > 0.1


def test_the_larger_a_wave_the_more_of_it_is_coarse():
    at = torch.arange(64, dtype=torch.float64)
    waves = [torch.cos(2 * torch.pi * at / period).expand(1, 1, 64, 64) for period in (2.5, 4, 8, 16, 32)]
    kept = [float(Bands(1.0, 0.0)(wave, None, {}).norm() / wave.norm()) for wave in waves]
    assert kept == sorted(kept) and kept[0] < 0.1 and kept[-1] > 0.9


def test_each_frame_of_a_video_has_its_own_pyramid():
    value = draw(6, *VIDEO)
    whole = Bands(0.2, 1.3)(value, None, {})
    for frame in range(VIDEO[2]):
        assert largest_error(whole[:, :, frame], Bands(0.2, 1.3)(value[:, :, frame], None, {})) < 1e-12


# Neutral settings

NEUTRAL = [
    Rescale(0.0),
    MimicThreshold(phi=0.0),
    Momentum(0.0),
    Cap(Cap.NONE),
    Cap(1000.0),
    Parallel(1.0),
    Bands(1.0, 1.0),
    ZeroStar(0.0),
    Tangential(0.0),
    PerpNeg(0.0),
    MagnitudeAware(0.0),
    History(0.0),
]
OFF = 1e-6
NEARLY = [
    Rescale(OFF),
    MimicThreshold(phi=OFF),
    Momentum(OFF),
    Momentum(-OFF),
    Cap(Cap.NONE - OFF),
    Parallel(1 - OFF),
    Parallel(1 + OFF),
    Bands(1 - OFF, 1.0),
    Bands(1.0, 1 + OFF),
    ZeroStar(OFF),
    Tangential(OFF),
    PerpNeg(OFF),
    MagnitudeAware(OFF),
    History(OFF),
]


def named(method):
    return f"{type(method).__name__} {' '.join(str(value) for value in vars(method).values())}"


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
@pytest.mark.parametrize("scale", [SCALE, 1.0, 0.0, -2.3])
@pytest.mark.parametrize("method", NEUTRAL, ids=named)
def test_a_neutral_method_leaves_plain_cfg_bit_for_bit(method, scale, dtype):
    assert method.neutral
    memory = {}
    for step in run_of("v", 2):
        mix = step.mix(dtype, scale)
        assert torch.equal(combine(mix, [method], memory), plain(mix.base, mix.main, scale))
    assert not memory


def test_all_neutral_methods_together_leave_a_masked_sum_bit_for_bit():
    step = world("eps", 7)
    mask = draw(1, 1, 1, 8, 8).sigmoid()
    second = Branch(step.negative, step.uncond, -1.5, mask)
    mix = step.mix()
    mix = replace(mix, branches=(*mix.branches, second))
    expected = plain(step.uncond, step.cond, SCALE) + (step.negative - step.uncond) * -1.5 * mask
    assert torch.equal(combine(mix, NEUTRAL, {}), expected)


def test_every_method_with_a_strength_is_tested_at_its_neutral_setting():
    every = {type(method) for case in CASES.values() for method in case[0]}
    assert every - {DynamicThreshold} == {type(method) for method in NEUTRAL} == {type(method) for method in NEARLY}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("method", NEARLY, ids=named)
def test_a_method_next_to_neutral_is_next_to_plain_cfg(method, dtype):
    assert not method.neutral
    memory = {}
    for step in run_of("v", 3):
        mix = step.mix(dtype, negative_scale=-2.0)
        assert largest_error(combine(mix, [method], memory), mix.denoised) < 1e-4


# Inputs on which a method has nothing to do


def test_dynamic_thresholding_leaves_pixels_within_their_range_bit_for_bit():
    cond, uncond = draw(1, *SHAPE).tanh() / 4, draw(2, *SHAPE).tanh() / 4
    mix = Mix(draw(3, *SHAPE), torch.ones(3), uncond, (Branch(cond, uncond, 1.5),))
    assert mix.denoised.abs().max() <= 1
    for method in (DynamicThreshold(), DynamicThreshold(0.95, 1.7), DynamicThreshold(0.5, 1.0)):
        assert torch.equal(combine(mix, [method], {}), plain(uncond, cond, 1.5))


def test_mimicking_the_own_scale_is_plain_cfg():
    mix = world().mix()
    assert largest_error(combine(mix, [MimicThreshold(SCALE)], {}), mix.denoised) < 1e-6  # quantiles are in float32


def test_a_cap_above_the_direction_is_plain_cfg():
    mix = world().mix()
    assert largest_error(combine(mix, [Cap(50.0)], {}), mix.denoised) < 1e-12


def test_rescaling_an_output_of_the_same_deviation_is_plain_cfg():
    """cond and uncond as mirror images about a common part, scale 0: their outputs deviate alike."""
    common, apart = draw(1, 1, 1, 8, 8), draw(2, 1, 1, 8, 8)
    apart = apart - (apart * common).sum() / (common * common).sum() * common
    common, apart = common - common.mean(), apart - apart.mean()
    apart = apart - (apart * common).sum() / (common * common).sum() * common
    zero = torch.zeros(1, 1, 8, 8, dtype=torch.float64)
    mix = Mix(zero, torch.ones(1), common - apart, (Branch(common + apart, common - apart, 0.0),))
    assert largest_error(combine(mix, [Rescale(1.0)], {}), common - apart) < 1e-12


def test_zero_star_leaves_a_negative_that_fits():
    """v_c = v_u + something across it: k is 1."""
    step = world("flow", 4)
    velocity = step.x - step.uncond
    across = draw(9, *SHAPE)
    share = (across * velocity).flatten(1).sum(1) / (velocity * velocity).flatten(1).sum(1)
    cond = step.uncond + across - share.view(-1, 1, 1, 1) * velocity
    mix = Mix(step.x, torch.ones(3), step.uncond, (Branch(cond, step.uncond, SCALE),))
    assert largest_error(combine(mix, [ZeroStar()], {}), mix.denoised) < 1e-12


def test_tcfg_leaves_a_negative_parallel_to_the_condition():
    step = world("eps", 4)
    cond = step.x - 1.7 * (step.x - step.uncond)
    mix = Mix(step.x, torch.ones(3), step.uncond, (Branch(cond, step.uncond, SCALE),))
    assert largest_error(combine(mix, [Tangential()], {}), mix.denoised) < 1e-12


def test_perp_neg_leaves_a_negative_across_the_condition_and_takes_one_along_it_away():
    step = world("eps", 4)
    wanted, across = step.cond - step.uncond, draw(9, *SHAPE)
    share = (across * wanted).flatten(1).sum(1) / (wanted * wanted).flatten(1).sum(1)
    across = across - share.view(-1, 1, 1, 1) * wanted
    main = Branch(step.cond, step.uncond, SCALE)
    for unwanted, expected in ((across, -3.0 * across), (0.4 * wanted, 0 * wanted)):
        negative = Branch(step.uncond + unwanted, step.uncond, -3.0)
        mix = Mix(step.x, torch.ones(3), step.uncond, (main, negative))
        found = combine(mix, [PerpNeg()], {})
        assert largest_error(found, plain(step.uncond, step.cond, SCALE) + expected) < 1e-12


def test_perp_neg_leaves_conditions_of_positive_scale_bit_for_bit():
    mix = world().mix(negative_scale=2.0)
    assert torch.equal(combine(mix, [PerpNeg()], {}), mix.denoised)


def test_perp_neg_reads_the_sign_of_each_samples_own_scale():
    step = world("eps", 4)
    signs = torch.tensor([-1.0, 1.0, -0.5], dtype=torch.float64)
    found = combine(step.mix(negative_scale=signs), [PerpNeg()], {})
    for k, sign in enumerate(signs.tolist()):
        expected = combine(step.mix(negative_scale=sign), [PerpNeg()], {})
        assert largest_error(found[k : k + 1], expected[k : k + 1]) < 1e-12


def test_a_first_step_has_no_past():
    mix = world().mix()
    assert torch.equal(combine(mix, [History()], {}), mix.denoised)
    assert largest_error(combine(mix, [Momentum()], {}), mix.denoised) < 1e-12


def test_the_past_of_another_batch_size_is_forgotten():
    memory = {}
    combine(world(shape=(2, 4, 8, 8)).mix(), [Momentum(), History()], memory)
    mix = world(seed=20).mix()
    assert largest_error(combine(mix, [Momentum(), History()], memory), mix.denoised) < 1e-12


AT_ONE = [Momentum(), Cap(), Parallel(), Bands(), ZeroStar(), Tangential(), MagnitudeAware()]


@pytest.mark.parametrize("method", AT_ONE, ids=named)
def test_a_scale_of_one_is_the_condition_whatever_shapes_the_direction(method):
    memory = {}
    for step in run_of("eps", 2):
        assert largest_error(combine(step.mix(scale=1.0), [method], memory), step.cond) < 1e-6


EVERY = [
    ZeroStar(),
    Tangential(),
    MagnitudeAware(2.0),
    PerpNeg(),
    Momentum(),
    Cap(),
    Parallel(),
    Bands(),
    History(),
    Rescale(),
    DynamicThreshold(),
    MimicThreshold(3.0),
]
ONE_OF_A_STAGE = [m for m in EVERY if not isinstance(m, Tangential | DynamicThreshold)]


@pytest.mark.parametrize("method", EVERY, ids=named)
def test_a_condition_that_says_what_the_negative_says_changes_nothing(method):
    pixels = draw(1, *SHAPE).tanh()
    mix = Mix(draw(2, *SHAPE), torch.ones(3), pixels, (Branch(pixels, pixels, SCALE), Branch(pixels, pixels, -2.0)))
    memory = {}
    for _ in range(2):
        assert largest_error(combine(mix, [method], memory), pixels) < 1e-6


@pytest.mark.parametrize("method", EVERY, ids=named)
def test_predictions_without_any_length_stay_finite(method):
    zero = torch.zeros(SHAPE)
    for uncond, cond in ((zero, zero), (zero, zero + 1), (zero + 1, zero)):
        memory = {}
        mix = Mix(zero, torch.ones(3), uncond, (Branch(cond, uncond, SCALE), Branch(zero, uncond, -2.0)))
        for _ in range(2):
            assert combine(mix, [method], memory).isfinite().all()


# Several conditions


def test_conditions_are_summed_with_their_scales_and_masks():
    """Liu et al. 2022: D_u + sum_i w_i m_i (D_i - D_u); w below 0 is NOT."""
    step = world("eps", 5)
    weights, predictions = (3.0, 1.5, -2.0), (step.cond, step.negative, draw(8, *SHAPE))
    masks = (None, draw(9, 1, 1, 8, 8).sigmoid(), (draw(10, 3, 1, 8, 8) > 0).double())
    branches = [Branch(p, step.uncond, w, m) for p, w, m in zip(predictions, weights, masks, strict=True)]
    found = combine(Mix(step.x, torch.ones(3), step.uncond, tuple(branches)), [], {})
    for k in range(3):
        expected = step.uncond[k].clone()
        for weight, prediction, mask in zip(weights, predictions, masks, strict=True):
            area = 1 if mask is None else mask[k if len(mask) > 1 else 0]
            expected += weight * area * (prediction[k] - step.uncond[k])
        assert largest_error(found[k : k + 1], expected[None]) < 1e-12


def test_a_chain_of_references_is_instruct_pix2pix():
    """Brooks et al. 2023, eq. 3: D00 + s_I (D_I0 - D00) + s_T (D_IT - D_I0)."""
    step = world("eps", 5)
    nothing, image, both = step.uncond, step.negative, step.cond
    branches = (Branch(both, image, 7.5), Branch(image, nothing, 1.5))
    found = combine(Mix(step.x, torch.ones(3), nothing, branches), [], {})
    assert largest_error(found, nothing + 1.5 * (image - nothing) + 7.5 * (both - image)) < 1e-12


def test_only_branches_measured_against_the_base_follow_it():
    step = world("flow", 5)
    other = draw(8, *SHAPE)
    mix = step.mix()
    mix = replace(mix, branches=(*mix.branches, Branch(step.negative, other, 2.0)))
    single = combine(step.mix(), [ZeroStar()], {})
    assert largest_error(combine(mix, [ZeroStar()], {}), single + 2.0 * (step.negative - other)) < 1e-12


@pytest.mark.parametrize("kind", SIGMAS)
def test_magnitude_aware_fades_the_first_condition_towards_one_and_further_ones_towards_nought(kind):
    step, alpha, further = world(kind, 5), 2.0, -3.0
    found = combine(step.mix(negative_scale=further), [MagnitudeAware(alpha)], {})
    for k, s in enumerate(step.samples):
        cond, uncond, negative = (s.output(part) for part in (s.cond, s.uncond, s.negative))
        fade = [np.exp(-alpha * np.sqrt(((v - uncond) ** 2).sum() / (uncond**2).sum())) for v in (cond, negative)]
        push = (1 + (SCALE - 1) * fade[0]) * (cond - uncond) + further * fade[1] * (negative - uncond)
        assert largest_error(found[k : k + 1], torch.from_numpy(s.denoised(uncond + push))[None]) < 1e-12


def test_scales_of_single_samples_are_scales():
    step = world("eps", 5)
    scales = torch.tensor([1.0, 4.0, 7.5], dtype=torch.float64)
    for methods in ([], [Cap(), Parallel()], [MagnitudeAware()], [MimicThreshold(3.0)]):
        found = combine(step.mix(scale=scales), methods, {})
        for k, scale in enumerate(scales.tolist()):
            expected = combine(step.mix(scale=scale), methods, {})
            assert largest_error(found[k : k + 1], expected[k : k + 1]) < 1e-12


@pytest.mark.parametrize("method", [Cap(), Parallel(), Bands()], ids=named)
def test_where_no_condition_counts_the_base_is_left(method):
    step = world("eps", 5)
    mask = torch.zeros(1, 1, 8, 8, dtype=torch.float64)
    mix = replace(step.mix(), branches=(Branch(step.cond, step.uncond, SCALE, mask),))
    assert largest_error(combine(mix, [method], {}), step.uncond) < 1e-12


def test_a_cap_does_not_jump_where_the_scales_add_up_to_one():
    step = world("eps", 5)
    found = [combine(step.mix(scale=0.6, negative_scale=0.4 + off), [Cap()], {}) for off in (-1e-6, 0.0, 1e-6)]
    for before, after in itertools.pairwise(found):
        assert largest_error(before, after) < 1e-4


# Batches


def one_of(mix, k):
    """The Mix of one sample; tensors that were one stay one."""
    known = {}

    def cut(value):
        if not isinstance(value, torch.Tensor) or (value.ndim > 1 and len(value) == 1):
            return value
        return known.setdefault(id(value), value[k : k + 1])

    branches = (Branch(cut(b.prediction), cut(b.reference), cut(b.scale), cut(b.mask)) for b in mix.branches)
    return Mix(cut(mix.x), cut(mix.slope), cut(mix.base), tuple(branches))


def crowd(kind, shape, seed):
    """A batch with four conditions: shared and own masks, a negative scale, scales of single samples."""
    step = world(kind, seed, shape)
    mix = step.mix()
    area = (*(1,) * (len(shape) - 3), 8, 8)
    shared = draw(seed + 5, 1, *area).sigmoid()
    own = (draw(seed + 6, shape[0], *area) > 0).double()
    scales = torch.tensor([0.5, 2.0, -1.0], dtype=torch.float64)[: shape[0]]
    further = (
        Branch(step.negative, mix.base, -1.5, shared),
        Branch(draw(seed + 7, *shape), mix.base, 0.8, own),
        Branch(draw(seed + 8, *shape), draw(seed + 9, *shape), scales),
    )
    return replace(mix, branches=(*mix.branches, *further))


GROUPS = [*([method] for method in EVERY), ONE_OF_A_STAGE, []]


def group_name(methods):
    return " ".join(type(method).__name__ for method in methods) or "none"


@pytest.mark.parametrize("shape", [SHAPE, VIDEO], ids=["image", "video"])
@pytest.mark.parametrize("methods", GROUPS, ids=group_name)
def test_an_image_gets_in_a_batch_what_it_gets_alone(methods, shape):
    for conditions in (1, 4):
        memory, memories = {}, [{} for _ in range(shape[0])]
        for seed in (0, 20, 40):
            mix = crowd("v", shape, seed)
            mix = replace(mix, branches=mix.branches[:conditions])
            whole = combine(mix, methods, memory)
            assert whole.shape == shape
            for k in range(shape[0]):
                alone = combine(one_of(mix, k), methods, memories[k])
                assert largest_error(whole[k : k + 1], alone) < 1e-6


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("methods", GROUPS, ids=group_name)
def test_a_broken_image_leaves_the_others_as_they_are(methods, bad):
    clean, dirty = {}, {}
    for seed in (0, 20):
        mix = crowd("eps", SHAPE, seed)
        expected = combine(mix, methods, clean)
        mix.main[1, 2, 3, 4] = bad  # in place: references that are this tensor stay it
        found = combine(mix, methods, dirty)
        assert torch.equal(found[[0, 2]], expected[[0, 2]])
        assert not torch.equal(found[1], expected[1])


# Order


def test_the_order_is_the_published_one():
    assert ORDER == (
        "reference",
        "scale",
        "projection",
        "momentum",
        "cap",
        "parallel",
        "bands",
        "history",
        "rescale",
        "threshold",
    )
    assert (*BRANCHES, *DIRECTION, *RESULT) == ORDER
    assert {method.STAGE for method in EVERY} == set(ORDER)


@dataclass(frozen=True)
class Recorder:
    """A method that notes when it is called, and with what."""

    STAGE: str
    calls: list
    neutral: bool = False

    def __call__(self, value, *rest):
        kind = "mix" if isinstance(value, Mix) else "tensor"
        self.calls.append((self.STAGE, kind, len(rest)))
        return value


def test_stages_act_in_their_order_and_neutral_ones_not_at_all():
    mix = world().mix(negative_scale=-1.0)
    for seed in range(20):
        calls = []
        recorders = [Recorder(stage, calls) for stage in ORDER] + [Recorder(stage, calls, True) for stage in ORDER]
        random.Random(seed).shuffle(recorders)
        combine(mix, recorders, {})
        assert calls == [(stage, "mix", 1) if stage in BRANCHES else (stage, "tensor", 2) for stage in ORDER]


def test_the_stages_see_branches_then_their_direction_then_the_result():
    step = world("eps", 3)
    seen = {}

    class Seeing:
        neutral = False

        def __init__(self, stage):
            self.STAGE = stage

        def __call__(self, value, *rest):
            seen[self.STAGE] = value
            return value * 2 if self.STAGE == "bands" else value

    mix = step.mix()
    combine(mix, [Seeing(stage) for stage in ORDER], {})
    assert all(seen[stage] is mix for stage in BRANCHES)
    assert all(largest_error(seen[stage], step.cond - step.uncond) < 1e-12 for stage in DIRECTION)
    doubled = step.cond + 2 * (SCALE - 1) * (step.cond - step.uncond)
    assert all(largest_error(seen[stage], doubled) < 1e-12 for stage in RESULT)


def test_methods_act_alike_in_whatever_order_they_are_given():
    def run(methods):
        memory = {}
        return [combine(crowd("v", SHAPE, seed), methods, memory) for seed in (0, 20, 40)]

    assert [method.STAGE for method in ONE_OF_A_STAGE] == list(ORDER)
    expected = run(ONE_OF_A_STAGE)
    for seed in range(30):
        shuffled = random.Random(seed).sample(ONE_OF_A_STAGE, len(ONE_OF_A_STAGE))
        assert all(torch.equal(a, b) for a, b in zip(run(shuffled), expected, strict=True))


@pytest.mark.parametrize(
    "pair", [(ZeroStar(), Tangential()), (DynamicThreshold(), MimicThreshold(3.0))], ids=group_name
)
def test_two_methods_of_one_stage_act_alike_in_whatever_order_they_are_given(pair):
    mix = world("flow", 3).mix()
    assert torch.equal(combine(mix, pair, {}), combine(mix, pair[::-1], {}))


def test_every_place_in_the_order_matters():
    """Neighbours exchanged give another result, so the order above is one that can be seen."""
    mix = crowd("v", SHAPE, 0)
    direction = {"momentum": Momentum(), "cap": Cap(), "parallel": Parallel(), "bands": Bands()}
    memory = {"momentum": draw(3, *SHAPE), "history": draw(4, *SHAPE)}
    value = draw(5, *SHAPE)
    for (first, a), (second, b) in itertools.pairwise(direction.items()):
        forth = b(a(value, mix, dict(memory)), mix, dict(memory))
        back = a(b(value, mix, dict(memory)), mix, dict(memory))
        assert largest_error(forth, back) > 1e-4, (first, second)
    for a, b in itertools.pairwise([History(), Rescale(), MimicThreshold(3.0)]):
        forth = b(a(value, mix, dict(memory)), mix, dict(memory))
        back = a(b(value, mix, dict(memory)), mix, dict(memory))
        assert largest_error(forth, back) > 1e-4


# Where the host's own nodes leave the paper: both numbers. ComfyUI 0.30, comfy_extras.


def host_apg(cond, uncond, scale, eta):
    """nodes_apg.py, APG, norm_threshold 0 and momentum 0; its CFG afterwards included."""
    guidance = cond - uncond
    unit = torch.nn.functional.normalize(cond, dim=[-1, -2, -3])
    parallel = (guidance * unit).sum(dim=[-1, -2, -3], keepdim=True) * unit
    modified = (uncond + guidance - parallel + eta * parallel) + (cond - uncond) / scale
    return uncond + (modified - uncond) * scale


def host_zero_star(x, cond, uncond, scale):
    """nodes_cfg.py, CFGZeroStar."""
    v_c, v_u = (x - cond).flatten(1), (x - uncond).flatten(1)
    alpha = ((v_c * v_u).sum(1, keepdim=True) / ((v_u**2).sum(1, keepdim=True) + 1e-8)).view(-1, 1, 1, 1)
    return plain(uncond, cond, scale) + uncond * (alpha - 1.0) + scale * uncond * (1.0 - alpha)


def host_perp_neg(pos, neg, empty, neg_scale, scale):
    """nodes_perpneg.py, PerpNegGuider: one dot product for the whole batch."""
    pos, neg = pos - empty, neg - empty
    perp = neg - ((pos * neg).sum() / (torch.norm(pos) ** 2)) * pos
    return empty + scale * (pos - perp * neg_scale)


def host_rescale(x, cond, uncond, sigma, scale, phi):
    """nodes_model_advanced.py, RescaleCFG: the formula of v models, whatever the model."""
    sigma = sigma.view(-1, 1, 1, 1)
    shrunk = x / (sigma * sigma + 1.0)
    v_c, v_u = (((shrunk - part) * (sigma**2 + 1.0) ** 0.5) / sigma for part in (cond, uncond))
    guided = v_u + scale * (v_c - v_u)
    rescaled_v = guided * (v_c.std(dim=(1, 2, 3), keepdim=True) / guided.std(dim=(1, 2, 3), keepdim=True))
    return shrunk - (phi * rescaled_v + (1 - phi) * guided) * sigma / (sigma * sigma + 1.0) ** 0.5


def of_paper(step, reference):
    return torch.from_numpy(np.stack([reference(sample, {}) for sample in step.samples]))


def test_apg_off_is_cfg_here_and_cfg_at_scale_plus_one_in_the_host():
    step = world("eps", 3)
    ours = combine(step.mix(), [Parallel(1.0), Cap(Cap.NONE), Momentum(0.0)], {})
    host = host_apg(step.cond, step.uncond, SCALE, 1.0)
    assert torch.equal(ours, plain(step.uncond, step.cond, SCALE))
    assert largest_error(host, plain(step.uncond, step.cond, SCALE + 1)) < 1e-12
    assert largest_error(host, ours) > 0.01


def test_apg_is_the_papers_here_and_one_scale_too_strong_in_the_host():
    step = world("eps", 3)
    ours = combine(step.mix(), [Parallel(0.0)], {})
    host = host_apg(step.cond, step.uncond, SCALE, 0.0)
    assert largest_error(ours, of_paper(step, projected(0.0, 1e9, 0.0))) < 1e-12
    assert largest_error(host, combine(step.mix(scale=SCALE + 1), [Parallel(0.0)], {})) < 1e-12
    assert largest_error(host, ours) > 0.01


def test_zero_star_is_the_papers_here_and_lacks_a_term_of_x_in_the_host():
    """The host scales the negative's clean estimate instead of its velocity: (1 - k) (1 - scale) x is missing."""
    step = world("flow", 3)
    paper = of_paper(step, zero_star(1.0))
    ours = combine(step.mix(), [ZeroStar()], {})
    host = host_zero_star(step.x, step.cond, step.uncond, SCALE)
    assert largest_error(ours, paper) < 1e-12
    assert largest_error(host, paper) > 0.01
    for k, s in enumerate(step.samples):
        v_c, v_u = s.x - s.cond, s.x - s.uncond
        fit = (v_c * v_u).sum() / (v_u**2).sum()
        missing = torch.from_numpy((1 - fit) * (1 - SCALE) * s.x)
        assert largest_error((host[k] + missing)[None], paper[k : k + 1]) < 1e-6


def test_perp_neg_is_the_papers_here_and_depends_on_the_batch_in_the_host():
    step = world("eps", 3)
    paper = of_paper(step, perp_negative(1.0, 1.0))
    ours = combine(step.mix(negative_scale=-SCALE), [PerpNeg()], {})
    host = host_perp_neg(step.cond, step.negative, step.uncond, 1.0, SCALE)
    assert largest_error(ours, paper) < 1e-12
    assert largest_error(host, paper) > 1e-3
    for k in range(SHAPE[0]):
        rows = slice(k, k + 1)
        alone = host_perp_neg(step.cond[rows], step.negative[rows], step.uncond[rows], 1.0, SCALE)
        assert largest_error(alone, paper[rows]) < 1e-12


@pytest.mark.parametrize("kind", ["eps", "flow"])
def test_rescaling_is_the_papers_here_and_of_no_output_of_the_model_in_the_host(kind):
    step = world(kind, 3)
    paper = of_paper(step, rescaled(0.7))
    ours = combine(step.mix(), [Rescale(0.7)], {})
    host = host_rescale(step.x, step.cond, step.uncond, step.sigma, SCALE, 0.7)
    assert largest_error(ours, paper) < 1e-12
    assert largest_error(host, paper) > 0.01


def test_rescaling_a_v_model_agrees_with_the_host():
    step = world("v", 3)
    host = host_rescale(step.x, step.cond, step.uncond, step.sigma, SCALE, 0.7)
    assert largest_error(combine(step.mix(), [Rescale(0.7)], {}), host) < 1e-12
