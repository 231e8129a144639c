"""What `launches` and `gpu_cost` measure: every feature of the pack, in runs of models of public shapes.

Weights are random and every size is the public one, or everything is `narrow`: as many layers, a few channels each.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from .guide_cost import tiny_vae, unet

NARROW = 32  # channels of a narrow network's first level
ALWAYS = {"start_percent": 0.0, "end_percent": 1.0}
TEXT = "a red star"
SCALE = 7.0  # of CFG
SIDE = 224  # of what encoders look at


def sdxl_config(width: int = 320) -> Any:
    """The host's configuration of SDXL's U-Net."""
    import comfy.supported_models

    return comfy.supported_models.SDXL(
        {
            "image_size": 32,
            "in_channels": 4,
            "out_channels": 4,
            "model_channels": width,
            "num_res_blocks": [2, 2, 2],
            "channel_mult": (1, 2, 4),
            "transformer_depth": [0, 0, 2, 2, 10, 10],
            "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
            "transformer_depth_middle": 10,
            "context_dim": 2048,
            "num_head_channels": min(64, width // 4),
            "use_spatial_transformer": True,
            "use_linear_in_transformer": True,
            "num_classes": "sequential",
            "adm_in_channels": 2816,
            "legacy": False,
        }
    )


def on_host(model: Any, dtype: torch.dtype) -> Any:
    """A MODEL of the host's BaseModel in that type, on the host's devices."""
    import comfy.model_management as mm
    import comfy.model_patcher

    model.diffusion_model.to(dtype).requires_grad_(False)
    model.diffusion_model.dtype, model.manual_cast_dtype = dtype, None
    device, offload = mm.get_torch_device(), mm.unet_offload_device()
    return comfy.model_patcher.ModelPatcher(model, load_device=device, offload_device=offload)


def drawn(module: torch.nn.Module) -> torch.nn.Module:
    """A module with random weights of about the size that keeps its activations' size."""
    for parameter in module.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=(2 / parameter[0].numel()) ** 0.5 / 2)
    return module


