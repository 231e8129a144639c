"""The methods of the CFG nodes: their widgets, and what they put into the plan."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from comfy_api.latest import io

from ..guidance.cfg_branches import MagnitudeAware, PerpNeg, Tangential, ZeroStar
from ..guidance.cfg_direction import Bands, Cap, Momentum, Parallel
from ..guidance.cfg_result import DynamicThreshold, History, MimicThreshold, Rescale
from .host.cfg.plan import Plan


@dataclass(frozen=True)
class Choice:
    """One method: widgets by name, and the plan from their values."""

    inputs: tuple[Any, ...]
    plan: Callable[..., Plan]


def _share(name: str, default: float, tooltip: str, high: float = 1.0, low: float = 0.0) -> Any:
    return io.Float.Input(name, default=default, min=low, max=high, step=0.01, tooltip=tooltip)


METHODS: dict[str, Choice] = {
    "constant": Choice((), lambda: Plan()),
    "rescale": Choice(
        (_share("phi", 0.7, "How much of the contrast that cfg adds is taken back. 0 is plain CFG, 0.7 usual."),),
        lambda phi: Plan((Rescale(phi),)),
    ),
    "dynamic threshold": Choice(
        (
            io.Float.Input(
                "percentile",
                default=0.995,
                min=0.5,
                max=1.0,
                step=0.005,
                round=0.0001,
                tooltip="Share of all values that may keep their size; what is larger is clipped. Lower: calmer "
                "colours.",
            ),
            io.Float.Input(
                "limit",
                default=0.0,
                min=0.0,
                max=10.0,
                step=0.1,
                tooltip="How far values may reach at most, 1 to 1.5. Below 1: no limit.",
            ),
        ),
        lambda percentile, limit: Plan((DynamicThreshold(percentile, limit),), pixels_only=True),
    ),
    "mimic threshold": Choice(
        (
            io.Float.Input(
                "mimic_scale",
                default=7.0,
                min=0.0,
                max=100.0,
                step=0.1,
                tooltip="Colours and contrast are kept to what this cfg would give.",
            ),
            _share("phi", 1.0, "How much of it. 0 is plain CFG, 1 all of it."),
        ),
        lambda mimic_scale, phi: Plan((MimicThreshold(mimic_scale, phi=phi),)),
    ),
    "APG": Choice(
        (
            _share(
                "eta",
                0.0,
                "How much is kept of the part of cfg that only saturates colours: 0 none of it. 1 is plain CFG.",
                high=2.0,
            ),
            io.Float.Input(
                "cap",
                default=0.06,
                min=0.0,
                max=Cap.NONE,
                step=0.01,
                tooltip="Longest push of a step that is allowed; smaller is calmer. About 0.06 on latents, 0.03 on "
                "pixels. 0 or 100: no limit.",
            ),
            _share(
                "momentum",
                -0.5,
                "How much of the last step's push goes on into this one; below 0 it is taken off, as in the paper. 0: "
                "none.",
                low=-1.0,
            ),
        ),
        lambda eta, cap, momentum: Plan((Momentum(momentum), Cap(cap), Parallel(eta))),
    ),
    "CFG++": Choice(
        (_share("strength", 0.6, "Takes the place of the guidance scale: 0 is the negative, 1 the condition."),),
        lambda strength: Plan(renoised=strength),
    ),
    "CFG-Zero*": Choice(
        (
            _share(
                "strength",
                1.0,
                "How far the negative is fitted to the condition before cfg. 0 is plain CFG, 1 the paper.",
            ),
            _share(
                "zero_init",
                0.04,
                "Share of the run, from pure noise on, in which nothing happens yet; for flow models. 0: none.",
            ),
        ),
        lambda strength, zero_init: Plan((ZeroStar(strength),), zero_init=zero_init),
    ),
    "tangential (TCFG)": Choice(
        (_share("strength", 1.0, "How much of what only the negative says is dropped. 0 is plain CFG, 1 the paper."),),
        lambda strength: Plan((Tangential(strength),)),
    ),
    "frequency (FDG)": Choice(
        (
            _share(
                "low",
                0.45,
                "Guidance for coarse parts (light, colour, layout), times this. 1 is plain CFG; lower: calmer.",
                high=5.0,
            ),
            _share("high", 1.0, "Guidance for fine parts (edges, texture), times this. 1 is plain CFG.", high=5.0),
        ),
        lambda low, high: Plan((Bands(low, high),)),
    ),
    "perp-neg": Choice(
        (
            _share(
                "strength",
                1.0,
                "For conditions of negative scale in CFG Combiner: how far they are kept from touching the main one.",
            ),
        ),
        lambda strength: Plan((PerpNeg(strength),)),
    ),
    "magnitude-aware (MAMBO-G)": Choice(
        (
            io.Float.Input(
                "alpha",
                default=8.0,
                min=0.0,
                max=100.0,
                step=0.1,
                tooltip="How fast large pushes fade: about 8 for flows, 20 to 100 for eps models. 0: plain CFG.",
            ),
        ),
        lambda alpha: Plan((MagnitudeAware(alpha),)),
    ),
    "history (HiGS)": Choice(
        (
            _share(
                "strength", 0.5, "How hard it pushes away from the mean of the steps before. 0 is plain CFG.", high=5.0
            ),
            _share("memory", 0.6, "How slowly that mean forgets: 0 is the last step alone.", high=0.99),
        ),
        lambda strength, memory: Plan((History(strength, memory),)),
    ),
    "adaptive skip": Choice(
        (
            io.Float.Input(
                "threshold",
                default=0.99,
                min=0.0,
                max=1.0,
                step=0.001,
                round=0.0001,
                tooltip="Once condition and negative are as similar as this (cosine), the negative is left out: "
                "faster. 1 is plain CFG.",
            ),
        ),
        lambda threshold: Plan(skip_above=threshold),
    ),
}


def method_input() -> Any:
    return io.DynamicCombo.Input(
        "method",
        options=[io.DynamicCombo.Option(name, list(choice.inputs)) for name, choice in METHODS.items()],
        tooltip="The form of CFG. Colours burn: APG or rescale. Flow models: CFG-Zero*. Faster: adaptive skip. "
        "constant is plain CFG. Several: one CFG Patch for each; they act in one published order.",
    )


def plan_from(method: dict[str, Any] | None) -> Plan:
    """Of the widget's value: the name under "method", and the widgets of that method beside it.

    Raises ValueError without one: the host drops names that it doesn't know.
    """
    if method is None:
        raise ValueError(f"there is no such method; there are {', '.join(METHODS)}")
    name = method["method"]
    values = {key: value for key, value in method.items() if key != "method"}
    plan = METHODS[name].plan(**values)
    return plan if plan == Plan() else replace(plan, names=(name,))
