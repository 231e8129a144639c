"""One sampling run of a patched MODEL: where it is, and what the pack's features remember of it.

A feature (guides, CFG's methods, edits of h) puts parts into a MODEL with `attach`. When a run of that MODEL begins,
its `begin` makes one state of all its parts. The state lives under the feature's key in the run's transformer_options,
where every hook of the host can read it, and is gone with the run, whatever happens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from types import MappingProxyType
from typing import Any

import torch
from comfy.patcher_extension import WrappersMP, add_wrapper_with_key
from torch import Tensor

from ...guidance.samplers import ONE_LOOK, Clock
from .model import is_flow, progress_function

SAME = 1e-4  # relative difference of sigmas that are one
FEATURES = "guidance_features"  # a MODEL's attachment: every Feature that was put into it
COURSE = "guidance_course"  # among what is running: a run's Course and the sigmas it was made of
HOST_SAMPLERS, OURS = "comfy.k_diffusion.sampling", f"{__package__}.sampling"  # modules of samplers
NOTHING: Mapping[str, Any] = MappingProxyType({})
_running: ContextVar[Mapping[str, Any]] = ContextVar("guidance_running", default=NOTHING)  # key -> parts of this run
NETWORK_LEVEL = {WrappersMP.CALC_COND_BATCH, WrappersMP.APPLY_MODEL, WrappersMP.DIFFUSION_MODEL}  # need no guider
HANDOVER = "guidance_handover"  # of transformer_options: a Handover of a sampler that applies exact gradients itself


@dataclass
class Handover:
    """Where a sampler takes the exact gradients of a step, to apply them by its own rule."""

    grad: Tensor | None = None  # grad_x log p, weights included

    def give(self, grad: Tensor) -> None:
        self.grad = grad if self.grad is None else self.grad + grad

    def take(self) -> Tensor | None:
        grad, self.grad = self.grad, None
        return grad


@dataclass(frozen=True, eq=False)
class Course:
    """Where a run is: its schedule, the model's measure of progress, and what the sampler was told."""

    guider: Any
    sampler: Any
    sigmas: Sequence[float]
    seed: int = 0
    denoise_mask: Tensor | None = None
    latent_shapes: Sequence[Any] = field(default_factory=tuple)
    continues: bool = False  # whether it got no noise: it goes on where another run ended
    second: Any = None  # a MODEL that is sampled beside the guider's own, where this is its course
    clock: Clock = field(default_factory=Clock)

    @property
    def model(self) -> Any:
        return self.guider.model_patcher if self.second is None else self.second

    @cached_property
    def sampling(self) -> Any:
        """The model's noise schedule and parametrisation, as its patches left them."""
        return self.model.get_model_object("model_sampling")

    @cached_property
    def flow(self) -> bool:
        return is_flow(self.sampling)

    @cached_property
    def progress_of(self) -> Callable[[float], float]:
        return progress_function(self.sampling)

    @property
    def rising(self) -> bool:
        """Whether the run goes from a picture to noise."""
        return len(self.sigmas) > 1 and self.sigmas[0] < self.sigmas[-1]

    @property
    def from_noise(self) -> bool:
        """Whether it begins at the model's largest sigma."""
        return bool(self.sigmas) and self.sigmas[0] >= 0.99 * float(self.sampling.sigma_max)

    @property
    def sampler_name(self) -> str:
        """Of the host's samplers, "sample_euler"; empty for samplers that are no function."""
        return getattr(getattr(self.sampler, "sampler_function", None), "__name__", "")

    def level(self, sigmas: Tensor) -> float:
        """The noise level of a look, without waiting for the device where the schedule tells it."""
        return self.clock.read(sigmas)

    def progress_at(self, sigmas: Tensor) -> float:
        """Of a look."""
        return self.progress_of(self.level(sigmas))

    def index(self, sigma: float) -> int:
        """Which step of the schedule an evaluation belongs to, those between two steps to the earlier one."""
        return sum(s >= sigma * (1 - SAME) for s in self.sigmas) - 1

    def following(self, sigma: float) -> float:
        """The next lower sigma of the schedule."""
        return max((s for s in self.sigmas if s < sigma * (1 - SAME)), default=0.0)

    def generator(self, *stream: int) -> torch.Generator:
        """Random numbers that depend on the run's seed and on what they are for, not on what was drawn before."""
        mixed = self.seed & (2**63 - 1)
        for part in stream:
            mixed = (mixed * 6364136223846793005 + part + 1442695040888963407) & (2**63 - 1)
        return torch.Generator().manual_seed(mixed)


@dataclass(frozen=True)
class Feature:
    """What a MODEL can be made to do in its runs."""

    key: str
    begin: Callable[[Course, Sequence[Any]], Any]  # (course, the MODEL's parts) -> state; None: nothing in this run
    wrappers: Mapping[str, Callable[..., Any]]  # the host's hooks that read the state, by their kind
    nodes: str = "a node of this pack"  # who puts it into a MODEL, for messages


def attached(model: Any, feature: Feature) -> Sequence[Any]:
    """The parts of a feature in a MODEL, in the order in which nodes put them there."""
    return model.get_attachment(feature.key) or ()


