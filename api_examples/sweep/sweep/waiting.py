"""Jobs that wait for a host: those that load the same files go to the same one."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from .jobs import Job


@dataclass(eq=False)
class Attempt:
    """A job and what has become of it so far."""

    job: Job
    look: bool = False  # a host may have it already
    errors: list[str] = field(default_factory=list)  # a sentence for each try that failed
    failed_on: set[str] = field(default_factory=set)


class Waiting:
    """Attempts in line. Not for several threads at once."""

    def __init__(self) -> None:
        self.groups: dict[str, deque[Attempt]] = {}  # by loaders
        self.again: list[Attempt] = []  # tries that failed: by another host, if one can
        self.reserved: dict[str, deque[Attempt]] = {}  # for the host that was found to have it
        self.loaded: dict[str, str] = {}  # the loaders of each host's last job

    def __len__(self) -> int:
        return sum(map(len, (*self.groups.values(), *self.reserved.values()))) + len(self.again)

    def put(self, attempt: Attempt, host: str | None = None) -> None:
        if host is not None:
            self.reserved.setdefault(host, deque()).append(attempt)
        elif attempt.errors:
            self.again.append(attempt)
        else:
            self.groups.setdefault(attempt.job.loaders, deque()).append(attempt)

    def take(self, host: str, living: set[str]) -> Attempt | None:
        """The next attempt for a host; None if there is none for it now."""
        attempt = self._reserved(host, living) or self._fresh(host) or self._failed(host, living)
        if attempt is not None:
            self.loaded[host] = attempt.job.loaders
        return attempt

    def _reserved(self, host: str, living: set[str]) -> Attempt | None:
        for name, line in self.reserved.items():
            if line and (name == host or name not in living):
                return line.popleft()
        return None

    def _fresh(self, host: str) -> Attempt | None:
        lines = {key: line for key, line in self.groups.items() if line}
        if not lines:
            return None
        key = self.loaded.get(host)
        if key not in lines:  # the longest line among those with the fewest hosts
            hosts = list(self.loaded.values())
            key = min(lines, key=lambda key: (hosts.count(key), -len(lines[key])))
        return lines[key].popleft()

    def _failed(self, host: str, living: set[str]) -> Attempt | None:
        for index, attempt in enumerate(self.again):
            if host not in attempt.failed_on or living <= attempt.failed_on:
                return self.again.pop(index)
        return None
