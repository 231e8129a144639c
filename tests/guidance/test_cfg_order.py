"""Methods of CFG act in the published order, in whatever order they are given."""

import itertools
import random
from dataclasses import dataclass

import pytest
import torch
from cfg_worlds import EVERY, ONE_OF_A_STAGE, SCALE, SHAPE, crowd, draw, group_name, largest_error, world

from pack.guidance.cfg import BRANCHES, DIRECTION, ORDER, RESULT, Mix, combine
from pack.guidance.cfg_branches import Tangential, ZeroStar
from pack.guidance.cfg_direction import Bands, Cap, Momentum, Parallel
from pack.guidance.cfg_result import DynamicThreshold, History, MimicThreshold, Rescale


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
