"""Options of the ADM networks beyond the golden files."""

from dataclasses import replace

import golden_files
import pytest
import torch

from pack.models.adm import network as adm

CLASSIFIER = adm.ClassifierConfig(
    model_channels=32,
    out_channels=7,
    num_res_blocks=1,
    channel_mult=(1, 2),
    attention=(2,),
    head_channels=16,
    image_size=16,
)
UNET = adm.UNetConfig(
    model_channels=32, out_channels=6, num_res_blocks=1, channel_mult=(1, 2), attention=(2,), head_channels=16
)
X, T = golden_files.draw((2, 3, 16, 16), 1), torch.tensor([10, 700])


@pytest.mark.parametrize("pool", adm.POOLS)
def test_every_pool_gives_logits_that_depend_on_picture_and_time(pool):
    network = golden_files.fill(adm.Classifier(replace(CLASSIFIER, pool=pool)), pool)
    logits = network(X, T)
    assert logits.shape == (2, 7)
    assert not torch.allclose(logits, network(X, T + 200))
    assert not torch.allclose(logits, network(X.flip(3), T))


@pytest.mark.parametrize("change", [{"new_attention_order": True}, {"head_channels": None, "num_heads": 1}])
def test_a_wrong_attention_order_or_head_count_changes_the_output(change):
    """Shapes are the same, so only the table of what shapes can't tell stands between a file and noise."""
    right = golden_files.fill(adm.UNet(UNET), "u")
    wrong = golden_files.fill(adm.UNet(replace(UNET, **change)), "u")
    assert golden_files.relative_error(wrong(X, T), right(X, T)) > 1e-2


def test_a_fractional_first_multiplier_narrows_the_first_level():
    network = adm.UNet(replace(UNET, channel_mult=(0.5, 1), groups=16))
    assert network.input_blocks[0][0].out_channels == 16
    assert network(X, T).shape == (2, 6, 16, 16)


@pytest.mark.parametrize("change", [{"head_channels": 64}, {"head_channels": None, "num_heads": 5}])
def test_heads_that_do_not_fit_the_channels_are_refused_in_words(change):
    with pytest.raises(ValueError, match="attention on 64 channels can't have|attention on 32 channels can't have"):
        adm.UNet(replace(UNET, **{"channel_mult": (1, 1), **change}))


def test_the_bottleneck_callable_replaces_h_for_both_families():
    network = golden_files.fill(adm.UNet(UNET), "u")
    plain = network(X, T)
    assert torch.equal(network(X, T, edit_h=lambda h, emb: h), plain)
    assert not torch.allclose(network(X, T, edit_h=lambda h, emb: h + 1), plain)
