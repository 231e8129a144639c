"""The small transformer's training: it resumes where it stopped, and the host loads what it writes."""

import argparse
import math
import sys

import pytest
import torch
from safetensors.torch import load_file

from training import loop, transformer

pytestmark = pytest.mark.host


@pytest.fixture
def script(comfy, monkeypatch):
    """The script, which tells the host that it trains."""
    import comfy.model_management

    monkeypatch.setattr(comfy.model_management, "in_training", comfy.model_management.in_training)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return transformer


def started(script, images, path, resume=None):
    torch.manual_seed(0)
    recipe = loop.Recipe(images=images, batch=4, warmup=1, flat=1 - 1e-9)
    run = loop.Run(script.Flow(script.host_network()), recipe, "cpu", script.METADATA)
    given = argparse.Namespace(out=path, resume=resume, device="cpu", compile=False, minutes=math.inf, commit="test")
    loop.train(run, script.FlowLoss("cpu"), given)
    return run


def test_two_steps_train_every_weight_and_a_resumed_run_goes_on_with_the_same_bits(script, tmp_path):
    first = started(script, 8, tmp_path / "a.safetensors")
    torch.manual_seed(0)
    before = script.host_network().state_dict()
    after = first.network.state_dict()
    assert {key for key in before if torch.equal(before[key], after[key])} == set()
    second = loop.Run(script.Flow(script.host_network()), first.recipe, "cpu", {})
    second.resume(tmp_path / "a.resume.safetensors")
    assert second.step == 2
    assert all(torch.equal(second.network.state_dict()[key], value) for key, value in after.items())
    assert all(torch.equal(second.ema[key], value) for key, value in first.ema.items())
    moments = [run.optimizer.state_dict()["state"] for run in (first, second)]
    assert all(torch.equal(moments[0][key]["exp_avg"], moments[1][key]["exp_avg"]) for key in moments[0])


def test_a_shipped_file_starts_a_new_run(script, tmp_path):
    started(script, 4, tmp_path / "a.safetensors")
    run = started(script, 4, tmp_path / "b.safetensors", tmp_path / "a.safetensors")
    assert run.step == 1 and run.earlier_images == 4


def test_the_host_loads_the_file_as_wan_2_2_and_predicts_what_training_does(script, tmp_path):
    """Of the weights in the file, which are halves."""
    import comfy.model_base
    import comfy.model_management
    import comfy.sd

    path = tmp_path / "a.safetensors"
    started(script, 8, path)
    network = script.Flow(script.host_network())
    network.load_state_dict({key: value.float() for key, value in load_file(path).items()})
    comfy.model_management.in_training = False
    model = comfy.sd.load_diffusion_model(str(path))
    assert type(model.model) is comfy.model_base.WAN22
    generator = torch.Generator().manual_seed(1)
    x, context = torch.randn(2, 48, 8, 8, generator=generator), torch.randn(2, 16, 64, generator=generator)
    sigma = torch.tensor([0.9, 0.3])
    comfy.model_management.load_models_gpu([model])
    device = model.load_device
    with torch.inference_mode():
        wanted = x - sigma.view(-1, 1, 1, 1) * network(x, sigma, context)
        found = model.model.apply_model(x[:, :, None].to(device), sigma.to(device), c_crossattn=context.to(device))
    assert (found[:, :, 0].cpu() - wanted).abs().max() < 2e-6


def test_a_picture_is_folded_into_48_channels_of_the_same_length():
    image = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    folded = transformer.folded(image)
    assert folded.shape == (2, 48, 8, 8)
    torch.testing.assert_close(folded.square().sum(), image.square().sum(), rtol=1e-6, atol=0)
