"""What a run made goes with it: what waits for the garbage collector keeps its tensors on the device until then.

The host takes a MODEL that waits for a memory leak, warns, and collects garbage in full at every load from then on.
"""

import gc
import weakref
from functools import partial

import pytest
import torch
from conftest import run_node
from features import FEATURES
from networks import Networks

pytestmark = pytest.mark.host
NAMES = [pytest.param(name, marks=() if "HSpace" in name else pytest.mark.slow) for name in FEATURES]


@pytest.fixture(scope="module")
def networks(pack_nodes):
    return Networks(partial(run_node, pack_nodes))


@pytest.fixture
def made(monkeypatch):
    """MODELs and other patchers, weakly."""
    import comfy.model_patcher

    patcher, found = comfy.model_patcher.ModelPatcher, []
    init = patcher.__init__

    def make(this, *args, **kwargs):
        init(this, *args, **kwargs)
        found.append(weakref.ref(this))

    monkeypatch.setattr(patcher, "__init__", make)
    return found


@pytest.fixture(autouse=True)
def user_folder(tmp_path, monkeypatch, pack_nodes):
    import folder_paths

    monkeypatch.setattr(folder_paths, "get_user_directory", lambda: str(tmp_path))


def tensors():
    return {id(found) for found in gc.get_objects() if issubclass(type(found), torch.Tensor)}


@pytest.mark.parametrize("name", NAMES)
def test_nothing_of_a_run_waits_for_the_garbage_collector(networks, made, name):
    FEATURES[name](networks)  # loads, and measures references
    made.clear()
    gc.collect()
    gc.disable()
    try:
        FEATURES[name](networks)
        waiting, there = [found() is not None for found in made], tensors()
        gc.collect()
        assert waiting == [found() is not None for found in made]
        assert there == tensors()
    finally:
        gc.enable()
