"""What a condition may be measured against besides a negative: itself perturbed, said at random, or at another time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import comfy.model_patcher
import torch
from comfy.ldm.modules.attention import BasicTransformerBlock
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy.patcher_extension import WrappersMP, add_wrapper_with_key
from torch import Tensor

from ....guidance.classifier_energy import NO_CLASS
from ..conditioning import CLASS_LABELS, LOW_RES, TEXT, class_embedding, labels_of
from ..model import facts_of
from ..run import Course, state_in
from .coverage import own_conds
from .run import KEY

PERTURBED, RANDOM, TIME = "perturbed self", "random condition", "other time"
SPREAD = 0.1  # deviation of the time that "other time" tells the network, over the time since the picture
CONDITION_STREAM, TIME_STREAM = 7, 8  # of the run's random numbers
EMBEDDINGS = ("cross_attn", "pooled_output", "conditioning_mt5xl", "conditioning_lyrics")  # of a cond


def _embeddings(cond: Mapping[str, Any]) -> dict[str, Tensor]:
    """What a cond says beside its class. A picture to enlarge and tokens are no conditions to be drawn."""
    exact = cond.get(CLASS_LABELS) or cond.get(TEXT)
    names = [name for name in EMBEDDINGS if not (name == "cross_attn" and exact)]
    names = [name for name in names if not (name == "pooled_output" and cond.get(LOW_RES))]
    return {name: cond[name] for name in names if isinstance(cond.get(name), Tensor) and cond[name].numel()}


def says_something(cond: Mapping[str, Any], classes: int) -> bool:
    """Whether a condition drawn in its place differs from it."""
    if cond.get(CLASS_LABELS) and classes > 1 and (labels_of(cond["cross_attn"]) != NO_CLASS).any():
        return True
    return any(float(value.float().std(unbiased=False)) > 0 for value in _embeddings(cond).values())


def drawn(cond: Mapping[str, Any], classes: int, generator: torch.Generator) -> dict[str, Any]:
    """Independent condition guidance (Sadat et al. 2024, arXiv 2407.02687): what a cond might say instead, by name.

    Embeddings become Gaussian noise of their own mean and deviation; a class becomes another class. Every picture of a
    batch gets the same draw, so it equals itself sampled alone.
    """

    def noise(like: Tensor) -> Tensor:
        normal = torch.randn(like[:1].shape, generator=generator).to(like)
        axes = tuple(range(1, like.ndim))
        return like.mean(axes, keepdim=True) + like.std(axes, unbiased=False, keepdim=True) * normal

    other = {name: noise(value) for name, value in _embeddings(cond).items()}
    if cond.get(CLASS_LABELS):
        labels = labels_of(cond["cross_attn"])
        step = int(torch.randint(1, max(2, classes), (), generator=generator))
        other["cross_attn"] = class_embedding(
            torch.where(labels == NO_CLASS, labels, (labels + step) % max(1, classes))
        )
    return other


class Draws:
    """Random conditions of a combiner: which of its conditionings they are, and each step's draw."""

    def __init__(self, model: Any):
        facts = facts_of(model)
        self.classes = len(facts.class_names) if facts is not None else 0
        self.names: list[str] = []

    def name(self, key: str) -> str:
        """Of a random condition in the place of a conditioning."""
        self.names.append(f"random for {key}")
        return self.names[-1]

    def refuse_unfit(self, original: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
        """Raises ValueError where a draw would say the same."""
        for name in self.names:
            if not any(says_something(cond, self.classes) for cond in original[name]):
                raise ValueError(
                    "CFG Combiner: the reference 'random condition' draws what another condition would say, and this "
                    "conditioning says nothing that could be drawn; choose another reference"
                )

    def draw(self, guider: Any, timestep: Tensor) -> None:
        """The conds of a step, by the run's seed and the noise level."""
        for place, name in enumerate(self.names):
            level = guider.run.course.level(timestep)
            generator = guider.run.course.generator(CONDITION_STREAM, place, round(level * 1e6))
            given = {cond["uuid"]: cond for cond in guider.original_conds[name]}  # not what was drawn before
            own = own_conds(guider.conds[name], guider.original_conds[name])
            others = [{**cond, **drawn(given[cond["uuid"]], self.classes, generator)} for cond in own]
            guider.conds[name] = guider.encode(others)


def refuse_other_networks(network: Any) -> None:
    """Raises ValueError for networks without the self-attention that "perturbed self" changes."""
    middle = network.middle_block.modules() if isinstance(network, UNetModel) and network.middle_block else ()
    if not any(isinstance(module, BasicTransformerBlock) for module in middle):
        raise ValueError(
            "CFG Combiner: the reference 'perturbed self' changes the self-attention in the middle of the host's "
            f"U-Nets (SD1.5, SDXL), and this model is a {type(network).__name__} without; choose another reference"
        )


def perturbed_attention(model: Any, options: dict[str, Any]) -> dict[str, Any]:
    """PAG (Ahn et al. 2024, arXiv 2403.17377): self-attention of the middle block sees itself only."""

    def identity(q: Tensor, k: Tensor, v: Tensor, extra_options: Any, mask: Tensor | None = None) -> Tensor:
        return v

    return comfy.model_patcher.set_model_options_patch_replace(options.copy(), identity, "attn1", "middle", 0)


def other_time(model: Any, options: dict[str, Any]) -> dict[str, Any]:
    """Time-step guidance (Sadat et al. 2024, arXiv 2407.02687, sec. 5): the network is told another time, at random.

    Eq. 8 to 10: t~ = t + Delta t, Delta t Gaussian of mean 0, drawn at every step; here Delta t = s t n of one n for
    all pictures, by the run's seed and the noise level. Always later, or always earlier, would push away from too much
    noise alone, or from too little (their appendix D). Their own code adds the noise to the embedding of t instead,
    which most of the host's networks keep to themselves.
    """
    options = comfy.model_patcher.create_model_options_clone(options)
    sampling, course = model.model_sampling, state_in(options, KEY).course

    def another(executor: Any, x: Tensor, sigma: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        def predict(x: Tensor, told: Tensor) -> Tensor:
            return executor(x, told.to(sigma), *args, **kwargs)

        told = other_sigma(sampling, sigma, time_draw(course, course.level(sigma)))
        return told_another_time(predict, sampling, x, sigma, told)

    add_wrapper_with_key(WrappersMP.APPLY_MODEL, KEY, another, options, is_model_options=True)
    return options


def time_draw(course: Course, level: float) -> float:
    """A unit normal number that belongs to a step."""
    return float(torch.randn((), generator=course.generator(TIME_STREAM, round(level * 1e6))))


def other_sigma(sampling: Any, sigma: Tensor, n: float) -> Tensor:
    """The noise level, [B], at which the network is told (1 + s n) times as much time since the picture, by bisection.

    (A schedule's own `sigma` is no inverse of its `timestep` for all models: Flux is told sigma itself.)
    """
    level = sigma.cpu().double()
    low, high = (torch.full_like(level, float(end)) for end in (sampling.sigma_min, sampling.sigma_max))
    time, first = (sampling.timestep(one.float()).cpu().double() for one in (level, low))
    wanted = time + SPREAD * n * (time - first)
    for _ in range(50):
        middle = (low * high).sqrt()
        below = sampling.timestep(middle.float()).cpu().double() < wanted
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return high.to(sigma)


def told_another_time(
    predict: Callable[[Tensor, Tensor], Tensor], sampling: Any, x: Tensor, sigma: Tensor, told: Tensor
) -> Tensor:
    """The picture that the network finds in x [B ...] of level sigma [B] where it is told the level `told`.

    The host's model takes a level for both, so x goes in scaled to what the network shall see, and the network's output
    F comes out of the result, which is linear in it: D = a x + b F, a and b of the level and of what is predicted.
    """
    one = x.new_ones(len(x), *[1] * (x.ndim - 1))
    none = torch.zeros_like(one)
    scaled = x * (sampling.calculate_input(sigma, one) / sampling.calculate_input(told, one))
    kept = sampling.calculate_denoised(told, none, one)
    factor = sampling.calculate_denoised(told, one, none)
    output = (predict(scaled, told) - kept * scaled) / factor
    return sampling.calculate_denoised(sigma, output, x)


WAYS: dict[str, Callable[[Any, dict[str, Any]], dict[str, Any]]] = {
    PERTURBED: perturbed_attention,
    TIME: other_time,
}
