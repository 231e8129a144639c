"""Loading models and the networks that guide them."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from comfy_api.latest import io

from ..models.architecture import Checkpoint
from ..models.clip import CLIP, with_activation
from ..models.diffae import DIFFAE, decoder_of
from ..models.registry import load_checkpoint
from ..models.schedule import BETAS
from . import sockets
from .host.errors import GuidanceNode, about
from .host.files import choices, locate
from .host.guides.classifier import load_classifier
from .host.guides.clip_vision import encoder_from
from .host.guides.encoder import Encoder, load_encoder
from .host.pictures import vae_of
from .host.pixel_model import clamp_denoised, load_pixel_model
from .widgets import precision_input

AUTO = "auto"
HEADS: dict[str, dict[str, Any]] = {
    AUTO: {},
    "1 head": {"num_heads": 1, "head_channels": None},
    "4 heads": {"num_heads": 4, "head_channels": None},
    "8 heads": {"num_heads": 8, "head_channels": None},
    "32 channels a head": {"head_channels": 32},
    "64 channels a head": {"head_channels": 64},
}


def open_model(path: str, schedule: str, heads: str) -> Checkpoint:
    """A model file, with what the user knows better than its weights."""
    checkpoint = load_checkpoint(path, "model")
    if checkpoint.architecture.id == DIFFAE.id:
        checkpoint = decoder_of(checkpoint)
    if schedule != AUTO:
        checkpoint = replace(checkpoint, facts=replace(checkpoint.facts, schedule=schedule))
    if HEADS[heads]:
        if not hasattr(checkpoint.config, "head_channels"):
            raise ValueError(f"{checkpoint.name} is {checkpoint.architecture.title}, whose heads are fixed; use {AUTO}")
        checkpoint = replace(checkpoint, config=replace(checkpoint.config, **HEADS[heads]))
    return checkpoint


class LoadModel(GuidanceNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Guidance_LoadModel",
            display_name="Load Guidance Model",
            category="guidance/loaders",
            description="Loads a published pixel diffusion model (ADM, P2) or one of the pack's small ones as a normal "
            "MODEL, with the VAE that turns its pictures into images.",
            search_aliases=["ADM", "guided diffusion", "pixel diffusion", "classifier guidance"],
            inputs=[
                io.Combo.Input(
                    "model_name",
                    options=choices("models"),
                    tooltip="A file in ComfyUI/models/guidance_models, or one of the pack's own small models.",
                ),
                io.Boolean.Input(
                    "clip_denoised",
                    default=True,
                    advanced=True,
                    tooltip="Clamp the predicted picture to its range after CFG and before guides, as the papers did.",
                ),
                io.Combo.Input(
                    "schedule",
                    options=[AUTO, *BETAS],
                    default=AUTO,
                    advanced=True,
                    tooltip="Noise schedule of the training. Weights don't tell it; auto knows the public files.",
                ),
                io.Combo.Input(
                    "heads",
                    options=list(HEADS),
                    default=AUTO,
                    advanced=True,
                    tooltip="Attention heads. Weights don't tell them; auto knows the public files.",
                ),
                precision_input(),
            ],
            outputs=[io.Model.Output(), io.Vae.Output()],
        )

    @classmethod
    def run(
        cls, model_name: str, clip_denoised: bool, schedule: str, heads: str, precision: str = AUTO
    ) -> io.NodeOutput:
        with about("model_name"):
            path = locate("models", model_name)
            model = load_pixel_model(partial(open_model, path, schedule, heads), precision)
        return io.NodeOutput(clamp_denoised(model) if clip_denoised else model, vae_of(model))

    @classmethod
    def fingerprint_inputs(cls, model_name: str, **_: Any) -> float:
        return Path(locate("models", model_name)).stat().st_mtime


class LoadClassifier(GuidanceNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Guidance_LoadClassifier",
            display_name="Load Guidance Classifier",
            category="guidance/loaders",
            description="Loads a noise-aware classifier: it tells what a picture shows while it is still noisy.",
            search_aliases=["ADM classifier", "classifier guidance", "noisy classifier"],
            inputs=[
                io.Combo.Input(
                    "classifier_name",
                    options=choices("classifiers"),
                    tooltip="A file in ComfyUI/models/guidance_classifiers, or the pack's own small classifier.",
                ),
            ],
            outputs=[sockets.Classifier.Output(display_name="classifier")],
        )

    @classmethod
    def run(cls, classifier_name: str) -> io.NodeOutput:
        with about("classifier_name"):
            return io.NodeOutput(load_classifier(load_checkpoint(locate("classifiers", classifier_name), "classifier")))

    @classmethod
    def fingerprint_inputs(cls, classifier_name: str) -> float:
        return Path(locate("classifiers", classifier_name)).stat().st_mtime


ACTIVATIONS: dict[str, bool | None] = {AUTO: None, "GELU": False, "QuickGELU": True}


class LoadEncoder(GuidanceNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Guidance_LoadEncoder",
            display_name="Load Guidance Encoder",
            category="guidance/loaders",
            description="Loads what guides look with: a CLIP of open_clip, SDG's noise-aware CLIP, VGG19, LPIPS, or "
            "the pack's own small noise-aware CLIP.",
            search_aliases=["CLIP", "VGG", "LPIPS", "SDG", "open_clip", "noisy CLIP"],
            inputs=[
                io.Combo.Input(
                    "encoder_name",
                    options=choices("encoders"),
                    tooltip="A file in ComfyUI/models/guidance_encoders, or the pack's own small encoder.",
                ),
                io.Combo.Input(
                    "activation",
                    options=list(ACTIVATIONS),
                    default=AUTO,
                    advanced=True,
                    tooltip="Of a CLIP. Weights don't tell it: OpenAI trained with QuickGELU, others mostly with GELU.",
                ),
                sockets.Encoder.Input(
                    "text_encoder",
                    optional=True,
                    tooltip="An encoder whose text tower serves this one: SDG's files have none, and were made from "
                    "CLIP RN50x16.",
                ),
            ],
            outputs=[sockets.Encoder.Output(display_name="encoder")],
        )

    @classmethod
    def run(cls, encoder_name: str, activation: str = AUTO, text_encoder: Encoder | None = None) -> io.NodeOutput:
        with about("encoder_name"):
            checkpoint = load_checkpoint(locate("encoders", encoder_name), "encoder")
        quick = ACTIVATIONS[activation]
        if quick is not None:
            with about("activation"):
                if checkpoint.architecture is not CLIP:
                    raise ValueError(f"{encoder_name} is {checkpoint.architecture.title}; only a CLIP has a choice")
                checkpoint = replace(checkpoint, config=with_activation(checkpoint.config, quick))
        with about("encoder_name"):
            encoder = load_encoder(checkpoint)
        return io.NodeOutput(encoder if text_encoder is None else encoder.with_text_of(text_encoder))

    @classmethod
    def fingerprint_inputs(cls, encoder_name: str, **_: Any) -> float:
        return Path(locate("encoders", encoder_name)).stat().st_mtime


class EncoderFromClipVision(GuidanceNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Guidance_EncoderFromClipVision",
            display_name="Encoder from CLIP Vision",
            category="guidance/loaders",
            description="A guidance encoder out of a CLIP Vision model that ComfyUI has loaded, and of its CLIP.",
            search_aliases=["CLIP", "CLIP vision", "DINO", "SigLIP"],
            inputs=[
                io.ClipVision.Input("clip_vision", tooltip="Load CLIP Vision."),
                io.Clip.Input(
                    "clip", optional=True, tooltip="The text tower of the same CLIP, for text guides: Load CLIP."
                ),
            ],
            outputs=[sockets.Encoder.Output(display_name="encoder")],
        )

    @classmethod
    def run(cls, clip_vision: Any, clip: Any | None = None) -> io.NodeOutput:
        with about("clip" if clip is not None else "clip_vision"):
            return io.NodeOutput(encoder_from(clip_vision, clip))


NODES: list[type[io.ComfyNode]] = [LoadModel, LoadClassifier, LoadEncoder, EncoderFromClipVision]
