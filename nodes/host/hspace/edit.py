"""Edits of h: what they add to it, for which networks they are, and what HSpace Edit was told.

h is a U-Net's bottleneck, or the residual stream of a transformer behind one of its blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from torch import Tensor, nn

from ....guidance.hspace import added, combined, of_level, step_count_factor
from ....guidance.samplers import Move
from ....guidance.weight import Weight
from ....models.ddpm.network import DDPM
from ..memory import hosted
from ..model import blocks_of, is_of, owner_of
from ..pixel_model import PixelNetwork
from .rows import View, shown

BOTH, COND, UNCOND = "both", "cond", "uncond"
ADM_FAMILY, DDPM_FAMILY = "ADM", "DDPM"
DIRECTION, DELTA_BLOCK = "direction", "delta block"
SIDES = (BOTH, COND, UNCOND)


@dataclass(frozen=True)
class Place:
    """Where in a run, and on what of the pictures, an edit happens."""

    sigma: float
    progress: float
    steps: float  # of a whole run of this density
    views: Sequence[View] = ()  # of the predictions in one batch, one behind the other; none: one, of everything
    names: Sequence[str | None] = ()  # the guider's, of these predictions


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
    patchers: Sequence[Any] = ()  # networks that the host loads for it
    block: int | None = None  # of a transformer, counted from 0; None: the bottleneck of a U-Net

    def delta_h(self, h: Tensor, emb: Tensor, place: Place) -> Tensor:
        """At strength 1."""
        return step_count_factor(self.trained_steps, place.steps) * self.shift(h, emb, place)


def direction_edit(delta_h: Tensor, **known: Any) -> Edit:
    """A direction [n C h w], one for each of n ranges of progress."""
    return Edit(
        shift=lambda h, emb, place: shown(of_level(delta_h, place.progress), place.views, h),
        channels=delta_h.shape[1],
        tensors={"delta_h": delta_h},
        kind=DIRECTION,
        **known,
    )


def network_edit(network: nn.Module, **known: Any) -> Edit:
    """A published or trained delta block."""
    network.eval().requires_grad_(False)
    patcher = hosted(lambda device: network.to(device))

    def shift(h: Tensor, emb: Tensor, place: Place) -> Tensor:
        device = next(network.parameters()).device
        return network(h.float().to(device), emb.float().to(device)).to(h)

    config: Any = network.config
    family = ADM_FAMILY if config.norm_first else DDPM_FAMILY
    known |= {"channels": config.channels, "family": family, "kind": DELTA_BLOCK, "patchers": [patcher]}
    return Edit(shift=shift, tensors=dict(network.state_dict()), **known)


@dataclass(frozen=True)
class Prediction:
    """What the network said of h itself, and how its output is read: denoised = a x + b output, in float32."""

    x: Tensor  # the network's input, channels of the condition behind
    plain: Tensor
    a: Tensor
    b: Tensor
    scale: Tensor  # input = scale x
    flow: bool
    move: Move  # what the sampler does with the denoised prediction
    again: Callable[[Tensor], Tensor]  # the network at another input


class Edits(Protocol):
    """What may act on h of a MODEL: HSpace Edit, an injection, a recorder, an edit in training."""

    @property
    def block(self) -> int | None:
        """Behind which block of a transformer; None: at the bottleneck of a U-Net."""
        ...

    @property
    def asymmetric(self) -> bool:
        """Whether only the picture moves, by `wanted`; else the network's output is that of the edited h."""
        ...

    @property
    def side(self) -> str:
        """Which predictions of CFG are edited, one of SIDES."""
        ...

    @property
    def rising(self) -> bool:
        """Whether it also acts in runs from a picture to its noise."""
        ...

    def weight(self, progress: float) -> float:
        """0 where nothing is to be done."""
        ...

    def edited(self, h: Tensor, emb: Tensor, place: Place) -> Tensor:
        """h [B C h w] of all rows, changed; emb [B E]. h itself where nothing is changed."""
        ...

    def wanted(self, place: Place, prediction: Prediction, difference: Tensor) -> Tensor:
        """How far x0 shall move in an asymmetric step, [B ...]; `difference` is that of the outputs, in float32."""
        ...


