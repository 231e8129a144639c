"""Stub hosts, and sweeps over them in processes of their own."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[1]
STUB = Path(__file__).with_name("stub_comfyui") / "main.py"
WORKFLOW = {
    "1": {"class_type": "StubLoader", "inputs": {"model": "a"}},
    "2": {
        "class_type": "Stub",
        "inputs": {"model": ["1", 0], "seed": 0, "seconds": 0.0, "text": "", "fail": False, "crash": False},
        "_meta": {"title": "A stub"},
    },
    "8": {"class_type": "PreviewAny", "inputs": {"source": ["2", 1]}, "_meta": {"title": "Judge"}},
    "9": {"class_type": "SaveImage", "inputs": {"images": ["2", 0]}},
}


class StubHost:
    """A process of stub_comfyui on a free port; `log` has a line for each prompt that it worked on to the end."""

    def __init__(self, log, **variables):
        self.log = log
        environment = {**os.environ, "STUB_LOG": str(log), **variables}
        self.process = subprocess.Popen([sys.executable, STUB], stdout=subprocess.PIPE, env=environment, text=True)
        self.url = f"http://127.0.0.1:{int(self.process.stdout.readline())}"

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def worked_on(self):
        return Counter(self.log.read_text().split()) if self.log.exists() else Counter()


@pytest.fixture
def stubs(tmp_path):
    """stubs(2, ...): that many stub hosts."""
    started = []

    def start(number=1, **variables):
        hosts = [StubHost(tmp_path / f"host{len(started) + k}.log", **variables) for k in range(number)]
        started.extend(hosts)
        return hosts

    yield start
    for host in started:
        host.process.kill()


class Sweeps:
    """Sweeps of WORKFLOW in one folder."""

    def __init__(self, folder):
        self.folder, self.results = folder, folder / "results"
        self.workflow, self.grid = folder / "workflow.json", folder / "grid.yaml"
        self.workflow.write_text(json.dumps(WORKFLOW))

    def set(self, **inputs):
        """A grid of node 2's inputs."""
        self.grid.write_text(json.dumps({f"2.inputs.{name}": values for name, values in inputs.items()}))
        return self

    def start(self, hosts=(), *more, **options):
        command = [sys.executable, "-m", "sweep", self.workflow, self.grid, "--results", self.results, *more]
        command += ["--hosts", ",".join(host.url for host in hosts)] if hosts else []
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": FOLDER}
        return subprocess.Popen(list(map(str, command)), **pipes | options)

    def run(self, hosts=(), *more, **options):
        """(exit status, what it said)."""
        process = self.start(hosts, *more, **options)
        said = "".join(process.communicate(timeout=60))
        return process.returncode, said

    def finished(self):
        return sorted((self.results / "results").glob("*.json"))

    def records(self):
        return [json.loads(path.read_text()) for path in self.finished()]

    def wait_for(self, number, seconds=30):
        end = time.monotonic() + seconds
        while len(self.finished()) < number:
            assert time.monotonic() < end, f"{len(self.finished())} jobs are finished, {number} were waited for"
            time.sleep(0.01)

    def assert_tidy(self):
        """Neither claims nor signs of life nor half-written files are left."""
        assert not [path for name in ("claims", "drivers", "parts") for path in (self.results / name).iterdir()]


@pytest.fixture
def sweeps(tmp_path):
    return Sweeps(tmp_path)
