"""Diffusion priors: Karlo's in its own layout and in diffusers', and Kandinsky 2.x'."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from ..architecture import Architecture, Checkpoint, Facts, tuples
from ..state_dict import CheckpointError, StateDict, count, read, statistics
from .network import AFTER, DiffusersPrior, KarloPrior, PriorConfig

STATISTICS = ("clip_mean", "clip_std")  # [1 D], of CLIP's embeddings of the training's pictures
TUPLE = ("0", "1")  # what they are called in Karlo's own file, a pair of tensors


def _config(state: StateDict, width: int, clip: int, layers: int) -> PriorConfig:
    """64 channels a head, as in all public files."""
    context = state["positional_embedding"].shape[1] - AFTER
    return PriorConfig(width, layers, max(1, width // 64), clip, context)


def read_karlo(state: StateDict) -> PriorConfig:
    width, clip = state["clip_img_proj.weight"].shape
    return _config(state, width, clip, count(state, "transformer.resblocks.{}."))


def read_diffusers(state: StateDict) -> PriorConfig:
    width, clip = state["proj_in.weight"].shape
    return _config(state, width, clip, count(state, "transformer_blocks.{}."))


def facts(config: PriorConfig) -> Facts:
    return Facts(
        image_size=1,
        schedule="cosine",
        text_encoder="CLIP",
        text_width=config.clip_width,
        image_embeds=config.clip_width,
    )


def usual_clamp(checkpoint: Checkpoint) -> float:
    """What x0 is clamped to: 10, but 5 by diffusers for Karlo's; Kandinsky 2.1's file has the same shapes."""
    return 5.0 if checkpoint.architecture.id == DIFFUSERS.id and checkpoint.config.clip_width == 768 else 10.0


def own_statistics(checkpoint: Checkpoint) -> tuple[Tensor, Tensor] | None:
    """Mean and deviation [D] of CLIP's embeddings, of files that hold them. Raises CheckpointError for unfit ones."""
    if any(key not in checkpoint.state for key in STATISTICS):
        return None
    return statistics(checkpoint.state, STATISTICS, checkpoint.config.clip_width, checkpoint.name)


def statistics_at(path: str | Path | None, checkpoint: Checkpoint) -> tuple[Tensor, Tensor]:
    """The same of another file. Raises CheckpointError where there are none, or of another width."""
    width = checkpoint.config.clip_width
    if path is None:
        raise CheckpointError(
            f"{checkpoint.name} holds no statistics of CLIP's embeddings, and the prior can't do without; choose "
            "ViT-L-14_stats.th, which Karlo publishes beside it, as statistics"
        )
    found = read(path)[0]
    pair = next((keys for keys in (STATISTICS, TUPLE, ("mean", "std")) if all(key in found for key in keys)), None)
    if pair is None or any(found[key].numel() != width for key in pair):
        shapes = ", ".join(f"{key} {list(value.shape)}" for key, value in list(found.items())[:4])
        raise CheckpointError(f"the statistics of a prior are a mean and a deviation of {width} numbers; {shapes} came")
    return statistics(found, pair, width, Path(path).name)


KARLO: Architecture[PriorConfig] = Architecture(
    id="karlo_prior",
    title="Karlo's prior",
    kind="prior",
    keys=(
        "positional_embedding",
        "prd_emb",
        "time_embed.0.weight",
        "clip_img_proj.weight",
        "text_enc_proj.weight",
        "text_emb_proj.weight",
        "transformer.resblocks.0.attn.c_qkv.weight",
        "out_proj.weight",
    ),
    absent=(),
    read_config=read_karlo,
    parse_config=lambda config: PriorConfig(**tuples(config)),
    build=KarloPrior,
    facts=facts,
)
DIFFUSERS: Architecture[PriorConfig] = Architecture(
    id="diffusers_prior",
    title="a prior in diffusers' layout (Karlo, Kandinsky)",
    kind="prior",
    keys=(
        "positional_embedding",
        "prd_embedding",
        "clip_mean",
        "clip_std",
        "time_embedding.linear_1.weight",
        "proj_in.weight",
        "embedding_proj.weight",
        "encoder_hidden_states_proj.weight",
        "transformer_blocks.0.attn1.to_q.weight",
        "proj_to_clip_embeddings.weight",
    ),
    absent=(),
    read_config=read_diffusers,
    parse_config=lambda config: PriorConfig(**tuples(config)),
    build=DiffusersPrior,
    facts=facts,
)
