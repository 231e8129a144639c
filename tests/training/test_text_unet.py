"""The text-conditional U-Net's training: what it is told, what is known of a picture, and from where it starts."""

import pytest
import torch
from safetensors.torch import load_file

from models.clip_noisy.words import indices
from models.glide.network import GlideUNet
from models.schedule import NoiseSchedule
from training import text_unet, unet
from training.captions import WORDS, Captions
from training.loop import zero_outputs
from training.scenes import Scenes, draw, render

MANY = 4000


def generator():
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    network = GlideUNet(text_unet.CONFIG)
    zero_outputs(network)
    text_unet.from_classes(network)
    return network


def test_its_file_is_small_enough_to_ship(network):
    assert 2 * sum(parameter.numel() for parameter in network.parameters()) < 8e6


def test_six_captions_in_ten_are_whole_and_one_is_empty():
    keep = text_unet.kept(torch.zeros(MANY, 4, dtype=torch.long), generator())
    empty, whole = (~keep.any(1)).float().mean(), keep.all(1).float().mean()
    assert abs(empty - 0.1) < 0.02
    assert abs(whole - 0.9 * (0.6 + 0.4 * 0.8**4)) < 0.03


def test_a_caption_is_its_words_and_an_empty_one_is_no_token():
    labels = draw(8, generator()).labels()
    keep = torch.tensor([[True] * 4] * 4 + [[False] * 4] * 4)
    captions = Captions(text_unet.CONFIG.context, "cpu")
    tokens = text_unet.tokens(captions, labels, keep, generator())
    assert (tokens[4:] == -1).all()
    for row, label in zip(tokens[:4], labels, strict=False):
        words = [WORDS[token] for token in row.tolist() if token >= 0]
        assert len(words) in range(5, 10) and "background" in words
        assert indices(" ".join(words), WORDS, 16) == [token + 1 for token in row.tolist()]
        assert list(unet.CLASS_NAMES)[label[0]] in words


def test_a_part_is_known_of_one_picture_in_four_and_it_is_a_box_or_all_but_one():
    known = text_unet.known_parts(torch.zeros(MANY, 3, 32, 32), generator())
    assert known.shape == (MANY, 1, 32, 32) and set(known.unique().tolist()) == {0.0, 1.0}
    some = known.flatten(1).any(1)
    assert abs(some.float().mean() - text_unet.KNOWN) < 0.04
    for mask in known[some][:50, 0]:
        boxes = [part for part in (mask, 1 - mask) if part.any()]
        outer = [part[part.any(1)][:, part.any(0)] for part in boxes]
        assert any(part.all() for part in outer)


def test_the_start_is_the_shipped_u_net_where_nothing_is_known_and_read(network):
    """With the class embedding "none" for a text, and no text to look at, the pictures' half is what it was."""
    shipped = unet.UNet(unet.CONFIG)
    state = {key: value.float() for key, value in load_file(unet.SHIPPED).items()}
    shipped.load_state_dict(state)
    x, t = torch.randn(2, 3, 32, 32, generator=generator()), torch.tensor([30, 700])
    none = torch.full((2,), unet.NO_CLASS)
    with torch.no_grad():
        emb = shipped.embed(t, none)
        h = network.input_blocks[0][0](torch.cat([x, torch.zeros(2, 4, 32, 32)], 1))
        torch.testing.assert_close(h, shipped.input_blocks[0][0](x))
        first, theirs = network.input_blocks[1][0], shipped.input_blocks[1][0]
        torch.testing.assert_close(first(h, emb), theirs(h, emb))


def test_a_step_trains_every_part(network):
    drawn = draw(16, generator())
    scenes = render(drawn)
    loss = text_unet.TextLoss(NoiseSchedule.named("linear"), "cpu")
    value, report = loss(network, Scenes(scenes.image, scenes.mask, drawn), generator())
    value.backward()
    assert value.isfinite() and {"mse", "bound"} <= set(report)
    still = [name for name, parameter in network.named_parameters() if parameter.grad is None]
    assert not still
    assert network.transformer_proj.weight.grad.abs().max() > 0
    network.zero_grad()


def test_learning_to_read_brings_a_caption_near_to_its_classes(network):
    losses = []
    text_unet.learn_to_read(network, generator(), steps=30, batch=64, report=lambda step, loss: losses.append(loss))
    assert losses[-1] < 0.6 * losses[0]
