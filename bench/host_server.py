"""A ComfyUI server of our own: started on a free port in its own folders, talked to over HTTP, ended with the process.

Standard library only: `dev.py` and the tests share it.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

PACK = Path(__file__).resolve().parents[1]
PACK_NAME = "diffusion-guidance"


class HostError(RuntimeError):
    """The host did not start, refused a prompt, or failed in it; `details` holds its answer."""

    def __init__(self, message: str, details: Any = None):
        super().__init__(message)
        self.details = details


@dataclass(frozen=True)
class Host:
    """A running server."""

    url: str
    base: Path  # its base folder: input, output, models, user
    log: Path
    client: str

    def get(self, path: str, **query: str) -> bytes:
        address = f"{self.url}{path}" + (f"?{urlencode(query)}" if query else "")
        with urllib.request.urlopen(address, timeout=60) as answer:
            return answer.read()

    def post(self, path: str, content: Any) -> Any:
        body = json.dumps(content).encode()
        request = urllib.request.Request(self.url + path, body, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                text = answer.read()
        except urllib.error.HTTPError as error:
            details = error.read().decode()
            raise HostError(f"{path} answered {error.code}: {details}", _json(details)) from error
        return _json(text.decode())

    def queue(self, prompt: dict[str, Any]) -> str:
        """Queues an API-format workflow; returns its id."""
        return self.post("/prompt", {"prompt": prompt, "client_id": self.client})["prompt_id"]

    def wait(self, prompt_id: str, timeout: float = 600) -> dict[str, Any]:
        """The finished prompt's entry of /history, whether it succeeded or not."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            entry = json.loads(self.get(f"/history/{prompt_id}")).get(prompt_id)
            if entry and entry["status"]["status_str"] in ("success", "error"):
                return entry
            time.sleep(0.02)
        raise HostError(f"prompt {prompt_id} did not finish within {timeout:.0f} s")

    def run(self, prompt: dict[str, Any], timeout: float = 600) -> dict[str, Any]:
        """Queues, waits, and returns the outputs by node id. Raises HostError with the host's own message."""
        entry = self.wait(self.queue(prompt), timeout)
        if entry["status"]["status_str"] == "error":
            failed = [content for kind, content in entry["status"]["messages"] if kind == "execution_error"]
            raise HostError(failed[0]["exception_message"] if failed else "interrupted", failed[0] if failed else None)
        return entry["outputs"]

    def images(self, output: dict[str, Any]) -> list[bytes]:
        """The PNG files of one output node, in order."""
        keys = ("filename", "subfolder", "type")
        return [self.get("/view", **{key: image[key] for key in keys}) for image in output["images"]]


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _install_pack(base: Path, name: str = PACK_NAME, pack: Path = PACK) -> None:
    """A pack in the server's custom_nodes: a link, or a copy where links are not allowed."""
    place = base / "custom_nodes" / name
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.is_symlink():
        place.unlink()
    try:
        place.symlink_to(pack, target_is_directory=True)
    except OSError:
        ignored = shutil.ignore_patterns(".git", "__pycache__", "output")
        shutil.copytree(pack, place, dirs_exist_ok=True, ignore=ignored)


@contextmanager
def running(
    comfyui: Path,
    python: str = sys.executable,
    base: Path | None = None,
    flags: Sequence[str] = ("--cpu",),
    only_ours: bool = True,
    beside: Path | None = None,
) -> Iterator[Host]:
    """Starts ComfyUI from `comfyui`, waits until it answers, and ends it, whatever happens.

    Without `base` its folders are temporary. `only_ours` keeps every other custom node out, but
    for the pack in the folder `beside`.
    """
    temporary = base is None
    base = Path(tempfile.mkdtemp(prefix="guidance-host-")) if base is None else base
    _install_pack(base)
    if beside is not None:
        _install_pack(base, beside.name, beside)
    log = base / "host.log"
    port = _free_port()
    command = [python, str(comfyui / "main.py"), "--listen", "127.0.0.1", "--port", str(port)]
    command += ["--base-directory", str(base), "--database-url", f"sqlite:///{base / 'comfyui.db'}"]
    command += ["--disable-api-nodes", "--preview-method", "auto", *flags]
    if only_ours:
        packs = [PACK_NAME] + ([beside.name] if beside is not None else [])
        command += ["--disable-all-custom-nodes", "--whitelist-custom-nodes", *packs]
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, cwd=base, env=_environment())
    host = Host(f"http://127.0.0.1:{port}", base, log, uuid.uuid4().hex)
    folder = base if temporary else None
    before = signal.signal(signal.SIGTERM, lambda *_: _end_with_us(process, folder))
    try:
        _wait_until_ready(host, process)
        yield host
    finally:
        signal.signal(signal.SIGTERM, before)
        _end(process, folder)


def _end(process: subprocess.Popen[bytes], folder: Path | None) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)


def _end_with_us(process: subprocess.Popen[bytes], folder: Path | None) -> None:
    """On SIGTERM: the host first, then we, by the signal itself. An exception would be one test's failure to pytest."""
    _end(process, folder)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.raise_signal(signal.SIGTERM)


def _environment() -> dict[str, str]:
    """Threads that sleep while they wait: spinning ones are ruinous on a shared machine."""
    return {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0", **os.environ}


def _wait_until_ready(host: Host, process: subprocess.Popen[bytes], timeout: float = 300) -> None:
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        if process.poll() is not None:
            break
        try:
            host.get("/system_stats")
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.2)
            continue
        return _check_pack_loaded(host)
    raise HostError(f"ComfyUI did not start; the end of its log:\n{_tail(host.log)}")


def _check_pack_loaded(host: Host) -> None:
    """The host answers also when a pack failed to import; then it does not know our nodes."""
    if not json.loads(host.get("/object_info/Guidance_LoadModel")):
        raise HostError(f"ComfyUI could not load the pack; the end of its log:\n{_tail(host.log)}")


def _tail(log: Path, lines: int = 40) -> str:
    return "\n".join(log.read_text("utf-8", "replace").splitlines()[-lines:])
