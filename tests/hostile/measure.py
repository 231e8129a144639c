"""What a reader does with a hostile file: refused or taken, in which words, and at what cost."""

from __future__ import annotations

import argparse
import math
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .case import (
    AUTOENCODER,
    CLASSIFIER,
    CONVERT,
    ENCODER,
    LOADERS,
    MATCHER,
    MODEL,
    PRIOR,
    READERS,
    RESUME,
    SCORER,
    Case,
)

SECONDS, SPARE = 5.0, 50 << 20  # of the processor; bytes beside 1.5 times the file's size
NAMES = {
    MODEL: "model",
    AUTOENCODER: "model",
    CLASSIFIER: "classifier",
    ENCODER: "encoder",
    MATCHER: "matcher",
    PRIOR: "prior",
    SCORER: "scorer",
}  # of a loader's input
PYTHON = re.compile(
    "Traceback|has no attribute|not subscriptable|NoneType|unhashable|positional argument|unexpected keyword|Error:|"
    "out of range|indices must|by zero|recursion|not iterable|to unpack|expected str|embedded null|unsupported operand"
)


@dataclass(frozen=True)
class Outcome:
    """`said` is empty where the file was taken."""

    case: Case
    reader: str
    said: str
    ran: bool
    seconds: float
    grown: int
    size: int

    @property
    def faults(self) -> list[str]:
        found = ["executed"] * self.ran
        found += ["accepted"] * (not self.said and self.reader not in self.case.taken)
        found += ["unclear"] * (bool(self.said) and not self._clear())
        found += ["slow"] * (self.seconds > SECONDS) + ["large"] * (self.grown > 1.5 * self.size + SPARE)
        return found

    def _clear(self) -> bool:
        start = {CONVERT: "convert: ", RESUME: "--resume: "}.get(self.reader, "")
        named = f" (input '{NAMES.get(self.reader, 'direction')}_name' of Load "
        where = self.reader not in LOADERS or named in self.said
        line = self.said.isprintable() and len(self.said) <= 2000
        return (
            self.said.startswith(start) and where and line and "hostile" in self.said and not PYTHON.search(self.said)
        )

    def __str__(self) -> str:
        costs = f"{self.seconds:.1f} s, {self.grown >> 20} MB of {self.size >> 10} kB"
        return f"{', '.join(self.faults)}: {self.case.name} at {self.reader} ({costs}): {self.said[:300]}"


def loader(load: Callable[..., object], reader: str) -> Callable[[Path], object]:
    """A node of the pack as a function of the file; `load` runs a node by its id."""
    return lambda path: load(f"Guidance_{reader}", **{f"{NAMES.get(reader, 'direction')}_name": path.name})


def convert(path: Path) -> object:
    from models.convert import main

    out = path.with_suffix(".out")
    try:
        return main([str(path), str(out)])
    finally:
        out.unlink(missing_ok=True)


def resume(path: Path) -> object:
    import torch

    from training import loop

    def loss(network: torch.nn.Module, *_: object) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        return network(torch.ones(1, 2)).sum(), {}

    run = loop.Run(torch.nn.Linear(2, 2), loop.Recipe(images=4, batch=4), "cpu", {})
    given = argparse.Namespace(out=path, resume=path, device="cpu", compile=False, minutes=math.inf, commit="")
    return loop.train(run, loss, given)


def readers(load: Callable[..., object]) -> dict[str, Callable[[Path], object]]:
    return {name: loader(load, name) for name in LOADERS} | {CONVERT: convert, RESUME: resume}


def memory(peak: bool = False) -> int:
    """Bytes that the process has in memory, or had at most since `forget_peak`."""
    word = "VmHWM" if peak else "VmRSS"
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(word))
    return int(line.split()[1]) << 10


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def outcome(case: Case, reader: str, read: Callable[[Path], object], path: Path, ran: Path) -> Outcome:
    forget_peak()
    before, began, said = memory(), time.process_time(), ""
    try:
        read(path)
    except (ValueError, SystemExit) as error:
        said = str(error) or "nothing"
    except Exception as error:  # anything else is what a user must not see
        said = f"{type(error).__name__}: {error}"
    seconds, grown = time.process_time() - began, memory(peak=True) - before
    executed = ran.exists()
    ran.unlink(missing_ok=True)
    size = path.stat().st_size if path.is_file() else 0
    return Outcome(case, reader, said, executed, seconds, grown, size)


def summary(outcomes: list[Outcome]) -> str:
    """Counts of faults, and the dearest tries."""
    count = {word: sum(word in found.faults for found in outcomes) for word in ("executed", "accepted", "unclear")}
    slowest, largest = max(o.seconds for o in outcomes), max(o.grown - 1.5 * o.size for o in outcomes)
    files, taken = len({found.case.name for found in outcomes}), sum(not found.said for found in outcomes)
    return (
        f"{files} files, {len(outcomes)} tries, {taken} taken, {count}, at most {slowest:.2f} s and "
        f"{int(largest) >> 20} MB beside 1.5 times the file"
    )


__all__ = ["READERS", "outcome", "readers", "summary"]
