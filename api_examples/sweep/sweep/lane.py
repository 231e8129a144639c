"""One host and what it has of ours."""

from __future__ import annotations

import threading
from typing import Protocol

from .http_host import Outcome
from .waiting import Attempt
from .workflow import Prompt


class Host(Protocol):
    """What runs jobs: http_host.py, ray_hosts.py."""

    @property
    def name(self) -> str: ...
    def check(self) -> None: ...
    def queue(self, prompt_id: str, prompt: Prompt, look: bool) -> str: ...
    def fetch(self, prompt_id: str, prompt: Prompt, stop: threading.Event) -> Outcome: ...
    def where(self, prompt_id: str) -> str | None: ...
    def cancel(self, prompt_id: str) -> str | None: ...


class Lane:
    """Attempts at a host, in the order in which they came: who queues one holds the door.

    The host works on one at a time. When it dies, that one may be why, and those behind it are not.
    """

    def __init__(self, host: Host):
        self.host = host
        self.attempts: list[Attempt] = []
        self.worked_on: Attempt | None = None
        self.lost_since: float | None = None
        self.door = threading.Lock()

    def enter(self, attempt: Attempt) -> None:
        self.attempts.append(attempt)
        self.worked_on = self.worked_on or attempt

    def ended(self, attempt: Attempt) -> None:
        """The host is through with it, and goes on with the next one."""
        if self.worked_on is attempt:
            later = self.attempts[self.attempts.index(attempt) + 1 :]
            self.worked_on = later[0] if later else None

    def leave(self, attempt: Attempt) -> None:
        self.attempts.remove(attempt)
        if not self.attempts:
            self.worked_on = None
