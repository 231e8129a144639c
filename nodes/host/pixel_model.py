"""Our pixel-space networks as the host's own MODEL: its samplers, memory management, previews and VAE nodes work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import comfy.conds
import comfy.latent_formats
import comfy.model_base
import comfy.model_management as mm
import comfy.model_patcher
import comfy.model_sampling
import comfy.ops
import comfy.supported_models_base
import torch
from comfy.k_diffusion.utils import tf32_mode
from comfy.patcher_extension import WrapperExecutor, WrappersMP, get_all_wrappers
from torch import Tensor, nn

from ...guidance.classifier_energy import NO_CLASS
from ...guidance.tensors import repeated
from ...models.architecture import DESCRIPTION, Checkpoint, Facts, description
from ...models.ldm import scale_of
from ...models.schedule import NoiseSchedule, flow_velocity
from .conditioning import codes_in, labels_in, refuse_foreign
from .model import COLOURS, check_area, check_pictures
from .pixel.kept import kept_in, paste
from .pixel.small import picture_in
from .pixel.spaces import SPACES, PixelFormat
from .pixel.told import conditions, text_in

HALVES = "guidance_halves"  # of transformer_options: a dict that gets h, emb, and decode: another h -> output
VARIANCE = "guidance_variance"  # of transformer_options: a VarianceReader that wants the network's v
# What the host calls our schedules, for its own nodes that build a schedule anew (ModelSamplingDiscrete).
HOST_SCHEDULES = {
    "latent": {"beta_schedule": "linear", "linear_start": 0.0015, "linear_end": 0.0195},
    "latent churches": {"beta_schedule": "linear", "linear_start": 0.0015, "linear_end": 0.0155},
    "linear": {"beta_schedule": "sqrt_linear", "linear_start": 1e-4, "linear_end": 0.02},
    "cosine": {"beta_schedule": "cosine"},
}
AUTO, FLOAT32 = "auto", "float32"
PRECISIONS = (AUTO, FLOAT32)  # of a model's weights and arithmetic
FLOW_TIME = 1000.0  # what the host's flow clock multiplies sigma by


class VarianceReader:
    """Collects the variance channels that a network predicts beside its noise, for samplers that use them."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def begin(self, x: Tensor) -> None:
        """Before each prediction of x [B C H W]."""
        self.seen, self.shape = [], x.shape

    def receive(self, v: Tensor, cond_or_uncond: list[int]) -> None:
        """Takes the conditional part, as the published samplers do: [chunks * B C H W], 0 marks a conditional chunk."""
        for chunk, kind in zip(v.chunk(len(cond_or_uncond)), cond_or_uncond, strict=True):
            if kind == 0:
                if chunk.shape != self.shape:
                    raise ValueError("a learned variance can't be made up of conditioning areas; use fixed large")
                self.seen.append(chunk.float())

    @property
    def v(self) -> Tensor | None:
        """The mean over the conditions that were combined; None if the network predicts no variance."""
        return torch.stack(self.seen).mean(0) if self.seen else None


