"""One step of CFG Combiner: which predictions count, and how they are put together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from ....guidance.cfg import Branch, Mix
from ..pictures import area
from .condition import NEGATIVE_PREDICTION, Evaluation, Part
from .coverage import Cover, both, nowhere, towards


@dataclass(frozen=True, eq=False)
class Step:
    """The parts of a combiner at one noise level: how strongly each counts, and where its predictions say something.

    There is no push where a condition or its reference says nothing: there each stands for the other.
    """

    parts: Sequence[Part]
    scales: Sequence[float]
    covers: Mapping[Evaluation, Cover]  # where predictions say something; none: everywhere

    def __post_init__(self) -> None:
        """Conditions that say nothing at this level are off."""
        scales = []
        for place, (part, scale) in enumerate(zip(self.parts, self.scales, strict=True)):
            silent = nowhere(self._cover(part.reference)) or (place > 0 and nowhere(self._cover(part.prediction)))
            scales.append(float(place == 0) if silent else scale)
        object.__setattr__(self, "scales", scales)

    @property
    def main(self) -> Evaluation:
        return self.parts[0].prediction

    @property
    def base(self) -> Evaluation | None:
        """None: conditions without a reference are the base."""
        return None if any(part.reference is None for part in self.parts) else self.parts[0].reference

    def _cover(self, evaluation: Evaluation | None) -> Cover:
        return None if evaluation is None else self.covers.get(evaluation)

    def _local(self, part: Part) -> bool:
        """Whether its weight differs from place to place."""
        covers = (self._cover(part.prediction), self._cover(part.reference))
        return part.condition.mask is not None or any(cover is not None for cover in covers)

    def needed(self, forced: set[Evaluation], reads_references: bool) -> list[Evaluation]:
        """Every prediction whose weights don't add up to 0, the main condition first, the negative second."""
        totals: dict[Evaluation, float] = {}
        forced = {self.main, *forced}  # what methods and other nodes measure against
        if self.base is not None and not nowhere(self._cover(self.base)):
            totals[self.base] = 1.0
            if self._cover(self.base) is not None:
                forced.add(self.base)
        for place, (part, scale) in enumerate(zip(self.parts, self.scales, strict=True)):
            sides = [(part.prediction, scale)] + ([(part.reference, -scale)] if part.reference is not None else [])
            for evaluation, weight in sides:
                totals[evaluation] = totals.get(evaluation, 0.0) + weight
                if weight and self._local(part) and not nowhere(self._cover(evaluation)):
                    forced.add(evaluation)
            if reads_references and part.reference is not None and scale != float(place == 0):
                forced.add(part.reference)
        silent = {e for e in totals if e != self.main and nowhere(self._cover(e))}
        counting = {e for e, total in totals.items() if not math.isclose(total, 0.0, abs_tol=1e-9)}
        return sorted((counting - silent) | forced, key=lambda e: (e != self.main, e != NEGATIVE_PREDICTION, str(e)))

    def unguided(self, found: Mapping[Evaluation, Tensor]) -> bool:
        """Whether the main prediction is all that there is."""
        return list(found) == [self.main] and (1.0 if self.base is not None else sum(self.scales)) == 1

    def mix(self, found: Mapping[Evaluation, Tensor], x: Tensor, slope: Tensor) -> Mix:
        """The predictions as branches. Those that were left out have weights that add up to 0: anything may stand."""
        main = found[self.main]
        base = x if self.base is None else towards(found.get(self.base, main), main, self._cover(self.base))

        def branch(part: Part, scale: float) -> Branch:
            prediction, reference = found.get(part.prediction, base), base
            if part.reference is None:
                reference = x
            elif part.reference != self.base:
                reference = towards(found.get(part.reference, base), prediction, self._cover(part.reference))
            where = both(self._cover(part.prediction), self._cover(part.reference))
            mask = area(part.condition.mask, None, x)
            return Branch(towards(prediction, reference, where), reference, scale, mask)

        branches = tuple(branch(part, scale) for part, scale in zip(self.parts, self.scales, strict=True))
        return Mix(x, slope, base, branches)
