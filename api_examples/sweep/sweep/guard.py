"""Runs a command for as long as its parent lives: standard input ends with it, however it dies."""

from __future__ import annotations

import os
import subprocess
import sys
import threading


def guard(command: list[str]) -> None:
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    threading.Thread(target=lambda: os._exit(process.wait() & 255), daemon=True).start()
    sys.stdin.buffer.read()
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()


if __name__ == "__main__":
    guard(sys.argv[1:])
