"""The `DDPM` files of SDEdit and Asyrp: celeba_hq.ckpt, bedroom.ckpt, church_outdoor.ckpt."""

from __future__ import annotations

from ..architecture import Architecture, Facts, tuples
from ..state_dict import StateDict, count
from .network import DDPM, DDPMConfig

ATTENTION_RESOLUTION = 16  # of every public file
PUBLIC = DDPMConfig(channels=128, channel_mult=(1, 1, 2, 2, 4, 4), num_res_blocks=2, attention=(4,))


def read_config(state: StateDict) -> DDPMConfig:
    """Every number from a shape."""
    channels = state["temb.dense.0.weight"].shape[1]
    levels = range(count(state, "down.{}."))
    widths = [state[f"down.{level}.block.0.conv1.weight"].shape[0] for level in levels]
    return DDPMConfig(
        channels=channels,
        channel_mult=tuple(width // channels for width in widths),
        num_res_blocks=count(state, "down.0.block.{}."),
        attention=tuple(level for level in levels if f"down.{level}.attn.0.q.weight" in state),
        in_channels=state["conv_in.weight"].shape[1],
        out_channels=state["conv_out.weight"].shape[0],
    )


def guesses(config: DDPMConfig) -> dict[str, str]:
    if config == PUBLIC:
        return {}
    found = facts(config)
    return {
        "schedule": found.schedule,
        "training_steps": str(found.training_steps),
        "image_size": str(found.image_size),
    }


def facts(config: DDPMConfig) -> Facts:
    return Facts(image_size=ATTENTION_RESOLUTION * 2 ** max(config.attention, default=0))


DDPM_UNET: Architecture[DDPMConfig] = Architecture(
    id="ddpm_unet",
    title="a DDPM U-Net",
    kind="model",
    keys=(
        "temb.dense.0.weight",
        "conv_in.weight",
        "down.0.block.0.temb_proj.weight",
        "mid.attn_1.q.weight",
        "up.0.block.0.conv1.weight",
        "conv_out.weight",
    ),
    absent=(),
    read_config=read_config,
    parse_config=lambda config: DDPMConfig(**tuples(config)),
    build=DDPM,
    facts=facts,
    guesses=guesses,
)
