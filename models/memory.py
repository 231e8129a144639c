"""Memory that runs out while a file is read is no fault of the file."""

from __future__ import annotations

import torch

CPU = "DefaultCPUAllocator"  # PyTorch raises a plain RuntimeError there, which names its allocator


def check_memory(error: Exception) -> None:
    """Raises an error again by which memory ran out: the host frees memory by its kind."""
    if isinstance(error, torch.OutOfMemoryError) or CPU in str(error):
        raise error
