"""What an encoder remembers of reference pictures: bounded by bytes, the least recently used goes first."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

BYTES = 2**30  # of main memory, for each encoder
Measured = list[Tensor]  # [B ...] each


def fingerprint(image: Tensor) -> str:
    """Of the pixels of an IMAGE."""
    return hashlib.sha1(image.contiguous().numpy().tobytes() + str(tuple(image.shape)).encode()).hexdigest()


@dataclass(eq=False)
class References:
    """Measurements by what was measured and how. Those of more than `limit` bytes are made again each time."""

    limit: int = BYTES
    known: dict[Any, Measured] = field(default_factory=dict)  # the least recently used first

    @property
    def size(self) -> int:
        """In bytes."""
        return sum(_bytes(measured) for measured in self.known.values())

    def get(self, key: Any, measure: Callable[[], Measured]) -> Measured:
        """On the CPU. `measure` is called for what is not known."""
        found = self.known.pop(key, None)
        if found is None:
            found = [part.cpu() for part in measure()]
        self.known[key] = found
        while self.size > self.limit:
            del self.known[next(iter(self.known))]
        return found


def _bytes(measured: Measured) -> int:
    return sum(part.numel() * part.element_size() for part in measured)
