"""Several conditions are summed as the papers say, and an image of a batch gets what it gets alone."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from cfg_worlds import (
    EVERY,
    ONE_OF_A_STAGE,
    SCALE,
    SHAPE,
    SIGMAS,
    VIDEO,
    crowd,
    draw,
    group_name,
    largest_error,
    named,
    world,
)

from pack.guidance.cfg import Branch, Mix, combine
from pack.guidance.cfg_branches import MagnitudeAware, ZeroStar
from pack.guidance.cfg_direction import Bands, Cap, Parallel
from pack.guidance.cfg_result import MimicThreshold

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


GROUPS = [*([method] for method in EVERY), ONE_OF_A_STAGE, []]


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
                assert largest_error(whole[k : k + 1], alone) < 1e-12


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
