"""Diffusion autoencoders: read what pictures mean, turn a dial, mix, sample, decode with the host's samplers."""

from __future__ import annotations

import json
from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..guidance.directions import FITS
from ..guidance.latents import lerp, slerp
from ..guidance.views import centred
from . import sockets
from .host.errors import GuidanceNode, about, refusal
from .host.files import check_prefix, save_direction
from .host.inversion import FixedNoise, SharedNoise, stochastic_encode, stochastic_sigmas
from .host.pictures import empty_pixels, to_pixels
from .host.semantic.codec import Codec
from .host.semantic.direction import Direction, Semantic
from .widgets import seed_input, steps_input

CATEGORY = "guidance/semantic"
CODEC_TOOLTIP = "What reads meaning out of pictures: codec of Load Diffusion Autoencoder."
CODES_TOOLTIP = "One code a picture, for Apply Semantic, Move Semantic and others."
SEMANTIC_TOOLTIP = "From Semantic Encode, Sample Semantic, Move Semantic or Semantic Interpolate."


def same_owner(a: Semantic, b: Semantic) -> None:
    """Raises ValueError for codes of two autoencoders."""
    if a.fingerprint != b.fingerprint:
        raise ValueError(f"the codes are of two autoencoders, {a.owner} and {b.owner}; use both of one file")


class SemanticEncode(GuidanceNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Guidance_SemanticEncode",
            display_name="Semantic Encode",
            category=CATEGORY,
            description="Reads what pictures mean: one code z_sem for each.",
            search_aliases=["DiffAE", "z_sem", "encode image", "语义编码", "扩散自编码器"],
            inputs=[
                sockets.Codec.Input("codec", tooltip=CODEC_TOOLTIP),
                io.Image.Input("image", tooltip="Any size; the middle is taken. A batch gives as many codes."),
            ],
            outputs=[sockets.Semantic.Output(display_name="semantic", tooltip=CODES_TOOLTIP)],
        )

    @classmethod
    def run(cls, codec: Codec, image: Tensor) -> io.NodeOutput:
        with about("image"):
            return io.NodeOutput(codec.encode(image))


class StochasticEncode(GuidanceNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Guidance_StochasticEncode",
            display_name="Stochastic Encode",
            category=CATEGORY,
            description="Finds the noise x_T that holds every detail of a picture, given what it means. Decoding both "
            "gives the picture back.",
            search_aliases=["DiffAE", "x_T", "inversion", "反演", "随机编码"],
            inputs=[
                io.Model.Input("model", tooltip="MODEL of Load Diffusion Autoencoder."),
                sockets.Semantic.Input("semantic", tooltip="The code of the same picture: Semantic Encode."),
                io.Image.Input("image", tooltip="The picture; its middle is taken."),
                steps_input(100, "Evaluations of the network. The paper has 250.", least=1),
            ],
            outputs=[
                io.Noise.Output(tooltip="x_T, for SamplerCustomAdvanced."),
                io.Latent.Output(tooltip="x_T, scaled, for KSampler (Advanced) without add_noise."),
            ],
        )

    @classmethod
    def run(cls, model: Any, semantic: Semantic, image: Tensor, steps: int) -> io.NodeOutput:
        with about("image"):
            pictures = centred(to_pixels(image).float(), semantic.image_size, semantic.image_size)
        with about("semantic"):
            if len(semantic.z_sem) not in (1, len(pictures)):
                raise ValueError(f"there are {len(semantic.z_sem)} codes for {len(pictures)} pictures; encode the same")
        with about("model or steps"):
            sigmas = stochastic_sigmas(model, steps)
        return io.NodeOutput(*stochastic_encode(model, pictures, semantic.conditioning(), sigmas))


class ApplySemantic(GuidanceNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Guidance_ApplySemantic",
            display_name="Apply Semantic",
            category=CATEGORY,
            description="What pictures should mean, as CONDITIONING: any sampler of the host decodes it. As the "
            "negative another code, with cfg above 1, exaggerates the difference.",
            search_aliases=["DiffAE", "decode", "z_sem conditioning", "语义", "条件"],
            inputs=[sockets.Semantic.Input("semantic", tooltip=SEMANTIC_TOOLTIP)],
            outputs=[io.Conditioning.Output(tooltip="For positive or negative of any sampler.")],
        )

    @classmethod
    def run(cls, semantic: Semantic) -> io.NodeOutput:
        return io.NodeOutput(semantic.conditioning())


