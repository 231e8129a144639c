"""What text-conditional pixel models are told: a text, and the picture whose holes they fill."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from torch import Tensor
from torch.nn.functional import interpolate

from .host.errors import GuidanceNode, about, noticed
from .host.model import facts_of
from .host.pictures import to_pixels
from .host.pixel.kept import with_kept
from .host.pixel.tokens import text_conditioning

CATEGORY = "guidance/sampling"


class TextConditioning(GuidanceNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Guidance_TextConditioning",
            display_name="Text Conditioning",
            category=CATEGORY,
            description="A text as CONDITIONING for pixel models that read it themselves, as GLIDE does. Leave the "
            "text empty for the negative side of CFG.",
            search_aliases=["GLIDE", "prompt", "text to image", "CLIP text encode", "提示词", "文字条件"],
            inputs=[
                io.Model.Input("model", tooltip="The text-conditional model; it knows its tokens."),
                io.String.Input(
                    "text",
                    multiline=True,
                    default="",
                    tooltip="What the pictures show. Empty: no text, for the negative.",
                ),
            ],
            outputs=[io.Conditioning.Output(tooltip="For positive or negative of any sampler.")],
        )

    @classmethod
    def run(cls, model: Any, text: str) -> io.NodeOutput:
        facts = facts_of(model)
        with about("model"):
            if facts is None or not facts.vocabulary:
                raise ValueError(
                    "a model that reads texts itself is needed, as GLIDE's; this one does not. Class Conditioning is "
                    "for models of classes, and CLIP Text Encode for the host's"
                )
        network = model.model.diffusion_model.network
        context = network.config.context
        with about("text"):
            tokens = network.tokens(text)
        cut = tokens[context:]
        said = f"the text has {len(tokens)} tokens, and the model reads {context}; cut off: {network.said(cut)!r}"
        conditioning = text_conditioning(tokens[:context], context, facts.vocabulary)
        return io.NodeOutput(conditioning, ui=noticed(said if cut else ""))


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


NODES: list[type[io.ComfyNode]] = [TextConditioning, InpaintConditioning]
