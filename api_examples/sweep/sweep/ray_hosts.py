"""Hosts on a Ray cluster: one ComfyUI for each GPU, in an actor that Ray restarts when it dies.

A job is one task of an actor. Its further tries are the sweep's, not Ray's: a failed job goes to another actor, and is
counted the same way as with hosts that were already there.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

from .errors import JobError, LostHostError, StoppedError, SweepError
from .http_host import Outcome
from .own_host import START, OwnHost
from .workflow import Prompt

CALLS = 8  # that an actor answers at a time
PLACE = 60.0  # seconds until Ray has to have found a place for an actor


class Actor:
    """Lives on a machine of the cluster, with its own ComfyUI beside it."""

    def __init__(self, command: list[str], timeout: float):
        self.host = OwnHost(command, timeout)
        self.running = threading.Event()  # never set: a driver that stops cancels, or ends the actor

    def check(self) -> None:
        self.host.check()

    def queue(self, prompt_id: str, prompt: Prompt, look: bool) -> str:
        return self.host.http.queue(prompt_id, prompt, look)

    def fetch(self, prompt_id: str, prompt: Prompt) -> Outcome:
        return self.host.http.fetch(prompt_id, prompt, self.running)

    def where(self, prompt_id: str) -> str | None:
        return self.host.http.where(prompt_id)

    def cancel(self, prompt_id: str) -> str | None:
        return self.host.http.cancel(prompt_id)

    def close(self) -> None:
        self.host.close()


class RayHost:
    """The driver's side of an actor."""

    def __init__(self, name: str, actor: Any):
        self.name, self.actor = name, actor

    def check(self) -> None:
        try:
            self._get(self.actor.check.remote(), timeout=PLACE + START)
        except GetTimeoutError:
            raise LostHostError(f"{self.name} got no machine of the cluster: all are taken") from None

    def queue(self, prompt_id: str, prompt: Prompt, look: bool) -> str:
        return self._get(self.actor.queue.remote(prompt_id, prompt, look))

    def fetch(self, prompt_id: str, prompt: Prompt, stop: threading.Event) -> Outcome:
        task = self.actor.fetch.remote(prompt_id, prompt)
        while not ray.wait([task], timeout=0.5)[0]:
            if stop.is_set():
                self.actor.cancel.remote(prompt_id)
                raise StoppedError
        outcome = self._get(task)
        return Outcome(outcome.outputs, outcome.files, self.name, outcome.seconds)

    def where(self, prompt_id: str) -> str | None:
        return self._get(self.actor.where.remote(prompt_id))

    def cancel(self, prompt_id: str) -> str | None:
        return self._get(self.actor.cancel.remote(prompt_id))

    def _get(self, task: Any, timeout: float | None = None) -> Any:
        try:
            return ray.get(task, timeout=timeout)
        except RayActorError as error:
            raise LostHostError(f"{self.name} died ({type(error).__name__}); Ray starts it again") from None
        except RayTaskError as error:
            if isinstance(error.cause, LostHostError | JobError):
                raise type(error.cause)(f"{self.name}: {error.cause}") from None
            raise


@contextmanager
def ray_hosts(address: str, command: list[str], actors: int | None, timeout: float) -> Iterator[Sequence[RayHost]]:
    """Actors on a cluster, as many as it has GPUs or as are wanted; they end with the driver."""
    _knock(address)
    try:
        ray.init(None if address == "local" else address, log_to_driver=False, include_dashboard=False)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise SweepError(f"--ray {address}: no cluster answers: {' '.join(str(error).split())}") from None
    try:
        found = ray.cluster_resources()
        gpus = int(found.get("GPU", 0))
        kind = "GPU" if gpus else "CPU"
        wanted = actors or gpus or 1
        if wanted > found.get(kind, 0):
            raise SweepError(f"--actors {wanted}: the cluster has {found.get(kind, 0):g} {kind}s")
        place = {"num_gpus": 1} if gpus else {"num_cpus": 1}
        made: Any = ray.remote(Actor)
        made = made.options(max_restarts=-1, max_concurrency=CALLS, **place)
        command = [*command, *([] if gpus else ["--cpu"])]
        hosts = [RayHost(f"actor {k}", made.remote(command, timeout)) for k in range(wanted)]
        yield hosts
        for host in hosts:
            host.actor.close.remote()
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Ray itself takes minutes to say that nobody is there."""
    place, _, port = address.removeprefix("ray://").rpartition(":")
    if place and port.isdigit():
        try:
            socket.create_connection((place, int(port)), 5).close()
        except OSError as error:
            raise SweepError(f"--ray {address}: no cluster answers: {error}") from None
