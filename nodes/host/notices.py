"""What a node's user should know although it worked: in the log, on the node, and in the run's history."""

from __future__ import annotations

import logging
from typing import Any


def noticed(text: str) -> Any:
    """Says it; what to return as a node's `ui`. None for an empty text, which is nothing to say."""
    if not text:
        return None
    from comfy_execution.utils import get_executing_context
    from server import PromptServer  # here: the host's server is slow to import outside of it

    logging.warning("Diffusion Guidance: %s", text)
    context, server = get_executing_context(), getattr(PromptServer, "instance", None)
    if context is not None and server is not None:  # not in a node that runs outside a graph
        server.send_progress_text(text, context.node_id)
    return {"text": [text]}
