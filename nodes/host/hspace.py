"""Edits of the bottleneck in the host: on our networks, and on the host's own U-Nets without changing their code."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel, forward_timestep_embed
from comfy.patcher_extension import WrappersMP
from torch import Tensor, nn
from torch.nn.functional import interpolate

from ...guidance.hspace import added, asymmetric, at_progress, mixed, several_factor, step_count_factor
from ...guidance.weight import Weight
from ...models.ddpm.network import DDPM
from .hspace_calibration import Calibration
from .pixel_model import HALVES, VARIANCE, PixelNetwork
from .run_state import SAME, progress_function

KEY = "diffusion_guidance_hspace"
BOTH, COND, UNCOND = "both", "cond", "uncond"
ADM_FAMILY, DDPM_FAMILY = "ADM", "DDPM"
DIRECTION, DELTA_BLOCK = "direction", "delta block"
SIDES = {BOTH: (0, 1), COND: (0,), UNCOND: (1,)}
VIDEO = ("time_context", "num_video_frames", "image_only_indicator")  # what the host hands to each block of SVD


@dataclass(frozen=True)
class Moment:
    """Where in a run an edit happens."""

    sigma: float
    following: float
    progress: float
    steps: int
    chunks: int = 1  # predictions of CFG in one batch, one behind the other


Shift = Callable[[Tensor, Tensor, Moment], Tensor]  # (h [B C h w], embedding [B E], moment) -> delta_h


@dataclass(frozen=True, eq=False)
class Edit:
    """One direction in h-space: what it adds at strength 1, and where it belongs."""

    name: str
    shift: Shift
    channels: int
    trained_steps: int | None = None  # of a delta network: its effect is spread over the steps
    model: str = ""  # name of the model it was made for; empty: unknown
    fingerprint: str = ""
    strength: float = 1.0
    tensors: dict[str, Tensor] = field(default_factory=dict)  # what saving it writes
    kind: str = ""
    family: str = ""  # a delta block's: of which architecture's bottleneck and embedding it was made for

    def delta_h(self, h: Tensor, emb: Tensor, moment: Moment) -> Tensor:
        factor = self.strength * step_count_factor(self.trained_steps, moment.steps)
        return factor * self.shift(h, emb, moment)


def direction_edit(delta_h: Tensor, **known: Any) -> Edit:
    """A direction [n C h w], one for each of n ranges of progress."""
    return Edit(
        shift=lambda h, emb, moment: at_progress(delta_h, moment.progress, h),
        channels=delta_h.shape[1],
        tensors={"delta_h": delta_h},
        kind=DIRECTION,
        **known,
    )


def network_edit(network: nn.Module, **known: Any) -> Edit:
    """A published or trained delta block. It is small and lives where the sample is."""
    network.eval().requires_grad_(False)

    def shift(h: Tensor, emb: Tensor, moment: Moment) -> Tensor:
        network.to(h.device)
        return network(h.float(), emb.float()).to(h)

    config: Any = network.config
    family = ADM_FAMILY if config.norm_first else DDPM_FAMILY
    state = dict(network.state_dict())
    return Edit(shift=shift, channels=config.channels, tensors=state, kind=DELTA_BLOCK, family=family, **known)


@dataclass(frozen=True, eq=False)
class Application:
    """What HSpace Edit was told."""

    edits: Sequence[Edit]
    weight: Weight
    asymmetric: bool
    side: str
    preserve_norm: bool
    mask: Tensor | None
    content: Callable[[Tensor, Moment], Tensor] | None = None  # injection: another picture's h instead of a shift
    calibration: float = 0.0  # omega of InjectFusion; 0: Asyrp's step

    def edited(self, h: Tensor, emb: Tensor, moment: Moment) -> Tensor:
        """h with all edits; outside the mask, and at the rows of the other side, h itself."""
        strength = self.weight(moment.progress)
        if self.content is not None:
            changed = mixed(h, self.content(h, moment), strength)
        else:
            factor = strength * several_factor(len(self.edits))
            delta_h = torch.stack([edit.delta_h(h, emb, moment).expand_as(h) for edit in self.edits]).sum(0)
            changed = added(h, factor * delta_h, self.preserve_norm)
        if self.mask is None:
            return changed
        mask = interpolate(self.mask.reshape(-1, 1, *self.mask.shape[-2:]).to(h), h.shape[-2:], mode="area")
        return h + mask[:1] * (changed - h)


def bottleneck_of(model: Any) -> nn.Module:
    """The network of a MODEL whose h can be edited. Raises ValueError for others."""
    network = model.model.diffusion_model
    if isinstance(network, (PixelNetwork, UNetModel)):
        return network
    raise ValueError(
        f"h-space is the bottleneck of a U-Net (this pack's models, SD1.5, SDXL), and this model is a "
        f"{type(network).__name__}, which has none"
    )


def owner_of(model: Any) -> tuple[str, str]:
    """(name, fingerprint) of a MODEL's own weights, LoRAs aside."""
    network = bottleneck_of(model)
    name = getattr(network, "name", type(model.model).__name__)
    key = next(
        key
        for key, value in model.model.state_dict().items()
        if ("middle_block" in key or ".mid." in key) and value.ndim == 4
    )
    backup = model.backup.get(key) or getattr(getattr(model, "parent", None), "backup", {}).get(key)
    weight = model.model.state_dict()[key] if backup is None else backup.weight
    return name, hashlib.sha256(weight.detach().float().cpu().contiguous().numpy().tobytes()).hexdigest()[:16]


