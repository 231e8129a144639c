"""A second device inside the CPU: tensors lie there or here, and mixing them fails as it does on a GPU.

A test runs a node while the host believes that it loads networks to `DEVICE`. Weights that the host has not loaded stay
on the CPU, and meeting a sample on the device they raise; so does a sample that was left on the CPU. The numbers are
those of the CPU. torch's own name "lazy" is borrowed: it has no kernels here, and autograd accepts it.
"""

import torch
from torch.utils._python_dispatch import TorchDispatchMode

DEVICE = torch.device("lazy", 0)
CPU = torch.device("cpu")
MOVES = ("_to_copy", "to", "type_as")
BETWEEN = (*MOVES, "copy_", "set_data", "is_same_size")  # may meet tensors of both devices
INDEXED = ("index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index")  # indices may lie on the CPU


class There(torch.Tensor):
    """A tensor on the second device; `here` are its numbers."""

    @staticmethod
    def __new__(cls, here, requires_grad=False):
        options = {"strides": here.stride(), "storage_offset": here.storage_offset(), "dtype": here.dtype}
        return torch.Tensor._make_wrapper_subclass(
            cls, here.shape, device=DEVICE, requires_grad=requires_grad, **options
        )

    def __init__(self, here, requires_grad=False):
        self.here = here

    def __repr__(self, **_):
        return f"There({self.here!r})"

    def tolist(self):
        return self.here.tolist()

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return run(func, args, kwargs or {})


def inside(part):
    """An argument with its tensors on the CPU, and devices by that name."""
    if isinstance(part, There):
        return part.here
    if isinstance(part, torch.device):
        return CPU if part.type == DEVICE.type else part
    return type(part)(inside(one) for one in part) if isinstance(part, list | tuple) else part


def outside(result):
    if isinstance(result, torch.Tensor):
        with torch.inference_mode(result.is_inference()):  # a view of a normal tensor is one in inference mode too
            return result if isinstance(result, There) else There(result)
    return type(result)(outside(one) for one in result) if isinstance(result, list | tuple) else result


def tensors_of(parts):
    for part in parts:
        if isinstance(part, torch.Tensor):
            yield part
        elif isinstance(part, list | tuple):
            yield from tensors_of(part)


def wanted(name, args, kwargs):
    """The device that a call asks for; None: where its tensors are."""
    devices = [part for part in (kwargs.get("device"), *args) if isinstance(part, torch.device)]
    if name in ("to", "type_as") and len(args) > 1 and isinstance(args[1], torch.Tensor):
        devices = [args[1].device]
    return devices[0] if devices else None


def run(func, args, kwargs):
    """One operation of torch, the numbers on the CPU."""
    name = func._schema.name.partition("::")[2]
    if name == "_has_compatible_shallow_copy_type":
        return not any(isinstance(tensor, There) for tensor in args)  # modules that move get parameters anew
    given = list(tensors_of((*args, *kwargs.values())))
    there = any(isinstance(tensor, There) for tensor in given)
    if there:
        refuse_mixing(name, args, given)
    device = wanted(name, args, kwargs)
    first = args[0] if args else None
    result = func(*inside(args), **{key: inside(value) for key, value in kwargs.items()})
    if "out" in kwargs or (name.endswith("_") and not name.endswith("__")):
        return kwargs.get("out", first)
    goes_there = there if device is None else device.type == DEVICE.type
    own = first.here if isinstance(first, There) else first
    if name in MOVES and result is own:
        if isinstance(first, There) == goes_there:
            return first
        result = result.clone()
    return outside(result) if goes_there else result


def refuse_mixing(name, args, tensors):
    """As CUDA does it: a number of no axes may come from anywhere."""
    if name in BETWEEN or (name in INDEXED and isinstance(args[0], There)):
        return
    if any(tensor.ndim and not isinstance(tensor, There) for tensor in tensors):
        raise RuntimeError(f"Expected all tensors to be on the same device: {name} was given some on the CPU")


class SecondDevice(TorchDispatchMode):
    """While it is on, tensors can be made on `DEVICE` and moved to it."""

    def __init__(self, double=True):
        super().__init__()
        self.double = double

    def __enter__(self):
        self.lifting = torch._C._only_lift_cpu_tensors()
        torch._C._set_only_lift_cpu_tensors(True)
        return super().__enter__()

    def __exit__(self, *problem):
        torch._C._set_only_lift_cpu_tensors(self.lifting)
        return super().__exit__(*problem)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if There not in types and not any(
            isinstance(part, torch.device) and part.type == DEVICE.type for part in (*args, *kwargs.values())
        ):
            return func(*args, **kwargs)
        result = run(func, args, kwargs)
        if not self.double and isinstance(result, There) and result.dtype == torch.float64:
            raise TypeError(f"{func}: this device has no float64")
        return result


def use(monkeypatch):
    """The host loads to the second device from now on."""
    import comfy.model_management as mm

    memory = 64 * 1024**3
    monkeypatch.setattr(mm, "get_torch_device", lambda: DEVICE)
    for name in ("get_free_memory", "get_total_memory"):
        monkeypatch.setattr(mm, name, lambda device=None, both=False, **_: (memory, memory) if both or _ else memory)
