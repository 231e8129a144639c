"""Every feature that runs a network asks the host to load it, and gets the same result where memory is short."""

from functools import partial

import pytest
import second_device
import torch
from conftest import run_node
from features import FEATURES
from networks import Networks
from residency import Poison, short_of_memory, unload

pytestmark = pytest.mark.host

WITH_ROOM = ["Dual Model CFG Guider"]  # the host itself loads its two models one after the other
DOUBLE = [name for name in FEATURES if "transformer" in name]  # the host turns their positions in float64


@pytest.fixture(scope="module")
def results(pack_nodes):
    """What features give with all memory of the world, by name."""
    return Results(Networks(partial(run_node, pack_nodes)))


class Results(dict):
    def __init__(self, networks):
        super().__init__()
        self.networks = networks

    def __missing__(self, name):
        self[name] = FEATURES[name](self.networks)
        return self[name]


@pytest.fixture(scope="module")
def module_patch():
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def poison(module_patch):
    return Poison(module_patch)


@pytest.fixture(scope="module")
def spoilt(poison, pack_nodes):
    """Networks of a host that poisons what is not loaded."""
    return Networks(partial(run_node, pack_nodes))


@pytest.fixture(scope="module")
def elsewhere(poison, pack_nodes):
    """Networks of such a host with a second device."""
    return Networks(partial(run_node, pack_nodes))


@pytest.fixture(autouse=True)
def user_folder(tmp_path, monkeypatch, pack_nodes):
    import folder_paths

    monkeypatch.setattr(folder_paths, "get_user_directory", lambda: str(tmp_path))


def test_a_network_that_is_not_loaded_gives_nan(poison, spoilt):
    """The poison works: this is what features must not see."""
    model = spoilt.load("unet")
    poison.spoil_all()
    with torch.inference_mode():
        out = model.model.apply_model(torch.zeros(1, 3, 32, 32), torch.ones(1), y=torch.tensor([0]))
    assert out.isnan().all()
    poison.cure_all()


@pytest.fixture
def tight(poison, monkeypatch, request):
    """Nothing is loaded yet, and there is room for what is loaded at once."""
    if request.getfixturevalue("name") not in WITH_ROOM:
        short_of_memory(monkeypatch)
    poison.spoil_all()
    yield
    poison.cure_all()


@pytest.mark.parametrize("name", FEATURES)
def test_on_a_second_device_short_of_memory_a_feature_gives_the_same(results, elsewhere, monkeypatch, name, request):
    """What is not loaded is NaN and lies on the CPU, where no sample is. The device has no float64, as Apple's.

    Where the host itself needs float64, the device has it.
    """
    expected = results[name]
    request.getfixturevalue("tight")
    second_device.use(monkeypatch)
    elsewhere.forget()
    with second_device.SecondDevice(double=name in DOUBLE):
        found = FEATURES[name](elsewhere).cpu()
        unload()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", FEATURES)
def test_on_a_cpu_short_of_memory_a_feature_gives_the_same(results, spoilt, name, request):
    expected = results[name]
    request.getfixturevalue("tight")
    spoilt.forget()
    torch.testing.assert_close(FEATURES[name](spoilt), expected, rtol=1e-5, atol=1e-5)
