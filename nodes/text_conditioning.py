"""What text-conditional pixel models are told: a text, a picture's embedding, and the picture whose holes they fill."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from torch import Tensor
from torch.nn.functional import interpolate

from ..models.facts import Facts
from ..models.imagen.captions import cleaned
from . import sockets
from .host.errors import GuidanceNode, about, noticed
from .host.guides.encoder import Encoder
from .host.model import facts_of
from .host.pictures import to_pixels
from .host.pixel.kept import with_kept
from .host.pixel.states import check_width, states_conditioning, with_image_embeds
from .host.pixel.tokens import text_conditioning
from .host.pixel.towers import read_clip, read_encoder, read_t5

CATEGORY = "guidance/sampling"


class TextConditioning(GuidanceNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Guidance_TextConditioning",
            display_name="Text Conditioning",
            category=CATEGORY,
            description="A text as CONDITIONING for text-conditional pixel models: GLIDE reads it itself, Karlo by "
            "CLIP and IF by T5. Leave the text empty for the negative side of CFG.",
            search_aliases=[
                "GLIDE",
                "Karlo",
                "DeepFloyd IF",
                "prompt",
                "text to image",
                "CLIP text encode",
                "提示词",
                "文字条件",
            ],
            inputs=[
                io.Model.Input("model", tooltip="The text-conditional model; it knows what reads its texts."),
                io.String.Input(
                    "text",
                    multiline=True,
                    default="",
                    tooltip="What the pictures show. Empty: no text, for the negative.",
                ),
                sockets.reader_input(
                    "What reads the text. Karlo: Load CLIP with CLIP ViT-L/14 (clip_l). scenes_unclip, "
                    "scenes_transformer: Load Guidance Encoder with scenes_clip. IF: Load CLIP with t5xxl. "
                    "GLIDE needs none.",
                    optional=True,
                ),
            ],
            outputs=[io.Conditioning.Output(tooltip="For positive or negative of any sampler.")],
        )

    @classmethod
    def run(cls, model: Any, text: str, clip: Any | None = None) -> io.NodeOutput:
        facts = facts_of(model)
        if facts is None and isinstance(clip, Encoder):
            return io.NodeOutput(by_own_encoder(model, text, clip))
        with about("model"):
            if facts is None or not (facts.vocabulary or facts.text_encoder):
                raise ValueError(
                    "a text-conditional model of Load Guidance Model is needed, as GLIDE, Karlo's decoder or IF; this "
                    "one is none. Class Conditioning is for models of classes, and CLIP Text Encode for the host's; "
                    "scenes_transformer needs Load Guidance Encoder with scenes_clip at clip"
                )
        if facts.vocabulary:
            conditioning, said = by_tokens(model, facts, text)
        else:
            conditioning, said = by_encoder(model, facts, text, clip)
        return io.NodeOutput(conditioning, ui=noticed(said))


def by_tokens(model: Any, facts: Facts, text: str) -> tuple[list[Any], str]:
    """For a model that reads texts itself. Also what its user should know; empty if there is nothing."""
    network = model.model.diffusion_model.network
    context = network.config.context
    with about("text"):
        tokens = network.tokens(text)
    cut = tokens[context:]
    said = f"the text has {len(tokens)} tokens, and the model reads {context}; cut off: {network.said(cut)!r}"
    return text_conditioning(tokens[:context], context, facts.vocabulary), said if cut else ""


def by_encoder(model: Any, facts: Facts, text: str, clip: Any | None) -> tuple[list[Any], str]:
    """The same for a model whose texts CLIP or T5 reads."""
    with about("clip"):
        if clip is None:
            file = {"CLIP": "CLIP ViT-L/14, clip_l.safetensors", "T5": "t5xxl, type pixart or sd3"}
            raise ValueError(
                f"{facts.text_encoder} reads the texts of this model, and nothing is connected; connect Load CLIP "
                f"({file[facts.text_encoder]})"
            )
        if facts.text_encoder == "CLIP":
            return states_conditioning(read_clip(clip, text, facts.text_width), "CLIP"), ""
        caption, context = cleaned(text), model.model.diffusion_model.network.config.context
        read, cut = read_t5(clip, caption, context, facts.text_width)
    said = (
        f"the text is {cut} tokens longer than the {context} that the model reads; its end was cut off" if cut else ""
    )
    if text.strip() and not caption:
        said = f"nothing remains of {text.strip()[:60]!r} after the cleaning of IF's training; write it in English"
    return states_conditioning(read, "T5"), said


def by_own_encoder(model: Any, text: str, encoder: Encoder) -> list[Any]:
    """For a transformer of the host that was trained on what one of the pack's encoders reads, zeros behind its end.

    Raises ValueError for a network of another kind, and for an encoder of another width.
    """
    network = model.model.diffusion_model
    with about("model"):
        if (width := getattr(network, "text_dim", None)) is None:
            raise ValueError(
                f"a {type(network).__name__} doesn't read texts by one of the pack's encoders; use CLIP Text Encode "
                "with the model's own text encoder"
            )
    with about("clip"):
        read = read_encoder(encoder, text, width)
    return [[read.states * read.mask[..., None], {}]]


class ImageEmbedConditioning(GuidanceNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Guidance_ImageEmbedConditioning",
            display_name="Image Embed Conditioning",
            category=CATEGORY,
            description="Gives an unCLIP decoder (Karlo's) the CLIP embeddings that it draws, one for each picture of "
            "the batch.",
            search_aliases=["unCLIP", "Karlo", "image variation", "CLIP vision", "图像变体", "图像嵌入"],
            inputs=[
                io.Model.Input("model", tooltip="The decoder; it knows how wide its embeddings are."),
                io.Conditioning.Input(
                    "conditioning", tooltip="Text Conditioning of the decoder, with or without a text."
                ),
                io.ClipVisionOutput.Input(
                    "clip_vision_output",
                    tooltip="UnCLIP Prior, Blend Image Embeds, or CLIP Vision Encode with CLIP ViT-L/14. Row i goes to "
                    "image i.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=2.0,
                    step=0.01,
                    tooltip="From the decoder's own null, 0, to the embedding, 1, and beyond.",
                ),
            ],
            outputs=[io.Conditioning.Output(tooltip="For positive; the negative has no embedding.")],
        )

    @classmethod
    def run(cls, model: Any, conditioning: list[Any], clip_vision_output: Any, strength: float) -> io.NodeOutput:
        facts = facts_of(model)
        with about("model"):
            if facts is None or not facts.image_embeds:
                raise ValueError(
                    "an unCLIP decoder of Load Guidance Model is needed, as Karlo's; for the host's own unCLIP models "
                    "use unCLIPConditioning"
                )
        with about("clip_vision_output"):
            check_width(clip_vision_output.image_embeds, facts)
        embeds = clip_vision_output.image_embeds.float()
        return io.NodeOutput(with_image_embeds(conditioning, embeds, strength))


class InpaintConditioning(GuidanceNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Guidance_InpaintConditioning",
            display_name="Inpaint Conditioning",
            category=CATEGORY,
            description="Gives an inpainting model (GLIDE's) the picture that it completes. What is kept stays as it "
            "is, at every step.",
            search_aliases=["GLIDE inpaint", "fill", "outpaint", "mask", "局部重绘", "修复"],
            inputs=[
                io.Conditioning.Input("conditioning", tooltip="Text Conditioning of the inpainting model."),
                io.Image.Input("image", tooltip="The picture, of the size that is drawn. Image i goes to image i."),
                io.Mask.Input("mask", tooltip="White: what is drawn anew. Black: what is kept."),
            ],
            outputs=[io.Conditioning.Output(tooltip="For positive or negative of any sampler.")],
        )

    @classmethod
    def run(cls, conditioning: list[Any], image: Tensor, mask: Tensor) -> io.NodeOutput:
        with about("image"):
            pixels = to_pixels(image)
        with about("mask"):
            rows = mask.reshape(-1, 1, *mask.shape[-2:]).float()
            if len(rows) not in (1, len(pixels)):
                raise ValueError(f"{len(rows)} masks came for {len(pixels)} pictures; give one, or {len(pixels)}")
            free = interpolate(rows, pixels.shape[2:], mode="nearest") > 0.5
            if not free.any():
                raise ValueError("it is black everywhere, so nothing would be drawn; paint white what is to be filled")
        keep = (~free).to(pixels).expand(len(pixels), -1, -1, -1)
        return io.NodeOutput(with_kept(conditioning, pixels, keep))


NODES: list[type[io.ComfyNode]] = [TextConditioning, ImageEmbedConditioning, InpaintConditioning]
