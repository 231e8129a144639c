"""What a sampler makes of a change of the denoised prediction: a step is linear in the predictions that it sees.

    x' = keep x + now D + before_1 D_-1 + before_2 D_-2 + fresh noise,

D_-k the prediction k steps ago. The deterministic part of a step from s need not end at the next level s': samplers
that add noise first go down to s_down. VE (x = x0 + s noise; Song et al. 2020, DDIM eq. 16; Karras et al. 2022):

    s_up = min(s', eta s' sqrt(s^2 - s'^2) / s),  s_down = sqrt(s'^2 - s_up^2),  now = 1 - s_down / s.

Flow (x = (1 - s) x0 + s noise): s_down = s' (1 + eta (s' / s - 1)), now = (1 - s') / (1 - s_down) (1 - s_down / s).

Single-step samplers of higher order (heun, dpm_2, dpmpp_2s, dpmpp_sde) look several times a step. A prediction that is
changed by the same amount at every look moves x' by `now` of the whole step exactly, as a straight line is integrated
exactly by every one of them. Multistep samplers (DPM-Solver++, Lu et al. 2022, arXiv 2211.01095) see older predictions
again, `Move.edit` takes them into account. Samplers that are not in SAMPLERS are not known to do either.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Move:
    """A step's coefficients of predictions. `signal` is that of x0 in x at the next level: 1, or 1 - s' for flows."""

    signal: float
    now: float
    before: tuple[float, ...] = ()

    @property
    def kept(self) -> float:
        """How far x' moves where x moves with its x0 alone: all of a picture's parts move by the same number."""
        return self.signal - self.now - sum(self.before)

    def edit(self, wanted: Tensor, past: Sequence[Tensor] = ()) -> Tensor:
        """What to add to the prediction, so that x' is the step's own plus signal `wanted`.

        `past` are the additions of the steps before, the newest first; what is missing counts 0.
        """
        rest = self.signal * wanted
        for coefficient, added in zip(self.before, past, strict=False):
            rest = rest - coefficient * added
        return rest / self.now


def noise_levels(sigma: float, following: float, eta: float, flow: bool) -> tuple[float, float]:
    """(s_down, s_up) of an ancestral step from sigma to the following level; eta 0: all the way, no noise.

    Raises ValueError for levels that rise, unless eta is 0.
    """
    if following <= 0 or not eta:
        return following, 0.0
    if following > sigma:
        raise ValueError("the noise levels rise, and a sampler that adds noise can't follow; use euler or ddim")
    if flow:
        down = following * (1 + eta * (following / sigma - 1))
        return down, math.sqrt(max(0.0, following**2 - (down * (1 - following) / (1 - down)) ** 2))
    up = min(following, eta * following * math.sqrt(sigma**2 - following**2) / sigma)
    return math.sqrt(following**2 - up**2), up


def first_order(sigma: float, following: float, eta: float = 0.0, flow: bool = False) -> Move:
    """Euler's step, ancestral with eta: x' = share (D + s_down / s (x - D)) + noise. With eta 0 also to higher levels.

    Raises ValueError where no step leads away: from 0, and upwards with eta.
    """
    if sigma <= 0:
        raise ValueError("the noise levels begin at 0, and no step leads away from there; leave the 0 out")
    down, _ = noise_levels(sigma, following, eta, flow)
    signal = 1 - following if flow else 1.0
    share = signal / (1 - down) if flow else 1.0
    return Move(signal, share * (1 - down / sigma))


def half_log_snr(sigma: float, flow: bool) -> float:
    """log(signal / noise). A flow begins at 1, where there is no signal; k-diffusion begins just below."""
    sigma = min(sigma, 1 - 1e-4) if flow else sigma
    return math.log((1 - sigma) / sigma) if flow else -math.log(sigma)


def second_order(levels: tuple[float, float, float], eta: float, flow: bool, heun: bool) -> Move:
    """DPM-Solver++(2M) SDE between levels (before, now, next), eta 0 the ODE: midpoint or heun.

    With h = log-SNR half over the step and k = 1 - exp(-h (1 + eta)): signal k on D, and the difference to D_-1 over
    r = h_-1 / h times k / 2, or 1 - k / (h (1 + eta)) for heun.
    """
    last, sigma, following = (half_log_snr(level, flow) for level in levels)
    h, ratio = following - sigma, (sigma - last) / (following - sigma)
    signal = 1 - levels[2] if flow else 1.0
    k = -math.expm1(-h * (1 + eta))
    slope = signal * (1 - k / (h * (1 + eta)) if heun else k / 2) / ratio
    return Move(signal, signal * k + slope, (-slope,))


def renoised_scale(step: Move, strength: float) -> float:
    """The scale at which CFG gives CFG++'s step (Chung et al. 2024, arXiv 2406.08070), whatever noise the sampler adds.

    CFG++ takes x0 at `strength` and the noise from the negative: x' is the negative's step and signal strength
    (D_c - D_u). CFG moves it by now scale (D_c - D_u). Raises ValueError for multistep samplers, where no scale does
    it; the negative's prediction can be edited there, D_u + `Move.edit`(strength (D_c - D_u)).
    """
    if step.before:
        raise ValueError(
            "CFG++ has no scale for a multistep sampler; choose euler, ddim, heun, dpmpp_sde or an ancestral one"
        )
    return step.signal * strength / step.now


@dataclass(frozen=True)
class Step:
    """A step of a run: the levels of its schedule, falling, and which of its steps, for a look at `sigma`."""

    levels: Sequence[float]
    index: int
    sigma: float  # where the step begins: above levels[index] under s_churn
    flow: bool

    @property
    def following(self) -> float:
        return self.levels[self.index + 1]


Rule = Callable[[Step, Mapping[str, Any]], Move]  # (step, the sampler's extra options) -> what it does


def euler(step: Step, options: Mapping[str, Any]) -> Move:
    return first_order(step.sigma, step.following, 0.0, step.flow)


def ancestral(step: Step, options: Mapping[str, Any]) -> Move:
    return first_order(step.sigma, step.following, options.get("eta", 1.0), step.flow)


def stochastic(step: Step, options: Mapping[str, Any]) -> Move:
    """DPM-Solver++ SDE: ancestral in noise over signal, x' = a' (D + down / level (x / a - D)) + noise."""
    if step.following <= 0:
        return Move(1.0, 1.0)
    sigma, following = (math.exp(-half_log_snr(level, step.flow)) for level in (step.sigma, step.following))
    move = first_order(sigma, following, options.get("eta", 1.0))
    signal = 1 - step.following if step.flow else 1.0
    return Move(signal, signal * move.now)


def ddpm(step: Step, options: Mapping[str, Any]) -> Move:
    """The posterior mean (Ho et al. 2020): eta 1. Raises ValueError for flows, on which it is no sampler."""
    if step.flow:
        raise ValueError("the sampler ddpm is for eps and v models, not for flows; use euler_ancestral")
    return first_order(step.sigma, step.following, 1.0)


def lcm(step: Step, options: Mapping[str, Any]) -> Move:
    """All the way to the picture, and fresh noise."""
    signal = 1 - step.following if step.flow else 1.0
    return Move(signal, signal)


def multistep(step: Step, options: Mapping[str, Any]) -> Move:
    """DPM-Solver++(2M). For flows k-diffusion takes log sigma, too."""
    plain = euler(step, options)
    if step.index == 0 or step.following <= 0:
        return plain
    levels = step.levels[step.index - 1], step.sigma, step.following
    move = second_order(levels, 0.0, False, heun=False)
    return Move(plain.signal, move.now, move.before)


def multistep_sde(step: Step, options: Mapping[str, Any], heun: bool = False) -> Move:
    """DPM-Solver++(2M) SDE."""
    if step.following <= 0:
        return Move(1.0, 1.0)
    eta = options.get("eta", 1.0)
    heun = options.get("solver_type", "heun" if heun else "midpoint") == "heun"
    if step.index == 0:
        signal = 1 - step.following if step.flow else 1.0
        h = half_log_snr(step.following, step.flow) - half_log_snr(step.sigma, step.flow)
        return Move(signal, -signal * math.expm1(-h * (1 + eta)))
    return second_order((step.levels[step.index - 1], step.sigma, step.following), eta, step.flow, heun)


CHURNING = ("euler", "heun", "dpm_2")  # these know s_churn
TWICE = ("heun", "dpm_2", "dpm_2_ancestral", "dpmpp_2s_ancestral", "dpmpp_sde", "dpmpp_sde_gpu")  # looks a step
SAMPLERS: dict[str, Rule] = {
    "euler": euler,
    "heun": euler,
    "dpm_2": euler,
    "euler_ancestral": ancestral,
    "dpm_2_ancestral": ancestral,
    "dpmpp_2s_ancestral": ancestral,
    "dpmpp_sde": stochastic,
    "dpmpp_sde_gpu": stochastic,
    "ddpm": ddpm,
    "lcm": lcm,
    "dpmpp_2m": multistep,
    "dpmpp_2m_sde": multistep_sde,
    "dpmpp_2m_sde_gpu": multistep_sde,
    "dpmpp_2m_sde_heun": lambda step, options: multistep_sde(step, options, heun=True),
    "dpmpp_2m_sde_heun_gpu": lambda step, options: multistep_sde(step, options, heun=True),
}

PRESENT = [name for name in SAMPLERS if not name.startswith("dpmpp_2m")]  # what these do needs no older predictions

# These look once in a step, at its level; "published" are this pack's own.
ONE_LOOK = frozenset(
    [
        "published",
        "euler",
        "euler_ancestral",
        "euler_cfg_pp",
        "euler_ancestral_cfg_pp",
        "ddpm",
        "lcm",
        "dpmpp_2m",
        "dpmpp_2m_cfg_pp",
        "dpmpp_2m_sde",
        "dpmpp_2m_sde_gpu",
        "dpmpp_2m_sde_heun",
        "dpmpp_2m_sde_heun_gpu",
        "dpmpp_3m_sde",
        "dpmpp_3m_sde_gpu",
    ]
)


def churned(levels: Sequence[float], index: int, options: Mapping[str, Any]) -> float:
    """Where step `index` begins under s_churn (Karras et al. 2022, algorithm 2): sigma (1 + gamma)."""
    sigma, churn = levels[index], options.get("s_churn", 0.0)
    if not churn or not options.get("s_tmin", 0.0) <= sigma <= options.get("s_tmax", math.inf):
        return sigma
    return sigma * (1 + min(churn / (len(levels) - 1), math.sqrt(2) - 1))


def move(name: str, options: Mapping[str, Any], levels: Sequence[float], index: int, flow: bool) -> Move:
    """Step `index` of a run over falling `levels` by a sampler of k-diffusion, named without "sample_".

    Raises ValueError for samplers that are not known.
    """
    if name not in SAMPLERS:
        raise ValueError(f"what the sampler {name} makes of an edit is not known; use one of {', '.join(SAMPLERS)}")
    sigma = churned(levels, index, options) if name in CHURNING else levels[index]
    return SAMPLERS[name](Step(levels, index, sigma, flow), options)


class Clock:
    """Tells at which noise level a sampler looks, by its reports instead of the device, for which the CPU would wait.

    Samplers of one look a step look at the schedule's levels `in_turn`. The first look is read, in case that another
    node changed them; then, as under other samplers, every look is.
    """

    def __init__(self, levels: Sequence[float] = (), in_turn: bool = False):
        self.levels, self.in_turn = levels, in_turn
        self.step, self.begins = 0, True
        self.seen: Tensor | None = None  # the host's one tensor of a look
        self.level = 0.0

    def following(self, callback: Callable[..., Any] | None) -> Callable[..., Any]:
        """The host's callback after each step, heard by this clock."""

        def heard(step: int, *state: Any) -> Any:
            self.step, self.begins = step + 1, True
            return None if callback is None else callback(step, *state)

        return heard

    def read(self, sigmas: Tensor) -> float:
        """The noise level of a look, which gave the host `sigmas` [B]."""
        if sigmas is self.seen:
            return self.level
        known = self.in_turn and self.begins and self.step < len(self.levels)
        expected = self.levels[self.step] if known else None
        if expected is None or self.seen is None:
            self.level = float(sigmas.flatten()[0])
            self.in_turn = self.in_turn and (expected is None or self.level == expected)
        else:
            self.level = expected
        self.seen, self.begins = sigmas, False
        return self.level
