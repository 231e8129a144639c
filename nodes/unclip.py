"""unCLIP: a text becomes CLIP's embedding of a picture, and embeddings become others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..guidance.embeddings import BLENDS
from ..models.prior import own_statistics, statistics_at
from ..models.registry import PRIOR, load_checkpoint
from . import sockets
from .host.errors import GuidanceNode, about
from .host.files import choices, locate, usable
from .host.guides.encoder import Encoder
from .host.judging.embed import embedded_images
from .host.unclip.outputs import difference_of, embeds_of, seen
from .host.unclip.prior import HostPrior, load_prior
from .widgets import seed_input, steps_input

CATEGORY = "guidance/unclip"
NONE = "none"


class LoadPrior(GuidanceNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Guidance_LoadPrior",
            display_name="Load Prior",
            category="guidance/loaders",
            description="Loads a diffusion prior of an unCLIP (Karlo's in both layouts, Kandinsky 2.x'): it makes "
            "CLIP's "
            "embedding of a picture out of a text.",
            search_aliases=["unCLIP", "Karlo", "Kandinsky", "DALL-E 2", "prior", "先验", "加载先验"],
            inputs=[
                io.Combo.Input(
                    "prior_name",
                    options=choices("priors", PRIOR),
                    tooltip="A file in ComfyUI/models/guidance_priors.",
                ),
                io.Combo.Input(
                    "statistics_name",
                    options=[NONE, *choices("priors", PRIOR)],
                    default=NONE,
                    optional=True,
                    advanced=True,
                    tooltip="Mean and deviation of CLIP's embeddings, for files without: Karlo's ViT-L-14_stats.th. "
                    "Files "
                    "in diffusers' layout have their own.",
                ),
            ],
            outputs=[sockets.Prior.Output(display_name="prior", tooltip="For UnCLIP Prior.")],
        )

    @classmethod
    def run(cls, prior_name: str, statistics_name: str = NONE) -> io.NodeOutput:
        with about("prior_name"):
            checkpoint = load_checkpoint(locate("priors", prior_name), PRIOR)
            statistics = own_statistics(checkpoint)
        with about("statistics_name"):
            path = None if statistics_name == NONE else locate("priors", statistics_name)
            return io.NodeOutput(load_prior(checkpoint, statistics or statistics_at(path, checkpoint)))

    @classmethod
    def validate_inputs(cls, prior_name: str | None = None) -> bool | str:
        return usable("priors", prior_name, PRIOR)

    @classmethod
    def fingerprint_inputs(cls, prior_name: str, statistics_name: str = NONE) -> list[float]:
        names = [name for name in (prior_name, statistics_name) if name != NONE]
        return [Path(locate("priors", name)).stat().st_mtime for name in names]


class UnclipPrior(GuidanceNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Guidance_UnclipPrior",
            display_name="UnCLIP Prior",
            category=CATEGORY,
            description="Samples CLIP's embedding of a picture of a text, for unCLIP decoders: Karlo's, and "
            "ComfyUI's own "
            "unCLIPConditioning.",
            search_aliases=["Karlo", "Kandinsky", "DALL-E 2", "text to image embedding", "先验", "图像嵌入"],
            inputs=[
                sockets.Prior.Input("prior", tooltip="Load Prior."),
                sockets.reader_input(
                    "What the prior was trained on: Load CLIP of that CLIP, of any node; scenes_prior: Load Guidance "
                    "Encoder with scenes_clip."
                ),
                io.String.Input("text", multiline=True, default="", tooltip="What the picture shows."),
                io.String.Input(
                    "negative", multiline=True, default="", tooltip="What it does not show. Empty: the published null."
                ),
                seed_input("Of the first embedding; the next ones use seed + 1, seed + 2, ..."),
                steps_input(25, "Evaluations of the prior, evenly spread. 25 is published."),
                io.Float.Input(
                    "guidance_scale",
                    default=4.0,
                    min=0.0,
                    max=30.0,
                    step=0.1,
                    tooltip="Classifier-free guidance on the embedding: 1 is off, 4 published.",
                ),
                io.Int.Input(
                    "samples",
                    default=1,
                    min=1,
                    max=64,
                    tooltip="How many embeddings are drawn; the one nearest to the text by cosine is kept.",
                ),
                io.Float.Input(
                    "x0_clamp",
                    default=0.0,
                    min=0.0,
                    max=100.0,
                    step=0.5,
                    advanced=True,
                    tooltip="Limit of the normalised embedding at each step. 0: as published, 10, or 5 by diffusers "
                    "for "
                    "Karlo.",
                ),
            ],
            outputs=[
                io.ClipVisionOutput.Output(tooltip="One row: for Image Embed Conditioning and unCLIPConditioning."),
                io.String.Output(
                    display_name="cosines", tooltip="JSON: the kept cosine with the text, its sample, and all cosines."
                ),
            ],
        )

    @classmethod
    def run(
        cls,
        prior: HostPrior,
        clip: Any,
        text: str,
        negative: str,
        seed: int,
        steps: int,
        guidance_scale: float,
        samples: int,
        x0_clamp: float,
    ) -> io.NodeOutput:
        with about("text"):
            if not text.strip():
                raise ValueError("it is empty, and there is nothing to make an embedding of; write what is to be seen")
        with about("clip"):
            found, cosines = prior.embed(clip, (text, negative), (seed, samples), steps, guidance_scale, x0_clamp)
        best = int(cosines.argmax())
        report = {"cosine": cosines[best].item(), "sample": best, "cosines": cosines.tolist()}
        return io.NodeOutput(seen(found[[best]]), json.dumps(report))


class ImageEmbeds(GuidanceNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Guidance_ImageEmbeds",
            display_name="Image Embeds",
            category=CATEGORY,
            description="What a guidance encoder sees in pictures, as CLIP's embeddings for unCLIP: a row for each. "
            "CLIP Vision Encode does the same with ComfyUI's own CLIP Vision.",
            search_aliases=["unCLIP", "image variation", "CLIP vision encode", "图像变体", "图像嵌入"],
            inputs=[
                sockets.Encoder.Input("encoder", tooltip="Load Guidance Encoder; scenes_clip for scenes_unclip."),
                io.Image.Input("images", tooltip="Pictures of any size; their middle is brought to the encoder's."),
            ],
            outputs=[
                io.ClipVisionOutput.Output(
                    tooltip="A row for each picture: for Image Embed Conditioning and Blend Image Embeds."
                )
            ],
        )

    @classmethod
    def run(cls, encoder: Encoder, images: Tensor) -> io.NodeOutput:
        with about("images"):
            return io.NodeOutput(seen(embedded_images(encoder, images)))


class BlendImageEmbeds(GuidanceNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Guidance_BlendImageEmbeds",
            display_name="Blend Image Embeds",
            category=CATEGORY,
            description="Between two CLIP embeddings of pictures, or from one along the difference of two texts "
            "(DALL-E "
            "2's interpolations and edits).",
            search_aliases=["slerp", "interpolation", "text diff", "unCLIP", "插值", "图像嵌入"],
            inputs=[
                io.ClipVisionOutput.Input(
                    "embed_a", tooltip="Where it begins: CLIP Vision Encode, or UnCLIP Prior. Its first row."
                ),
                io.Combo.Input(
                    "method",
                    options=list(BLENDS),
                    default="slerp",
                    tooltip="slerp: along the sphere, towards embed_b. lerp: straight on. text difference: from "
                    "embed_a "
                    "along target_text minus source_text.",
                ),
                io.Float.Input(
                    "fraction",
                    default=0.5,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="How far: 0 is embed_a to the bit, 1 its goal. Of several frames the last one's.",
                ),
                io.Int.Input(
                    "frames",
                    default=1,
                    min=1,
                    max=256,
                    tooltip="1: the fraction alone. More: as many rows, evenly from 0 to the fraction.",
                ),
                io.ClipVisionOutput.Input(
                    "embed_b", optional=True, tooltip="Where it leads, for slerp and lerp. Its first row."
                ),
                sockets.reader_input(
                    "Reads the texts, for text difference: Load CLIP, or Load Guidance Encoder.", optional=True
                ),
                io.String.Input(
                    "source_text", default="", optional=True, tooltip="What is seen now, for text difference."
                ),
                io.String.Input("target_text", default="", optional=True, tooltip="What is to be seen instead."),
            ],
            outputs=[io.ClipVisionOutput.Output(tooltip="A row for each frame: for Image Embed Conditioning.")],
        )

    @classmethod
    def run(
        cls,
        embed_a: Any,
        method: str,
        fraction: float,
        frames: int,
        embed_b: Any | None = None,
        clip: Any | None = None,
        source_text: str = "",
        target_text: str = "",
    ) -> io.NodeOutput:
        with about("embed_a"):
            a = embeds_of(embed_a)
        if method == "text difference":
            with about("clip"):
                goal = difference_of(clip, source_text, target_text, len(a))
        else:
            with about("embed_b"):
                goal = embeds_of(embed_b, len(a))
        fractions = torch.linspace(0, fraction, frames) if frames > 1 else torch.tensor([fraction])
        return io.NodeOutput(seen(BLENDS[method](a, goal, fractions)))


NODES: list[type[io.ComfyNode]] = [LoadPrior, UnclipPrior, ImageEmbeds, BlendImageEmbeds]
