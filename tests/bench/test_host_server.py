"""SIGTERM ends a process that runs a host, and the host first, whatever catches exceptions there."""

import signal
import subprocess
import sys

from conftest import ROOT

HOST = """
import os, pathlib, time
pathlib.Path("pid").write_text(str(os.getpid()))
time.sleep(600)
"""
USER = """
import sys
sys.path.insert(0, {root!r})
from pathlib import Path
from bench.host_server import running

try:
    with running(Path({comfyui!r}), base=Path({base!r})):
        pass
except BaseException as error:  # as pytest does, which books a failure and goes on
    print("went on", repr(error), flush=True)
"""


def test_sigterm_ends_both_though_exceptions_are_caught(tmp_path):
    comfyui, base = tmp_path / "comfyui", tmp_path / "base"
    comfyui.mkdir(), base.mkdir()
    (comfyui / "main.py").write_text(HOST)
    code = USER.format(root=str(ROOT), comfyui=str(comfyui), base=str(base))
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    while not (base / "pid").exists() or not (base / "pid").read_text():
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGTERM and said == ""
    host = int((base / "pid").read_text())
    assert not (ROOT.__class__("/proc") / str(host)).exists()
