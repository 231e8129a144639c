"""What an encoder remembers of reference pictures: bounded by bytes, the least recently used goes first."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

BYTES = 2**30  # of main memory, for each encoder
RUNS = 8  # that a reference is kept for without being used
Measured = list[Tensor]  # [B ...] each


def fingerprint(image: Tensor) -> str:
    """Of the pixels of an IMAGE."""
    return hashlib.sha1(image.contiguous().numpy().tobytes() + str(tuple(image.shape)).encode()).hexdigest()


@dataclass(eq=False)
class References:
    """Measurements by what was measured and how. Those of more than `limit` bytes are made again each time."""

    limit: int = BYTES
    device: Any = "cpu"  # where they lie
    known: dict[Any, Measured] = field(default_factory=dict)  # the least recently used first
    used: dict[Any, int] = field(default_factory=dict)  # in which run
    runs: int = 0

    @property
    def size(self) -> int:
        """In bytes."""
        return sum(_bytes(measured) for measured in self.known.values())

    def get(self, key: Any, measure: Callable[[], Measured]) -> Measured:
        """`measure` is called for what is not known."""
        found = self.known.pop(key, None)
        if found is None:
            found = [part.to(self.device) for part in measure()]
        self.known[key], self.used[key] = found, self.runs
        while self.size > self.limit:
            del self.known[next(iter(self.known))]
        return found

    def end_run(self) -> None:
        """Forgets what the last RUNS runs had no use for."""
        self.runs += 1
        self.used = {key: run for key, run in self.used.items() if key in self.known and self.runs - run <= RUNS}
        self.known = {key: measured for key, measured in self.known.items() if key in self.used}


def _bytes(measured: Measured) -> int:
    return sum(part.numel() * part.element_size() for part in measured)
