"""SDG's noise-aware CLIP files (xh-liu/SDG_code) and the pack's own pair."""

from __future__ import annotations

from ..architecture import Architecture, Facts, tuples
from ..state_dict import StateDict, count
from .network import ClipNoisy, ClipNoisyConfig

PUBLISHED = ClipNoisyConfig()
# SDG's README: text 120 to 160, image 100. Its style constant is 100 * 1e10 / 5 on a Gram matrix over the whole batch;
# for one sample that is about 1/512 of it at the published batch of 8. Structure was never released: as image.
# Of training/clip.py: exp(30 cos) is the likelihood ratio that its loss fits, so 30 is the exact guidance scale.
OWN_LOGIT_SCALE = 30.0
SDG_SCALES = {"text": 120.0, "content": 100.0, "style": 2e9, "difference": 100.0, "self-similarity": 100.0}


def read_config(state: StateDict) -> ClipNoisyConfig:
    """The published trunk, told by its shapes."""
    layers = ("visual_frozen.10", "visual_frozen.11", "visual_frozen.12", "layer4")
    stem = tuple(state[f"visual_frozen.{index}.weight"].shape[0] for index in (0, 3, 6))
    width = state["attn_pool.positional_embedding"].shape[1]
    return ClipNoisyConfig(
        image_size=32 * round((state["attn_pool.positional_embedding"].shape[0] - 1) ** 0.5),
        stem=(stem[0], stem[1], stem[2]),
        planes=tuple(state[f"{layer}.0.conv1.weight"].shape[0] for layer in layers),
        blocks=tuple(count(state, f"{layer}.{{}}.") for layer in layers),
        embed_dim=state["attn_pool.c_proj.weight"].shape[0],
        heads=width // 64,
        time_width=state["time_embed.0.weight"].shape[1],
        time_hidden=state["time_embed.2.weight"].shape[0],
    )


def facts(config: ClipNoisyConfig) -> Facts:
    logit_scale = OWN_LOGIT_SCALE if config.words else 100.0  # SDG's were made from CLIP
    return Facts(image_size=config.image_size, noise_aware=True, guide_scales=SDG_SCALES, logit_scale=logit_scale)


CLIP_NOISY: Architecture[ClipNoisyConfig] = Architecture(
    id="clip_noisy",
    title="a noise-aware CLIP image encoder",
    kind="encoder",
    keys=(
        "visual_frozen.0.weight",
        "visual_frozen.10.0.conv1.weight",
        "layer4.0.conv1.weight",
        "attn_pool.positional_embedding",
        "time_embed.0.weight",
        "emb_layers.1.weight",
    ),
    absent=(),
    read_config=read_config,
    parse_config=lambda config: ClipNoisyConfig(**tuples(config)),
    build=lambda config, **_: ClipNoisy(config),
    facts=facts,
)
