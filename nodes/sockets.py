"""The pack's own socket types; everything else is the host's."""

from typing import Any

from comfy_api.latest import io

Classifier = io.Custom("GUIDANCE_CLASSIFIER")
Condition = io.Custom("GUIDANCE_CONDITION")
Encoder = io.Custom("GUIDANCE_ENCODER")
Guide = io.Custom("GUIDANCE_GUIDE")
Codec = io.Custom("GUIDANCE_SEMANTIC_CODEC")
Semantic = io.Custom("GUIDANCE_SEMANTIC")
SemanticDirection = io.Custom("GUIDANCE_SEMANTIC_DIRECTION")
Regions = io.Custom("GUIDANCE_REGIONS")
Matcher = io.Custom("GUIDANCE_MATCHER")
HSpace = io.Custom("GUIDANCE_HSPACE")
Prior = io.Custom("GUIDANCE_PRIOR")
Scorer = io.Custom("GUIDANCE_SCORER")


def reader_input(tooltip: str, optional: bool = False) -> Any:
    """`clip`: what reads texts for another network, the host's CLIP or one of the pack's own encoders."""
    return io.MultiType.Input("clip", [io.Clip, Encoder], optional=optional, tooltip=tooltip)
