"""The files of Diffusion Autoencoders: phizaz/diffae's Lightning checkpoints, and the pack's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from ..adm import levels_of, longest_attention_run, unet_blocks_a_level
from ..adm.public import heads_of
from ..architecture import Architecture, Checkpoint, Facts, tuples
from ..state_dict import StateDict, count, statistics
from .network import DiffAEConfig, DiffusionAutoencoder, LatentConfig, SemanticCodec

ATTENTION_RESOLUTION = 16  # of every public file
STATISTICS = ("conds_mean", "conds_std")  # of z_sem over the training set, [1 D]
PUBLIC = {(128, (1, 1, 2, 2, 4, 4)), (128, (1, 1, 2, 3, 4)), (64, (1, 2, 4, 8))}  # widths of the public files
CODEC = ("encoder.", "latent_net.")  # beginnings of the keys that the decoder doesn't need


def read_config(state: StateDict) -> DiffAEConfig:
    """Every number from a shape."""
    width = state["time_embed.time_embed.0.weight"].shape[1]
    semantic = state["encoder.out.3.weight"].shape[0]
    encoder = {key.removeprefix("encoder."): value for key, value in state.items() if key.startswith("encoder.")}
    blocks = longest_attention_run(encoder)
    decoder = levels_of(state, unet_blocks_a_level(state), width)
    return DiffAEConfig(
        **decoder,
        out_channels=state["out.2.weight"].shape[0],
        semantic=semantic,
        encoder_mult=levels_of(encoder, blocks, width)["channel_mult"],
        encoder_res_blocks=blocks,
        latent=_latent(state),
    )


def _latent(state: StateDict) -> LatentConfig | None:
    layers = count(state, "latent_net.layers.{}.")
    if not layers:
        return None
    return LatentConfig(
        hidden=state["latent_net.layers.0.linear.weight"].shape[0],
        layers=layers,
        time_width=state["latent_net.time_embed.0.weight"].shape[1],
    )


def parse_config(config: Mapping[str, Any]) -> DiffAEConfig:
    read = tuples(config)
    latent = read.pop("latent", None)
    return DiffAEConfig(**read, latent=None if latent is None else LatentConfig(**latent))


def facts(config: DiffAEConfig) -> Facts:
    return Facts(image_size=ATTENTION_RESOLUTION * min(config.attention, default=1), semantic=config.semantic)


def guesses(config: DiffAEConfig) -> dict[str, str]:
    if (config.model_channels, config.channel_mult) in PUBLIC:
        return {}
    found = facts(config)
    return {
        "heads": heads_of(config),
        "schedule": found.schedule,
        "training_steps": str(found.training_steps),
        "image_size": str(found.image_size),
    }


def decoder_of(checkpoint: Checkpoint) -> Checkpoint:
    """The diffusion model alone, which z_sem steers."""
    state = {key: value for key, value in checkpoint.state.items() if not key.startswith(CODEC)}
    config = replace(checkpoint.config, encoder_mult=(), latent=None)
    return replace(checkpoint, config=config, state=state)


def statistics_of(checkpoint: Checkpoint) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Mean and deviation [D] of z_sem, of files that hold them. Raises CheckpointError for those of other codes."""
    if not any(key in checkpoint.beside for key in STATISTICS):
        return None
    return statistics(checkpoint.beside, STATISTICS, checkpoint.config.semantic, checkpoint.name)


def codec_of(checkpoint: Checkpoint) -> SemanticCodec:
    """Semantic encoder and latent prior with their weights, in float32."""
    with torch.random.fork_rng(devices=[]):  # its first weights are drawn, and nobody's random numbers used up
        network = SemanticCodec(checkpoint.config)
    state = {key: value.float() for key, value in checkpoint.state.items() if key.startswith(CODEC)}
    network.load_state_dict(state, strict=True)
    return network.eval().requires_grad_(False)


DIFFAE: Architecture[DiffAEConfig] = Architecture(
    id="diffae",
    title="a diffusion autoencoder",
    kind="model",
    keys=(
        "time_embed.time_embed.0.weight",
        "input_blocks.1.0.cond_emb_layers.1.weight",
        "middle_block.1.qkv.weight",
        "output_blocks.0.0.in_layers.0.weight",
        "encoder.input_blocks.0.0.weight",
        "encoder.out.3.weight",
        "out.2.weight",
    ),
    absent=(),
    read_config=read_config,
    parse_config=parse_config,
    build=DiffusionAutoencoder,
    facts=facts,
    guesses=guesses,
    beside=(*STATISTICS, "x_T"),
)
