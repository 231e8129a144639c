"""A node that is cancelled, or for which memory runs out, at any moment: it ends there and the next run is as ever."""

from functools import partial

import pytest
import torch
from conftest import run_node
from features import FEATURES
from networks import Networks
from operations import takes_memory
from surroundings import surroundings
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode

pytestmark = pytest.mark.host
PLACES = (0.05, 0.35, 0.65, 0.95)  # of a run's operations on tensors, in every phase of a long node
OFTEN = {  # in every run of the tests: one moment each
    "Discover HSpace: pictures": 0.7,
    "Train HSpace Direction, pictures": 0.6,
    "Asyrp Timing, encoder": 0.6,
    "HSpace Inject": 0.3,
    "Stochastic Encode": 0.5,
    "Sample Semantic": 0.5,
    "Text Guide at denoised": 0.4,
    "Classifier-Guided Sampler: ddpm": 0.8,
}
MOMENTS = [(name, OFTEN[name], ()) for name in OFTEN]
MOMENTS += [(name, place, pytest.mark.slow) for name in FEATURES for place in PLACES]
EVERYWHERE = pytest.mark.parametrize(
    "name, place", [pytest.param(name, place, marks=marks, id=f"{name} at {place}") for name, place, marks in MOMENTS]
)
ONE_LOOK = "CLIP Score"  # one evaluation of an encoder's halves


class Counting(TorchDispatchMode):
    """Counts operations that take memory, and does something at one of them."""

    def __init__(self, place=0, fault=None):
        super().__init__()
        self.place, self.fault, self.operations, self.layers = place, fault, 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.operations += takes_memory(func, args)
        if self.operations == self.place and takes_memory(func, args):
            self.layers = 0
            self.fault()
        return func(*args, **(kwargs or {}))

    def __enter__(self):
        self.hook = register_module_forward_pre_hook(self.called)
        return super().__enter__()

    def __exit__(self, *error):
        self.hook.remove()
        return super().__exit__(*error)

    def called(self, module, inputs):
        self.layers += next(module.children(), None) is None and next(module.parameters(), None) is not None


@pytest.fixture(autouse=True)
def user_folder(tmp_path, monkeypatch, pack_nodes):
    import folder_paths

    monkeypatch.setattr(folder_paths, "get_user_directory", lambda: str(tmp_path))
    return tmp_path


class Runs(dict):
    """By feature: what it gives, its operations and its calls of layers, with everything loaded."""

    def __init__(self, networks):
        super().__init__()
        self.networks = networks

    def __missing__(self, name):
        FEATURES[name](self.networks)
        with Counting() as count:
            result = FEATURES[name](self.networks)
        self[name] = result, count.operations, count.layers
        return self[name]


@pytest.fixture(scope="module")
def runs(pack_nodes):
    return Runs(Networks(partial(run_node, pack_nodes)))


def interrupted(runs, name, place, fault):
    """The run with a fault at a share of its operations: the exception that left it, and layers called since."""
    moment = Counting(int(place * runs[name][1]) + 1, fault)
    try:
        with moment:
            FEATURES[name](runs.networks)
    except BaseException as error:  # the host's InterruptProcessingException is no Exception
        return error, moment.layers
    return None, moment.layers


def check_as_ever(runs, name, before, folder):
    assert {key: (before[key], value) for key, value in surroundings().items() if before.get(key) != value} == {}
    assert torch.equal(FEATURES[name](runs.networks), runs[name][0])
    assert not [path for path in folder.rglob("*") if path.is_file()]


@EVERYWHERE
def test_a_cancel_stops_before_another_evaluation_and_the_next_run_is_the_same_to_the_bit(
    runs, name, place, user_folder
):
    import comfy.model_management as mm

    _, _, whole = runs[name]
    _, _, look = runs[ONE_LOOK]
    before = surroundings()
    error, layers = interrupted(runs, name, place, mm.interrupt_current_processing)
    left = mm.processing_interrupted()  # of a node whose last step this was: the host ends the prompt behind it
    mm.interrupt_current_processing(False)
    assert isinstance(error, mm.InterruptProcessingException) or (error is None and left), error
    assert layers <= min(look, whole)
    check_as_ever(runs, name, before, user_folder)


@EVERYWHERE
def test_where_memory_runs_out_the_host_is_told_and_the_next_run_is_the_same_to_the_bit(runs, name, place, user_folder):
    import comfy.model_management as mm

    def full():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    if "VAE" in name:
        pytest.skip("the host's VAE tries again in tiles")
    assert runs[name][1] > 100
    before = surroundings()
    error, _ = interrupted(runs, name, place, full)
    assert isinstance(error, mm.OOM_EXCEPTION) and "out of memory" in str(error), error
    check_as_ever(runs, name, before, user_folder)
