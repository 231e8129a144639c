"""Sentences about several things: regions of pictures, and how well pictures fit them by MMCA's cross attention."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..guidance.match_scores import UNSEEN, order
from ..models.encoder import STYLE, chosen_layers
from . import sockets
from .guide_inputs import CATEGORY as GUIDES
from .guide_inputs import GUIDE_TOOLTIP, encoder_input, guide_output, mask_input, strength_of, weight_inputs
from .host.errors import GuidanceNode, about
from .host.guides.encoder import Encoder
from .host.guides.guide import match_guide
from .host.judging.matcher import Matcher, Scores, Words
from .host.judging.regions import Regions, masks_of, regions_of
from .judging import CATEGORY, lines, to_json
from .judging_pictures import table
from .matching_pictures import attended
from .widgets import WindowNode

SHOWN = 4  # pictures of a sentence whose attention is drawn


def one_layer(name: str, encoder: Encoder) -> str:
    """Raises InputError of `layer` for none, several, and one that the encoder hasn't got."""
    with about("layer"):
        found = chosen_layers(name, encoder.network, STYLE) if name.strip() else []
        if len(found) != 1:
            raise ValueError(
                f"one layer is needed, and {name!r} came; the encoder has {', '.join(encoder.network.layers)}"
            )
        return found[0]


class RegionFeatures(GuidanceNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Guidance_RegionFeatures",
            display_name="Region Features",
            category=CATEGORY,
            description="Pictures as sets of regions, for Image-Sentence Match: the cells of an encoder's feature map, "
            "or what lies under masks. No detector is needed.",
            search_aliases=["patch tokens", "objects", "bottom-up features", "MMCA", "SAEM", "区域特征"],
            inputs=[
                sockets.Encoder.Input("encoder", tooltip="The encoder that the matcher was trained with."),
                io.Image.Input("images", tooltip="Any number of pictures; the middle square of each is seen."),
                io.String.Input(
                    "layer",
                    default="layer3",
                    tooltip="One feature map of the encoder: that which the matcher was trained on. A wrong name lists "
                    "all.",
                ),
                io.Mask.Input(
                    "masks",
                    optional=True,
                    tooltip="A region for each mask instead of each cell. Of several pictures: as many for each, those "
                    "of the first picture first. An empty mask is no region.",
                ),
            ],
            outputs=[sockets.Regions.Output(display_name="regions", tooltip="For Image-Sentence Match.")],
        )

    @classmethod
    def run(cls, encoder: Encoder, images: Tensor, layer: str, masks: Tensor | None = None) -> io.NodeOutput:
        name = one_layer(layer, encoder)
        squares = None
        if masks is not None:
            with about("masks"):
                squares = masks_of(images, masks)
        with about("images"):
            return io.NodeOutput(regions_of(encoder, images, name, squares))


class ImageSentenceMatch(GuidanceNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Guidance_ImageSentenceMatch",
            display_name="Image-Sentence Match",
            category=CATEGORY,
            description="How well pictures fit sentences about several things: a cheap score of all, and cross "
            "attention between regions and words for the best.",
            search_aliases=["MMCA", "cross attention", "rank images", "retrieval", "image text matching", "图文匹配"],
            inputs=[
                sockets.Matcher.Input("matcher", tooltip="What compares pictures and sentences: Load Matcher."),
                sockets.Regions.Input("regions", tooltip="The pictures as regions: Region Features."),
                io.String.Input(
                    "text",
                    multiline=True,
                    default="a red star left of a blue circle",
                    tooltip="One sentence a line; the pictures are sorted by the first.",
                ),
                io.Int.Input(
                    "rerank",
                    default=50,
                    min=0,
                    max=4096,
                    tooltip="So many of the best pictures of each sentence are looked at by the cross attention, which "
                    "costs a pass for each pair. The rest stay in the order of the cheap score. 0: only that.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="images", tooltip="Sorted by the first sentence, the best first."),
                io.Int.Output(display_name="indices", is_output_list=True, tooltip="Places in the batch, from 0."),
                io.String.Output(display_name="json", tooltip="Both scores of every picture with every sentence."),
                io.Image.Output(
                    display_name="table", tooltip="Scores as a picture: a row a picture, a column a sentence."
                ),
                io.Image.Output(
                    display_name="attention", tooltip="Where each word looks, in the best pictures of each sentence."
                ),
            ],
        )

    @classmethod
    def run(cls, matcher: Matcher, regions: Regions, text: str, rerank: int) -> io.NodeOutput:
        texts = lines(text, "text")
        with about("regions"):
            matcher.check_width(regions.sets.states.shape[2], regions.origin)
            if not regions.sets.keep.any(1).all():
                place = int((~regions.sets.keep.any(1)).nonzero()[0])
                raise ValueError(
                    f"picture {place} has no regions, as its masks are empty; give it one that isn't, or leave it out"
                )
        words = matcher.words(texts, regions.encoder)
        found = matcher.scores(regions, words, rerank)
        orders = [order(found.first[:, m], found.whole[:, m]) for m in range(len(texts))]
        said = to_json(
            matcher=matcher.name,
            regions=regions.origin,
            texts=texts,
            global_scores=found.first.tolist(),
            scores=[[None if value == UNSEEN else value for value in row] for row in found.whole.tolist()],
            orders=orders,
        )
        sheet = table(regions.images, texts, *cells_of(found))
        pictures = attention_sheet(matcher, regions, words, texts, orders)
        return io.NodeOutput(regions.images[orders[0]], orders[0], said, sheet, pictures)


def cells_of(found: Scores) -> tuple[list[list[str]], Tensor]:
    """What the table says of each pair, and how dark: the larger the score among the pictures of a sentence."""
    seen = found.whole > UNSEEN
    shown = found.whole.where(seen, found.first)
    said = [
        [f"{value:.3f}" + "\n(global)" * (not looked) for value, looked in zip(*row, strict=True)]
        for row in zip(shown.tolist(), seen.tolist(), strict=True)
    ]
    low, high = shown.amin(0), shown.amax(0)
    return said, (shown - low) / (high - low).clamp(min=1e-6)


def attention_sheet(
    matcher: Matcher, regions: Regions, words: Words, texts: list[str], orders: list[list[int]]
) -> Tensor:
    parts: list[Any] = []
    for m, text in enumerate(texts):
        best = orders[m][:SHOWN]
        seen = matcher.attention(regions, words, best, m)
        heat = (seen[..., None, None] * regions.places[best][:, None]).sum(2)  # [n w h w]
        parts.append((text, words.names[m], best, heat))
    return attended(regions.images, parts)


class MatchGuide(WindowNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Guidance_MatchGuide",
            display_name="Match Guide",
            category=GUIDES,
            description="Steers towards a sentence about several things, measured by a matcher's cross attention: "
            "which colour belongs to which shape, and what stands where.",
            search_aliases=[
                "MMCA",
                "image sentence matching",
                "attribute binding",
                "compositional",
                "图文匹配",
                "属性绑定",
            ],
            inputs=[
                encoder_input(),
                sockets.Matcher.Input("matcher", tooltip="Load Matcher; it was trained with this encoder."),
                io.String.Input("text", multiline=True, default="", tooltip="What the picture should show."),
                *weight_inputs(),
                mask_input(),
            ],
            outputs=[sockets.Guide.Output(display_name="guide", tooltip=GUIDE_TOOLTIP)],
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


NODES: list[type[io.ComfyNode]] = [RegionFeatures, ImageSentenceMatch, MatchGuide]
