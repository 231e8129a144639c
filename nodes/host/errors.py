"""What nodes say: every error names its node and input, and what a user should know though it worked is seen."""

from __future__ import annotations

import logging
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


def noticed(text: str) -> Any:
    """Says it in the log, on the node and in the run's history; what to return as a node's `ui`.

    None for an empty text, which is nothing to say.
    """
    if not text:
        return None
    from comfy_execution.utils import get_executing_context
    from server import PromptServer  # here: the host's server is slow to import where it isn't running

    logging.warning("Diffusion Guidance: %s", text)
    context, server = get_executing_context(), getattr(PromptServer, "instance", None)
    if context is not None and server is not None:  # not in a node that runs outside a graph
        server.send_progress_text(text, context.node_id)
    return {"text": [text]}
