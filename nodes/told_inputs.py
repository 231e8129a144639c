"""Inputs of loaders for what a file's weights don't tell (`models.told`)."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..models.schedule import BETAS
from ..models.told import AUTO, HEADS, IF_STAGES, LIMITS, ORDERS, RESCALING


def training_inputs(**state: Any) -> list[Any]:
    """What shapes don't tell of a network that is told a timestep, and loaders ask first."""
    return [
        io.Combo.Input(
            "schedule",
            options=[AUTO, *BETAS],
            default=AUTO,
            advanced=True,
            tooltip="Noise schedule of the training. Weights don't tell it; auto knows the public files.",
            **state,
        ),
        io.Combo.Input(
            "heads",
            options=list(HEADS),
            default=AUTO,
            advanced=True,
            tooltip="Attention heads of the network. Weights don't tell them; auto knows the public files.",
            **state,
        ),
    ]


def attention_inputs() -> list[Any]:
    """The rest of it; later than the first inputs, so optional for saved workflows."""
    return [
        io.Int.Input(
            "num_heads",
            default=0,
            min=0,
            max=LIMITS["num_heads"][1],
            optional=True,
            advanced=True,
            tooltip="Any number of heads, the same everywhere (--num_heads of the training). 0: as heads says.",
        ),
        io.Combo.Input(
            "attention_order",
            options=list(ORDERS),
            default=AUTO,
            optional=True,
            advanced=True,
            tooltip="new: trained with --use_new_attention_order True. auto: legacy, but for the public file that is "
            "new.",
        ),
        io.Int.Input(
            "training_steps",
            default=0,
            min=0,
            max=LIMITS["training_steps"][1],
            optional=True,
            advanced=True,
            tooltip="--diffusion_steps of the training. 0: what the file says, 4000 for improved-diffusion's public "
            "files, else 1000.",
        ),
    ]


def picture_inputs() -> list[Any]:
    """What else is not known of a model of pictures."""
    return [
        io.Combo.Input(
            "rescale_timesteps",
            options=list(RESCALING),
            default=AUTO,
            optional=True,
            advanced=True,
            tooltip="Whether the network hears timesteps as out of 1000 (--rescale_timesteps). Without meaning for "
            "1000 training steps. Yes by default in improved-diffusion, no in guided-diffusion.",
        ),
        io.Int.Input(
            "image_size",
            default=0,
            min=0,
            max=LIMITS["image_size"][1],
            optional=True,
            advanced=True,
            tooltip="Side of the pictures of the training. 0: what the file says, or 8 pixels at the deepest level.",
        ),
    ]


def stage_input() -> Any:
    """What weights don't tell of DeepFloyd's IF."""
    return io.Combo.Input(
        "if_stage",
        options=list(IF_STAGES),
        default=AUTO,
        optional=True,
        advanced=True,
        tooltip="Of DeepFloyd's IF: the second stage has other residual blocks, which weights don't tell. auto: second "
        "where the file has a projection for the noise on the small picture.",
    )
