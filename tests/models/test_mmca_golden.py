"""MMCA: its self-attention half as SAEM's authors published it, its cross attention as our float64 reading has it."""

import golden_files
import pytest
import torch
from torch import nn

from pack.models.mmca.network import Mmca, MmcaConfig, Sets

SAEM, READING = "mmca_self_attention_saem", "mmca_reference_not_published"
SAEM_NAMES = {  # ours to the published code's
    "self_layer.query": "image.layer.attention.self.query",
    "self_layer.key": "image.layer.attention.self.key",
    "self_layer.value": "image.layer.attention.self.value",
    "self_layer.attention_out": "image.layer.attention.output.dense",
    "self_layer.attention_norm": "image.layer.attention.output.LayerNorm",
    "self_layer.inner": "image.layer.intermediate.dense",
    "self_layer.out": "image.layer.output.dense",
    "self_layer.norm": "image.layer.output.LayerNorm",
    "region_in": "image.mapping",
    "self_words.convs": "text.convs1",
    "self_words.out": "text.mapping",
}


def sets(states, keep=None):
    return Sets(states, torch.ones(states.shape[:2], dtype=torch.bool) if keep is None else keep.bool())


class Renamed(nn.Module):
    """A network whose tensors are called and shaped as in the published code."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def state_dict(self):
        found = {}
        for key, value in self.network.state_dict().items():
            own = next((name for name in SAEM_NAMES if key.startswith(f"{name}.")), None)
            if own is not None:
                name = SAEM_NAMES[own] + key.removeprefix(own)
                name = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
                found[name] = value.transpose(1, 2)[:, None] if value.ndim == 3 else value  # Conv2d [out 1 window in]
        return found

    def load_state_dict(self, state):
        for key, value in self.state_dict().items():
            value.copy_(state[key])


def filled(config, salt, renamed=False):
    network = Mmca(config)
    if renamed:
        golden_files.fill(Renamed(network), salt)
        return network.eval().requires_grad_(False)
    return golden_files.fill(network, salt)


@pytest.fixture(scope="module")
def published():
    arguments, golden = golden_files.load(SAEM)
    config = MmcaConfig(
        region=arguments["region_dim"],
        word=arguments["word_dim"],
        d=arguments["hidden"],
        heads=arguments["heads"],
        inner=arguments["intermediate"],
        channels=arguments["channels"],
    )
    return filled(config, arguments["salt"], renamed=True), arguments, golden


def test_the_codes_of_pictures_are_saems(published):
    network, _, golden = published
    assert golden_files.relative_error(network.pictures(sets(golden["regions"])), golden["image_code"]) < 1e-5


def test_the_codes_of_sentences_are_saems(published):
    network, _, golden = published
    assert golden_files.relative_error(network.sentences(sets(golden["words"])), golden["text_code"]) < 1e-5


@pytest.fixture(scope="module")
def reading():
    arguments, golden = golden_files.load(READING)
    network = filled(MmcaConfig(**arguments["net"]), arguments["salt"]).double()
    assert list(network.state_dict()) and set(network.state_dict()) == set(arguments["keys"])
    return network, golden, sets(golden["regions"]), sets(golden["words"], golden["words.keep"])


def test_the_global_codes_are_those_of_the_reading(reading):
    network, golden, regions, words = reading
    assert golden_files.relative_error(network.pictures(regions), golden["i0"]) < 1e-13
    assert golden_files.relative_error(network.sentences(words), golden["c0"]) < 1e-13


def test_the_crossed_codes_are_those_of_the_reading(reading):
    network, golden, regions, words = reading
    pictures, sentences = network.opened(regions, words)
    picture, sentence, seen = network.crossed(pictures[torch.zeros(len(words), dtype=torch.long)], sentences)
    assert golden_files.relative_error(picture, golden["first_image.i1"]) < 1e-13
    assert golden_files.relative_error(sentence, golden["first_image.c1"]) < 1e-13
    torch.testing.assert_close(seen.sum(2), torch.ones_like(seen[:, 0]), rtol=1e-13, atol=0)


def test_the_scores_are_those_of_the_reading(reading):
    network, golden, regions, words = reading
    assert golden_files.relative_error(network(regions, words), golden["similarity"]) < 1e-13
