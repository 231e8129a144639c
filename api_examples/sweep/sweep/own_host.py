"""A ComfyUI of our own: started on a free port with its own output folder, and ended with this process."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from . import guard
from .errors import LostHostError
from .http_host import HttpHost

START = 300.0  # seconds until it has to answer


class OwnHost:
    """Starts `command` with flags for its place; `check` starts it anew if it has ended."""

    def __init__(self, command: list[str], timeout: float):
        self.command, self.timeout = command, timeout
        self.base = Path(tempfile.mkdtemp(prefix="sweep-host-"))
        self.lock = threading.Lock()
        self._start()

    def _start(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        flags = ["--listen", "127.0.0.1", "--port", str(port), "--disable-auto-launch"]
        flags += ["--database-url", f"sqlite:///{self.base / 'comfyui.db'}"]
        for folder in ("output", "temp", "user"):
            (self.base / folder).mkdir(exist_ok=True)
            flags += [f"--{folder}-directory", str(self.base / folder)]
        command = [sys.executable, guard.__file__, *self.command, *flags]
        with (self.base / "host.log").open("wb") as log:
            environment = {"OMP_WAIT_POLICY": "PASSIVE", **os.environ}
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT, env=environment
            )
        self.http = HttpHost(f"http://127.0.0.1:{port}", self.timeout)

    def check(self) -> None:
        """Waits until it answers. Raises LostHostError with the end of its log if it doesn't."""
        with self.lock:
            if self.process.poll() is not None:
                self._start()
        until = time.monotonic() + START
        while True:
            try:
                return self.http.check()
            except LostHostError as error:
                if self.process.poll() is not None:
                    raise LostHostError(f"{' '.join(self.command)} ended: {self._tail()}") from None
                if time.monotonic() > until:
                    raise LostHostError(f"{error} after {START:.0f} s") from None
            time.sleep(0.2)

    def _tail(self) -> str:
        lines = (self.base / "host.log").read_text("utf-8", "replace").split("\n")
        return " ".join(line.strip() for line in lines if line.strip())[-300:]

    def close(self) -> None:
        if self.process.stdin:
            self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
        shutil.rmtree(self.base, ignore_errors=True)
