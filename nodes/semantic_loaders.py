"""Loading diffusion autoencoders and directions of meaning."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from comfy_api.latest import io

from ..models.diffae.attributes import CELEBA
from ..models.registry import AUTOENCODER, SEMANTIC
from ..models.told import AUTO, Told, remark
from . import sockets
from .host.errors import GuidanceNode, about, noticed
from .host.files import choices, load_direction, locate, usable
from .host.model import guesses_of
from .host.pictures import pixel_vae
from .host.pixel_model import clamp_denoised, load_pixel_model
from .host.semantic.codec import Codec
from .loaders import open_decoder, open_model
from .told_inputs import attention_inputs, picture_inputs, training_inputs
from .widgets import precision_input

LOADERS = "guidance/loaders"


class LoadDiffusionAutoencoder(GuidanceNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Guidance_LoadDiffusionAutoencoder",
            display_name="Load Diffusion Autoencoder",
            category=LOADERS,
            description="Loads a diffusion autoencoder: the MODEL that decodes, and the codec that reads and samples "
            "what pictures mean.",
            search_aliases=["DiffAE", "semantic encoder", "z_sem", "扩散自编码器", "语义编码"],
            inputs=[
                io.Combo.Input(
                    "model_name",
                    options=choices("models", AUTOENCODER),
                    tooltip="A DiffAE file in ComfyUI/models/guidance_models, or the pack's own small one.",
                ),
                *training_inputs(optional=True),
                *attention_inputs(),
                *picture_inputs(),
                precision_input(),
            ],
            outputs=[
                io.Model.Output(tooltip="Draws from a code: needs Apply Semantic as its positive."),
                sockets.Codec.Output(
                    display_name="codec", tooltip="Reads meaning out of pictures, turns dials, invents new codes."
                ),
                io.Vae.Output(tooltip="Turns its samples into pictures and back; without weights."),
            ],
        )

    @classmethod
    def run(cls, model_name: str, precision: str = AUTO, **choices: Any) -> io.NodeOutput:
        told = Told(**choices)
        with about("model_name"):
            path = locate("models", model_name)
            codec = Codec(open_model(path, told))
            model = load_pixel_model(partial(open_decoder, path, told), precision)
        ui = noticed(remark(model_name, guesses_of(model)))
        return io.NodeOutput(clamp_denoised(model), codec, pixel_vae(), ui=ui)

    @classmethod
    def validate_inputs(cls, model_name: str | None = None) -> bool | str:
        return usable("models", model_name, AUTOENCODER)

    @classmethod
    def fingerprint_inputs(cls, model_name: str, **_: Any) -> float:
        return Path(locate("models", model_name)).stat().st_mtime


class LoadSemanticDirection(GuidanceNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Guidance_LoadSemanticDirection",
            display_name="Load Semantic Direction",
            category=LOADERS,
            description="Loads a saved direction of meaning, or an attribute of DiffAE's published classifiers.",
            search_aliases=["DiffAE attribute", "CelebA", "smile", "age", "concept slider", "微笑", "年龄", "属性"],
            inputs=[
                io.Combo.Input(
                    "direction_name",
                    options=choices("directions", SEMANTIC),
                    tooltip="A file in ComfyUI/models/guidance_directions.",
                ),
                io.Combo.Input(
                    "attribute",
                    options=list(CELEBA),
                    default="Smiling",
                    advanced=True,
                    tooltip="Which dial of a published file, which holds forty: Smiling, Young, ... A saved direction "
                    "is one already and ignores this.",
                ),
            ],
            outputs=[
                sockets.SemanticDirection.Output(
                    display_name="direction", tooltip="The dial: for Move Semantic and Sample Semantic."
                )
            ],
        )

    @classmethod
    def run(cls, direction_name: str, attribute: str) -> io.NodeOutput:
        with about("direction_name"):
            return io.NodeOutput(load_direction(locate("directions", direction_name), attribute))

    @classmethod
    def validate_inputs(cls, direction_name: str | None = None) -> bool | str:
        return usable("directions", direction_name, SEMANTIC)

    @classmethod
    def fingerprint_inputs(cls, direction_name: str, **_: Any) -> float:
        return Path(locate("directions", direction_name)).stat().st_mtime


NODES: list[type[io.ComfyNode]] = [LoadDiffusionAutoencoder, LoadSemanticDirection]