@dataclass(frozen=True, eq=False)
class Application:
    """What HSpace Edit was told."""

    edits: Sequence[Edit]
    weight: Weight
    asymmetric: bool
    side: str
    preserve_norm: bool = False
    mask: Tensor | None = None  # [n H W], n 1 or one for each picture
    rising: bool = False

    @property
    def block(self) -> int | None:
        return one_block(edit.block for edit in self.edits)

    @property
    def patchers(self) -> list[Any]:
        return [patcher for edit in self.edits for patcher in edit.patchers]

    def edited(self, h: Tensor, emb: Tensor, place: Place) -> Tensor:
        """h with all edits; outside the mask h itself. Raises ValueError for directions of another width."""
        for edit in self.edits:
            if edit.channels != h.shape[1]:
                raise ValueError(
                    f"HSpace Edit: {edit.name!r} changes an h of {edit.channels} channels, and here it has "
                    f"{h.shape[1]}; use a direction made for this model"
                )
        shifts = [edit.delta_h(h, emb, place).expand_as(h) for edit in self.edits]
        delta_h = self.weight(place.progress) * combined(shifts, [edit.strength for edit in self.edits])
        changed = added(h, delta_h, self.preserve_norm)
        return changed if self.mask is None else h + self._mask(h, place) * (changed - h)

    def _mask(self, h: Tensor, place: Place) -> Tensor:
        assert self.mask is not None
        mask = self.mask.reshape(-1, 1, *self.mask.shape[-2:])
        pictures = place.views[0].total if place.views else len(h)
        if len(mask) not in (1, pictures):
            number = "one" if pictures == 1 else f"one, or {pictures}"
            raise ValueError(
                f"HSpace Edit: mask has {len(mask)} pictures for a latent of {pictures}; give {number}: that of a "
                "video holds for all its frames"
            )
        return shown(mask, place.views, h, "area")

    def wanted(self, place: Place, prediction: Prediction, difference: Tensor) -> Tensor:
        """Asyrp: P~ - P."""
        return prediction.b * difference


def unet_of(model: Any) -> nn.Module:
    """The network of a MODEL that has a bottleneck. Raises ValueError for others."""
    network = model.model.diffusion_model
    if isinstance(network, (PixelNetwork, UNetModel)):
        return network
    raise ValueError(
        f"h is the bottleneck of a U-Net here, and this model is a {type(network).__name__}, which has none; use a "
        "U-Net (this pack's models, SD1.5, SDXL), or a guide"
    )


def network_of(model: Any) -> nn.Module:
    """The network of a MODEL whose h can be edited: a U-Net, or a transformer. Raises ValueError for others."""
    network = model.model.diffusion_model
    if blocks_of(model) or isinstance(network, (PixelNetwork, UNetModel)):
        return network
    raise ValueError(
        f"h is the bottleneck of a U-Net or what stands behind a block of a transformer, and this model is a "
        f"{type(network).__name__}, which shows neither; use a U-Net (this pack's models, SD1.5, SDXL), a transformer "
        "such as Flux, Qwen-Image, Z-Image or Wan, or a guide"
    )


def place_of(model: Any, block: int) -> int | None:
    """Where h of a MODEL is: None for U-Nets, which have one place; the block of a transformer, -1: a third of the way.

    Raises ValueError for a block that isn't there.
    """
    count = blocks_of(model)
    if not count:
        return None
    if block >= count:
        raise ValueError(f"this model has {count} blocks, 0 to {count - 1}, and block {block} was asked for")
    return count // 3 if block < 0 else block


def one_block(blocks: Iterable[int | None]) -> int | None:
    """Of a chain of edits, or of the directions of one. Raises ValueError for several."""
    found = set(blocks)
    if len(found) > 1:
        raise ValueError(
            "the edits of a chain act behind one block of a transformer, and these act behind "
            f"{', '.join(sorted(map(str, found)))}; use directions of the same block"
        )
    return found.pop()


def check_owner(edit: Edit, model: Any) -> None:
    """Raises ValueError for an edit of another model."""
    if edit.fingerprint and not is_of(model, edit.fingerprint):
        name, _ = owner_of(model)
        raise ValueError(f"the direction {edit.name!r} was made for {edit.model}, and this model is {name}")


def check_width(edit: Edit, model: Any) -> None:
    """Raises ValueError for an edit of another kind or width, or a delta block of the other family of networks."""
    network: Any = network_of(model)
    if edit.block is not None or blocks_of(model):
        _check_block(edit, model)
        return
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


def _check_block(edit: Edit, model: Any) -> None:
    count = blocks_of(model)
    if not count:
        raise ValueError(
            f"{edit.name!r} acts behind block {edit.block} of a transformer, and this model is a U-Net; use a "
            "direction made for this model"
        )
    if edit.block is None:
        raise ValueError(
            f"{edit.name!r} changes the bottleneck of a U-Net, and this model is a transformer; use a direction made "
            "for this model"
        )
    if edit.block >= count:
        raise ValueError(
            f"{edit.name!r} acts behind block {edit.block}, and this model has the blocks 0 to {count - 1}; use a "
            "direction made for this model"
        )
