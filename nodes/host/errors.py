"""Every error of a node says which node and which input it is about."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from comfy_api.latest import io


class InputError(ValueError):
    """A problem with one named input."""


@contextmanager
def about(name: str) -> Iterator[None]:
    """Puts an input's name before any ValueError raised inside."""
    try:
        yield
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"input '{name}': {error}") from error


class GuidanceNode(io.ComfyNode):
    """Base of the pack's nodes: `run` does the work, `execute` puts the node's name before what goes wrong."""

    @classmethod
    def run(cls, **inputs: Any) -> io.NodeOutput:
        raise NotImplementedError

    @classmethod
    def execute(cls, **inputs: Any) -> io.NodeOutput:
        try:
            return cls.run(**inputs)
        except ValueError as error:
            schema = cls.define_schema()  # GET_SCHEMA writes to the class, which the host has locked
            raise ValueError(f"{schema.display_name} ({schema.node_id}), {error}") from error
