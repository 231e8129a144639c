"""CLIP that judges: how well pictures fit texts, what they show, which are best."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..guidance.clip_scores import best, class_weights, cosines, filled, probabilities
from . import sockets
from .host.errors import GuidanceNode, about, refusal
from .host.guides.encoder import Encoder
from .host.judging.embed import embedded_images, embedded_texts
from .judging_pictures import bars, table

CATEGORY = "guidance/judging"


def lines(text: str, name: str) -> list[str]:
    """Texts, one a line. Raises InputError of the input `name` where there is none, or one twice."""
    found = [line.strip() for line in text.splitlines() if line.strip()]
    with about(name):
        if not found:
            raise ValueError("it is empty; write at least one line")
        twice = sorted({line for line in found if found.count(line) > 1})
        if twice:
            raise ValueError(f"{twice[0]!r} stands there twice; give every line once")
    return found


def compared(encoder: Encoder, pictures: Tensor, texts: Tensor) -> Tensor:
    """Cosines [n m] of embeddings. Raises InputError of `encoder` where the two are of different CLIPs."""
    with about("encoder"):
        return cosines(pictures, texts)


def to_json(**content: Any) -> str:
    return json.dumps(content, indent=1, ensure_ascii=False)


def scale_of(encoder: Encoder, logit_scale: float) -> float:
    """The chosen one, 0 for the encoder's own."""
    return logit_scale or encoder.logit_scale


def encoder_input() -> Any:
    return sockets.Encoder.Input(
        "encoder",
        tooltip="A CLIP that reads texts: Load Guidance Encoder, or Encoder from CLIP Vision with clip connected.",
    )


def logit_scale_input() -> Any:
    return io.Float.Input(
        "logit_scale",
        default=0.0,
        min=0.0,
        max=1000.0,
        optional=True,
        advanced=True,
        tooltip="How sharply shares tell texts apart: cosines times this go into the softmax. 0: as the encoder's file "
        "says, mostly 100.",
    )


