"""Hands jobs to hosts, and every job's result to the store, once."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import PurePosixPath
from typing import Protocol

from .claims import Claims
from .errors import JobError, LostHostError, StoppedError, SweepError
from .http_host import Outcome
from .jobs import Job
from .lane import Host, Lane
from .outputs import scores, with_settings_inside
from .waiting import Attempt, Waiting
from .workflow import Prompt, with_settings

DEPTH = 2  # jobs at a host at a time: it goes on with the second while the first one's pictures are fetched
ASK = 1.0  # seconds between two looks at hosts that were lost and at jobs that other drivers have
PATIENCE = 300.0  # seconds without any host until the sweep gives up
FAREWELL = 15.0  # seconds for calling back what is queued


class Report(Protocol):
    """Who is told what happens: progress.py."""

    def finished(self, job: Job, host: str) -> None: ...
    def failed(self, job: Job, error: str) -> None: ...
    def tried(self, job: Job, error: str) -> None: ...
    def lost(self, host: str, error: str) -> None: ...
    def back(self, host: str) -> None: ...


class Sweep:
    """Jobs over hosts. `run` returns when each is finished or given up, or when the sweep was stopped."""

    def __init__(
        self, workflow: Prompt, version: str, hosts: Sequence[Host], claims: Claims, report: Report, retries: int = 2
    ):
        self.workflow, self.version, self.retries = workflow, version, retries
        self.claims, self.store, self.report = claims, claims.store, report
        self.lanes = [Lane(host) for host in hosts]
        self.waiting = Waiting()
        self.elsewhere: list[Attempt] = []  # another driver has them
        self.open = 0  # jobs that are neither finished nor given up
        self.changed = threading.Condition()  # guards all of the above
        self.stop = threading.Event()
        self.error: Exception | None = None

    def run(self, jobs: Sequence[Job]) -> None:
        """Raises SweepError where it can't go on: no host, no space for results."""
        self._greet()
        self._line_up(jobs)
        for lane in self.lanes * DEPTH:
            threading.Thread(target=self._guarded, args=(lane,), daemon=True).start()
        try:
            while self.open and not self.stop.is_set():
                with self.changed:
                    self.changed.wait(ASK)
                self._look_elsewhere()
                self._lose_patience()
        finally:
            self.end()
            until = time.monotonic() + FAREWELL
            while any(lane.attempts for lane in self.lanes) and time.monotonic() < until:
                time.sleep(0.02)
        if self.error is not None:
            raise self.error

    def end(self) -> None:
        """Calls back what is queued; what is finished stays."""
        self.stop.set()

    def _greet(self) -> None:
        """Hosts that don't answer are waited for, as long as one does."""
        for lane in self.lanes:
            try:
                lane.host.check()
            except LostHostError as error:
                lane.lost_since = time.monotonic()
                self.report.lost(lane.host.name, str(error))
        if all(lane.lost_since for lane in self.lanes):
            names = ", ".join(lane.host.name for lane in self.lanes)
            raise SweepError(f"none of the hosts can be used ({names}); start one, or name another")

    # --- jobs

    def _line_up(self, jobs: Sequence[Job]) -> None:
        """What a dead driver had queued goes first, to the host that has it."""
        left = self.claims.left()
        for job in jobs:
            attempt = Attempt(job, look=job.name in left)
            self.waiting.put(attempt, self._holder(job) if attempt.look else None)
        self.open = len(jobs)

    def _holder(self, job: Job) -> str | None:
        for lane in self.lanes:
            try:
                if lane.host.where(job.prompt_id):
                    return lane.host.name
            except LostHostError:
                continue
        return None

    def _next(self, lane: Lane) -> Attempt | None:
        """The next attempt for a host, as soon as there is one; None at the end."""
        with self.changed:
            while self.open and not self.stop.is_set():
                living = {lane.host.name for lane in self.lanes if lane.lost_since is None}
                if attempt := self.waiting.take(lane.host.name, living):
                    return attempt
                self.changed.wait(ASK / 2)
        return None

    def _ours(self, attempt: Attempt) -> bool:
        """Whether this driver has to run it: it has the claim, and nobody was faster."""
        name = attempt.job.name
        if name in self.claims.held:
            return True
        if not self.claims.take(name):
            with self.changed:
                self.elsewhere.append(attempt)
            return False
        if self.store.exists(f"results/{name}.json"):
            self._settle(attempt, "another driver")
        elif self.store.exists(f"failed/{name}.json"):
            self._settle(attempt, None, "another driver of this folder gave it up")
        return name in self.claims.held

    def _look_elsewhere(self) -> None:
        """Jobs of other drivers come back into line, where they turn out to be finished, free or still taken."""
        with self.changed:
            if not len(self.waiting):
                for attempt in self.elsewhere:
                    self.waiting.put(attempt)
                self.elsewhere = []
            self.changed.notify_all()

    def _settle(self, attempt: Attempt, host: str | None, error: str = "") -> None:
        self.claims.release(attempt.job.name)
        if host is not None:
            self.report.finished(attempt.job, host)
        else:
            self.report.failed(attempt.job, error)
        with self.changed:
            self.open -= 1
            self.changed.notify_all()

    # --- hosts, one thread for each job that they have at a time

    def _guarded(self, lane: Lane) -> None:
        try:
            if lane.lost_since is not None:
                self._await(lane)
            while (attempt := self._next(lane)) is not None:
                if self._ours(attempt):
                    self._try(lane, attempt)
        except Exception as error:
            full = f"results can't be written to {self.store.folder}: {error}; see to it and start the sweep again"
            self.error = self.error or (SweepError(full) if isinstance(error, OSError) else error)
            self.end()

    def _try(self, lane: Lane, attempt: Attempt) -> None:
        job, prompt = attempt.job, with_settings(self.workflow, attempt.job.settings)
        failed, lost = None, False
        try:
            with lane.door:
                with self.changed:
                    lane.enter(attempt)
                prompt_id = lane.host.queue(job.prompt_id, prompt, attempt.look)
            outcome = lane.host.fetch(prompt_id, prompt, self.stop)
            with self.changed:
                lane.ended(attempt)
            self._save(attempt, prompt, outcome)
        except StoppedError:
            pass
        except JobError as error:
            failed = str(error)
            with self.changed:
                lane.ended(attempt)
        except LostHostError as error:
            failed, lost = str(error), True
            self._lose(lane, failed)
        finally:
            with self.changed:
                blamed = not lost or lane.worked_on is attempt
                lane.leave(attempt)
        if failed is not None:
            self._again(lane, attempt, failed, blamed)
        if lost:
            self._await(lane, attempt)

    def _save(self, attempt: Attempt, prompt: Prompt, outcome: Outcome) -> None:
        """Pictures first: the record says that all is there."""
        job, pictures = attempt.job, []
        for index, (name, content) in enumerate(outcome.files):
            pictures.append(f"pictures/{job.name}_{index}{PurePosixPath(name).suffix}")
            self.store.write(pictures[-1], with_settings_inside(content, job.settings))
        record = {
            "job": job.name,
            "settings": job.settings,
            "scores": scores(prompt, outcome.outputs),
            "pictures": pictures,
            "host": outcome.host,
            "seconds": outcome.seconds,
            "pack_version": self.version,
            "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "failed_tries": attempt.errors,
            "outputs": outcome.outputs,
        }
        self.store.write(f"results/{job.name}.json", json.dumps(record, indent=1).encode())
        self._settle(attempt, outcome.host)

    def _again(self, lane: Lane, attempt: Attempt, error: str, blamed: bool) -> None:
        """Back into line, or given up after its retries."""
        attempt.look = True
        if blamed:
            attempt.errors.append(error)
            attempt.failed_on.add(lane.host.name)
        if len(attempt.errors) <= self.retries:
            self.report.tried(attempt.job, error)
            self.claims.release(attempt.job.name)  # a driver whose hosts are all lost holds nobody up
            with self.changed:
                self.waiting.put(attempt)
                self.changed.notify_all()
            return
        record = {"job": attempt.job.name, "settings": attempt.job.settings, "errors": attempt.errors}
        self.store.write(f"failed/{attempt.job.name}.json", json.dumps(record, indent=1).encode())
        self._settle(attempt, None, error)

    def _lose(self, lane: Lane, error: str) -> None:
        with self.changed:
            first, lane.lost_since = lane.lost_since is None, lane.lost_since or time.monotonic()
        if first:
            self.report.lost(lane.host.name, error)

    def _await(self, lane: Lane, attempt: Attempt | None = None) -> None:
        """Until the host answers again; then the job that it lost is called back, if it still has it."""
        while not self.stop.wait(ASK):
            try:
                lane.host.check()
                if attempt is not None and attempt not in lane.attempts:
                    lane.host.cancel(attempt.job.prompt_id)
            except LostHostError:
                continue
            with self.changed:
                first, lane.lost_since = lane.lost_since is not None, None
            if first:
                self.report.back(lane.host.name)
            return

    def _lose_patience(self) -> None:
        since = [lane.lost_since for lane in self.lanes]
        if None not in since and time.monotonic() - max(filter(None, since)) > PATIENCE:
            self.error = SweepError(f"no host has answered for {PATIENCE:.0f} s; start one, and the sweep again")
            self.end()
