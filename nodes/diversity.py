"""Pictures of one batch that differ more: Particle Guidance."""

from __future__ import annotations

from comfy_api.latest import io
from torch import Tensor

from . import sockets
from .guide_inputs import CATEGORY, GUIDE_TOOLTIP, guide_output, mask_input, strength_of, weight_inputs
from .host.guides.encoder import Encoder
from .host.guides.guide import diversity_guide
from .widgets import WindowNode

WEIGHT_TOOLTIP = (
    "How hard the pictures of a batch push each other apart. 0: off. 0.6: a third further in 4 steps. 0.2 to 1 is the "
    "useful range. Below 0 they become alike. A batch of one is left as it is."
)


class DiversityGuide(WindowNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Guidance_DiversityGuide",
            display_name="Diversity Guide",
            category=CATEGORY,
            description="Pushes the pictures of one batch apart, for models that draw nearly the same from every seed. "
            "A picture then depends on the others of its batch.",
            search_aliases=[
                "particle guidance",
                "diversity",
                "variety",
                "seed variance",
                "mode collapse",
                "turbo",
                "多样性",
                "粒子引导",
                "差异",
            ],
            inputs=[
                *weight_inputs(0.0, 0.5, WEIGHT_TOOLTIP, weight=0.6),
                sockets.Encoder.Input(
                    "encoder",
                    optional=True,
                    tooltip="Not connected: pictures differ in their colours, which costs next to nothing. An encoder: "
                    "in what it sees in them.",
                ),
                mask_input(),
            ],
            outputs=[sockets.Guide.Output(display_name="guide", tooltip=GUIDE_TOOLTIP)],
        )

    @classmethod
    def run(
        cls,
        weight: float,
        start_percent: float,
        end_percent: float,
        curve: str,
        encoder: Encoder | None = None,
        mask: Tensor | None = None,
    ) -> io.NodeOutput:
        strength = strength_of(weight, start_percent, end_percent, curve)
        return guide_output(diversity_guide(encoder, strength, mask))


NODES: list[type[io.ComfyNode]] = [DiversityGuide]
