"""What a program asks of a device, counted on any: operations and synchronisations.

An operation is a call of PyTorch that reads or writes numbers, in its own small steps: on a GPU about one launch. Views,
empty memory and calls that give their input back are none. A synchronisation is a call after which the CPU has to know
what the device computed: a number, a truth, the places of a mask, a copy from one device to another.
"""

from __future__ import annotations

import traceback
from collections import Counter
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

WAITS = {
    "_local_scalar_dense",
    "bincount",
    "equal",
    "is_nonzero",
    "item",
    "masked_select",
    "nonzero",
    "unique_consecutive",
    "unique_dim",
    "_unique2",
}
COPIES = {"_to_copy", "copy_"}
INDEXED = {"index", "index_put", "index_put_", "_index_put_impl_"}
NOTHING = ("detach", "empty", "new_empty", "resize_", "set_")  # so begin names of calls that touch no numbers
SMALL_STEPS = torch._C.DispatchKey.CompositeImplicitAutograd


class Counted(TorchDispatchMode):
    """While it is on: `operations`, synchronisations among them, and `waits`, by the names of PyTorch's functions.

    Where a folder is given as `inside`, `places` has them by (the innermost line of a file under it, name), and by an
    empty line what backward passes do.
    """

    def __init__(self, inside: str = ""):
        super().__init__()
        self.inside = inside
        self.operations: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()
        self.places: Counter[tuple[str, str]] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), SMALL_STEPS):
            with self:  # in inference mode they come whole, elsewhere in small steps
                steps = func.decompose(*args, **kwargs)
            if steps is not NotImplemented:
                return steps
        name = func._schema.name.partition("::")[2]
        waits = _waits(name, args, kwargs)
        result = func(*args, **kwargs)
        if waits:
            self.waits[name] += 1
        if waits or _works(func, name, args, kwargs, result):
            self.operations[name] += 1
            if self.inside:
                self.places[self._line(), name] += 1
        return result

    def _line(self) -> str:
        found = [frame for frame in traceback.extract_stack()[:-2] if frame.filename.startswith(self.inside)]
        return f"{found[-1].filename.removeprefix(self.inside)}:{found[-1].lineno}" if found else ""


def _waits(name: str, args: Any, kwargs: dict[str, Any]) -> bool:
    given = tree_leaves((args, kwargs))
    tensors = [leaf for leaf in given if isinstance(leaf, Tensor)]
    if name in INDEXED:
        return any(tensor.dtype in (torch.bool, torch.uint8) for tensor in tree_leaves(args[1]) if tensor is not None)
    if name in COPIES:
        devices = {tensor.device for tensor in tensors} | {leaf for leaf in given if isinstance(leaf, torch.device)}
        return len(devices) > 1 and not kwargs.get("non_blocking", False)
    return name in WAITS or (name == "repeat_interleave" and kwargs.get("output_size") is None)


def _works(func: Any, name: str, args: Any, kwargs: dict[str, Any], result: Any) -> bool:
    """Whether a call is more than a view, empty memory or its own input."""
    if name.startswith(NOTHING):
        return False
    if func._schema.is_mutable:
        return True
    known = {_memory(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
    return any(isinstance(leaf, Tensor) and _memory(leaf) not in known for leaf in tree_leaves(result))


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
