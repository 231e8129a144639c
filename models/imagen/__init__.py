"""DeepFloyd's IF, stages I and II (deep-floyd/IF): an Imagen with public weights."""

from __future__ import annotations

from dataclasses import replace

from ..adm import attention_guesses, level_blocks, own_levels, training_guesses, with_heads
from ..architecture import COLOURS, Architecture, Facts, tuples
from ..state_dict import StateDict
from .network import SCALE, ImagenConfig, ImagenUNet

STAGES = ("first", "second")
SHAPE = ((1, 2, 3, 4), 3, (2, 4, 8))  # multipliers, blocks a level and attention of stage I, whatever its width
AUGMENTATION = 0.25  # the usual level of noise on the small picture, of 1
SIDE = {False: 64, True: 256}  # of the published stages' pictures


def read_config(state: StateDict) -> ImagenConfig:
    """64 channels a head in pixels and 64 heads on the text, as in the published files.

    The second stage scales its residual blocks and activates the embedding once; weights don't tell that.
    """
    augments = "aug_proj.0.weight" in state
    t5_width = state["encoder_pooling.0.weight"].shape[0]
    config = ImagenConfig(
        **own_levels(state),
        activation="gelu",
        t5_width=t5_width,
        text_width=state["middle_block.1.norm_encoder.weight"].shape[0],
        text_norm=True,
        pool_heads=64 if t5_width % 64 == 0 else 1,
        augments=augments,
    )
    config = replace(config, text_only=tuple(level for level in config.attention if _reads_text_alone(state, level)))
    return with_heads(as_stage(config, STAGES[augments]))


def _reads_text_alone(state: StateDict, level: int) -> bool:
    """Whether the attention of a level, 1, 2, 4, ..., has queries alone; the deepest one shows it in the middle too."""
    blocks = level_blocks(state)
    depth = level.bit_length() - 1
    qkv = state[f"input_blocks.{1 + sum(blocks[:depth]) + depth}.1.qkv.weight"]
    return qkv.shape[0] == qkv.shape[1]


def as_stage(config: ImagenConfig, stage: str) -> ImagenConfig:
    """With the residual blocks of one of STAGES. Raises ValueError for other networks' configurations."""
    if not isinstance(config, ImagenConfig):
        raise ValueError("only a U-Net of DeepFloyd's IF has a stage; use auto")
    second = stage == STAGES[1]
    return replace(config, activate_once=second, residual_scale=SCALE if second else 1.0)


def facts(config: ImagenConfig) -> Facts:
    return Facts(
        image_size=SIDE[config.augments],
        schedule="cosine",
        learned_variance=config.out_channels == 2 * COLOURS,
        low_res_channels=config.in_channels - COLOURS,
        text_encoder="T5",
        text_width=config.t5_width,
        enlarging="bilinear corners",
        augmentation=AUGMENTATION if config.augments else None,
    )


def guesses(config: ImagenConfig) -> dict[str, str]:
    """IF's own description of its second stage is not public, so what shapes don't tell of it is said."""
    shape = (config.channel_mult, config.num_res_blocks, config.attention)
    if not config.augments and shape == SHAPE and config.head_channels == 64:
        return {}
    stage = {"if_stage": STAGES[config.activate_once]}
    return attention_guesses(config) | training_guesses(facts(config)) | stage


IMAGEN: Architecture[ImagenConfig] = Architecture(
    id="imagen",
    title="a U-Net of DeepFloyd's IF",
    kind="model",
    keys=(
        "time_embed.0.weight",
        "input_blocks.0.0.weight",
        "input_blocks.1.0.emb_layers.1.weight",
        "middle_block.1.encoder_kv.weight",
        "middle_block.1.norm_encoder.weight",
        "out.2.weight",
        "encoder_pooling.0.weight",
        "encoder_pooling.1.q_proj.weight",
    ),
    absent=("token_embedding.weight",),
    read_config=read_config,
    parse_config=lambda config: ImagenConfig(**tuples(config)),
    build=ImagenUNet,
    facts=facts,
    guesses=guesses,
)
