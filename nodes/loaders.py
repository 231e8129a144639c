"""Loading models and the networks that guide them."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from comfy_api.latest import io

from ..models.architecture import Checkpoint
from ..models.clip import CLIP, ClipConfig, with_activation, with_vision_heads
from ..models.diffae import DIFFAE, decoder_of
from ..models.glide_clip import GLIDE_CLIP_IMAGE
from ..models.registry import CLASSIFIER, ENCODER, MATCHER, MODEL, SCORER, load_checkpoint
from ..models.scorer.network import ACTIVATIONS as SCORER_ACTIVATIONS
from ..models.told import AUTO, Told, remark
from . import sockets
from .host.errors import GuidanceNode, about, noticed
from .host.files import choices, locate, usable
from .host.guides.classifier import load_classifier
from .host.guides.clip_vision import encoder_from
from .host.guides.encoder import Encoder, load_encoder
from .host.judging.matcher import Matcher
from .host.judging.scorer import Scorer
from .host.latent.vae import folded_vae, vae_of
from .host.model import guesses_of
from .host.pixel_model import clamp_denoised, load_pixel_model
from .told_inputs import attention_inputs, picture_inputs, stage_input, training_inputs
from .widgets import precision_input


def open_model(path: str, told: Told) -> Checkpoint:
    """A model file, with what the user knows better than its weights."""
    return chosen(load_checkpoint(path, "model"), told)


def open_decoder(path: str, told: Told) -> Checkpoint:
    """The diffusion model of a file, a diffusion autoencoder's too."""
    checkpoint = open_model(path, told)
    return decoder_of(checkpoint) if checkpoint.architecture.id == DIFFAE.id else checkpoint


def chosen(checkpoint: Checkpoint, told: Told) -> Checkpoint:
    """Raises ValueError where a family can't be what was chosen."""
    heads = "num_heads" if told.num_heads else "heads" if told.heads != AUTO else "attention_order"
    with about("if_stage" if told.if_stage != AUTO and heads == "attention_order" else heads):
        return told.of(checkpoint)


class LoadModel(GuidanceNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Guidance_LoadModel",
            display_name="Load Guidance Model",
            category="guidance/loaders",
            description="Loads a published diffusion model (ADM, P2, GLIDE, Karlo, IF, latent diffusion's own) or one "
            "of the pack's small ones as a normal MODEL, with the VAE that turns its samples into images.",
            search_aliases=[
                "ADM",
                "GLIDE",
                "Karlo",
                "unCLIP",
                "DeepFloyd IF",
                "Imagen",
                "guided diffusion",
                "pixel diffusion",
                "classifier guidance",
                "加载模型",
                "像素扩散",
            ],
            inputs=[
                io.Combo.Input(
                    "model_name",
                    options=choices("models", MODEL),
                    tooltip="A file in ComfyUI/models/guidance_models, or one of the pack's own small models.",
                ),
                io.Boolean.Input(
                    "clip_denoised",
                    default=True,
                    advanced=True,
                    tooltip="Cut the predicted picture to the range of colours, after CFG and before guides, as the "
                    "papers did.",
                ),
                *training_inputs(),
                *attention_inputs(),
                *picture_inputs(),
                precision_input(),
                stage_input(),
            ],
            outputs=[
                io.Model.Output(tooltip="A normal MODEL on pixels, for any sampler."),
                io.Vae.Output(tooltip="Turns its samples into pictures and back; without weights."),
            ],
        )

    @classmethod
    def run(cls, model_name: str, clip_denoised: bool, precision: str = AUTO, **choices: Any) -> io.NodeOutput:
        told = Told(**choices)
        with about("model_name"):
            path = locate("models", model_name)
            model = load_pixel_model(partial(open_decoder, path, told), precision)
            vae = vae_of(model)
        ui = noticed(remark(model_name, guesses_of(model)))
        return io.NodeOutput(clamp_denoised(model) if clip_denoised else model, vae, ui=ui)

    @classmethod
    def validate_inputs(cls, model_name: str | None = None) -> bool | str:
        return usable("models", model_name, MODEL)

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
            search_aliases=["ADM classifier", "classifier guidance", "noisy classifier", "加载分类器", "分类器引导"],
            inputs=[
                io.Combo.Input(
                    "classifier_name",
                    options=choices("classifiers", CLASSIFIER),
                    tooltip="A file in ComfyUI/models/guidance_classifiers, or the pack's own small classifier.",
                ),
                *training_inputs(optional=True),
                *attention_inputs(),
            ],
            outputs=[
                sockets.Classifier.Output(
                    display_name="classifier", tooltip="For Classifier Guide or Classifier-Guided Sampler."
                )
            ],
        )

    @classmethod
    def run(cls, classifier_name: str, **choices: Any) -> io.NodeOutput:
        with about("classifier_name"):
            checkpoint = load_checkpoint(locate("classifiers", classifier_name), "classifier")
            checkpoint = chosen(checkpoint, Told(**choices))
            classifier = load_classifier(checkpoint)
        return io.NodeOutput(classifier, ui=noticed(remark(classifier_name, checkpoint.guesses)))

    @classmethod
    def validate_inputs(cls, classifier_name: str | None = None) -> bool | str:
        return usable("classifiers", classifier_name, CLASSIFIER)

    @classmethod
    def fingerprint_inputs(cls, classifier_name: str, **_: Any) -> float:
        return Path(locate("classifiers", classifier_name)).stat().st_mtime


