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
        (_share("phi", 0.7, "How much of the condition's own deviation is kept. 0 is plain CFG."),),
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
                tooltip="Share of all numbers that keep their place; the range is what they span, at least 1.",
            ),
            io.Float.Input("limit", default=0.0, min=0.0, max=10.0, step=0.1, tooltip="Largest range; below 1: none."),
        ),
        lambda percentile, limit: Plan((DynamicThreshold(percentile, limit),), pixels_only=True),
    ),
    "mimic threshold": Choice(
        (
            io.Float.Input(
                "mimic_scale", default=7.0, min=0.0, max=100.0, step=0.1, tooltip="The scale whose range is kept."
            ),
            _share("phi", 1.0, "How much of it. 0 is plain CFG."),
        ),
        lambda mimic_scale, phi: Plan((MimicThreshold(mimic_scale, phi=phi),)),
    ),
    "APG": Choice(
        (
            _share("eta", 0.0, "What counts of the part that only saturates. 1 is plain CFG.", high=2.0),
            io.Float.Input(
                "cap",
                default=0.06,
                min=0.0,
                max=Cap.NONE,
                step=0.01,
                tooltip="Largest push for scale 2, as root mean square; 0, 100: none. Latents about .06, pixels .03.",
            ),
            _share("momentum", -0.5, "Of the push from step to step; below 0 it pushes apart. 0: none.", low=-1.0),
        ),
        lambda eta, cap, momentum: Plan((Momentum(momentum), Cap(cap), Parallel(eta))),
    ),
    "CFG++": Choice(
        (_share("strength", 0.6, "Takes the place of the guidance scale: 0 is the negative, 1 the condition."),),
        lambda strength: Plan(renoised=strength),
    ),
    "CFG-Zero*": Choice(
        (
            _share("strength", 1.0, "How much of the negative's fitted size is used. 0 is plain CFG."),
            _share("zero_init", 0.04, "Share of the run, from pure noise, at which a flow stands still. 0: none."),
        ),
        lambda strength, zero_init: Plan((ZeroStar(strength),), zero_init=zero_init),
    ),
    "tangential (TCFG)": Choice(
        (_share("strength", 1.0, "How much of the negative's own direction is dropped. 0 is plain CFG."),),
        lambda strength: Plan((Tangential(strength),)),
    ),
    "frequency (FDG)": Choice(
        (
            _share("low", 0.45, "Multiplies scale - 1 for coarse parts. 1 is plain CFG.", high=5.0),
            _share("high", 1.0, "Multiplies scale - 1 for fine parts. 1 is plain CFG.", high=5.0),
        ),
        lambda low, high: Plan((Bands(low, high),)),
    ),
    "perp-neg": Choice(
        (
            _share(
                "strength",
                1.0,
                "In CFG Combiner, for negative scales: how much of the wanted one they can't touch.",
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
            _share("strength", 0.5, "How far from the mean of the steps before. 0 is plain CFG.", high=5.0),
            _share("memory", 0.6, "How slowly that mean forgets.", high=0.99),
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
        tooltip="A form of CFG. Several: a CFG Patch for each; they act in one published order.",
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