class CLIPScore(GuidanceNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Guidance_CLIPScore",
            display_name="CLIP Score",
            category=CATEGORY,
            description="How well each picture fits each text: the cosine of their CLIP embeddings.",
            search_aliases=["CLIP similarity", "aesthetic", "evaluate", "image text match", "评分", "图文匹配"],
            inputs=[
                encoder_input(),
                io.Image.Input("images", tooltip="Any number of pictures, of any size."),
                io.String.Input("text", multiline=True, default="a photo of a dog", tooltip="One text a line."),
                logit_scale_input(),
            ],
            outputs=[
                io.Float.Output(
                    display_name="score", tooltip="Cosine of the first picture with the first text, in [-1, 1]."
                ),
                io.String.Output(display_name="json", tooltip="Cosines of every picture with every text, and shares."),
                io.Image.Output(
                    display_name="table", tooltip="The same as a picture: a row a picture, a column a text."
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, text: str | None = None) -> bool | str:
        return refusal(lines, text, "text")

    @classmethod
    def run(cls, encoder: Encoder, images: Tensor, text: str, logit_scale: float = 0.0) -> io.NodeOutput:
        texts, scale = lines(text, "text"), scale_of(encoder, logit_scale)
        read = embedded_texts(encoder, texts, lambda text: "text")
        with about("images"):
            seen = embedded_images(encoder, images)
        found = compared(encoder, seen, read)
        shares = probabilities(found, scale)
        several = len(texts) > 1
        cells = [
            [f"{value:.3f}" + f"\n{100 * share:.0f} %" * several for value, share in zip(*row, strict=True)]
            for row in zip(found.tolist(), shares.tolist(), strict=True)
        ]
        said = to_json(encoder=encoder.name, texts=texts, cosines=found.tolist(), shares=shares.tolist())
        tones = shares if several else ((found + 1) / 2).clamp(0, 1)
        return io.NodeOutput(float(found[0, 0]), said, table(images, texts, cells, tones))


class ZeroShotClassify(GuidanceNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Guidance_ZeroShotClassify",
            display_name="Zero-Shot Classify",
            category=CATEGORY,
            description="What pictures show, among labels that you write: CLIP's classifier, made of texts alone.",
            search_aliases=["CLIP classify", "label images", "tagger", "zero shot", "零样本分类", "打标"],
            inputs=[
                encoder_input(),
                io.Image.Input("images", tooltip="Any number of pictures, of any size."),
                io.String.Input(
                    "labels", multiline=True, default="dog\ncat\nbird", tooltip="One label a line, each once."
                ),
                io.String.Input(
                    "templates",
                    multiline=True,
                    default="a photo of a {}.",
                    tooltip="Sentences with {} where the label goes, one a line; a label is the mean of them all.",
                ),
                io.Int.Input(
                    "top", default=5, min=1, max=100, optional=True, advanced=True, tooltip="Labels shown a picture."
                ),
                logit_scale_input(),
            ],
            outputs=[
                io.String.Output(display_name="labels", tooltip="The best label of each picture, one a line."),
                io.String.Output(display_name="json", tooltip="Probabilities of every label for every picture."),
                io.Image.Output(display_name="bars", tooltip="The same as a picture: bars of the best labels."),
            ],
        )

    @classmethod
    def validate_inputs(cls, labels: str | None = None) -> bool | str:
        return refusal(lines, labels, "labels")

    @classmethod
    def run(
        cls, encoder: Encoder, images: Tensor, labels: str, templates: str, top: int = 5, logit_scale: float = 0.0
    ) -> io.NodeOutput:
        names, frames = lines(labels, "labels"), lines(templates, "templates")
        with about("templates"):
            empty = [frame for frame in frames if "{}" not in frame]
            if empty:
                raise ValueError(f"{empty[0]!r} has no {{}} where the label would go; write it there")
        scale = scale_of(encoder, logit_scale)
        sentences = [sentence for name in names for sentence in filled(frames, name)]
        read = embedded_texts(encoder, sentences, partial(cls.blamed, encoder, names, frames))
        with about("images"):
            seen = embedded_images(encoder, images)
        weights = class_weights(read.unflatten(0, (len(names), len(frames))))
        found = probabilities(compared(encoder, seen, weights), scale)
        ranked = [[(names[place], float(row[place])) for place in best(row, min(top, len(names)))] for row in found]
        said = to_json(
            encoder=encoder.name,
            labels=names,
            templates=frames,
            probabilities=found.tolist(),
            top=[[{"label": name, "probability": share} for name, share in row] for row in ranked],
        )
        return io.NodeOutput("\n".join(row[0][0] for row in ranked), said, bars(images, ranked))

    @classmethod
    def blamed(cls, encoder: Encoder, names: list[str], frames: list[str], sentence: str) -> str:
        """The input to blame for a sentence that can't be read: its label, if that can't be read alone either."""
        name = next(name for name in names if sentence in filled(frames, name))
        try:
            encoder.text(name)
        except ValueError:
            return "labels"
        return "templates"


class RankImages(GuidanceNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Guidance_RankImages",
            display_name="Rank Images by Text",
            category=CATEGORY,
            description="The pictures of a batch that fit a text best, the best first: draw many, keep a few.",
            search_aliases=["best of n", "CLIP rerank", "filter batch", "sort images", "pick best", "排序", "挑选"],
            inputs=[
                encoder_input(),
                io.Image.Input("images", tooltip="A batch, of any size."),
                io.String.Input("text", multiline=True, default="a photo of a dog", tooltip="What the best ones show."),
                io.Int.Input("keep", default=4, min=0, max=4096, tooltip="How many are kept. 0: all, in order."),
                io.String.Input(
                    "negative",
                    multiline=True,
                    default="",
                    optional=True,
                    tooltip="What they should not show: its cosine is taken off the score. Empty: nothing.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="images", tooltip="The kept pictures, the best first."),
                io.Int.Output(display_name="indices", is_output_list=True, tooltip="Places in the batch, from 0."),
                io.String.Output(display_name="json", tooltip="Order and scores, also of those left out."),
            ],
        )

    @classmethod
    def run(cls, encoder: Encoder, images: Tensor, text: str, keep: int, negative: str = "") -> io.NodeOutput:
        with about("keep"):
            if not 0 <= keep <= len(images):
                raise ValueError(f"{keep} of {len(images)} pictures can't be kept; give 0 to {len(images)}")
        wanted = [("text", " ".join(text.split()))]
        if negative.strip():
            wanted.append(("negative", " ".join(negative.split())))
        read = torch.cat([embedded_texts(encoder, [line], lambda _, name=name: name) for name, line in wanted])
        with about("images"):
            seen = embedded_images(encoder, images)
        found = compared(encoder, seen, read)
        scores = found[:, 0] - found[:, 1] if negative.strip() else found[:, 0]
        order = best(scores, keep or len(images))
        said = to_json(
            encoder=encoder.name,
            **dict(wanted),
            order=order,
            scores=[float(scores[place]) for place in order],
            all_scores=scores.tolist(),
        )
        return io.NodeOutput(images[order], order, said)


NODES: list[type[io.ComfyNode]] = [CLIPScore, ZeroShotClassify, RankImages]