ENCODER_TOOLTIP = "For Text, Content, Structure and Style Guide, for judging and training."
ACTIVATIONS: dict[str, bool | None] = {AUTO: None, "GELU": False, "QuickGELU": True}


def clip_config(checkpoint: Checkpoint) -> ClipConfig:
    """Raises ValueError for other encoders, which have no choices."""
    if checkpoint.architecture is not CLIP:
        raise ValueError(f"{checkpoint.name} is {checkpoint.architecture.title}; only a CLIP has a choice")
    return checkpoint.config


def text_half(path: str, checkpoint: Checkpoint) -> Encoder | None:
    """The text tower that lies beside the image half of GLIDE's CLIP: clip_text_enc.pt beside clip_image_enc.pt."""
    beside = Path(path).with_name(Path(path).name.replace("image", "text"))
    if checkpoint.architecture is not GLIDE_CLIP_IMAGE or beside == Path(path) or not beside.is_file():
        return None
    return load_encoder(load_checkpoint(beside, "encoder"))


class LoadEncoder(GuidanceNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Guidance_LoadEncoder",
            display_name="Load Guidance Encoder",
            category="guidance/loaders",
            description="Loads what guides look with: a CLIP of open_clip, the noise-aware CLIPs of SDG and GLIDE, "
            "VGG19, LPIPS, or the pack's own small noise-aware CLIP.",
            search_aliases=["CLIP", "VGG", "LPIPS", "SDG", "open_clip", "noisy CLIP", "加载编码器"],
            inputs=[
                io.Combo.Input(
                    "encoder_name",
                    options=choices("encoders", ENCODER),
                    tooltip="A file in ComfyUI/models/guidance_encoders, or the pack's own small encoder.",
                ),
                io.Combo.Input(
                    "activation",
                    options=list(ACTIVATIONS),
                    default=AUTO,
                    advanced=True,
                    tooltip="Of a CLIP alone. Weights don't tell it: OpenAI trained with QuickGELU, others mostly with "
                    "GELU. The wrong one gives weaker guides, not an error.",
                ),
                sockets.Encoder.Input(
                    "text_encoder",
                    optional=True,
                    tooltip="An encoder whose text tower serves this one: SDG's files have none, and were made from "
                    "CLIP RN50x16.",
                ),
                io.Int.Input(
                    "num_heads",
                    default=0,
                    min=0,
                    max=64,
                    optional=True,
                    advanced=True,
                    tooltip="Attention heads of a CLIP ViT's vision tower. 0: as open_clip's models of that width.",
                ),
            ],
            outputs=[sockets.Encoder.Output(display_name="encoder", tooltip=ENCODER_TOOLTIP)],
        )

    @classmethod
    def run(
        cls, encoder_name: str, activation: str = AUTO, text_encoder: Encoder | None = None, num_heads: int = 0
    ) -> io.NodeOutput:
        with about("encoder_name"):
            checkpoint = load_checkpoint(locate("encoders", encoder_name), "encoder")
        guesses = dict(checkpoint.guesses)
        if activation != AUTO:
            with about("activation"):
                config = with_activation(clip_config(checkpoint), bool(ACTIVATIONS[activation]))
                checkpoint = replace(checkpoint, config=config)
                guesses.pop("activation", None)
        if num_heads:
            with about("num_heads"):
                checkpoint = replace(checkpoint, config=with_vision_heads(clip_config(checkpoint), num_heads))
                guesses.pop("num_heads", None)
        with about("encoder_name"):
            encoder = load_encoder(checkpoint)
        with about("encoder_name"):
            text_encoder = text_encoder or text_half(locate("encoders", encoder_name), checkpoint)
        encoder = encoder if text_encoder is None else encoder.with_text_of(text_encoder)
        return io.NodeOutput(encoder, ui=noticed(remark(encoder_name, guesses)))

    @classmethod
    def validate_inputs(cls, encoder_name: str | None = None) -> bool | str:
        return usable("encoders", encoder_name, ENCODER)

    @classmethod
    def fingerprint_inputs(cls, encoder_name: str, **_: Any) -> float:
        return Path(locate("encoders", encoder_name)).stat().st_mtime


