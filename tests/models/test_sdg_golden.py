"""SDG's noise-aware CLIP and its four guides give the numbers of the published code."""

import json
import os
import platform
import subprocess
import sys

import golden_files
import pytest
import sdg_golden
import torch
from conftest import ROOT
from sdg_golden import STAGES

AVX2 = pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="printed with AVX2 kernels")


@pytest.fixture(scope="module")
def golden():
    return sdg_golden.load()


def test_the_five_feature_maps_are_the_published_ones(golden):
    numbers, network = golden
    for index, maps in enumerate(network.maps(numbers["x"], numbers["t"], STAGES)):
        corner, mean = maps[:, :8, :4, :4], maps.mean((2, 3))
        assert golden_files.relative_error(corner, numbers[f"features.{index}.corner"]) < 1e-5
        assert golden_files.relative_error(mean, numbers[f"features.{index}.mean"]) < 1e-5


def test_the_embeddings_are_the_published_ones(golden):
    numbers, network = golden
    found = network.embed(torch.cat([numbers["x"], numbers["reference"]]), numbers["t"].expand(2))
    assert golden_files.relative_error(found[:1], numbers["embedding"]) < 1e-4
    assert golden_files.relative_error(found[1:], numbers["reference_embedding"]) < 1e-4


def test_chosen_layers_are_those_of_all_in_the_order_asked_for(golden):
    numbers, network = golden
    every = network.maps(numbers["x"], numbers["t"], STAGES)
    second, first = network.maps(numbers["x"], numbers["t"], ("layer1", "stem"))
    assert torch.equal(first, every[0]) and torch.equal(second, every[1])


@pytest.fixture(scope="module")
def errors():
    """With the kernels that printed the numbers, in a process of its own: they are chosen when PyTorch starts."""
    code = f"import sys, runpy; sys.path.insert(0, {str(ROOT / 'tests')!r}); import conftest; "
    code += "runpy.run_module('sdg_golden', run_name='__main__')"
    environment = {**os.environ, **sdg_golden.KERNELS}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


@AVX2
@pytest.mark.parametrize("guide", sdg_golden.GUIDES)
def test_value_and_gradient_of_a_guide_are_the_published_ones(errors, guide):
    same_kernels = errors["maps"] < 1e-7
    assert errors[guide]["value"] < (1e-6 if same_kernels else 1e-3)
    assert errors[guide]["grad"] < (5e-6 if same_kernels else 0.1)
    assert errors[guide]["grad_norm"] < (1e-6 if same_kernels else 5e-3)
