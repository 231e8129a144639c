"""What to steer towards: guides of every kind."""

from __future__ import annotations

from comfy_api.latest import io
from torch import Tensor

from ..guidance.clip_energy import DISTANCES
from ..guidance.structure_energy import METHODS
from . import sockets
from .guide_inputs import (
    CATEGORY,
    FRESH,
    GUIDE_TOOLTIP,
    LAYERS_TOOLTIP,
    REFERENCE_TOOLTIP,
    encoder_input,
    guide_output,
    mask_input,
    noise_input,
    read_reference,
    strength_of,
    weight_inputs,
)
from .host.errors import about
from .host.guides.classifier import HostClassifier
from .host.guides.encoder import Encoder
from .host.guides.guide import (
    classifier_guide,
    content_guide,
    palette_guide,
    structure_guide,
    style_guide,
    text_guide,
)
from .pixels import CLASS_LABEL_TOOLTIP
from .widgets import WindowNode


class ClassifierGuide(WindowNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Guidance_ClassifierGuide",
            display_name="Classifier Guide",
            category=CATEGORY,
            description="Steers towards a class of a noise-aware classifier, on any MODEL and sampler.",
            search_aliases=["ADM", "classifier guidance", "class label", "分类器引导", "类别"],
            inputs=[
                sockets.Classifier.Input(
                    "classifier", tooltip="The classifier that reads noisy pictures: Load Guidance Classifier."
                ),
                io.String.Input("class_label", multiline=True, default="", tooltip=CLASS_LABEL_TOOLTIP),
                *weight_inputs(
                    0.0,
                    1.0,
                    "How hard the classifier pulls. 0: off. 1: the exact posterior, for class-conditional models. 4 to "
                    "16 for models without classes; more can be typed. Below 0 it pushes away.",
                ),
                mask_input(),
            ],
            outputs=[sockets.Guide.Output(display_name="guide", tooltip=GUIDE_TOOLTIP)],
        )

    @classmethod
    def run(
        cls,
        classifier: HostClassifier,
        class_label: str,
        weight: float,
        start_percent: float,
        end_percent: float,
        curve: str,
        mask: Tensor | None = None,
    ) -> io.NodeOutput:
        strength = strength_of(weight, start_percent, end_percent, curve)
        with about("class_label"):
            guide = classifier_guide(classifier, class_label, strength, mask)
        return guide_output(guide)


class TextGuide(WindowNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Guidance_TextGuide",
            display_name="Text Guide",
            category=CATEGORY,
            description="Steers towards a text, measured by a CLIP: for models that take no text, and for words that "
            "a model's own encoder doesn't know.",
            search_aliases=[
                "CLIP guidance",
                "SDG",
                "semantic diffusion guidance",
                "language guidance",
                "文字引导",
                "语义引导",
            ],
            inputs=[
                encoder_input(),
                io.String.Input("text", multiline=True, default="", tooltip="What the picture should show."),
                *weight_inputs(),
                io.Combo.Input(
                    "loss",
                    options=list(DISTANCES),
                    default="cosine",
                    advanced=True,
                    tooltip="How far picture and text are apart: cosine as in the SDG paper; spherical pulls less near "
                    "the goal.",
                ),
                mask_input(),
            ],
            outputs=[sockets.Guide.Output(display_name="guide", tooltip=GUIDE_TOOLTIP)],
        )

    @classmethod
    def run(
        cls,
        encoder: Encoder,
        text: str,
        weight: float,
        start_percent: float,
        end_percent: float,
        curve: str,
        loss: str,
        mask: Tensor | None = None,
    ) -> io.NodeOutput:
        strength = strength_of(weight, start_percent, end_percent, curve)
        with about("text"):
            return guide_output(text_guide(encoder, text, strength, loss, mask))


class ContentGuide(WindowNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Guidance_ContentGuide",
            display_name="Content Guide",
            category=CATEGORY,
            description="Steers towards what a picture shows, wherever it stands in it: the distance of image "
            "embeddings.",
            search_aliases=[
                "SDG",
                "image guidance",
                "semantic guidance",
                "CLIP image guidance",
                "variation",
                "reference image",
                "IPAdapter",
                "语义引导",
                "参考图",
                "图像引导",
            ],
            inputs=[
                encoder_input(),
                io.Image.Input("image", tooltip=REFERENCE_TOOLTIP),
                *weight_inputs(),
                mask_input(),
                noise_input(),
            ],
            outputs=[sockets.Guide.Output(display_name="guide", tooltip=GUIDE_TOOLTIP)],
        )

    @classmethod
    def run(
        cls,
        encoder: Encoder,
        image: Tensor,
        weight: float,
        start_percent: float,
        end_percent: float,
        curve: str,
        mask: Tensor | None = None,
        reference_noise: str = FRESH,
    ) -> io.NodeOutput:
        strength = strength_of(weight, start_percent, end_percent, curve)
        return guide_output(content_guide(encoder, read_reference(image), strength, reference_noise == FRESH, mask))


