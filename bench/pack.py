"""The pack's nodes in this process, called by input names; what isn't given has the node's default."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .guided_step import load_pack


class Pack:
    def __init__(self, *flags: str) -> None:
        """`flags` are the host's; without any, layers of U-Nets are laid out as a CPU likes them."""
        self.nodes = load_pack(*(flags or ("--force-channels-last",)))

    def node(self, name: str, **inputs: Any) -> Any:
        """What a node returns, as a tuple."""
        entries = self.nodes[name].define_schema().inputs
        defaults = {entry.id: getattr(entry, "default", None) for entry in entries}
        given = {key: value for key, value in {**defaults, **inputs}.items() if value is not None}
        return self.nodes[name].execute(**given).args


def ksampler(
    model: Any,
    cfg: float,
    positive: Any,
    negative: Any,
    noise: Tensor,
    steps: int,
    sampler: str = "ddim",
    scheduler: str = "normal",
) -> Tensor:
    """Pictures from given noise, by the host's sampler and schedule; later steps' noise has seed 0."""
    import comfy.sample

    options = {"disable_pbar": True, "seed": 0}
    empty = noise.new_zeros(noise.shape)
    return comfy.sample.sample(model, noise, steps, cfg, sampler, scheduler, positive, negative, empty, **options)