class LoadMatcher(GuidanceNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Guidance_LoadMatcher",
            display_name="Load Matcher",
            category="guidance/loaders",
            description="Loads what tells how well pictures fit sentences about several things: MMCA, of which the "
            "pack has a small one.",
            search_aliases=["MMCA", "image sentence matching", "retrieval", "加载匹配器"],
            inputs=[
                io.Combo.Input(
                    "matcher_name",
                    options=choices("matchers", MATCHER),
                    tooltip="A file in ComfyUI/models/guidance_matchers, or the pack's own small matcher.",
                ),
            ],
            outputs=[
                sockets.Matcher.Output(display_name="matcher", tooltip="For Image-Sentence Match and Match Guide.")
            ],
        )

    @classmethod
    def run(cls, matcher_name: str) -> io.NodeOutput:
        with about("matcher_name"):
            return io.NodeOutput(Matcher(load_checkpoint(locate("matchers", matcher_name), MATCHER)))

    @classmethod
    def fingerprint_inputs(cls, matcher_name: str, **_: Any) -> float:
        return Path(locate("matchers", matcher_name)).stat().st_mtime

    @classmethod
    def validate_inputs(cls, matcher_name: str | None = None) -> bool | str:
        return usable("matchers", matcher_name, MATCHER)


class LoadScorer(GuidanceNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Guidance_LoadScorer",
            display_name="Load Scorer",
            category="guidance/loaders",
            description="Loads what scores pictures by their CLIP embeddings: LAION's aesthetic predictors, or a "
            "linear layer or MLP of your own.",
            search_aliases=["aesthetic predictor", "LAION", "linear probe", "reward", "加载评分器", "美学评分"],
            inputs=[
                io.Combo.Input(
                    "scorer_name",
                    options=choices("scorers", SCORER),
                    tooltip="A file in ComfyUI/models/guidance_scorers, or the pack's own small scorer.",
                ),
                io.Combo.Input(
                    "activation",
                    options=[AUTO, *SCORER_ACTIVATIONS],
                    default=AUTO,
                    advanced=True,
                    tooltip="What stands between the layers of an MLP, which its weights don't tell. auto: none for "
                    "LAION's, ReLU for others.",
                ),
            ],
            outputs=[sockets.Scorer.Output(display_name="scorer", tooltip="For Score Guide.")],
        )

    @classmethod
    def run(cls, scorer_name: str, activation: str = AUTO) -> io.NodeOutput:
        with about("scorer_name"):
            checkpoint = load_checkpoint(locate("scorers", scorer_name), SCORER)
        guesses = checkpoint.guesses
        if activation != AUTO:
            checkpoint, guesses = replace(checkpoint, config=replace(checkpoint.config, activation=activation)), {}
        return io.NodeOutput(Scorer(checkpoint), ui=noticed(remark(scorer_name, guesses)))

    @classmethod
    def validate_inputs(cls, scorer_name: str | None = None) -> bool | str:
        return usable("scorers", scorer_name, SCORER)

    @classmethod
    def fingerprint_inputs(cls, scorer_name: str, **_: Any) -> float:
        return Path(locate("scorers", scorer_name)).stat().st_mtime


class EncoderFromClipVision(GuidanceNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Guidance_EncoderFromClipVision",
            display_name="Encoder from CLIP Vision",
            category="guidance/loaders",
            description="A guidance encoder out of a CLIP Vision model that ComfyUI has loaded, and of its CLIP.",
            search_aliases=["CLIP", "CLIP vision", "DINO", "SigLIP", "IPAdapter", "CLIP视觉"],
            inputs=[
                io.ClipVision.Input("clip_vision", tooltip="From Load CLIP Vision: CLIP, SigLIP or DINOv2."),
                io.Clip.Input(
                    "clip", optional=True, tooltip="The text tower of the same CLIP, for text guides: Load CLIP."
                ),
            ],
            outputs=[sockets.Encoder.Output(display_name="encoder", tooltip=ENCODER_TOOLTIP)],
        )

    @classmethod
    def run(cls, clip_vision: Any, clip: Any | None = None) -> io.NodeOutput:
        with about("clip" if clip is not None else "clip_vision"):
            return io.NodeOutput(encoder_from(clip_vision, clip))


class WaveletVAE(GuidanceNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Guidance_WaveletVAE",
            display_name="Wavelet VAE",
            category="guidance/loaders",
            description="The VAE of a video model whose latents are wavelets of pictures, such as the pack's small "
            "transformer scenes_transformer, which Load Diffusion Model loads. It has no weights, and loses nothing.",
            search_aliases=["Haar", "wavelet", "pixel VAE", "transformer", "小波", "加载VAE"],
            inputs=[
                io.Model.Input("model", tooltip="The model; it knows how many channels its latents have."),
            ],
            outputs=[io.Vae.Output(tooltip="For VAE Decode and VAE Encode: 32 x 32 pixels are 8 x 8 latents.")],
        )

    @classmethod
    def run(cls, model: Any) -> io.NodeOutput:
        with about("model"):
            return io.NodeOutput(folded_vae(model))


NODES: list[type[io.ComfyNode]] = [
    LoadModel,
    LoadClassifier,
    LoadEncoder,
    EncoderFromClipVision,
    LoadMatcher,
    LoadScorer,
    WaveletVAE,
]
