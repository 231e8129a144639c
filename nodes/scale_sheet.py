"""One setting against seeds: a run for each pair, and one sheet of them all."""

from __future__ import annotations

import math

import torch
from comfy_api.latest import io
from torch import Tensor

from .host.errors import GuidanceNode, about, refusal
from .pictures import check_sizes, contact_sheet

CATEGORY = "guidance/sampling"
MOST = 64  # runs of one sheet


class ScaleValues(GuidanceNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Guidance_ScaleValues",
            display_name="Scale Values",
            category=CATEGORY,
            description="Several values of one setting, each with several seeds: what hangs on them runs once for each "
            "pair. Scale Sheet lays the pictures out.",
            search_aliases=["XY plot", "weight sweep", "parameter sweep", "seed grid", "权重对比", "参数对比"],
            inputs=[
                io.String.Input(
                    "values",
                    default="0, 0.5, 1, 2",
                    tooltip="Numbers between commas, a row of the sheet each: weights, guidance scales, strengths.",
                ),
                io.Int.Input("seed", default=0, min=0, max=0xFFFFFFFF, tooltip="The first column's seed."),
                io.Int.Input("seeds", default=3, min=1, max=16, tooltip="Columns: this seed and those that follow it."),
            ],
            outputs=[
                io.Float.Output(
                    display_name="value", is_output_list=True, tooltip="Into the weight, scale or strength to try."
                ),
                io.Int.Output(display_name="seed", is_output_list=True, tooltip="Into the sampler's seed."),
            ],
        )

    @classmethod
    def validate_inputs(cls, values: str | None = None) -> bool | str:
        return refusal(numbers_of, values)

    @classmethod
    def run(cls, values: str, seed: int, seeds: int) -> io.NodeOutput:
        with about("values"):
            numbers = numbers_of(values)
            if len(numbers) * seeds > MOST:
                raise ValueError(
                    f"{len(numbers)} values with {seeds} seeds are {len(numbers) * seeds} runs, and {MOST} are the "
                    "most; take fewer values or seeds"
                )
        pairs = [(number, seed + column) for number in numbers for column in range(seeds)]
        return io.NodeOutput([number for number, _ in pairs], [one for _, one in pairs])


def numbers_of(text: str) -> list[float]:
    """Numbers between commas. Raises ValueError."""
    try:
        numbers = [float(part) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise ValueError(f"numbers between commas are needed, such as 0, 0.5, 1, and {text!r} came") from error
    if not numbers or not all(map(math.isfinite, numbers)):
        raise ValueError(f"finite numbers between commas are needed, such as 0, 0.5, 1, and {text!r} came")
    return numbers


class ScaleSheet(GuidanceNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Guidance_ScaleSheet",
            display_name="Scale Sheet",
            category=CATEGORY,
            description="The pictures of Scale Values on one sheet: a row for each value, a column for each seed, with "
            "captions.",
            search_aliases=["XY plot", "grid", "weight sweep", "seed grid", "对比图", "权重对比"],
            is_input_list=True,
            inputs=[
                io.Image.Input("images", tooltip="The pictures, as they come out of VAE Decode."),
                io.Float.Input(
                    "value", default=0.0, min=-1e6, max=1e6, force_input=True, tooltip="value of Scale Values."
                ),
                io.Int.Input(
                    "seed", default=0, min=0, max=0xFFFFFFFFFF, force_input=True, tooltip="seed of Scale Values."
                ),
                io.String.Input("setting", default="weight", tooltip="What the values are called over the rows."),
                io.Int.Input("scale", default=4, min=1, max=16, tooltip="Each pixel becomes a square of this side."),
            ],
            outputs=[io.Image.Output(tooltip="One sheet.")],
        )

    @classmethod
    def run(
        cls, images: list[Tensor], value: list[float], seed: list[int], setting: list[str], scale: list[int]
    ) -> io.NodeOutput:
        with about("images"):
            if not 0 < len(images) == len(value) == len(seed):
                raise ValueError(
                    f"one picture or batch for each pair of Scale Values is needed, and {len(images)} came for "
                    f"{len(value)}; connect value and seed of the same Scale Values"
                )
            batches = [batch[..., :3] for batch in images]
            check_sizes(batches)
        return io.NodeOutput(scale_sheet(batches, value, seed, setting[0], scale[0]))


def scale_sheet(batches: list[Tensor], values: list[float], seeds: list[int], setting: str, scale: int) -> Tensor:
    """Batches [B H W 3] of pairs (value, seed) -> [1 H' W' 3]: a row for each value, in it the seeds in their order."""
    rows: dict[float, list[tuple[int, Tensor]]] = {}
    for batch, number, one in zip(batches, values, seeds, strict=True):
        rows.setdefault(number, []).append((one, batch))
    captions = [f"seed {one}" for row in rows.values() for one, batch in row for _ in batch]
    pictures = [torch.cat([batch for _, batch in row]) for row in rows.values()]
    titles = [f"{setting} {number:.6g}" for number in rows]
    return contact_sheet(pictures, max(map(len, pictures)), captions, scale, titles)


NODES: list[type[io.ComfyNode]] = [ScaleValues, ScaleSheet]
