"""Neutral settings, and inputs on which a method has nothing to do, leave plain CFG as it is."""

from dataclasses import replace

import pytest
import torch
from cfg_formulas import CASES
from cfg_worlds import EVERY, SCALE, SHAPE, draw, largest_error, named, plain, run_of, world

from pack.guidance.cfg import Branch, Mix, combine
from pack.guidance.cfg_branches import MagnitudeAware, PerpNeg, Tangential, ZeroStar
from pack.guidance.cfg_direction import Bands, Cap, Momentum, Parallel
from pack.guidance.cfg_result import DynamicThreshold, History, MimicThreshold, Rescale

# Neutral settings

NEUTRAL = [
    Rescale(0.0),
    MimicThreshold(phi=0.0),
    Momentum(0.0),
    Cap(Cap.NONE),
    Cap(1000.0),
    Cap(0.0),
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
    assert largest_error(combine(mix, [MimicThreshold(SCALE)], {}), mix.denoised) < 1e-12


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
        assert largest_error(combine(step.mix(scale=1.0), [method], memory), step.cond) < 1e-12


@pytest.mark.parametrize("method", EVERY, ids=named)
def test_a_condition_that_says_what_the_negative_says_changes_nothing(method):
    pixels = draw(1, *SHAPE).tanh()
    mix = Mix(draw(2, *SHAPE), torch.ones(3), pixels, (Branch(pixels, pixels, SCALE), Branch(pixels, pixels, -2.0)))
    memory = {}
    for _ in range(2):
        assert largest_error(combine(mix, [method], memory), pixels) < 1e-12


@pytest.mark.parametrize("method", EVERY, ids=named)
def test_predictions_without_any_length_stay_finite(method):
    zero = torch.zeros(SHAPE)
    for uncond, cond in ((zero, zero), (zero, zero + 1), (zero + 1, zero)):
        memory = {}
        mix = Mix(zero, torch.ones(3), uncond, (Branch(cond, uncond, SCALE), Branch(zero, uncond, -2.0)))
        for _ in range(2):
            assert combine(mix, [method], memory).isfinite().all()
