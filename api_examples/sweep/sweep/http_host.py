"""One running ComfyUI, through its HTTP API."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import urllib3

from .errors import JobError, LostHostError, StoppedError
from .outputs import files
from .workflow import Prompt, title

LOOK = 2.0  # seconds between looks into the queue, for jobs that a restart or a person took out of it
FORGET = 10.0  # seconds until an interrupted prompt has ended: the host looks for it between steps
SLOWEST = 0.5  # seconds between two questions whether a job is done
TROUBLE = (urllib3.exceptions.HTTPError, ConnectionError, TimeoutError)


@dataclass(frozen=True)
class Outcome:
    """What a finished job left on its host."""

    outputs: dict[str, Any]  # of the history: by node
    files: list[tuple[str, bytes]]  # (name, content)
    host: str
    seconds: float  # that the host worked


class HttpHost:
    """Runs prompts on a host. Its methods may be called by several threads."""

    def __init__(self, url: str, timeout: float = 3600.0):
        url = url.strip().rstrip("/")
        self.name = url if "://" in url else f"http://{url}"
        self.timeout = timeout
        self.pool = urllib3.PoolManager(maxsize=8, retries=False, timeout=urllib3.Timeout(connect=5, read=60))

    def check(self) -> None:
        """Raises LostHostError unless ComfyUI answers."""
        stats = self._json("GET", "/system_stats")
        if not isinstance(stats, dict) or "comfyui_version" not in stats.get("system", {}):
            raise LostHostError(f"{self.name} answers, but not as ComfyUI does")

    def queue(self, prompt_id: str, prompt: Prompt, look: bool) -> str:
        """Queues a prompt, or with `look` takes up one that is there already; returns its id on the host."""
        if look and self.where(prompt_id) is not None:
            return prompt_id
        return self._send(prompt_id, prompt)

    def fetch(self, prompt_id: str, prompt: Prompt, stop: threading.Event) -> Outcome:
        """Waits for a queued prompt, and fetches what it made."""
        entry = self._wait(prompt_id, stop)
        if entry["status"]["status_str"] != "success":
            self._post("/history", {"delete": [prompt_id]})  # so that a second try isn't taken for this one
            raise JobError(_why(entry["status"], prompt))
        fetched = [(file["filename"], self._view(file)) for file in files(entry["outputs"])]
        return Outcome(entry["outputs"], fetched, self.name, _seconds(entry["status"]))

    def where(self, prompt_id: str) -> str | None:
        """ "done", "running" or "pending"; None for a prompt that the host doesn't know."""
        for _ in range(2):  # it may go from the queue to the history between the two questions
            if self._history(prompt_id):
                return "done"
            queue = self._json("GET", "/queue")
            try:
                for name in ("running", "pending"):
                    if any(entry[1] == prompt_id for entry in queue[f"queue_{name}"]):
                        return name
            except (TypeError, KeyError, IndexError):
                raise LostHostError(f"{self.name} says of its queue what ComfyUI wouldn't: {_cut(queue)}") from None
        return None

    def cancel(self, prompt_id: str) -> str | None:
        """Takes a prompt out of the queue, or interrupts it; returns where it was."""
        where = self.where(prompt_id)
        if where == "pending":
            self._post("/queue", {"delete": [prompt_id]})
        if where == "running":
            self._post("/interrupt", {"prompt_id": prompt_id})
        return where

    def _forget(self, prompt_id: str) -> None:
        """Calls a prompt back, and leaves nothing of it that could be taken for a result of its next run."""
        until = time.monotonic() + FORGET
        while self.cancel(prompt_id) in ("pending", "running") and time.monotonic() < until:  # it may have begun since
            time.sleep(0.05)
        self._post("/history", {"delete": [prompt_id]})

    def _send(self, prompt_id: str, prompt: Prompt) -> str:
        status, answer = self._ask("POST", "/prompt", {"prompt": prompt, "prompt_id": prompt_id})
        content = _parsed(answer)
        if isinstance(content, dict) and (content.get("node_errors") or status == 400):
            if status == 200:  # the host runs the part that it finds no fault with
                self._forget(content.get("prompt_id", prompt_id))
            raise JobError(_refusal(content, prompt))
        if status != 200 or not isinstance(content, dict) or "prompt_id" not in content:
            raise LostHostError(f"{self.name} answered {status} to a prompt: {_cut(answer.decode(errors='replace'))}")
        return content["prompt_id"]

    def _wait(self, prompt_id: str, stop: threading.Event) -> dict[str, Any]:
        pause, looked, started = 0.01, time.monotonic(), None
        while not (entry := self._history(prompt_id)):
            if stop.wait(pause):
                if self.cancel(prompt_id) == "done":
                    continue
                self._forget(prompt_id)
                raise StoppedError
            pause, now = min(1.5 * pause, SLOWEST), time.monotonic()
            if now - looked < LOOK:
                continue
            looked, where = now, self.where(prompt_id)
            if where is None:
                raise LostHostError(f"{self.name} no longer knows its job: it was restarted, or its queue was cleared")
            started = started or (now if where == "running" else None)
            if where == "running" and started and now - started > self.timeout:
                self.cancel(prompt_id)
                raise JobError(f"it ran longer than {self.timeout:g} s on {self.name}")
        return entry

    def _history(self, prompt_id: str) -> dict[str, Any] | None:
        """The entry of a prompt that has ended."""
        answer = self._json("GET", f"/history/{prompt_id}")
        try:
            entry = answer.get(prompt_id)
            if entry is not None and not (entry["status"]["status_str"] and isinstance(entry["outputs"], dict)):
                raise KeyError
        except (AttributeError, TypeError, KeyError):
            raise LostHostError(f"{self.name} says of its history what ComfyUI wouldn't: {_cut(answer)}") from None
        return entry

    def _view(self, file: dict[str, str]) -> bytes:
        query = urlencode({key: file.get(key, "") for key in ("filename", "subfolder", "type")})
        status, content = self._ask("GET", f"/view?{query}")
        if status != 200 or not content:
            raise JobError(f"{self.name} no longer has {file['filename']} (it answered {status})")
        return content

    def _json(self, method: str, path: str) -> Any:
        status, content = self._ask(method, path)
        answer = _parsed(content)
        if status != 200 or answer is None:
            said = _cut(content.decode(errors="replace"))
            raise LostHostError(f"{self.name} answered {status} to {path.split('?')[0]}, and no JSON: {said}")
        return answer

    def _post(self, path: str, content: Any) -> None:
        self._ask("POST", path, content)

    def _ask(self, method: str, path: str, content: Any = None) -> tuple[int, bytes]:
        body = None if content is None else json.dumps(content).encode()
        headers = {} if body is None else {"Content-Type": "application/json"}
        try:
            answer = self.pool.request(method, self.name + path, body=body, headers=headers)
        except TROUBLE as error:
            raise LostHostError(f"{self.name} does not answer ({_reason(error)})") from None
        return answer.status, answer.data


