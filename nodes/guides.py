"""What to steer towards: guides of every kind."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..guidance.clip_energy import DISTANCES
from ..guidance.structure_energy import METHODS
from ..guidance.weight import CURVES, Weight
from . import sockets
from .host.errors import about
from .host.guides.classifier import HostClassifier
from .host.guides.encoder import Encoder
from .host.guides.guide import (
    Guide,
    classifier_guide,
    content_guide,
    match_guide,
    palette_guide,
    structure_guide,
    style_guide,
    text_guide,
)
from .host.judging.matcher import Matcher
from .host.pictures import to_pixels
from .pixels import CLASS_LABEL_TOOLTIP
from .widgets import WindowNode, weight_input, window_inputs

CATEGORY = "guidance/guides"
FRESH, FIXED = "fresh", "fixed"
REFERENCE_TOOLTIP = (
    "The reference picture. Any size and aspect: its centre is taken. Several pictures in a batch are averaged."
)
WEIGHT_TOOLTIP = (
    "How hard the guide pulls. 0: off. 1: a good start. 0.3 to 3 is the useful range; more can be typed. Below 0 it "
    "pushes away."
)
CURVE_TOOLTIP = (
    "How the weight runs within the window: constant, rising (linear, cosine), falling (... down), or high in the "
    "middle (bell)."
)
GUIDE_TOOLTIP = "One guide. Connect it to Apply Guides, or to Combine Guides for several."
LAYERS_TOOLTIP = (
    "Feature maps of the encoder to compare, separated by commas. Empty: its usual ones. A wrong name is answered with "
    "all names."
)


def weight_inputs(start: float = 0.1, end: float = 0.9, tooltip: str = WEIGHT_TOOLTIP) -> list[Any]:
    """What every guide has, in this order."""
    return [
        weight_input(1.0, 1000.0, tooltip, name="weight"),
        *window_inputs(
            "Where in the run the guide begins; 0 is pure noise.",
            "Where in the run the guide ends; 1 is the finished picture. Outside its window a guide costs nothing.",
            start,
            end,
        ),
        io.Combo.Input("curve", options=list(CURVES), default="constant", advanced=True, tooltip=CURVE_TOOLTIP),
    ]


def strength_of(weight: float, start_percent: float, end_percent: float, curve: str) -> Weight:
    """Of `weight_inputs`."""
    with about("start_percent or end_percent"):
        return Weight(weight, start_percent, end_percent, curve)


def mask_input() -> Any:
    return io.Mask.Input(
        "mask", optional=True, tooltip="White: where the guide may change the picture. Not connected: everywhere."
    )


def noise_input() -> Any:
    return io.Combo.Input(
        "reference_noise",
        options=[FRESH, FIXED],
        default=FRESH,
        advanced=True,
        optional=True,
        display_name="reference_noise (on the reference)",
        tooltip="Noise-aware encoders are shown the reference with as much noise as the sample has at that step. "
        "fresh: new noise at each step. fixed: the same noise in the whole run. Other encoders don't mind.",
    )


def encoder_input() -> Any:
    return sockets.Encoder.Input(
        "encoder", tooltip="The network that looks at the pictures: Load Guidance Encoder, or Encoder from CLIP Vision."
    )


def read_reference(image: Tensor) -> Tensor:
    """IMAGE -> pictures [n 3 H W] in [-1, 1]; alpha is refused, since what lies below it can't be known."""
    with about("image"):
        if image.ndim == 4 and image.shape[-1] == 4:
            raise ValueError(
                "the picture has an alpha channel; put it on a background first (for instance with Join Image with "
                "Alpha's inverse, Split Image with Alpha)"
            )
        return to_pixels(image).clone()


def guide_output(guide: Guide) -> io.NodeOutput:
    return io.NodeOutput([guide])


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


class MatchGuide(WindowNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Guidance_MatchGuide",
            display_name="Match Guide",
            category=CATEGORY,
            description="Steers towards a sentence about several things, measured by a matcher's cross attention: "
            "which colour belongs to which shape, and what stands where.",
            search_aliases=["MMCA", "image sentence matching", "attribute binding", "compositional"],
            inputs=[
                encoder_input(),
                sockets.Matcher.Input("matcher", tooltip="Load Matcher; it was trained with this encoder."),
                io.String.Input("text", multiline=True, default="", tooltip="What the picture should show."),
                *weight_inputs(),
                mask_input(),
            ],
            outputs=[sockets.Guide.Output(display_name="guide")],
        )

    @classmethod
    def run(
        cls,
        encoder: Encoder,
        matcher: Matcher,
        text: str,
        weight: float,
        start_percent: float,
        end_percent: float,
        curve: str,
        mask: Tensor | None = None,
    ) -> io.NodeOutput:
        strength = strength_of(weight, start_percent, end_percent, curve)
        with about("encoder"):
            return guide_output(match_guide(encoder, matcher, text, strength, mask))


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
    MatchGuide,
]
