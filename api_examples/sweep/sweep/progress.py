"""What the user sees while a sweep runs."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from .jobs import Job

QUIET = 30.0  # seconds between two lines where there is no terminal to draw a bar on


class Display:
    """A bar with counts, hosts and time left; a sentence for everything that goes wrong. To be entered."""

    def __init__(self, total: int, done: int, hosts: Sequence[str]):
        self.console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
        text = TextColumn("{task.description}", markup=False)
        columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), text)
        self.bar = Progress(*columns, console=self.console, disable=not self.console.is_terminal)
        self.task = self.bar.add_task("", total=total, completed=done)
        self.total, self.before, self.said = total, done, time.monotonic()
        self.per_host: Counter[str] = Counter(dict.fromkeys(hosts, 0))
        self.gone: set[str] = set()
        self.failures: list[tuple[Job, str]] = []

    def __enter__(self) -> Display:
        self.bar.start()
        self._show()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def finished(self, job: Job, host: str) -> None:
        self.per_host[host] += 1
        self.bar.advance(self.task)
        self._show()

    def failed(self, job: Job, error: str) -> None:
        self.failures.append((job, error))
        self.say(f"given up: {error} [{job}]")
        self.bar.advance(self.task)
        self._show()

    def tried(self, job: Job, error: str) -> None:
        self.say(f"to be tried again: {error} [{job}]")

    def lost(self, host: str, error: str) -> None:
        self.gone.add(host)
        self.say(f"lost: {error}")
        self._show()

    def back(self, host: str) -> None:
        self.gone.discard(host)
        self.say(f"back: {host}")
        self._show()

    def say(self, text: str) -> None:
        self.console.print(text)

    def counts(self) -> str:
        """Finished jobs of each host, and failed ones."""
        hosts = "  ".join(f"{_brief(name)} {'lost' if name in self.gone else number}" for name, number in self._hosts())
        return f"failed {len(self.failures)}  {hosts}"

    def _hosts(self) -> list[tuple[str, int]]:
        return list(self.per_host.items())

    def _show(self) -> None:
        self.bar.update(self.task, description=self.counts())
        if not self.console.is_terminal and time.monotonic() - self.said > QUIET:
            self.said = time.monotonic()
            done = self.before + self.per_host.total() + len(self.failures)
            self.say(f"{done} of {self.total}  {self.counts()}")


def _brief(host: str) -> str:
    return host.split("://")[-1]


def complain(text: str) -> None:
    """The one sentence before a sweep ends."""
    print(f"sweep: {text}", file=sys.stderr)