def _parsed(content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        return None


def _cut(said: Any) -> str:
    text = " ".join(str(said).split())
    return text if len(text) < 80 else text[:77] + "..."


def _reason(error: BaseException) -> str:
    return str(error).rsplit(": ", 1)[-1] or type(error).__name__


def _refusal(answer: dict[str, Any], prompt: Prompt) -> str:
    """Why a prompt was not queued, of the first node that has a fault."""
    for node, problem in (answer.get("node_errors") or {}).items():
        for fault in problem.get("errors", []):
            entry = (fault.get("extra_info") or {}).get("input_name", "")
            said = " ".join(f"{fault.get('message', '')}: {fault.get('details', '')}".split())
            return f"node {node} ({title(prompt, node)}){f', input {entry!r}' if entry else ''}: {said}"
    error = answer.get("error", {})
    return error.get("message", str(error)) if isinstance(error, dict) else str(error)


def _why(status: dict[str, Any], prompt: Prompt) -> str:
    """Why a prompt ended without success."""
    for kind, content in status.get("messages", []):
        if kind == "execution_error":
            node = str(content.get("node_id"))
            said = " ".join(str(content.get("exception_message")).split())
            return f"node {node} ({title(prompt, node)}): {said}"
        if kind == "execution_interrupted":
            return "it was interrupted on the host"
    return f"the host says {status.get('status_str')!r} and no more"


def _seconds(status: dict[str, Any]) -> float:
    times = {
        kind: content.get("timestamp") for kind, content in status.get("messages", []) if isinstance(content, dict)
    }
    start, end = times.get("execution_start"), times.get("execution_success")
    return round((end - start) / 1000, 3) if start and end else 0.0
