"""What CFG's methods are to do in a run, as a CFG Patch or a CFG Combiner was told."""

from __future__ import annotations

from dataclasses import dataclass

from ....guidance.cfg import BRANCHES, Method
from ....guidance.weight import Weight

REMEMBERED = {"momentum": "APG's momentum", "history": "history (HiGS)"}  # stages that look back, and their methods
OWN_SCALE = 0.0  # as a guidance scale: the sampler's own cfg


@dataclass(frozen=True)
class Plan:
    """What is to be done with CFG in a run: methods of the formula, and what belongs to the run around it."""

    methods: tuple[Method, ...] = ()
    names: tuple[str, ...] = ()  # of the methods, as the user knows them
    pixels_only: bool = False  # one of the methods needs samples in [-1, 1]
    renoised: float | None = None  # CFG++'s strength
    zero_init: float = 0.0  # share of the run, from pure noise, that a flow stands still
    skip_above: float = 1.0  # similarity of cond and uncond from where on the negative is left out
    scale: Weight | None = None  # of a CFG Patch; its value may be OWN_SCALE

    def __add__(self, other: Plan) -> Plan:
        """Raises ValueError where both set the same thing."""
        names = [name for name in self.names if name in other.names]
        names += ["the guidance scale"] * (self.scale is not None and other.scale is not None)
        if names:
            raise ValueError(f"{', '.join(names)} is set twice, by this node and by one before it; remove one")
        return Plan(
            self.methods + other.methods,
            self.names + other.names,
            self.pixels_only or other.pixels_only,
            other.renoised if self.renoised is None else self.renoised,
            max(self.zero_init, other.zero_init),
            min(self.skip_above, other.skip_above),
            self.scale or other.scale,
        )

    @property
    def remembering(self) -> list[str]:
        """Methods whose result depends on the steps before, by name."""
        kept = [REMEMBERED[m.STAGE] for m in self.methods if m.STAGE in REMEMBERED and not m.neutral]
        return kept + ["adaptive skip"] * (self.skip_above < 1)

    @property
    def formula(self) -> bool:
        """Whether predictions are put together in another way than the host's."""
        return any(not method.neutral for method in self.methods) or self.skip_above < 1

    @property
    def reads_references(self) -> bool:
        """Whether a method looks at the references themselves, not at the sum alone."""
        return any(method.STAGE in BRANCHES and not method.neutral for method in self.methods)
