"""Runs a command for as long as its parent lives: standard input ends with it, however it dies."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import threading


def _die_with_guard() -> None:
    """Ray may kill the guard itself: PR_SET_PDEATHSIG of Linux, SIGKILL."""
    ctypes.CDLL(None).prctl(1, 9)


def guard(command: list[str]) -> None:
    linux = sys.platform == "linux"
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=_die_with_guard if linux else None)
    threading.Thread(target=lambda: os._exit(process.wait() & 255), daemon=True).start()
    sys.stdin.buffer.read()
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()


if __name__ == "__main__":
    guard(sys.argv[1:])
