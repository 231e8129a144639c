"""Where memory runs out while a file is read, the host is told so, and not that the file is damaged."""

from functools import partial

import pytest
import torch
from operations import takes_memory
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode

from models.registry import DEMO, ENCODER, MODEL, load_checkpoint
from models.state_dict import read

PLACES = 12  # of a reading's operations on tensors
FULL = {
    "a device": (torch.OutOfMemoryError, "CUDA out of memory. Tried to allocate 2.00 GiB."),
    "the CPU": (RuntimeError, "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9"),
}


class Failing(TorchDispatchMode):
    """Counts operations that take memory; at one of them there is an error."""

    def __init__(self, place=0, error=None):
        super().__init__()
        self.place, self.error, self.operations = place, error, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.operations += takes_memory(func, args)
        if takes_memory(func, args) and self.operations == self.place:
            raise self.error
        return func(*args, **(kwargs or {}))


@pytest.fixture(params=["model", "encoder", "pickle"])
def load(request, tmp_path):
    """A function that reads one."""
    if request.param == "model":
        return partial(load_checkpoint, DEMO / "models" / "scenes_unet.safetensors", MODEL)
    if request.param == "encoder":
        return partial(load_checkpoint, DEMO / "encoders" / "scenes_clip.safetensors", ENCODER)
    torch.save(load_file(DEMO / "models" / "scenes_unet.safetensors"), tmp_path / "unet.pt")
    return partial(read, tmp_path / "unet.pt")


@pytest.mark.parametrize("full", FULL)
def test_memory_that_runs_out_is_no_fault_of_the_file(load, full):
    kind, words = FULL[full]
    with Failing() as whole:
        load()
    for place in range(PLACES):
        with pytest.raises(kind) as raised, Failing(1 + place * whole.operations // PLACES, kind(words)):
            load()
        assert type(raised.value) is kind and str(raised.value) == words