class SemanticInterpolate(GuidanceNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Guidance_SemanticInterpolate",
            display_name="Semantic Interpolate",
            category=CATEGORY,
            description="Frames from one picture to another: codes along a line, their noises along an arc.",
            search_aliases=["DiffAE", "morph", "lerp", "slerp", "插值", "渐变"],
            inputs=[
                sockets.Semantic.Input("semantic_a", tooltip="Where the frames begin; its first code."),
                sockets.Semantic.Input("semantic_b", tooltip="Where they end; its first code."),
                io.Int.Input("frames", default=9, min=1, max=1000, tooltip="How many pictures, both ends included."),
                io.Float.Input(
                    "fraction",
                    default=0.5,
                    min=-1.0,
                    max=2.0,
                    step=0.01,
                    advanced=True,
                    tooltip="With one frame: where it stands between the ends.",
                ),
                io.Noise.Input("noise_a", optional=True, tooltip="x_T of the first picture: Stochastic Encode."),
                io.Noise.Input("noise_b", optional=True, tooltip="x_T of the second. Without both: one noise for all."),
            ],
            outputs=[
                sockets.Semantic.Output(display_name="semantic", tooltip="One code a frame, for Apply Semantic."),
                io.Noise.Output(tooltip="One noise a frame, for SamplerCustomAdvanced."),
                io.Latent.Output(tooltip="The frames' x_T; without noise_a and noise_b an empty batch of their size."),
            ],
        )

    @classmethod
    def run(
        cls,
        semantic_a: Semantic,
        semantic_b: Semantic,
        frames: int,
        fraction: float,
        noise_a: Any | None = None,
        noise_b: Any | None = None,
    ) -> io.NodeOutput:
        with about("semantic_b"):
            same_owner(semantic_a, semantic_b)
        places = torch.linspace(0, 1, frames) if frames > 1 else torch.tensor([fraction])
        z_sem = lerp(semantic_a.z_sem[:1], semantic_b.z_sem[:1], places)
        semantic = Semantic(z_sem, semantic_a.owner, semantic_a.fingerprint, semantic_a.image_size)
        if noise_a is None and noise_b is None:
            return io.NodeOutput(
                semantic, SharedNoise(), empty_pixels(frames, semantic.image_size, semantic.image_size)
            )
        with about("noise_b" if noise_b is None or isinstance(noise_a, FixedNoise) else "noise_a"):
            if not isinstance(noise_a, FixedNoise) or not isinstance(noise_b, FixedNoise):
                raise ValueError("both noises must be x_T of Stochastic Encode; connect two of them, or none")
        x_T = slerp(noise_a.x_T[:1], noise_b.x_T[:1], places)  # noqa: N806
        return io.NodeOutput(semantic, FixedNoise(x_T, noise_a.scale), {"samples": x_T * noise_a.scale})


class FitSemanticDirection(GuidanceNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Guidance_FitSemanticDirection",
            display_name="Fit Semantic Direction",
            category=CATEGORY,
            description="Learns an attribute from pictures that have it and pictures that don't.",
            search_aliases=[
                "DiffAE",
                "attribute",
                "linear probe",
                "logistic regression",
                "concept slider",
                "smile",
                "age",
                "属性",
                "概念滑块",
            ],
            inputs=[
                sockets.Codec.Input("codec", tooltip=CODEC_TOOLTIP),
                io.Image.Input("positive", tooltip="Pictures with the attribute. Two will do, fifty are good."),
                io.Image.Input("negative", tooltip="Pictures without it, otherwise like the others."),
                io.Combo.Input(
                    "method",
                    options=list(FITS),
                    default="logistic",
                    advanced=True,
                    tooltip="logistic regression, or the difference of both means: steadier with few pictures.",
                ),
                sockets.SemanticDirection.Input(
                    "orthogonal_to", optional=True, tooltip="Another direction, which this one should leave alone."
                ),
            ],
            outputs=[
                sockets.SemanticDirection.Output(
                    display_name="direction", tooltip="The dial: for Move Semantic, Sample Semantic and saving."
                ),
                io.String.Output(
                    display_name="report", tooltip="How well the direction tells both sets apart, as JSON."
                ),
            ],
        )

    @classmethod
    def run(
        cls, codec: Codec, positive: Tensor, negative: Tensor, method: str, orthogonal_to: Direction | None = None
    ) -> io.NodeOutput:
        with about("orthogonal_to" if orthogonal_to is not None else "positive and negative"):
            direction, report = codec.fit(positive, negative, method, orthogonal_to)
        return io.NodeOutput(direction, json.dumps(report, indent=1))


