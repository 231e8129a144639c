"""How often a guided step waits for the device: counted on a second one, which copies are told apart from."""

from functools import partial

import pytest
import second_device
import torch
from conftest import run_node
from features import guide, sampled, with_guides
from networks import Networks
from residency import unload
from torch.utils._python_dispatch import TorchDispatchMode

pytestmark = pytest.mark.host
ALLOWED = 1  # a step: the wavelet's matrix, which decodes this model's latents, is copied to the device


class Waits(TorchDispatchMode):
    """Counts copies between devices, and numbers that are read from the second one."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = func._schema.name.partition("::")[2]
        there = [
            isinstance(tensor, second_device.There) for tensor in second_device.tensors_of((*args, *kwargs.values()))
        ]
        device = second_device.wanted(name, args, kwargs)
        if name in (*second_device.MOVES, "copy_"):
            goes = any(there) if device is None else device.type == second_device.DEVICE.type
            self.count += len(set(there) | {goes}) > 1
        elif name in ("item", "_local_scalar_dense", "is_nonzero", "equal", "nonzero"):
            self.count += any(there)
        return func(*args, **kwargs)


@pytest.fixture(scope="module")
def networks(pack_nodes):
    return Networks(partial(run_node, pack_nodes))


def guided(networks):
    """All three share the decoded picture, and so its one copy."""
    guides = [guide(networks, kind)[0] for kind in ("Text", "Style", "Structure")]
    return with_guides(networks, guides, "latent", gradient="at denoised")


def waits_a_step(networks, run):
    """Of a run of 24 steps above one of twelve: both look through all sets of crops, copied to the device once a run.

    A first run has measured the references.
    """
    found = []
    for steps in (24, 12, 24):
        networks.levels = torch.cat([torch.linspace(5, 1, steps), torch.zeros(1)])
        with Waits() as waits:
            run(networks)
        found.append(waits.count)
    return (found[2] - found[1]) / 12


def test_a_guided_step_waits_for_the_device_once_above_a_plain_one(networks, monkeypatch):
    second_device.use(monkeypatch)
    with second_device.SecondDevice():
        plain = waits_a_step(networks, lambda networks: sampled(networks, networks.load("latent")))
        assert waits_a_step(networks, guided) - plain <= ALLOWED
        unload()
