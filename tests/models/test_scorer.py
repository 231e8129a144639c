"""Scorers as files: LAION's two layouts, anybody's layers in a row, and what is refused."""

import json
from dataclasses import asdict

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from pack.models import registry
from pack.models.scorer import LAION
from pack.models.scorer.network import HeadConfig
from pack.models.state_dict import CheckpointError

SHIPPED = registry.DEMO / "scorers" / "scenes_scorer.safetensors"


def laion():
    """The layers of improved-aesthetic-predictor's MLP, under its names."""
    torch.manual_seed(0)
    rows = [nn.Linear(768, 1024), nn.Dropout(0.2), nn.Linear(1024, 128), nn.Dropout(0.2), nn.Linear(128, 64)]
    rows += [nn.Dropout(0.1), nn.Linear(64, 16), nn.Linear(16, 1)]
    return nn.ModuleDict({"layers": nn.Sequential(*rows)}).eval()


def loaded(path):
    checkpoint = registry.load_checkpoint(path, "scorer")
    network = checkpoint.build()
    network.load_state_dict(checkpoint.state, strict=True)
    return checkpoint, network


@pytest.mark.parametrize("form", ["safetensors", "pth"])
def test_laions_mlp_scores_as_its_own_layers_do_and_nothing_is_guessed(tmp_path, form):
    network, path = laion(), tmp_path / f"sac+logos+ava1-l14-linearMSE.{form}"
    save_file(network.state_dict(), path) if form == "safetensors" else torch.save(network.state_dict(), path)
    checkpoint, found = loaded(path)
    x = torch.randn(3, 768)
    assert checkpoint.config == LAION and not checkpoint.guesses
    assert torch.equal(found(x), network["layers"](x))


def test_laions_linear_layer_scores_as_it_does(tmp_path):
    network = nn.Linear(768, 1)
    torch.save(network.state_dict(), tmp_path / "sa_0_4_vit_l_14_linear.pth")
    checkpoint, found = loaded(tmp_path / "sa_0_4_vit_l_14_linear.pth")
    x = torch.randn(3, 768)
    assert checkpoint.config == HeadConfig((768, 1)) and not checkpoint.guesses
    assert torch.equal(found(x), network(x))


def test_an_mlp_with_something_between_its_layers_is_taken_for_one_with_relu_and_says_so(tmp_path):
    network = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))
    save_file(nn.ModuleDict({"head": network}).state_dict(), tmp_path / "mine.safetensors")
    checkpoint, found = loaded(tmp_path / "mine.safetensors")
    x = torch.randn(5, 8)
    assert checkpoint.config.outputs == 3 and checkpoint.guesses == {"activation": "ReLU"}
    assert torch.equal(found(x), network(x))


def test_layers_one_behind_the_other_have_nothing_between_them(tmp_path):
    network = nn.Sequential(nn.Linear(8, 6), nn.Linear(6, 1))
    save_file(network.state_dict(), tmp_path / "mine.safetensors")
    checkpoint, found = loaded(tmp_path / "mine.safetensors")
    assert not checkpoint.guesses
    assert torch.equal(found(torch.ones(1, 8)), network(torch.ones(1, 8)))


@pytest.mark.parametrize(
    "network, words",
    [
        (nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6), nn.Linear(6, 1)), "layers that are no linear ones"),
        (nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 1, 3)), "layers that are no linear ones"),
        (nn.Sequential(nn.Linear(8, 6), nn.Linear(5, 1)), "has 1.weight of shape"),
        (nn.LayerNorm(8), r"has weight \[8\]; a scorer's is"),
    ],
)
def test_what_is_no_row_of_linear_layers_is_refused_in_words(tmp_path, network, words):
    save_file(network.state_dict(), tmp_path / "wrong.safetensors")
    with pytest.raises(CheckpointError, match=f"wrong.safetensors .*{words}"):
        registry.load_checkpoint(tmp_path / "wrong.safetensors", "scorer")


@pytest.mark.parametrize(
    "change, words",
    [({"activation": "tanh"}, "there are none, ReLU"), ({"widths": (8, 6, 1)}, "3 widths for 1 layers")],
)
def test_a_configuration_that_can_not_be_is_refused(tmp_path, change, words):
    config = {**asdict(HeadConfig((8, 1))), **change}
    metadata = {"architecture": "scorer_linear", "config": json.dumps(config)}
    save_file(nn.Linear(8, 1).state_dict(), tmp_path / "wrong.safetensors", metadata)
    with pytest.raises(CheckpointError, match=words):
        registry.load_checkpoint(tmp_path / "wrong.safetensors", "scorer")


def test_a_scorer_is_no_encoder_and_an_encoder_no_scorer():
    with pytest.raises(CheckpointError, match="load it with Load Scorer; an encoder is needed here"):
        registry.load_checkpoint(SHIPPED, "encoder")
    with pytest.raises(CheckpointError, match="load it with Load Guidance Encoder; a scorer is needed here"):
        registry.load_checkpoint(registry.DEMO / "encoders" / "scenes_clip.safetensors", "scorer")


def test_the_shipped_scorer_is_small_and_knows_the_half_that_it_did_not_learn_from():
    from training.scenes import CLASS_NAMES
    from training.scorer import embedded, learned, right

    checkpoint, network = loaded(SHIPPED)
    assert SHIPPED.stat().st_size < 10_000 and list(checkpoint.facts.class_names) == list(CLASS_NAMES)
    seen, labels = embedded(256, seed=7)
    other = ~learned(labels)
    shares = right(network.float(), seen[other], labels[other])
    assert min(shares.values()) > 0.9, shares