@dataclass
class Runs:
    """Runs of one MODEL, plain and with features. `device` is where weights are drawn."""

    pack: dict[str, Any]
    narrow: bool = True
    dtype: torch.dtype = torch.float32
    device: str = "cpu"
    batch: int = 1
    latent: tuple[int, int, int] = (4, 64, 64)  # of a sample
    cfg: float = 1.0
    sampler: str = "euler"
    window: dict[str, float] = field(default_factory=dict)  # of all features; empty: their own

    @property
    def width(self) -> int:
        return NARROW if self.narrow else 320

    @cached_property
    def model(self) -> Any:
        return on_host(unet(self.width, self.device).model, self.dtype)

    @property
    def bottleneck(self) -> int:
        return 4 * self.width

    @cached_property
    def positive(self) -> Any:
        return self.context(3)

    @cached_property
    def negative(self) -> Any:
        return self.context(4)

    def context(self, seed: int) -> Any:
        return [[torch.randn(1, 77, 768, generator=torch.Generator().manual_seed(seed)), {}]]

    @cached_property
    def encoder(self) -> Any:
        """A GUIDANCE_ENCODER of CLIP ViT-B/16's depth."""
        clip: Any = importlib.import_module("pack.models.clip")
        host: Any = importlib.import_module("pack.nodes.host.guides.encoder")
        architecture: Any = importlib.import_module("pack.models.architecture")
        width, embed = (64, 64) if self.narrow else (768, 512)
        text = {"text_width": embed, "text_layers": 12, "text_heads": embed // 64, "text_mlp_ratio": 4.0}
        config = clip.ClipConfig(embed, SIDE, width, (12,), 16, 64, 4.0, **text, context=77, vocabulary=49408)
        facts, state = architecture.Facts(image_size=SIDE), clip.build(config).state_dict()
        return host.load_encoder(architecture.Checkpoint("random ViT-B-16", clip.CLIP, config, facts, state))

    @cached_property
    def vae(self) -> Any:
        return tiny_vae()

    @cached_property
    def image(self) -> Tensor:
        return torch.rand(1, 256, 256, 3, generator=torch.Generator().manual_seed(5))

    def node(self, name: str, **inputs: Any) -> Any:
        """The first output of a node, with its defaults for what isn't given."""
        entries = self.pack[f"Guidance_{name}"].GET_SCHEMA().inputs
        defaults = {entry.id: getattr(entry, "default", None) for entry in entries}
        given = {key: value for key, value in {**defaults, **inputs}.items() if value is not None}
        return self.pack[f"Guidance_{name}"].execute(**given).args[0]

    # --- features, each a MODEL

    def guide(self, kind: str) -> Any:
        seen = {"Text": {"text": TEXT}}.get(kind, {"image": self.image})
        encoder = {} if kind == "Palette" else {"encoder": self.encoder}
        return self.node(f"{kind}Guide", **encoder, **seen, **self.window)

    def guided(self, *kinds: str, model: Any = None, **options: Any) -> Any:
        guides = [guide for kind in kinds for guide in self.guide(kind)]
        model = self.model if model is None else model
        return self.node("ApplyGuides", model=model, guides=guides, tiny_vae=self.vae, **options)

    def edited(self, model: Any = None, **options: Any) -> Any:
        hspace: Any = importlib.import_module("pack.nodes.host.hspace.edit")
        delta_h = torch.randn(1, self.bottleneck, 1, 1, generator=torch.Generator().manual_seed(6))
        edits = [hspace.direction_edit(delta_h, name="random")]
        model = self.model if model is None else model
        return self.node("HSpaceEdit", model=model, hspace=edits, **{**self.window, **options})

    def injected(self, **options: Any) -> Any:
        content = {"samples": torch.randn(1, *self.latent, generator=torch.Generator().manual_seed(7))}
        given = {"latent": content, "conditioning": self.positive, "steps": 4, **self.window, **options}
        return self.node("HSpaceInject", model=self.model, **given)

    def patched(self, method: str = "constant", **settings: Any) -> Any:
        return self.node(
            "CFGPatch", model=self.model, method={"method": method, **settings}, guidance_scale=SCALE, **self.window
        )

    # --- their runs

    def guider(self, model: Any = None, cfg: float | None = None) -> Any:
        """CFGGuider, as KSampler has it."""
        import comfy.samplers

        guider = comfy.samplers.CFGGuider(self.model if model is None else model)
        guider.set_conds(self.positive, self.negative)
        guider.set_cfg(self.cfg if cfg is None else cfg)
        return guider

    def combiner(self, method: str = "constant", reference: str = "negative", **settings: Any) -> Any:
        condition = {"guidance_scale": SCALE, "reference": reference, **self.window}
        one = self.node("CFGCondition", conditioning=self.positive, **condition)
        wired = {"conditions": {"condition0": one}, "negative": self.negative}
        return self.node("CFGCombiner", model=self.model, method={"method": method, **settings}, **wired)

    def run(self, guider: Any, sigmas: Tensor, sampler: Any = None) -> Tensor:
        import comfy.samplers

        noise = torch.randn(self.batch, *self.latent, generator=torch.Generator().manual_seed(8))
        sampler = comfy.samplers.sampler_object(self.sampler) if sampler is None else sampler
        return guider.sample(noise, torch.zeros_like(noise), sampler, sigmas, disable_pbar=True, seed=0)

    def schedule(self, steps: int) -> Tensor:
        """The host's normal one."""
        import comfy.samplers

        return comfy.samplers.calculate_sigmas(self.model.get_model_object("model_sampling"), "normal", steps)


class SDXLRuns(Runs):
    """Of SDXL's shape."""

    @cached_property
    def model(self) -> Any:
        import comfy.model_base

        config = sdxl_config(self.width)
        config.set_inference_dtype(self.dtype, None)
        model = comfy.model_base.SDXL(config, device=torch.device(self.device))
        drawn(model.diffusion_model)
        return on_host(model, self.dtype)

    def context(self, seed: int) -> Any:
        random = torch.Generator().manual_seed(seed)
        return [[torch.randn(1, 77, 2048, generator=random), {"pooled_output": torch.randn(1, 1280, generator=random)}]]


class ADMRuns(Runs):
    """Of ADM's shape for pictures of 256 x 256 without classes, guided by the classifier of that size."""

    @cached_property
    def adm(self) -> Any:
        return importlib.import_module("pack.models.adm")

    def checkpoint(self, kind: str, **options: Any) -> Any:
        """Public but for the width; 256 channels in the U-Net, 128 in the classifier."""
        network: Any = importlib.import_module("pack.models.adm.network")
        architecture: Any = importlib.import_module("pack.models.architecture")
        mult, attention = (1, 1, 2, 2, 4, 4), (8, 16, 32)
        shared = {"num_res_blocks": 2, "channel_mult": mult, "attention": attention}
        shared |= {"num_heads": 1} if self.narrow else {"head_channels": 64}
        family, made = {
            "unet": (self.adm.UNET, network.UNetConfig),
            "classifier": (self.adm.CLASSIFIER, network.ClassifierConfig),
        }[kind]
        config = made(**shared, **options)
        facts = self.adm.unet_facts(config) if kind == "unet" else self.adm.classifier_facts(config)
        state = drawn(family.build(config, device=self.device)).state_dict()
        return architecture.Checkpoint(f"random ADM {kind}", family, config, facts, state)

    @property
    def bottleneck(self) -> int:
        return 4 * (NARROW if self.narrow else 256)

    @cached_property
    def model(self) -> Any:
        host: Any = importlib.import_module("pack.nodes.host.pixel_model")
        checkpoint = self.checkpoint("unet", model_channels=NARROW if self.narrow else 256, out_channels=6)
        return host.load_pixel_model(lambda: checkpoint)

    @cached_property
    def classifier(self) -> Any:
        host: Any = importlib.import_module("pack.nodes.host.guides.classifier")
        sizes = {"model_channels": NARROW if self.narrow else 128, "out_channels": 1000, "image_size": self.latent[-1]}
        return host.load_classifier(self.checkpoint("classifier", **sizes))

    def context(self, seed: int) -> Any:
        conditioning: Any = importlib.import_module("pack.nodes.host.conditioning")
        return conditioning.class_conditioning([-1])

    def classified(self, algorithm: str = "ddim", guidance_scale: float = 10.0) -> tuple[Any, Any]:
        """(guider, SAMPLER) of Classifier-Guided Sampler."""
        host: Any = importlib.import_module("pack.nodes.host.sampling")
        guides: Any = importlib.import_module("pack.nodes.host.guides.classifier")
        sampling: Any = importlib.import_module("pack.guidance.sampling")
        loop = {"ddim": sampling.sample_ddim, "ddpm": sampling.sample_ddpm}[algorithm]
        labels = torch.zeros(self.batch, dtype=torch.long)
        gradient = guides.classifier_gradient(self.classifier, labels, guidance_scale)
        guider = self.guider(self.classifier.beside(self.model), cfg=1.0)
        return guider, host.published_sampler(partial(loop), False, gradient)


METHODS: dict[str, dict[str, Any]] = {
    "rescale": {"phi": 0.7},
    "mimic threshold": {"mimic_scale": 3.0, "phi": 1.0},
    "APG": {"eta": 0.0, "cap": 0.06, "momentum": -0.5},
    "CFG++": {"strength": 0.6},
    "CFG-Zero*": {"strength": 1.0, "zero_init": 0.0},
    "tangential (TCFG)": {"strength": 1.0},
    "frequency (FDG)": {"low": 0.45, "high": 1.0},
    "perp-neg": {"strength": 1.0},
    "magnitude-aware (MAMBO-G)": {"alpha": 8.0},
    "history (HiGS)": {"strength": 0.5, "memory": 0.6},
    "adaptive skip": {"threshold": 0.9999},
}
Make = Callable[[Any], Any]  # Runs -> a guider

# What a table of costs has: under the guider's cfg, over the plain run of that cfg.
GUIDES: dict[str, Make] = {
    "text guide": lambda runs: runs.guider(runs.guided("Text")),
    "style guide": lambda runs: runs.guider(runs.guided("Style")),
    "structure guide": lambda runs: runs.guider(runs.guided("Structure")),
    "text + style": lambda runs: runs.guider(runs.guided("Text", "Style")),
    "text guide, every 2": lambda runs: runs.guider(runs.guided("Text", every=2)),
    "text guide through denoiser": lambda runs: runs.guider(runs.guided("Text", gradient="through denoiser")),
}
EDITS: dict[str, Make] = {
    "h-space edit": lambda runs: runs.guider(runs.edited()),
    "h-space edit, symmetric": lambda runs: runs.guider(runs.edited(asymmetric=False)),
}
CFG: dict[str, Make] = {
    "CFG Patch, constant": lambda runs: runs.guider(runs.patched()),
    "CFG Combiner, constant": lambda runs: runs.combiner(),
}
