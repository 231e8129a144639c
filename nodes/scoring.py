"""Towards a higher score: what a scorer of embeddings says of a picture, or a pair of texts."""

from __future__ import annotations

from comfy_api.latest import io
from torch import Tensor

from . import sockets
from .guide_inputs import CATEGORY, GUIDE_TOOLTIP, encoder_input, guide_output, mask_input, strength_of, weight_inputs
from .host.guides.encoder import Encoder
from .host.judging.scorer import Scorer, pair_guide, score_guide
from .widgets import WindowNode


class ScoreGuide(WindowNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Guidance_ScoreGuide",
            display_name="Score Guide",
            category=CATEGORY,
            description="Steers towards a higher score: of an aesthetic predictor, of a classifier of your own on "
            "CLIP's embeddings, or of one text against its opposite.",
            search_aliases=[
                "aesthetic",
                "LAION",
                "reward",
                "CLIP-IQA",
                "classifier",
                "linear probe",
                "评分引导",
                "美学评分",
            ],
            inputs=[
                encoder_input(),
                io.String.Input(
                    "text",
                    default="a good photo",
                    tooltip="What the picture should rather be. Read only where no scorer is connected.",
                ),
                io.String.Input(
                    "opposite",
                    default="a bad photo",
                    tooltip="What it should rather not be. Read only where no scorer is connected.",
                ),
                *weight_inputs(),
                io.String.Input(
                    "output",
                    default="",
                    tooltip="Which output of a scorer that has several: its name or number. Empty for one output.",
                ),
                sockets.Scorer.Input(
                    "scorer", optional=True, tooltip="Load Scorer; it was trained on this encoder's embeddings."
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
        opposite: str,
        weight: float,
        start_percent: float,
        end_percent: float,
        curve: str,
        output: str = "",
        scorer: Scorer | None = None,
        mask: Tensor | None = None,
    ) -> io.NodeOutput:
        strength = strength_of(weight, start_percent, end_percent, curve)
        if scorer is None:
            return guide_output(pair_guide(encoder, text, opposite, strength, mask))
        return guide_output(score_guide(encoder, scorer, output, strength, mask))


NODES: list[type[io.ComfyNode]] = [ScoreGuide]
