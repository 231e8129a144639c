"""A workflow in API form: read, checked, and copied with other values."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .errors import SweepError

Prompt = dict[str, dict[str, Any]]


def read_workflow(path: Path) -> Prompt:
    """The nodes of an API-format file by id. Raises SweepError for any other file."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise SweepError(f"there is no workflow {path}") from None
    except (OSError, ValueError) as error:
        raise SweepError(f"{path} can't be read as JSON: {error}") from None
    if isinstance(content, dict) and isinstance(content.get("nodes"), list):
        raise SweepError(f"{path} is in the editor's form; save it with Workflow > Export (API) and name that file")
    if isinstance(content, dict) and isinstance(content.get("prompt"), dict):
        content = content["prompt"]  # what one posts to /prompt
    if not isinstance(content, dict) or not content or not all(map(_is_node, content.values())):
        raise SweepError(f"{path} is no workflow in API form: nodes by id, each with class_type and inputs, are needed")
    return content


def _is_node(entry: Any) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("inputs"), dict) and "class_type" in entry


def title(prompt: Prompt, node: str) -> str:
    """What the editor shows over a node."""
    entry = prompt.get(node, {})
    return entry.get("_meta", {}).get("title") or entry.get("class_type") or f"node {node}"


def find_input(prompt: Prompt, name: str) -> tuple[str, str]:
    """(node id, input) of `5.inputs.guidance_scale`.

    An input of a chosen option (`method.phi`) may be missing in the file: the host checks it. Raises SweepError for a
    node or an input that the workflow doesn't have.
    """
    node, found, entry = name.partition(".inputs.")
    if not found or not entry:
        raise SweepError(f"{name!r} names no input; write NODE.inputs.INPUT, for example {_example(prompt)}")
    if node not in prompt:
        raise SweepError(f"{name!r}: the workflow has no node {node!r}{_near(node, prompt)}")
    known = prompt[node]["inputs"]
    if entry not in known and entry.split(".")[0] not in known:
        raise SweepError(f"{name!r}: node {node} ({title(prompt, node)}) has no input {entry!r}{_near(entry, known)}")
    return node, entry


def _example(prompt: Prompt) -> str:
    names = (f"{node}.inputs.{entry}" for node, given in prompt.items() for entry in given["inputs"])
    return next(names, "5.inputs.seed")


def _near(name: str, known: Iterable[str]) -> str:
    names = list(known)
    near = difflib.get_close_matches(name, names, 3, 0.5)
    if near:
        return f"; did you mean {' or '.join(near)}?"
    return f"; it has {', '.join(names[:12])}{', ...' if len(names) > 12 else ''}" if names else "; it has none"


def with_settings(prompt: Prompt, settings: Mapping[str, Any]) -> Prompt:
    """A copy with other values; None takes an input out."""
    changed = {node: {**entry, "inputs": dict(entry["inputs"])} for node, entry in prompt.items()}
    for name, value in settings.items():
        node, entry = find_input(prompt, name)
        changed[node]["inputs"][entry] = value
        if value is None:
            del changed[node]["inputs"][entry]
    return changed
