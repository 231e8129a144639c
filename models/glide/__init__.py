"""GLIDE's four U-Nets (openai/glide-text2im): base and upsampler, each for whole pictures and for inpainting."""

from __future__ import annotations

from ..adm import attention_guesses, levels_of, training_guesses, unet_blocks_a_level, with_heads
from ..adm.public import Signature, signature
from ..architecture import COLOURS, Architecture, Facts, tuples
from ..state_dict import StateDict, count
from .network import BPE, ENLARGING, INPAINTING, GlideConfig, GlideUNet

PUBLIC: dict[Signature, int] = {  # and the side of its pictures
    (3, 192, 3, (1, 2, 3, 4), (2, 4, 8), True): 64,
    (7, 192, 3, (1, 2, 3, 4), (2, 4, 8), True): 64,
    (6, 192, 2, (1, 1, 2, 2, 4, 4), (8, 16, 32), True): 256,
    (10, 192, 2, (1, 1, 2, 2, 4, 4), (8, 16, 32), True): 256,
}


def read_config(state: StateDict) -> GlideConfig:
    """64 channels a head in pictures and text, as in the published files."""
    vocabulary, width = state["token_embedding.weight"].shape
    first = "input_blocks.1.0."
    config = GlideConfig(
        **levels_of(state, unet_blocks_a_level(state), state["time_embed.0.weight"].shape[1]),
        out_channels=state["out.2.weight"].shape[0],
        resblock_updown="input_blocks.0.0.op.weight" not in state,
        scale_shift_norm=state[f"{first}emb_layers.1.weight"].shape[0]
        == 2 * state[f"{first}out_layers.3.weight"].shape[0],
        text_width=width,
        text_layers=count(state, "transformer.resblocks.{}."),
        text_heads=max(1, width // 64),
        context=state["positional_embedding"].shape[0],
        vocabulary=vocabulary,
    )
    return with_heads(config)


def facts(config: GlideConfig) -> Facts:
    enlarges = config.in_channels in ENLARGING
    return Facts(
        image_size=PUBLIC.get(signature(config), 8 * config.downscale),
        schedule="linear" if enlarges else "cosine",
        learned_variance=config.out_channels == 2 * COLOURS,
        low_res_channels=COLOURS if enlarges else 0,
        kept_channels=COLOURS + 1 if config.in_channels in INPAINTING else 0,
        vocabulary=f"{len(config.words)} words" if config.words else "GPT-2",
    )


def guesses(config: GlideConfig) -> dict[str, str]:
    if signature(config) in PUBLIC and config.vocabulary == BPE:
        return {}
    return attention_guesses(config) | training_guesses(facts(config))


GLIDE: Architecture[GlideConfig] = Architecture(
    id="glide",
    title="a U-Net of GLIDE",
    kind="model",
    keys=(
        "time_embed.0.weight",
        "input_blocks.0.0.weight",
        "input_blocks.1.0.emb_layers.1.weight",
        "middle_block.1.encoder_kv.weight",
        "out.2.weight",
        "token_embedding.weight",
        "positional_embedding",
        "padding_embedding",
        "transformer.resblocks.0.attn.c_qkv.weight",
        "transformer_proj.weight",
    ),
    absent=(),
    read_config=read_config,
    parse_config=lambda config: GlideConfig(**tuples(config)),
    build=GlideUNet,
    facts=facts,
    inputs=tuple(sorted({*INPAINTING, *ENLARGING})),
    guesses=guesses,
)
