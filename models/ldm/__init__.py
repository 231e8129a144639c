"""Latent diffusion's own checkpoints (CompVis/latent-diffusion): cin256-v2, celeba256, ffhq256 and the LSUN ones.

One file holds the U-Net, its averaged weights, an autoencoder and the table of classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..adm import attention_guesses, imagenet_classes, levels_of, numbered, training_guesses, unet_blocks_a_level
from ..adm.network import UNet
from ..adm.public import Signature, signature
from ..architecture import Architecture, Facts, tuples
from ..state_dict import CheckpointError, StateDict, averaged_weights, without_bookkeeping
from .network import ClassConfig, ClassUNet, LatentConfig

Config = TypeVar("Config", bound=LatentConfig)
UNET, FIRST_STAGE, CLASSES = "model.diffusion_model.", "first_stage_model.", "cond_stage_model.embedding.weight"
OUT = "input_blocks.1.0.out_layers.3.weight"
SCALE = "scale_factor"  # a number beside the weights, in files whose latents are scaled
CHURCHES: Signature = (4, 192, 2, (1, 2, 2, 4, 4), (1, 2, 4, 8), True)
PUBLIC: dict[Signature, dict[str, int | None]] = {  # and their heads
    (3, 224, 2, (1, 2, 3, 4), (2, 4, 8), False): {"head_channels": 32},  # celeba256, ffhq256, lsun_beds256
    CHURCHES: {"num_heads": 8},  # lsun_churches256
}
IMAGENET: Signature = (3, 192, 2, (1, 2, 3, 5), (2, 4, 8), False)  # cin256-v2: one head
FACTORS = {3: 4, 4: 8}  # channels of a latent -> pixels that one of its elements is wide
IMAGENET_LABELS = 1001  # with a row for no class


def is_latent(state: StateDict) -> bool:
    """Whether a file holds a diffusion model beside an autoencoder, and no text encoder, as Stable Diffusion's do."""
    texts = any(key.startswith("cond_stage_model.") and key != CLASSES for key in state)
    return not texts and any(key.startswith(FIRST_STAGE) for key in state) and f"{UNET}out.2.weight" in state


def parted(state: StateDict, name: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The U-Net that is sampled with, the table of classes with it, and what stands beside: autoencoder and scale.

    Raises CheckpointError for a file without a U-Net.
    """
    scale = state.get(SCALE, torch.tensor(1.0))
    if scale.numel() != 1 or not (scale.is_meta or bool(torch.isfinite(scale).all())):
        raise CheckpointError(f"{name} has a scale_factor that is no number; the file is damaged")
    weights = averaged_weights(without_bookkeeping(state))
    network = {key.removeprefix(UNET): value for key, value in weights.items() if key.startswith(UNET)}
    network |= {key: value for key, value in weights.items() if key == CLASSES}
    beside = {key: value for key, value in state.items() if key.startswith(FIRST_STAGE)}
    return network, beside | {SCALE: scale.float()}


def scale_of(beside: Mapping[str, Tensor]) -> float:
    """What latents of the autoencoder are multiplied by."""
    return float(beside.get(SCALE, torch.tensor(1.0)))


def read_latent(state: StateDict) -> LatentConfig:
    """32 channels a head where the file is unknown."""
    config = _read(state, LatentConfig)
    return replace(config, **PUBLIC.get(signature(config), {"head_channels": 32}))


def read_classes(state: StateDict) -> ClassConfig:
    """One head. Attention stands where transformers do."""
    labels, width = state[CLASSES].shape
    as_adm = {key.replace("transformer_blocks.0.attn1.to_q", "qkv"): value for key, value in state.items()}
    config = _read(as_adm, ClassConfig)
    return replace(config, labels=labels, text_width=width, num_heads=1)


def _read(state: StateDict, kind: type[Config]) -> Config:
    levels = levels_of(state, unet_blocks_a_level(state), state["time_embed.0.weight"].shape[1])
    factor = FACTORS.get(levels["in_channels"])
    if factor is None:
        raise CheckpointError(
            f"works on latents of {levels['in_channels']} channels; latent diffusion's models of 3 and 4 are known"
        )
    more: dict[str, Any] = {"text_width": 1} if kind is ClassConfig else {}
    out = state["out.2.weight"].shape[0]
    more["resblock_updown"] = not any(key.startswith("input_blocks.") and ".0.op." in key for key in state)
    scaled = state["input_blocks.1.0.emb_layers.1.weight"].shape[0] == 2 * state[OUT].shape[0]
    return kind(**levels, **more, out_channels=out, scale_shift_norm=scaled, factor=factor)


def facts(config: LatentConfig) -> Facts:
    labels = getattr(config, "labels", 0)
    names = imagenet_classes() if labels == IMAGENET_LABELS else numbered(labels - 1 if labels else 0)
    return Facts(
        image_size=256,
        schedule="latent churches" if signature(config) == CHURCHES else "latent",
        class_names=names,
        no_class=labels - 1 if labels else None,
        class_tokens=bool(labels),
        space={4: "latent f4", 8: "latent f8"}[config.factor],
    )


def guesses(config: LatentConfig) -> dict[str, str]:
    if signature(config) in (*PUBLIC, IMAGENET):
        return {}
    return attention_guesses(config) | training_guesses(facts(config))


KEYS = ("time_embed.0.weight", "input_blocks.0.0.weight", "input_blocks.1.0.emb_layers.1.weight", "out.2.weight")
UNCONDITIONAL: Architecture[LatentConfig] = Architecture(
    id="ldm_unet",
    title="a latent diffusion U-Net",
    kind="model",
    keys=(*KEYS, "middle_block.1.qkv.weight"),
    absent=(CLASSES,),
    read_config=read_latent,
    parse_config=lambda config: LatentConfig(**tuples(config)),
    build=UNet,
    facts=facts,
    inputs=tuple(FACTORS),
    guesses=guesses,
)
CLASS_CONDITIONAL: Architecture[ClassConfig] = Architecture(
    id="ldm_classes",
    title="a class-conditional latent diffusion U-Net",
    kind="model",
    keys=(*KEYS, "middle_block.1.transformer_blocks.0.attn2.to_k.weight", CLASSES),
    absent=(),
    read_config=read_classes,
    parse_config=lambda config: ClassConfig(**tuples(config)),
    build=ClassUNet,
    facts=facts,
    inputs=tuple(FACTORS),
    guesses=guesses,
)
