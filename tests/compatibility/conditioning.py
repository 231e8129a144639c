"""The conditioning nodes of the host on ours."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from .scene import BETWEEN, HALF, SIDE, Scene, lora


@dataclass(frozen=True, eq=False)
class Node:
    """A conditioning node on ours: `build(scene)`, and what it predicts, `expected(alone, level)`.

    `alone(label, start, end)` is a plain prediction, of those columns of the sample only. `row`: of the guider, where
    it is used. `others`: what the same node makes of the other rows, as the host adds the areas of one to all that have
    none. `partial` says something on the left half, or at the first levels, only.
    """

    build: Callable[[Scene], Any]
    expected: Callable[..., torch.Tensor] | None
    levels: tuple[int, ...] = (0,)
    row: str = "p"
    others: Callable[..., Any] | None = None
    partial: Callable[[Scene], Any] | None = None


LEFT, RIGHT = slice(0, HALF), slice(HALF, SIDE)


def host_node(name, method, *args):
    import nodes

    return getattr(getattr(nodes, name)(), method)(*args)[0]


def side_mask(columns):
    mask = torch.zeros(1, SIDE, SIDE)
    mask[:, :, columns] = 1
    return mask


def combine(a, b):
    return host_node("ConditioningCombine", "combine", a, b)


def masked(conditioning, columns):
    return host_node("ConditioningSetMask", "append", conditioning, side_mask(columns), "default", 1.0)


def area(conditioning, columns):
    """The host counts areas in pixels of eight to a latent."""
    width, height, x = 8 * HALF, 8 * SIDE, 8 * columns.start
    return host_node("ConditioningSetArea", "append", conditioning, width, height, x, 0, 1.0)


def share(conditioning, columns):
    return host_node("ConditioningSetAreaPercentage", "append", conditioning, 0.5, 1.0, columns.start / SIDE, 0.0, 1.0)


def ranged(conditioning, start, end):
    return host_node("ConditioningSetTimestepRange", "set_range", conditioning, start, end)


def default(conditioning, fallback):
    from comfy_extras.nodes_hooks import ConditioningSetDefaultAndCombine

    return ConditioningSetDefaultAndCombine().set_default_and_combine(conditioning, fallback)[0]


def hooked(scene, conditioning):
    import comfy.hooks
    from comfy_extras.nodes_hooks import SetModelHooksOnCond

    return SetModelHooksOnCond().attach_hook(
        conditioning, comfy.hooks.create_hook_lora(lora(scene.models["main"]), 0.2, 0.0)
    )[0]


def two(make, left="p", right="b"):
    """One half says star, the other blue."""
    return lambda scene: combine(make(scene.labels[left], LEFT), make(scene.labels[right], RIGHT))


def halves(alone, level):
    """Each half by its own prediction of the whole."""
    return torch.cat([alone("p")[..., LEFT], alone("b")[..., RIGHT]], -1)


def apart(alone, level, left="p", right="b"):
    """Each half predicted by itself."""
    return torch.cat([alone(left, 0, HALF), alone(right, HALF, SIDE)], -1)


NODES = {
    "Zero Out": Node(
        lambda s: host_node("ConditioningZeroOut", "zero_out", s.labels["p"]), lambda alone, level: alone("n"), row="n"
    ),
    "Average": Node(
        lambda s: host_node("ConditioningAverage", "addWeighted", s.labels["p"], s.labels["b"], 0.0),
        lambda alone, level: alone("b"),
    ),
    "Concat": Node(lambda s: host_node("ConditioningConcat", "concat", s.labels["p"], s.labels["b"]), None),
    "Combine": Node(
        lambda s: combine(s.labels["p"], s.labels["b"]), lambda alone, level: (alone("p") + alone("b")) / 2
    ),
    "Set Area": Node(two(area), apart, others=area, partial=lambda s: area(s.labels["m"], LEFT)),
    "Set Area with Percentage": Node(two(share), apart, others=share, partial=lambda s: share(s.labels["m"], LEFT)),
    "Set Mask": Node(two(masked), halves, partial=lambda s: masked(s.labels["m"], LEFT)),
    "Set Timestep Range": Node(
        lambda s: combine(ranged(s.labels["p"], 0.0, BETWEEN), ranged(s.labels["b"], BETWEEN, 1.0)),
        lambda alone, level: alone("p" if level < 2 else "b"),
        levels=(0, 2),
        partial=lambda s: ranged(s.labels["m"], 0.0, BETWEEN),
    ),
    "Set Default and Combine": Node(lambda s: default(masked(s.labels["p"], LEFT), s.labels["b"]), halves),
    "Set Model Hooks (LoRA)": Node(lambda s: hooked(s, s.labels["p"]), lambda alone, level: alone("p", lora=True)),
}
