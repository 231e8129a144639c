"""What pixel models are fed: empty latents, class labels, and the small picture of an upsampler."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..guidance.classifier_energy import NO_CLASS
from ..guidance.labels import parse_labels
from .host.conditioning import class_conditioning
from .host.errors import GuidanceNode, about
from .host.model import facts_of
from .host.pictures import empty_pixels, to_pixels
from .host.pixel.small import with_picture
from .widgets import seed_input

CLASS_LABEL_TOOLTIP = (
    "Names or indices, one a line (or ; between them). One serves the whole batch; empty means no class. "
    "A wrong name is answered with the nearest ones."
)


class EmptyPixelLatent(GuidanceNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Guidance_EmptyPixelLatent",
            display_name="Empty Pixel Latent",
            category="guidance/sampling",
            description="An empty LATENT for models that work on pixels: its size is the picture's size.",
            search_aliases=["pixel space latent", "空潜空间"],
            inputs=[
                io.Int.Input(
                    "width",
                    default=32,
                    min=8,
                    max=4096,
                    step=8,
                    tooltip="Pixels. Use the size the model was trained on.",
                ),
                io.Int.Input(
                    "height",
                    default=32,
                    min=8,
                    max=4096,
                    step=8,
                    tooltip="Pixels. Use the size the model was trained on.",
                ),
                io.Int.Input("batch_size", default=8, min=1, max=4096, tooltip="How many pictures at once."),
            ],
            outputs=[io.Latent.Output(tooltip="For the sampler.")],
        )

    @classmethod
    def run(cls, width: int, height: int, batch_size: int) -> io.NodeOutput:
        return io.NodeOutput(empty_pixels(batch_size, height, width))


class ClassConditioning(GuidanceNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Guidance_ClassConditioning",
            display_name="Class Conditioning",
            category="guidance/sampling",
            description="Class labels as CONDITIONING for class-conditional models. Leave the label empty for the "
            "negative side of CFG.",
            search_aliases=["class label", "ImageNet class", "类别", "条件"],
            inputs=[
                io.Model.Input("model", tooltip="The class-conditional model; it knows its class names."),
                io.String.Input("class_label", multiline=True, default="", tooltip=CLASS_LABEL_TOOLTIP),
            ],
            outputs=[io.Conditioning.Output(tooltip="For positive or negative of any sampler.")],
        )

    @classmethod
    def run(cls, model: Any, class_label: str) -> io.NodeOutput:
        facts = facts_of(model)
        names = facts.class_names if facts is not None else ()
        if facts is not None and not names and not class_label.strip():
            return io.NodeOutput(class_conditioning([NO_CLASS]))  # guiders want a CONDITIONING of every model
        with about("model"):
            if not names:
                raise ValueError(
                    "a class-conditional model is needed, this one has no classes; use Load Guidance Model"
                )
        with about("class_label"):
            # every label is kept: the sampler gives label i to image i
            labels = parse_labels(
                class_label, names, max(1, class_label.strip().count("\n") + class_label.count(";") + 1)
            )
        return io.NodeOutput(class_conditioning(labels))


class UpscaleConditioning(GuidanceNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Guidance_UpscaleConditioning",
            display_name="Upscale Conditioning",
            category="guidance/sampling",
            description="Gives an upsampler (ADM's 64 to 256 and 128 to 512, GLIDE's, Karlo's and IF's 64 to 256) the "
            "small picture that it enlarges.",
            search_aliases=["super resolution", "cascade", "upsampler", "noise augmentation", "超分辨率", "放大"],
            inputs=[
                io.Conditioning.Input(
                    "conditioning", tooltip="Class Conditioning or Text Conditioning of the upsampler."
                ),
                io.Image.Input(
                    "image", tooltip="The small picture, for instance the first stage's. Image i goes to image i."
                ),
                io.Float.Input(
                    "noise_augmentation",
                    default=-1.0,
                    min=-1.0,
                    max=1.0,
                    step=0.01,
                    optional=True,
                    advanced=True,
                    tooltip="Noise on the small picture, for models that are told how much (IF's second stage): 0 "
                    "hardly any, 1 nothing else. Below 0: auto, 0.25 there and none elsewhere.",
                ),
                seed_input("Of that noise; image i's is that of seed + i.", changes=False, later=True),
            ],
            outputs=[io.Conditioning.Output(tooltip="For positive or negative of any sampler.")],
        )

    @classmethod
    def run(
        cls, conditioning: list[Any], image: Tensor, noise_augmentation: float = -1.0, seed: int = 0
    ) -> io.NodeOutput:
        with about("image"):
            low_res = (to_pixels(image).add(1).mul(127.5).round() / 127.5) - 1  # 8 bits, as published
        level = None if noise_augmentation < 0 else noise_augmentation
        return io.NodeOutput(with_picture(conditioning, low_res, level, seed))


NODES: list[type[io.ComfyNode]] = [EmptyPixelLatent, ClassConditioning, UpscaleConditioning]