def attach(model: Any, feature: Feature, part: Any, patchers: Sequence[Any] = (), alone: bool = False) -> Any:
    """A clone of the MODEL with one part more, or with this one `alone`. All parts of a feature share its wrappers.

    `patchers`: networks that the run needs; the host loads them with the model.
    """
    before = attached(model, feature)
    model = model.clone()
    model.set_attachments(feature.key, [part] if alone else [*before, part])
    if patchers:
        known = list(model.get_additional_models_with_key(feature.key))
        for patcher in patchers:
            if not any(patcher is one or patcher.is_clone(one) for one in known):
                known.append(patcher)
        model.set_additional_models(feature.key, known)
    if not before:
        model.set_attachments(FEATURES, [*_features(model), feature])
        guard = partial(_refuse_elsewhere, feature)  # in model_options: there a guider finds that of any MODEL it loads
        add_wrapper_with_key(WrappersMP.PREPARE_SAMPLING, feature.key, guard, model.model_options, True)
        model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, feature.key, partial(_around_run, feature))
        for kind, wrapper in feature.wrappers.items():
            model.add_wrapper_with_key(kind, feature.key, wrapper)
    return model


def _around_run(
    feature: Feature,
    executor: Any,
    noise: Tensor,
    latent: Tensor,
    sampler: Any,
    sigmas: Tensor,
    *args: Any,
    **more: Any,
) -> Any:
    """OUTER_SAMPLE: a fresh state for every run, gone afterwards whatever happens."""
    guider = executor.class_obj
    with running(guider, noise, sampler, sigmas, *args, **more) as (course, args, more):
        parts = attached(guider.model_patcher, feature)
        before = _running.set({**_running.get(), feature.key: parts})
        try:
            with remembered(guider, feature.key, feature.begin(course, parts)):
                return executor(noise, latent, sampler, sigmas, *args, **more)
        finally:
            _running.reset(before)


@contextmanager
def running(
    guider: Any, noise: Tensor, sampler: Any, sigmas: Tensor, *args: Any, **more: Any
) -> Iterator[tuple[Course, tuple[Any, ...], dict[str, Any]]]:
    """The Course of a run, one for all that acts in it, and what `outer_sample` gets behind sigmas, heard by it."""
    course, known = _running.get().get(COURSE, (None, None))
    if course is not None and course.guider is guider and course.sampler is sampler and known is sigmas:
        yield course, args, more
        return
    course = course_of(guider, noise, sampler, sigmas, *args, **more)
    before = _running.set({**_running.get(), COURSE: (course, sigmas)})
    try:
        yield course, *(_heard(course.clock, args, more) if course.clock.in_turn else (args, more))
    finally:
        _running.reset(before)


def _heard(clock: Clock, args: tuple[Any, ...], more: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """With a callback that the clock hears; it is the second behind sigmas."""
    if len(args) > 1:
        return (args[0], clock.following(args[1]), *args[2:]), more
    return args, {**more, "callback": clock.following(more.get("callback"))}


def _refuse_elsewhere(feature: Feature, executor: Any, model: Any, *args: Any, **more: Any) -> Any:
    """PREPARE_SAMPLING: raises ValueError for a MODEL that is to be sampled without its run having begun."""
    if _running.get().get(feature.key) is not attached(model, feature):
        raise ValueError(
            f"{feature.nodes}: the MODEL it was put into is sampled beside another one by this guider, and there it "
            "can't act; put it into the guider's first MODEL, or leave it out"
        )
    return executor(model, *args, **more)


def _features(model: Any) -> Sequence[Feature]:
    """All features of a MODEL, in the order in which they came."""
    return model.get_attachment(FEATURES) or ()


def begin_beside(course: Course, model: Any, transformer_options: dict[str, Any]) -> None:
    """Begins the run of a second MODEL, which a guider of ours samples beside its first.

    `transformer_options` are those that its network will be called with in this run; they get the states of its
    features. Raises ValueError for features that need hooks of the guider, which has one MODEL's.
    """
    beside = replace(course, second=model)
    for feature in _features(model):
        if not feature.wrappers.keys() <= NETWORK_LEVEL:
            raise ValueError(
                f"{feature.nodes} can't act on a second model, the reference 'model' of a CFG Condition; put it into "
                "the first model, or leave it out"
            )
        state = feature.begin(beside, attached(model, feature))
        if state is not None:
            transformer_options[feature.key] = state


def course_of(guider: Any, noise: Tensor, sampler: Any, sigmas: Tensor, *args: Any, **more: Any) -> Course:
    """Out of what the host calls a guider's `outer_sample` with; `args` come behind sigmas."""
    seed = more.get("seed", args[3] if len(args) > 3 else None)
    levels = sigmas.tolist()
    return Course(
        guider=guider,
        sampler=sampler,
        sigmas=levels,
        seed=int(seed or 0),
        denoise_mask=args[0] if args else more.get("denoise_mask"),
        latent_shapes=more.get("latent_shapes") or (),
        continues=not bool(noise.any()),
        clock=Clock(levels, _looks_in_turn(sampler, levels)),
    )


def _looks_in_turn(sampler: Any, levels: Sequence[float]) -> bool:
    """Whether step i of a sampler is one look, at level i. Levels that repeat make no step of the published ones."""
    function, options = getattr(sampler, "sampler_function", None), getattr(sampler, "extra_options", {})
    name = getattr(function, "__name__", "").removeprefix("sample_")
    known = getattr(function, "__module__", "") in (HOST_SAMPLERS, OURS) and name in ONE_LOOK
    return known and not options.get("s_churn") and len(set(levels)) == len(levels)


@contextmanager
def remembered(guider: Any, key: str, state: Any) -> Iterator[None]:
    """A state among the guider's transformer_options for the time of the block; None is no state."""
    options = guider.model_options.setdefault("transformer_options", {})
    if state is not None:
        options[key] = state
    try:
        yield
    finally:
        options.pop(key, None)


def state_in(model_options: Mapping[str, Any] | None, key: str) -> Any:
    """A feature's state of this run, from a guider's model_options; None where it does nothing in this run."""
    return ((model_options or {}).get("transformer_options") or {}).get(key)