def check_owner(edit: Edit, model: Any) -> None:
    """Raises ValueError for an edit of another model."""
    if edit.fingerprint:
        name, fingerprint = owner_of(model)
        if fingerprint != edit.fingerprint:
            raise ValueError(f"the direction {edit.name!r} was made for {edit.model}, and this model is {name}")


def check_width(edit: Edit, model: Any) -> None:
    """Raises ValueError for an edit of another width, or a delta block of the other family of networks."""
    network: Any = bottleneck_of(model)
    if isinstance(network, PixelNetwork):
        config: Any = network.network.config
        family = DDPM_FAMILY if isinstance(network.network, DDPM) else ADM_FAMILY
        base = config.channels if family == DDPM_FAMILY else config.model_channels
        channels, name = int(base * config.channel_mult[-1]), network.name
    else:
        family, channels, name = "Stable Diffusion", network.middle_block[0].out_channels, "this U-Net"
    if edit.channels != channels:
        raise ValueError(
            f"{edit.name!r} changes a bottleneck of {edit.channels} channels, that of {name} has {channels}; use a "
            "direction made for this model"
        )
    if edit.family and edit.family != family:
        raise ValueError(
            f"{edit.name!r} is a delta block for {edit.family} networks, and {name} is of the {family} family; use a "
            "delta block trained for it"
        )


def applied(model: Any, application: Application, alone: bool = False) -> Any:
    """A clone of the MODEL with one application more, or with this one alone. All of them share one wrapper."""
    bottleneck_of(model)
    before = applications(model)
    model = model.clone()
    model.set_attachments(KEY, [application] if alone else [*before, application])
    if not before:
        model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, _around_run)
        model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, KEY, _around_network)
    return model


def applications(model: Any) -> list[Application]:
    return model.get_attachment(KEY) or []


@dataclass(frozen=True, eq=False)
class _Run:
    """What the network's wrapper must know of a run."""

    jobs: Sequence[Application]
    levels: Sequence[float]
    progress_of: Callable[[float], float]
    sampling: Any


def _around_run(executor: Any, noise: Tensor, latent: Tensor, sampler: Any, sigmas: Tensor, *args: Any, **kwargs: Any):
    """OUTER_SAMPLE: where the run is can be read from its schedule and the model's measure of progress."""
    guider = executor.class_obj
    sampling = guider.model_patcher.get_model_object("model_sampling")
    levels = [float(sigma) for sigma in sigmas]
    state = _Run(applications(guider.model_patcher), levels, progress_function(sampling), sampling)
    guider.model_options.setdefault("transformer_options", {})[KEY] = state
    try:
        return executor(noise, latent, sampler, sigmas, *args, **kwargs)
    finally:
        guider.model_options["transformer_options"].pop(KEY, None)


def _moment(options: dict[str, Any], run: _Run) -> Moment:
    sigma = float(options["sigmas"].flatten()[0])
    following = max((level for level in run.levels if level < sigma * (1 - SAME)), default=0.0)
    chunks = len(options.get("cond_or_uncond", [0]))
    return Moment(sigma, following, run.progress_of(sigma), max(1, len(run.levels) - 1), chunks)


