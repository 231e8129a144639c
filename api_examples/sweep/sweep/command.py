"""The command line."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from rich.console import Console

from .claims import Claims
from .errors import SweepError
from .grid import Grid, read_grid
from .http_host import HttpHost
from .jobs import Job, make_jobs, pack_version
from .lane import Host
from .progress import Display, complain
from .schedule import Sweep
from .store import Store
from .summary import summary
from .workflow import Prompt, read_workflow

EXAMPLE = """
example:
  python -m sweep workflow.json grid.yaml --hosts http://127.0.0.1:8188,http://127.0.0.1:8189 --results out

Finished jobs are never run again: the same command goes on where it was stopped or killed. Ctrl-C keeps what is done.
Exit status: 0 all finished, 1 some failed, 2 it could not start or go on, 130 stopped.
"""


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        "sweep", description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.description = "Runs one ComfyUI workflow with many settings on many machines, each job exactly once."
    made.add_argument("workflow", type=Path, help="a workflow in API form: Workflow > Export (API)")
    made.add_argument("grid", type=Path, help="a YAML file that says which inputs take which values")
    engine = made.add_mutually_exclusive_group()
    engine.add_argument("--hosts", default="http://127.0.0.1:8188", help="running hosts, separated by commas")
    engine.add_argument(
        "--ray", metavar="ADDRESS", help="a Ray cluster; 'local': this machine, 'auto': the one it is in"
    )
    made.add_argument("--comfyui", help="with --ray: the folder of ComfyUI on every machine, with the pack in it")
    made.add_argument("--python", default=sys.executable, help="with --ray: the Python that runs ComfyUI")
    made.add_argument("--host-flags", default="", help="with --ray: further flags for ComfyUI, in one word")
    made.add_argument("--actors", type=int, help="with --ray: hosts to start; else one for each GPU of the cluster")
    made.add_argument("--results", default="results", help="a folder, or a URL such as s3://bucket/folder")
    made.add_argument("--retries", type=int, default=2, help="further tries of a job that failed (default 2)")
    made.add_argument("--timeout", type=float, default=3600.0, help="seconds that a job may run (default 3600)")
    made.add_argument("--pack-version", help="the hosts' version of the pack; else that of the pack around this folder")
    made.add_argument("--again", action="store_true", help="try jobs that were given up once more")
    made.add_argument("--dry-run", action="store_true", help="show the jobs and what has become of them; run nothing")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    given = parser().parse_args(arguments)
    try:
        workflow = read_workflow(given.workflow)
        grid = read_grid(given.grid, workflow)
        version = given.pack_version or pack_version()
        jobs = make_jobs(workflow, grid.settings(), version)
        store = Store(given.results)
        if given.dry_run:
            return dry_run(jobs, store)
        return sweep(given, workflow, grid, jobs, version, store)
    except SweepError as error:
        complain(str(error))
        return 2


def dry_run(jobs: Sequence[Job], store: Store) -> int:
    """A line for each job, and a count."""
    finished, failed = store.jobs("results"), store.jobs("failed")
    console = Console(highlight=False, markup=False, soft_wrap=True)
    for job in jobs:
        state = "finished" if job.name in finished else "failed" if job.name in failed else "to do"
        console.print(f"{job.name}  {state:8}  {job}")
    done, lost = (sum(job.name in names for job in jobs) for names in (finished, failed - finished))
    console.print(f"{len(jobs)} jobs: {done} finished, {lost} failed, {len(jobs) - done - lost} to do")
    return 0


def sweep(
    given: argparse.Namespace, workflow: Prompt, grid: Grid, jobs: Sequence[Job], version: str, store: Store
) -> int:
    """Runs what is missing, then writes the table, the sheet and the page of all that is there."""
    store.prepare()
    finished = store.jobs("results")
    if given.again:
        for name in store.jobs("failed") & {job.name for job in jobs}:
            store.remove(f"failed/{name}.json")
    failed = store.jobs("failed") - finished
    missing = [job for job in jobs if job.name not in finished | failed]
    stopped, error = False, None
    if missing:
        try:
            with engine(given) as hosts, Claims(store) as claims:
                stopped = _run(given, workflow, jobs, missing, version, hosts, claims)
        except SweepError as caught:
            error = caught
    left = summary(grid, jobs, given.grid.stem, store)
    if error is not None:
        raise error
    return 130 if stopped else 1 if left else 0


def engine(given: argparse.Namespace) -> AbstractContextManager[Sequence[Host]]:
    """The hosts of the command line."""
    if given.ray:
        if not given.comfyui:
            raise SweepError("--ray starts hosts: name ComfyUI's folder with --comfyui")
        try:
            from .ray_hosts import ray_hosts
        except ImportError:
            raise SweepError("--ray needs Ray: pip install ray (without it, --hosts works)") from None
        command = [given.python, f"{given.comfyui}/main.py", *shlex.split(given.host_flags)]
        return ray_hosts(given.ray, command, given.actors, given.timeout)
    addresses = [address for address in given.hosts.split(",") if address.strip()]
    hosts: list[Host] = [HttpHost(address, given.timeout) for address in addresses]
    if not hosts or len({host.name for host in hosts}) < len(hosts):
        raise SweepError(f"--hosts {given.hosts}: at least one address is needed, and each once")
    return nullcontext(hosts)


def _run(
    given: argparse.Namespace,
    workflow: Prompt,
    jobs: Sequence[Job],
    missing: Sequence[Job],
    version: str,
    hosts: Sequence[Host],
    claims: Claims,
) -> bool:
    """Whether it was stopped before its end."""
    with Display(len(jobs), len(jobs) - len(missing), [host.name for host in hosts]) as display:
        run = Sweep(workflow, version, hosts, claims, display, given.retries)
        signals = {number: signal.signal(number, lambda *_: _end(run)) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            run.run(missing)
        finally:
            for number, before in signals.items():
                signal.signal(number, before)
    return run.open > 0


def _end(run: Sweep) -> None:
    """The first time gently; who can't wait says it twice."""
    if run.stop.is_set():
        os._exit(130)
    complain("stopping: jobs on hosts are called back, what is finished stays")
    run.end()
