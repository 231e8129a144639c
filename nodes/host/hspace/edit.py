"""Edits of the bottleneck: what they add to h, for which networks they are, and what HSpace Edit was told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from torch import Tensor, nn
from torch.nn.functional import interpolate

from ....guidance.hspace import added, asymmetric, at_progress, several_factor, step_count_factor
from ....guidance.weight import Weight
from ....models.ddpm.network import DDPM
from ..model import owner_of
from ..pixel_model import PixelNetwork

BOTH, COND, UNCOND = "both", "cond", "uncond"
ADM_FAMILY, DDPM_FAMILY = "ADM", "DDPM"
DIRECTION, DELTA_BLOCK = "direction", "delta block"
SIDES = (BOTH, COND, UNCOND)


@dataclass(frozen=True)
class Place:
    """Where in a run an edit happens."""

    sigma: float
    following: float
    progress: float
    steps: int
    chunks: int = 1  # predictions of CFG in one batch, one behind the other


Shift = Callable[[Tensor, Tensor, Place], Tensor]  # (h [B C h w], embedding [B E], place) -> delta_h


@dataclass(frozen=True, eq=False)
class Edit:
    """One direction in h-space: what it adds at strength 1, and where it belongs."""

    name: str
    shift: Shift
    channels: int
    trained_steps: int | None = None  # of a delta network: its effect is spread over the steps
    model: str = ""  # name of the model it was made for; empty: unknown
    fingerprint: str = ""
    strength: float = 1.0
    tensors: dict[str, Tensor] = field(default_factory=dict)  # what saving it writes
    kind: str = ""
    family: str = ""  # a delta block's: of which architecture's bottleneck and embedding it was made for

    def delta_h(self, h: Tensor, emb: Tensor, place: Place) -> Tensor:
        factor = self.strength * step_count_factor(self.trained_steps, place.steps)
        return factor * self.shift(h, emb, place)


def direction_edit(delta_h: Tensor, **known: Any) -> Edit:
    """A direction [n C h w], one for each of n ranges of progress."""
    return Edit(
        shift=lambda h, emb, place: at_progress(delta_h, place.progress, h),
        channels=delta_h.shape[1],
        tensors={"delta_h": delta_h},
        kind=DIRECTION,
        **known,
    )


def network_edit(network: nn.Module, **known: Any) -> Edit:
    """A published or trained delta block. It is small and lives where the sample is."""
    network.eval().requires_grad_(False)

    def shift(h: Tensor, emb: Tensor, place: Place) -> Tensor:
        network.to(h.device)
        return network(h.float(), emb.float()).to(h)

    config: Any = network.config
    family = ADM_FAMILY if config.norm_first else DDPM_FAMILY
    state = dict(network.state_dict())
    return Edit(shift=shift, channels=config.channels, tensors=state, kind=DELTA_BLOCK, family=family, **known)


class Edits(Protocol):
    """What may act on the bottleneck of a MODEL: HSpace Edit, an injection, a recorder, an edit in training."""

    @property
    def asymmetric(self) -> bool:
        """Whether `output` says what becomes of the edited prediction; else the network's output is the edited one."""
        ...

    @property
    def side(self) -> str:
        """Which predictions of CFG are edited, one of SIDES."""
        ...

    def weight(self, progress: float) -> float:
        """0 where nothing is to be done."""
        ...

    def edited(self, h: Tensor, emb: Tensor, place: Place) -> Tensor:
        """h [B C h w] of all rows, changed; emb [B E]."""
        ...

    def output(
        self, sampling: Any, place: Place, x: Tensor, plain: Tensor, edited: Tensor, again: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """The network's output of an asymmetric step, from those on h and on the edited h at the input x.

        `again` evaluates the plain network at another input.
        """
        ...


@dataclass(frozen=True, eq=False)
class Application:
    """What HSpace Edit was told."""

    edits: Sequence[Edit]
    weight: Weight
    asymmetric: bool
    side: str
    preserve_norm: bool = False
    mask: Tensor | None = None

    def edited(self, h: Tensor, emb: Tensor, place: Place) -> Tensor:
        """h with all edits; outside the mask h itself."""
        factor = self.weight(place.progress) * several_factor(len(self.edits))
        delta_h = torch.stack([edit.delta_h(h, emb, place).expand_as(h) for edit in self.edits]).sum(0)
        changed = added(h, factor * delta_h, self.preserve_norm)
        if self.mask is None:
            return changed
        mask = interpolate(self.mask.reshape(-1, 1, *self.mask.shape[-2:]).to(h), h.shape[-2:], mode="area")
        return h + mask[:1] * (changed - h)

    def output(
        self, sampling: Any, place: Place, x: Tensor, plain: Tensor, edited: Tensor, again: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """Asyrp's asymmetric step."""
        return asymmetric(plain, edited, place.sigma, place.following)


def bottleneck_of(model: Any) -> nn.Module:
    """The network of a MODEL whose h can be edited. Raises ValueError for others."""
    network = model.model.diffusion_model
    if isinstance(network, (PixelNetwork, UNetModel)):
        return network
    raise ValueError(
        f"h-space is the bottleneck of a U-Net (this pack's models, SD1.5, SDXL), and this model is a "
        f"{type(network).__name__}, which has none"
    )


def check_owner(edit: Edit, model: Any) -> None:
    """Raises ValueError for an edit of another model."""
    if edit.fingerprint:
        name, fingerprint = owner_of(model)
        if fingerprint != edit.fingerprint:
            raise ValueError(f"the direction {edit.name!r} was made for {edit.model}, and this model is {name}")


def check_width(edit: Edit, model: Any) -> None:
    """Raises ValueError for an edit of another width, or a delta block of the other family of networks."""
    network: Any = bottleneck_of(model)
    if isinstance(network, PixelNetwork):
        config: Any = network.network.config
        family = DDPM_FAMILY if isinstance(network.network, DDPM) else ADM_FAMILY
        base = config.channels if family == DDPM_FAMILY else config.model_channels
        channels, name = int(base * config.channel_mult[-1]), network.name
    else:
        family, channels, name = "Stable Diffusion", network.middle_block[0].out_channels, "this U-Net"
    if edit.channels != channels:
        raise ValueError(
            f"{edit.name!r} changes a bottleneck of {edit.channels} channels, that of {name} has {channels}; use a "
            "direction made for this model"
        )
    if edit.family and edit.family != family:
        raise ValueError(
            f"{edit.name!r} is a delta block for {edit.family} networks, and {name} is of the {family} family; use a "
            "delta block trained for it"
        )
