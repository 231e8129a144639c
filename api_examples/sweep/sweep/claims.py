"""Exactly once: who works on which job, when several drivers share a folder.

A claim is a file that only one driver can create, `claims/JOB.0`. Its driver shows that it lives by rewriting
`drivers/NAME` every few seconds. A claim whose driver is dead is taken over by creating the next number,
`claims/JOB.1`, which again only one can do. Nobody changes or moves the claim of one that lives, so there is no moment
at which two hold it.
"""

from __future__ import annotations

import os
import threading
from itertools import count

from .store import Store, place

BEAT = 5.0  # seconds between two signs of life
STALE = 60.0  # after so many seconds without one a driver counts as dead


class Claims:
    """The claims of this driver. To be entered before the first one is taken."""

    def __init__(self, store: Store):
        self.store = store
        self.me = store.writer
        self.ended = threading.Event()
        self.held: dict[str, int] = {}

    def __enter__(self) -> Claims:
        self.store.write(f"drivers/{self.me}", b"alive")
        self._sweep_up()
        threading.Thread(target=self._beat, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        """Gives back what is held."""
        self.ended.set()
        for job in list(self.held):
            self.release(job)
        self._sweep_up()
        self.store.remove(f"drivers/{self.me}")

    def _beat(self) -> None:
        while not self.ended.wait(BEAT):
            try:
                self.store.write(f"drivers/{self.me}", b"alive")
            except OSError:  # a full disk stops the sweep where results are written
                continue

    def take(self, job: str) -> bool:
        """Whether the job is ours now. It isn't while another driver that lives has it."""
        for number in count():
            name = f"claims/{job}.{number}"
            if self.store.create(name, self.me.encode()):
                self.held[job] = number
                return True
            owner = self.store.read(name)
            if owner is None or self.alive(owner.decode()):
                return False
        raise AssertionError

    def release(self, job: str) -> None:
        """Takes our claim away and those of the dead before it."""
        for number in range(self.held.pop(job), -1, -1):
            self.store.remove(f"claims/{job}.{number}")

    def left(self) -> set[str]:
        """Jobs that dead drivers had claimed: they may still be queued on a host."""
        owners: dict[str, set[str]] = {}
        for name in self.store.names("claims"):
            owner = (self.store.read(f"claims/{name}") or b"").decode()
            owners.setdefault(owner, set()).add(name.rsplit(".", 1)[0])
        return {job for owner, jobs in owners.items() if not self.alive(owner) for job in jobs}

    def _sweep_up(self) -> None:
        """Takes away what dead drivers left: half-written files and signs of life."""
        for name in self.store.names("parts"):
            if not self.alive(name.rsplit("~", 1)[0], f"parts/{name}"):
                self.store.remove(f"parts/{name}")
        for name in self.store.names("drivers"):
            if not self.alive(name):
                self.store.remove(f"drivers/{name}")

    def alive(self, driver: str, sign: str = "") -> bool:
        """Of this machine: whether its process runs. In any case: whether its last sign of life is young.

        `sign` is another one than the file in `drivers`.
        """
        if driver == self.me:
            return True
        if driver.count("~") != 2:  # a claim that a power cut left empty
            return False
        where, pid, _ = driver.split("~")
        if where == place() and not _runs(int(pid)):
            return False
        mine, theirs = self.store.written(f"drivers/{self.me}"), self.store.written(sign or f"drivers/{driver}")
        return theirs is not None and (mine is None or mine - theirs < STALE)


def _runs(pid: int) -> bool:
    if os.name == "nt":  # there os.kill would end it; the sign of life decides
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
