"""Jobs: a setting of the workflow each, named by what it computes."""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from .grid import Settings
from .workflow import Prompt, with_settings

NAMESPACE = uuid.UUID("6f0d6c2e-6a0b-5d83-9c3e-3d1c1f9b7a52")


@dataclass(frozen=True)
class Job:
    """One prompt to be run once."""

    number: int  # its place in the grid
    name: str  # 16 hexadecimal digits of its prompt's hash
    settings: Settings
    loaders: str  # equal where the same files are loaded

    @property
    def prompt_id(self) -> str:
        """Its id on every host, so that a second driver finds what a first one had queued."""
        return str(uuid.uuid5(NAMESPACE, self.name))

    def __str__(self) -> str:
        return ", ".join(f"{short(name)}={value!r}" for name, value in self.settings.items())


def short(name: str) -> str:
    """5.guidance_scale for 5.inputs.guidance_scale."""
    return name.replace(".inputs.", ".", 1)


def digest(*parts: object) -> str:
    """16 hexadecimal digits of the SHA-256 of canonical JSON."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def make_jobs(workflow: Prompt, settings: Iterable[Settings], version: str) -> list[Job]:
    """A job for each setting that differs from those before it."""
    jobs: dict[str, Job] = {}
    for given in settings:
        prompt = with_settings(workflow, given)
        name = digest(_computed(prompt), version)
        jobs.setdefault(name, Job(len(jobs), name, given, digest(_loaders(prompt))))
    return list(jobs.values())


def _computed(prompt: Prompt) -> dict[str, tuple[str, dict]]:
    """What the host computes: titles are left out."""
    return {node: (entry["class_type"], entry["inputs"]) for node, entry in prompt.items()}


def _loaders(prompt: Prompt) -> list[tuple[str, dict]]:
    """The nodes that read weights; pictures load in no time."""
    kinds = {node: entry["class_type"].lower() for node, entry in prompt.items()}
    wanted = [node for node, kind in kinds.items() if "load" in kind and "image" not in kind]
    return sorted(((kinds[node], prompt[node]["inputs"]) for node in wanted), key=repr)


def pack_version() -> str:
    """The version of the node pack around this folder; "unknown" where there is none."""
    for folder in Path(__file__).resolve().parents:
        file = folder / "pyproject.toml"
        text = file.read_text("utf-8") if file.exists() else ""
        if re.search(r'^name = "diffusion-guidance"$', text, re.MULTILINE):
            found = re.search(r'^version = "(.+)"$', text, re.MULTILINE)
            return found.group(1) if found else "unknown"
    return "unknown"