class StructureGuide(WindowNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Guidance_StructureGuide",
            display_name="Structure Guide",
            category=CATEGORY,
            description="Steers towards the layout of a picture: feature maps, or how its places resemble each other.",
            search_aliases=[
                "SDG",
                "layout",
                "Splice",
                "self-similarity",
                "structure guidance",
                "composition",
                "结构",
                "构图",
            ],
            inputs=[
                encoder_input(),
                io.Image.Input("image", tooltip=REFERENCE_TOOLTIP),
                *weight_inputs(),
                io.Combo.Input(
                    "method",
                    options=list(METHODS),
                    default="self-similarity",
                    advanced=True,
                    tooltip="self-similarity keeps the layout and leaves colours and textures free. difference, as in "
                    "the SDG paper, also carries colours over.",
                ),
                io.String.Input("layers", default="", advanced=True, tooltip=LAYERS_TOOLTIP),
                mask_input(),
                noise_input(),
            ],
            outputs=[sockets.Guide.Output(display_name="guide", tooltip=GUIDE_TOOLTIP)],
        )

    @classmethod
    def run(
        cls,
        encoder: Encoder,
        image: Tensor,
        weight: float,
        start_percent: float,
        end_percent: float,
        curve: str,
        method: str,
        layers: str,
        mask: Tensor | None = None,
        reference_noise: str = FRESH,
    ) -> io.NodeOutput:
        strength, picture = strength_of(weight, start_percent, end_percent, curve), read_reference(image)
        with about("layers"):
            guide = structure_guide(encoder, picture, strength, method, layers, reference_noise == FRESH, mask)
        return guide_output(guide)


class StyleGuide(WindowNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Guidance_StyleGuide",
            display_name="Style Guide",
            category=CATEGORY,
            description="Steers towards the textures and colours of a picture: the distance of Gram matrices.",
            search_aliases=[
                "SDG",
                "Gram matrix",
                "style transfer",
                "style guidance",
                "style reference",
                "reference image",
                "IPAdapter",
                "风格",
                "风格迁移",
                "参考图",
            ],
            inputs=[
                encoder_input(),
                io.Image.Input("image", tooltip=REFERENCE_TOOLTIP),
                *weight_inputs(),
                io.String.Input("layers", default="", advanced=True, tooltip=LAYERS_TOOLTIP),
                mask_input(),
                noise_input(),
            ],
            outputs=[sockets.Guide.Output(display_name="guide", tooltip=GUIDE_TOOLTIP)],
        )

    @classmethod
    def run(
        cls,
        encoder: Encoder,
        image: Tensor,
        weight: float,
        start_percent: float,
        end_percent: float,
        curve: str,
        layers: str,
        mask: Tensor | None = None,
        reference_noise: str = FRESH,
    ) -> io.NodeOutput:
        strength, picture = strength_of(weight, start_percent, end_percent, curve), read_reference(image)
        with about("layers"):
            return guide_output(style_guide(encoder, picture, strength, layers, reference_noise == FRESH, mask))


class PaletteGuide(WindowNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Guidance_PaletteGuide",
            display_name="Palette Guide",
            category=CATEGORY,
            description="Steers towards the colours of a picture. Needs no encoder and costs next to nothing.",
            search_aliases=[
                "colour",
                "color",
                "palette transfer",
                "color match",
                "sliced Wasserstein",
                "配色",
                "调色板",
                "色彩迁移",
            ],
            inputs=[
                io.Image.Input("image", tooltip="Whose colours. Several pictures are averaged."),
                *weight_inputs(),
                mask_input(),
            ],
            outputs=[sockets.Guide.Output(display_name="guide", tooltip=GUIDE_TOOLTIP)],
        )

    @classmethod
    def run(
        cls,
        image: Tensor,
        weight: float,
        start_percent: float,
        end_percent: float,
        curve: str,
        mask: Tensor | None = None,
    ) -> io.NodeOutput:
        strength = strength_of(weight, start_percent, end_percent, curve)
        return guide_output(palette_guide(read_reference(image), strength, mask))


NODES: list[type[io.ComfyNode]] = [
    TextGuide,
    ContentGuide,
    StructureGuide,
    StyleGuide,
    PaletteGuide,
    ClassifierGuide,
]
