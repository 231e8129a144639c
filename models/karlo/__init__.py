"""Karlo's decoder and super-resolution (kakaobrain/karlo v1.0.alpha), an unCLIP; its prior is in `models.prior`."""

from __future__ import annotations

from ..adm import attention_guesses, own_levels, training_guesses, with_heads
from ..adm.public import Signature, signature
from ..architecture import COLOURS, Architecture, Facts, tuples
from ..state_dict import StateDict
from .network import KarloConfig, KarloDecoder, KarloUpsampler, KarloUpsamplerConfig

PUBLIC: dict[Signature, int] = {  # and the side of its pictures
    (3, 320, 3, (1, 2, 3, 4), (2, 4, 8), True): 64,
    (6, 320, 3, (1, 2, 3, 4), (), True): 256,
}
FIRST = "model_first_steps."


def read_decoder(state: StateDict) -> KarloConfig:
    """64 channels a head, as in the published file."""
    width, clip = state["text_seq_proj.0.weight"].shape
    tokens = state["clip_tok_proj.weight"].shape[0] // width
    return with_heads(KarloConfig(**own_levels(state), text_width=width, clip_width=clip, image_tokens=tokens))


def decoder_facts(config: KarloConfig) -> Facts:
    return Facts(
        image_size=PUBLIC.get(signature(config), 8 * config.downscale),
        schedule="cosine",
        learned_variance=config.out_channels == 2 * COLOURS,
        text_encoder="CLIP",
        text_width=config.clip_width,
        image_embeds=config.clip_width,
    )


def decoder_guesses(config: KarloConfig) -> dict[str, str]:
    if signature(config) in PUBLIC:
        return {}
    return attention_guesses(config) | training_guesses(decoder_facts(config))


def read_upsampler(state: StateDict) -> KarloUpsamplerConfig:
    first = {key.removeprefix(FIRST): value for key, value in state.items() if key.startswith(FIRST)}
    return KarloUpsamplerConfig(**own_levels(first), middle_attention=False, scale_shift_norm=False)


def upsampler_facts(config: KarloUpsamplerConfig) -> Facts:
    return Facts(
        image_size=PUBLIC.get(signature(config), 8 * config.downscale),
        schedule="cosine",
        low_res_channels=COLOURS,
        enlarging="bicubic",
    )


def upsampler_guesses(config: KarloUpsamplerConfig) -> dict[str, str]:
    return {} if signature(config) in PUBLIC else training_guesses(upsampler_facts(config))


DECODER: Architecture[KarloConfig] = Architecture(
    id="karlo_decoder",
    title="Karlo's decoder",
    kind="model",
    keys=(
        "cf_param",
        "time_embed.0.weight",
        "input_blocks.0.0.weight",
        "middle_block.1.encoder_kv.weight",
        "out.2.weight",
        "clip_emb.weight",
        "clip_tok_proj.weight",
        "text_seq_proj.0.weight",
        "text_feat_proj.weight",
    ),
    absent=("token_embedding.weight", "encoder_pooling.0.weight"),
    read_config=read_decoder,
    parse_config=lambda config: KarloConfig(**tuples(config)),
    build=KarloDecoder,
    facts=decoder_facts,
    guesses=decoder_guesses,
)
UPSAMPLER: Architecture[KarloUpsamplerConfig] = Architecture(
    id="karlo_upsampler",
    title="Karlo's super-resolution",
    kind="model",
    keys=(
        f"{FIRST}time_embed.0.weight",
        f"{FIRST}input_blocks.0.0.weight",
        f"{FIRST}middle_block.1.in_layers.0.weight",
        f"{FIRST}out.2.weight",
        "model_last_step.time_embed.0.weight",
        "model_last_step.out.2.weight",
    ),
    absent=(),
    read_config=read_upsampler,
    parse_config=lambda config: KarloUpsamplerConfig(**tuples(config)),
    build=KarloUpsampler,
    facts=upsampler_facts,
    guesses=upsampler_guesses,
)