class PixelNetwork(nn.Module):
    """A network of ours in the place where the host expects its U-Net."""

    def __init__(
        self, checkpoint: Checkpoint, dtype: torch.dtype, device: Any = None, operations: Any = None, **_: Any
    ):
        super().__init__()
        self.dtype = dtype
        self.name = checkpoint.name
        self.facts = checkpoint.facts
        self.space = SPACES[checkpoint.facts.space]
        self.schedule = NoiseSchedule.of(checkpoint.facts)
        self.guessed_size = "image_size" in checkpoint.guesses
        self.in_channels = checkpoint.config.in_channels
        self.downscale = checkpoint.config.downscale
        self.network: Any = checkpoint.build(operations=operations, dtype=dtype, device=device)

    def forward(
        self, x: Tensor, t: Tensor, *args: Any, transformer_options: dict[str, Any] | None = None, **kwargs: Any
    ) -> Tensor:
        transformer_options = {} if transformer_options is None else transformer_options
        wrappers = get_all_wrappers(WrappersMP.DIFFUSION_MODEL, transformer_options)
        executor = WrapperExecutor.new_class_executor(self._forward, self, wrappers)
        return executor.execute(x, t, *args, transformer_options=transformer_options, **kwargs)

    def _forward(self, x: Tensor, t: Tensor, *args: Any, transformer_options: dict[str, Any], **given: Any) -> Tensor:
        halves: dict[str, Any] | None = transformer_options.get(HALVES)
        state = (x, t)
        told, text = conditions(given)
        seen: list[tuple[Tensor, list[Tensor], Tensor]] = []
        if halves is not None and not hasattr(self.network, "down_half"):
            raise ValueError(f"{self.name} is two networks in turn, and has no h to edit; use another model")

        def eps(x: Tensor, t: Tensor, edited: Tensor | None) -> Tensor:
            pictures = self.space.to_pixels(x)
            check_pictures(self, pictures.shape)
            inputs = (pictures, self._told(t), *told)
            if halves is None:
                out = self.network(*inputs)
            elif edited is None:
                seen[:] = [self.network.down_half(*inputs)]
                out = self.network.up_half(*seen[0], *text)
            else:
                skips, emb, rows = *seen[0][1:], len(edited)
                out = self.network.up_half(edited, [repeated(s, rows) for s in skips], repeated(emb, rows), *text)
            reader = transformer_options.get(VARIANCE)
            if reader is not None and edited is None and self.facts.learned_variance and self.facts.space == "pixels":
                reader.receive(out[:, COLOURS:], transformer_options.get("cond_or_uncond", [0]))
            return self.space.from_pixels(out[:, : self.space.predicted])

        def predict(edited: Tensor | None = None) -> Tensor:
            x, t = state if edited is None else [repeated(part, len(edited)) for part in state]
            if self.facts.prediction == "flow":
                return flow_velocity(lambda x, t: eps(x, t, edited), self.schedule, x, t / FLOW_TIME)
            return eps(x, t, edited)

        out = predict()
        if halves is not None:
            halves.update(h=seen[0][0], emb=seen[0][2], decode=predict, most=1 if text else None)
        return out

    def _told(self, t: Tensor) -> Tensor:
        """Timesteps as the network was trained to hear them."""
        return t * (1000 / self.facts.training_steps) if self.facts.rescale_timesteps else t


class PixelConfig(comfy.supported_models_base.BASE):
    """What the host asks of a model family."""

    unet_extra_config: dict[str, Any] = {}
    latent_format = PixelFormat
    memory_usage_factor = 0.1
    custom_operations: Any = None  # chosen with the weights' type
    optimizations = {"fp8": False}

    def __init__(self, checkpoint: Checkpoint):
        super().__init__({"checkpoint": replace(checkpoint, state={})})  # the weights are not kept twice
        self.latent_format = SPACES[checkpoint.facts.space].latent_format()
        self.latent_format.scale_factor = scale_of(checkpoint.beside)
        steps = {"timesteps": checkpoint.facts.training_steps}
        self.sampling_settings = HOST_SCHEDULES.get(checkpoint.facts.schedule, {}) | steps


class TrainedChain(comfy.model_sampling.ModelSamplingDiscrete, comfy.model_sampling.EPS):
    """A chain of any number of training steps; the host's own reckons percent in 1000."""

    whole = True  # percents are spread over all of them

    def percent_to_sigma(self, percent: float) -> float:
        if not 0 < percent < 1:
            return super().percent_to_sigma(percent)
        return self.sigma(torch.tensor((1.0 - percent) * (self.num_timesteps - 1))).item()