class MoveSemantic(GuidanceNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Guidance_MoveSemantic",
            display_name="Move Semantic",
            category=CATEGORY,
            description="Turns a dial: moves what pictures mean along a direction.",
            search_aliases=[
                "DiffAE",
                "attribute",
                "slider",
                "concept slider",
                "dial",
                "edit",
                "smile",
                "age",
                "属性编辑",
                "滑块",
                "微笑",
                "年龄",
            ],
            inputs=[
                sockets.Codec.Input("codec", tooltip=CODEC_TOOLTIP),
                sockets.Semantic.Input("semantic", tooltip=SEMANTIC_TOOLTIP),
                sockets.SemanticDirection.Input("direction", tooltip="The dial: Fit or Load Semantic Direction."),
                io.Float.Input(
                    "amount",
                    default=0.3,
                    min=-10.0,
                    max=10.0,
                    step=0.05,
                    tooltip="How far the dial is turned. 0 changes nothing, 0.3 is usual, -1 to 1 the useful range; "
                    "more can be typed. Below 0: the other way.",
                ),
            ],
            outputs=[sockets.Semantic.Output(display_name="semantic", tooltip=CODES_TOOLTIP)],
        )

    @classmethod
    def run(cls, codec: Codec, semantic: Semantic, direction: Direction, amount: float) -> io.NodeOutput:
        with about("semantic"):
            codec.check(semantic)
        with about("direction"):
            codec.check(direction)
            return io.NodeOutput(codec.move(semantic, direction, amount))


class SampleSemantic(GuidanceNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Guidance_SampleSemantic",
            display_name="Sample Semantic",
            category=CATEGORY,
            description="Invents what new pictures mean, by the autoencoder's latent prior. With a direction only "
            "those that have its attribute are kept (few-shot).",
            search_aliases=["DiffAE", "latent prior", "unconditional", "few-shot", "少样本", "先验采样"],
            inputs=[
                sockets.Codec.Input(
                    "codec", tooltip="codec of Load Diffusion Autoencoder, from a file with a latent prior."
                ),
                seed_input("Code i depends on seed + i alone."),
                io.Int.Input("batch_size", default=8, min=1, max=4096, tooltip="How many codes."),
                steps_input(100, "Steps of the prior, which is small: cheap.", least=1),
                sockets.SemanticDirection.Input(
                    "direction", optional=True, tooltip="Keep codes with this attribute; others are drawn again."
                ),
                io.Float.Input(
                    "threshold",
                    default=0.5,
                    min=0.0,
                    max=0.999,
                    step=0.01,
                    advanced=True,
                    tooltip="Least probability of the attribute. Above it a code is kept with its probability; 0: by "
                    "that alone, as in the paper.",
                ),
            ],
            outputs=[
                sockets.Semantic.Output(
                    display_name="semantic", tooltip="New codes, for Apply Semantic with random noise."
                ),
                io.String.Output(display_name="report", tooltip="How many codes were drawn and kept, as JSON."),
            ],
        )

    @classmethod
    def run(
        cls,
        codec: Codec,
        seed: int,
        batch_size: int,
        steps: int,
        threshold: float,
        direction: Direction | None = None,
    ) -> io.NodeOutput:
        if direction is not None:
            with about("direction"):
                codec.check(direction)
        with about("threshold" if direction is not None else "codec"):
            semantic, report = codec.sample(seed, batch_size, steps, direction, threshold)
        return io.NodeOutput(semantic, json.dumps(report, indent=1))


class SaveSemanticDirection(GuidanceNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Guidance_SaveSemanticDirection",
            display_name="Save Semantic Direction",
            category=CATEGORY,
            description="Writes a direction into ComfyUI/models/guidance_directions, where its loader finds it.",
            search_aliases=["DiffAE", "export", "保存方向"],
            inputs=[
                sockets.SemanticDirection.Input("direction", tooltip="Fit Semantic Direction."),
                io.String.Input("filename_prefix", default="direction", tooltip="A number is added; nothing is lost."),
            ],
            outputs=[],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, filename_prefix: str | None = None) -> bool | str:
        return refusal(check_prefix, "directions", filename_prefix)

    @classmethod
    def run(cls, direction: Direction, filename_prefix: str) -> io.NodeOutput:
        with about("filename_prefix"):
            name = save_direction(direction, filename_prefix)
        return io.NodeOutput(ui={"text": [name]})


NODES: list[type[io.ComfyNode]] = [
    SemanticEncode,
    StochasticEncode,
    ApplySemantic,
    SemanticInterpolate,
    FitSemanticDirection,
    MoveSemantic,
    SampleSemantic,
    SaveSemanticDirection,
]