def _around_network(executor: Any, x: Tensor, timesteps: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """DIFFUSION_MODEL: the network's output, and inside the window that of the decoder half on the edited h."""
    named = "transformer_options" in kwargs
    place = None if named else next(k for k, part in enumerate(args) if _is_options(part))
    options: dict[str, Any] = kwargs["transformer_options"] if place is None else args[place]
    run: _Run | None = options.get(KEY)
    if run is None:
        return executor(x, timesteps, *args, **kwargs)
    moment = _moment(options, run)
    work = [job for job in run.jobs if job.weight(moment.progress)]
    if not work or moment.sigma <= 0:
        return executor(x, timesteps, *args, **kwargs)
    dicts = (part for part in (kwargs.get("control"), *args) if isinstance(part, dict) and part is not options)
    control = next(dicts, {})
    residuals = {key: list(value) for key, value in control.items()}

    def evaluate(changed: dict[str, Any], at: Tensor = x) -> Tensor:
        control.update({key: list(value) for key, value in residuals.items()})  # the host takes them off these lists
        if place is None:
            return executor(at, timesteps, *args, **{**kwargs, "transformer_options": changed})
        return executor(at, timesteps, *args[:place], changed, *args[place + 1 :], **kwargs)

    network = executor.class_obj
    halves = _pixel_halves if isinstance(network, PixelNetwork) else _unet_halves
    video = {name: kwargs[name] for name in VIDEO if name in kwargs}
    plain, decode = halves(network, evaluate, options, video)
    symmetric = [job for job in work if not job.asymmetric]
    result = plain
    if symmetric:
        result = decode(lambda h, emb: _all(symmetric, h, emb, moment, options))
    for job in (job for job in work if job.asymmetric):
        edited = decode(lambda h, emb, job=job: job.edited(h, emb, moment))
        if job.calibration:
            calibration = Calibration(run.sampling, moment.sigma, moment.following, job.calibration)
            again = partial(evaluate, {**options, VARIANCE: None})
            moved = calibration.output(again, x, plain, edited)
        else:
            moved = asymmetric(plain, edited, moment.sigma, moment.following)
        result = result + _chosen(torch.zeros_like(plain), moved - plain, job, options)
    return result


def _is_options(part: Any) -> bool:
    return isinstance(part, dict) and "cond_or_uncond" in part


def _all(jobs: Sequence[Application], h: Tensor, emb: Tensor, moment: Moment, options: dict[str, Any]) -> Tensor:
    """Symmetric edits one after the other, each at the rows of its side."""
    for job in jobs:
        h = _chosen(h, job.edited(h, emb, moment), job, options)
    return h


def _chosen(plain: Tensor, edited: Tensor, job: Application, options: dict[str, Any]) -> Tensor:
    """The edited rows of the side that was asked for."""
    sides = options.get("cond_or_uncond", [0])
    wanted = [side in SIDES[job.side] for side in sides]
    if all(wanted):
        return edited
    parts = zip(plain.chunk(len(sides)), edited.chunk(len(sides)), wanted, strict=True)
    return torch.cat([new if take else old for old, new, take in parts])


ChangeH = Callable[[Tensor, Tensor], Tensor]
Decode = Callable[[ChangeH], Tensor]
Evaluate = Callable[[dict[str, Any]], Tensor]  # transformer_options -> the network's output


def _pixel_halves(
    network: Any, evaluate: Evaluate, options: dict[str, Any], video: dict[str, Any]
) -> tuple[Tensor, Decode]:
    """Our networks: the encoder half once, the decoder half as often as wanted."""
    halves: dict[str, Any] = {}
    plain = evaluate({**options, HALVES: halves})
    return plain, lambda change: halves["decode"](change)


def _unet_halves(
    network: Any, evaluate: Evaluate, options: dict[str, Any], video: dict[str, Any]
) -> tuple[Tensor, Decode]:
    """The host's U-Net: its own pass, recorded, and its output blocks again with every other output patch."""
    seen: dict[str, Any] = {"skips": []}
    patches = options.get("patches", {})
    others = list(patches.get("output_block_patch", []))

    def middle(arguments: dict[str, Any]) -> dict[str, Any]:
        seen.update(arguments, index=options_now(arguments).get("transformer_index", 0))
        seen["h"] = arguments["h"].clone()
        return arguments

    def output(h: Tensor, skip: Tensor, now: dict[str, Any]) -> tuple[Tensor, Tensor]:
        if not seen["skips"] and "emb" not in seen:
            seen["h"] = h.clone()  # an older host: here the bottleneck comes by
        seen["skips"].append(skip.clone())
        seen["options"] = now
        return h, skip

    recording = {
        **patches,
        "middle_block_after_patch": [*patches.get("middle_block_after_patch", []), middle],
        "output_block_patch": [output, *others],
    }
    plain = evaluate({**options, "patches": recording})

    def decode(change: ChangeH) -> Tensor:
        if "emb" not in seen:
            return _second_pass(evaluate, options, others, change)
        return _output_half(network, change(seen["h"], seen["emb"]).to(seen["h"]), seen, others, video)

    return plain, decode


def options_now(arguments: dict[str, Any]) -> dict[str, Any]:
    return arguments.get("transformer_options", {})


def _output_half(network: Any, h: Tensor, seen: dict[str, Any], others: Sequence[Any], video: dict[str, Any]) -> Tensor:
    """The output blocks as `UNetModel._forward` runs them, on recorded skips."""
    options = {**seen["options"], "transformer_index": seen["index"]}
    skips, dtype = seen["skips"], seen["x"].dtype
    for place, module in enumerate(network.output_blocks):
        options["block"] = ("output", place)
        skip = skips[place].clone()
        for patch in others:
            h, skip = patch(h, skip, options)
        if skip is not None:
            h = torch.cat([h, skip], dim=1)
        shape = skips[place + 1].shape if place + 1 < len(skips) else None
        h = forward_timestep_embed(module, h, seen["emb"], seen["context"], options, shape, **video)
    return network.out(h.type(dtype))


def _second_pass(evaluate: Evaluate, options: dict[str, Any], others: Sequence[Any], change: ChangeH) -> Tensor:
    """Hosts before 0.24 hand over neither embedding nor middle: everything is evaluated again with h changed."""
    done: list[bool] = []

    def output(h: Tensor, skip: Tensor, now: dict[str, Any]) -> tuple[Tensor, Tensor]:
        if not done:
            done.append(True)
            h = change(h, h.new_zeros(len(h), 1)).to(h)
        return h, skip

    patches = {**options.get("patches", {}), "output_block_patch": [output, *others]}
    return evaluate({**options, "patches": patches})