class PixelModel(comfy.model_base.BaseModel):
    """An eps-predicting pixel model with the noise schedule it was trained for and, perhaps, classes.

    Some are shown to the host as a flow, or in another space.
    """

    def __init__(self, config: PixelConfig, facts: Facts, device: Any = None):
        kinds = {"eps": comfy.model_base.ModelType.EPS, "flow": comfy.model_base.ModelType.FLOW}
        super().__init__(config, kinds[facts.prediction], device=device, unet_model=cast(Any, PixelNetwork))
        self.facts = facts
        if facts.prediction == "eps":
            self.model_sampling = TrainedChain(config)
            self.model_sampling._register_schedule(given_betas=NoiseSchedule.of(facts).betas)

    def state_dict_for_saving(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """What the host's Save Model writes: the weights, and what they don't tell."""
        checkpoint: Checkpoint = self.model_config.unet_config["checkpoint"]
        return super().state_dict_for_saving(*args, **kwargs) | {DESCRIPTION: description(checkpoint)}

    def extra_conds(self, **kwargs: Any) -> dict[str, Any]:
        out = super().extra_conds(**kwargs)
        check_area(self.diffusion_model, kwargs)
        out.pop("c_crossattn", None)  # what the network takes of the embedding is read here
        refuse_foreign(kwargs, self.facts)
        device = kwargs["device"]
        if self.facts.class_names:
            labels = labels_in(kwargs, self.facts)
            rows = torch.where(labels == NO_CLASS, self.facts.no_class or 0, labels)  # of the label table
            network: Any = self.diffusion_model.network
            tokens = network.read(rows.to(device)).states if self.facts.class_tokens else None
            named = ("y", rows.to(device)) if tokens is None else ("states", tokens)
            out[named[0]] = comfy.conds.CONDRegular(named[1])
        if self.facts.semantic:
            out["y"] = comfy.conds.CONDRegular(codes_in(kwargs, self.facts).to(device))
        for name, value in text_in(kwargs, self.facts, self.diffusion_model.network, device).items():
            out[name] = comfy.conds.CONDRegular(value)
        beside = [kept_in(kwargs)] if self.facts.kept_channels else []
        beside += [picture_in(kwargs, self.facts)] if self.facts.low_res_channels else []
        if beside:
            out["c_concat"] = comfy.conds.CONDNoiseShape(torch.cat(beside, dim=1))
        return out


def load_pixel_model(
    open_checkpoint: Callable[[], Checkpoint], precision: str = AUTO, disable_dynamic: bool = False
) -> comfy.model_patcher.ModelPatcher:
    """A MODEL. Its weights are normal tensors, so that gradients may pass through them.

    `open_checkpoint` is kept: the host reads the file again where it needs a second copy of the model. `precision` is
    one of PRECISIONS: the host's choice, half precision on most GPUs, or float32 without TF32 in its whole runs.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision is {precision!r}; choose one of {', '.join(PRECISIONS)}")
    with torch.inference_mode(False), torch.no_grad():
        checkpoint = open_checkpoint()
        config = PixelConfig(checkpoint)
        device, offload = mm.get_torch_device(), mm.unet_offload_device()
        parameters = sum(value.numel() for value in checkpoint.state.values())
        chosen = mm.unet_dtype(device, parameters, config.supported_inference_dtypes)
        dtype = torch.float32 if precision == FLOAT32 else chosen
        config.set_inference_dtype(dtype, mm.unet_manual_cast(dtype, device, config.supported_inference_dtypes))
        # casting layers cost a little at every call, and float32 weights need no cast
        full = dtype == torch.float32 and config.manual_cast_dtype in (None, dtype)
        config.custom_operations = comfy.ops.disable_weight_init if full else comfy.ops.manual_cast
        model = PixelModel(config, checkpoint.facts, device=offload)
        patcher_class = getattr(comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcher)
        if disable_dynamic:
            patcher_class = comfy.model_patcher.ModelPatcher
        patcher = patcher_class(model, load_device=device, offload_device=offload)
        is_dynamic = getattr(patcher, "is_dynamic", lambda: False)()
        state = {f"network.{key}": value.to(dtype) for key, value in checkpoint.state.items()}
        model.diffusion_model.load_state_dict(state, strict=True, assign=is_dynamic)
        model.diffusion_model.requires_grad_(False)
        if checkpoint.facts.kept_channels:
            patcher.set_model_sampler_post_cfg_function(paste)
        patcher.cached_patcher_init = (load_pixel_model, (open_checkpoint, precision))
        if precision == FLOAT32:
            patcher.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, "guidance_precision", _without_tf32)
    return patcher


def _without_tf32(executor: Any, *args: Any, **kwargs: Any) -> Any:
    """OUTER_SAMPLE: float32 means 24 bits, of the model and of all that guides it; a GPU's TF32 has 11, as fp16 has."""
    with tf32_mode(cudnn=False, matmul=False):
        return executor(*args, **kwargs)


def clamp_denoised(patcher: comfy.model_patcher.ModelPatcher) -> comfy.model_patcher.ModelPatcher:
    """The model with x0 clamped to [-1, 1] after CFG and before every guide (`clip_denoised` of the published code)."""
    patcher = patcher.clone()
    patcher.set_model_sampler_post_cfg_function(clamp)
    return patcher


def clamp(arguments: dict[str, Any]) -> Tensor:
    """A post-CFG function."""
    facts: Facts | None = getattr(arguments.get("model"), "facts", None)
    space = SPACES[facts.space if facts is not None else "pixels"]
    if not space.bounded:
        return arguments["denoised"]
    return space.from_pixels(space.to_pixels(arguments["denoised"]).clamp(-1, 1))
