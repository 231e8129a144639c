"""The small unCLIP's training: what prior and decoder are told, and from where the decoder starts."""

import pytest
import torch
from safetensors.torch import load_file

from models.karlo.network import KarloDecoder
from models.prior.network import DiffusersPrior
from models.schedule import NoiseSchedule
from training import text_unet, unclip_decoder, unclip_prior
from training.loop import zero_outputs
from training.scenes import draw, render
from training.unclip import Clip

FILES = {unclip_decoder.SHIPPED: 4.5e6, unclip_prior.SHIPPED: 1e6}  # the most bytes that ship


def generator():
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="module")
def clip():
    return Clip("cpu")


@pytest.fixture(scope="module")
def decoder(clip):
    torch.manual_seed(0)
    network = KarloDecoder(unclip_decoder.CONFIG)
    zero_outputs(network)
    unclip_decoder.from_texts(network)
    unclip_decoder.learn_to_read(network, clip, generator())
    return network


@pytest.mark.parametrize("path", FILES)
def test_a_file_is_small_enough_to_ship(path):
    assert sum(2 * value.numel() for value in load_file(path).values()) < FILES[path]


def test_a_narrower_level_keeps_the_same_channels_of_each_group_and_all_behind_them():
    there = torch.arange(192.0)
    found = unclip_decoder.narrowed(there, torch.Size([160]))
    kept = [32 * group + place for group in range(4) for place in range(24)]
    assert found.tolist() == [*kept, *range(128, 192)]
    assert unclip_decoder.narrowed(there, torch.Size([192])).equal(there)
    both = unclip_decoder.narrowed(there[:, None] * torch.ones(192), torch.Size([160, 192]))
    assert both.shape == (160, 192)


def test_the_outer_levels_start_as_those_of_the_text_conditional_u_net(decoder):
    shipped, own = load_file(text_unet.SHIPPED), decoder.state_dict()
    same = [key for key in own if key in shipped and own[key].equal(shipped[key].float())]
    assert {"input_blocks.6.0.in_layers.2.weight", "output_blocks.7.0.in_layers.2.weight", "out.2.weight"} <= set(same)
    assert all(key in shipped for key in own if not key.startswith(("cf_param", "clip_", "text_")))


def test_the_decoder_starts_by_reading_in_an_embedding_what_the_u_net_of_texts_reads_in_a_caption(decoder, clip):
    """Of new scenes."""
    from models.glide.network import GlideUNet

    reader = GlideUNet(text_unet.CONFIG)
    reader.load_state_dict({key: value.float() for key, value in load_file(text_unet.SHIPPED).items()})
    scenes = render(draw(128, torch.Generator().manual_seed(5)))
    labels = scenes.attributes.labels()
    keep, long = torch.ones_like(labels, dtype=torch.bool), torch.zeros(128, dtype=torch.bool)
    with torch.no_grad():
        wanted = reader.read(clip.captions.words(labels, keep, long) - 1).pooled
        said = decoder.clip_emb(clip.see(scenes.image))
    assert (said - wanted).square().mean() < 0.2 * (wanted - wanted.mean(0)).square().mean()


def test_an_empty_caption_is_the_null_that_the_nodes_send(clip):
    labels = draw(2, generator()).labels()
    keep = torch.tensor([[True] * 4, [False] * 4])
    caption = clip.read(labels, keep, generator())
    assert caption.mask.sum(1).tolist()[1] == 1 and not caption.states[1].any() and not caption.pooled[1].any()
    assert caption.mask[0].sum() > 4 and caption.pooled[0].any()


def test_a_step_trains_every_part_of_the_decoder_and_nothing_of_the_encoder(decoder):
    loss = unclip_decoder.DecoderLoss(NoiseSchedule.named("linear"), "cpu")
    value, report = loss(decoder, render(draw(16, generator())), generator())
    value.backward()
    assert value.isfinite() and {"mse", "bound"} <= set(report)
    assert not [name for name, parameter in decoder.named_parameters() if parameter.grad is None]
    assert all(parameter.grad is None for parameter in loss.clip.network.parameters())


def test_a_step_trains_the_prior_but_not_its_statistics(clip):
    torch.manual_seed(0)
    network = DiffusersPrior(unclip_prior.CONFIG)
    for part in (network.clip_mean, network.clip_std):
        part.requires_grad_(False)
    scenes = render(draw(8, generator()))
    batch = unclip_prior.Batch(torch.randn(8, 64, generator=generator()), scenes.attributes.labels())
    value, _ = unclip_prior.PriorLoss(NoiseSchedule.named("cosine"), clip, "cpu")(network, batch, generator())
    value.backward()
    still = {name for name, parameter in network.named_parameters() if parameter.grad is None}
    assert value.isfinite() and still == {"clip_mean", "clip_std"}
