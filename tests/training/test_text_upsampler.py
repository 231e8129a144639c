"""The small upsampler's training: what stands beside the large picture, and from where it starts."""

import pytest
import torch
from safetensors.torch import load_file

from models.glide.network import GlideUNet
from models.schedule import NoiseSchedule
from training import text_unet, text_upsampler, unet
from training.loop import zero_outputs
from training.scenes import render


def generator():
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    network = GlideUNet(text_upsampler.CONFIG)
    zero_outputs(network)
    text_unet.from_classes(network)
    return network


@pytest.fixture
def scenes():
    return next(text_upsampler.large_batches(8, generator()))


def test_its_file_is_small_enough_to_ship(network):
    assert 2 * sum(parameter.numel() for parameter in network.parameters()) < 2.5e6


def test_the_noise_on_a_small_picture_is_another_for_each_and_a_tenth_at_most(scenes):
    noise = text_upsampler.small_pictures(scenes, generator()) - render(scenes.attributes, 32).image
    deviations = noise.flatten(1).std(1)
    assert deviations.max() < 1.1 * text_upsampler.NOISE and deviations.max() > 3 * deviations.min()


def test_a_small_picture_is_the_same_scene_in_8_bits(scenes, monkeypatch):
    monkeypatch.setattr(text_upsampler, "NOISE", 0.0)
    small = text_upsampler.small_pictures(scenes, generator())
    assert scenes.image.shape == (8, 3, 64, 64) and small.shape == (8, 3, 32, 32)
    levels = (small + 1) * 127.5
    torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-4)
    assert (small - render(scenes.attributes, 32).image).abs().max() <= 0.5001 / 127.5


def test_the_way_out_starts_as_the_last_blocks_of_the_shipped_u_net(network):
    own, shipped = network.state_dict(), load_file(unet.SHIPPED)
    last = max(int(key.split(".")[1]) for key in shipped if key.startswith("output_blocks."))
    mine = max(int(key.split(".")[1]) for key in own if key.startswith("output_blocks."))
    for place in range(3):
        key = "output_blocks.{}.0.in_layers.2.weight"
        assert torch.equal(own[key.format(mine - place)], shipped[key.format(last - place)].float())
    assert torch.equal(own["out.2.weight"], shipped["out.2.weight"].float())


def test_a_step_trains_every_part(network, scenes):
    value, report = text_upsampler.UpsamplerLoss(NoiseSchedule.named("linear"), "cpu")(network, scenes, generator())
    value.backward()
    assert value.isfinite() and report["mse"] < 0.3  # .02 with the shipped weights, 1 without them
    assert not [name for name, parameter in network.named_parameters() if parameter.grad is None]
    network.zero_grad()
