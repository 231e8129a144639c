"""Matchers as files, and regions: what is a matcher, what is refused, and what a region says of itself."""

import json
from dataclasses import asdict, replace

import pytest
import torch
from safetensors.torch import save_file

from pack.models import registry
from pack.models.mmca import MMCA
from pack.models.mmca.network import Mmca, MmcaConfig, Sets
from pack.models.mmca.regions import BOX, cells, under
from pack.models.state_dict import CheckpointError

CONFIG = MmcaConfig(region=9, word=8, d=8, heads=2, inner=8, channels=4, words=("a", "red", "star"), context=5)
SHIPPED = registry.DEMO / "matchers" / "scenes_matcher.safetensors"


@pytest.fixture
def network():
    torch.manual_seed(0)
    return Mmca(CONFIG).eval().requires_grad_(False)


def saved(network, folder, **metadata):
    path = folder / "matcher.safetensors"
    save_file(network.state_dict(), path, metadata)
    return path


def own(network, folder, config=CONFIG):
    return saved(network, folder, architecture="mmca", config=json.dumps(asdict(config)))


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def full(states):
    return Sets(states, torch.ones(states.shape[:2], dtype=torch.bool))


def test_a_file_of_ours_says_all_of_itself_and_fits_its_network(network, tmp_path):
    checkpoint = registry.load_checkpoint(own(network, tmp_path), "matcher")
    assert checkpoint.architecture is MMCA and checkpoint.config == CONFIG
    checkpoint.build().load_state_dict(checkpoint.state, strict=True)


def test_the_shipped_matcher_is_built_on_the_meta_device_and_is_small():
    checkpoint = registry.load_checkpoint(SHIPPED, "matcher")
    with torch.device("meta"):
        built = checkpoint.build().state_dict()
    assert {key: value.shape for key, value in built.items()} == {k: v.shape for k, v in checkpoint.state.items()}
    assert SHIPPED.stat().st_size <= 4e6


def test_a_matcher_without_its_configuration_is_refused(network, tmp_path):
    with pytest.raises(CheckpointError, match="how many heads it has, alpha and its words show in no shape"):
        registry.load_checkpoint(saved(network, tmp_path), "matcher")


@pytest.mark.parametrize("change", [{"heads": 3}, {"word": 6}, {"region": 10}, {"text_layers": 3}, {"words": ()}])
def test_a_configuration_that_is_not_of_the_weights_is_refused(network, tmp_path, change):
    with pytest.raises(CheckpointError, match="matcher.safetensors (looks like|is nearest to|says it is)"):
        registry.load_checkpoint(own(network, tmp_path, replace(CONFIG, **change)), "matcher")


def test_a_matcher_is_no_encoder_and_an_encoder_no_matcher(network, tmp_path):
    with pytest.raises(CheckpointError, match="a matcher; an encoder is needed here"):
        registry.load_checkpoint(own(network, tmp_path), "encoder")
    with pytest.raises(CheckpointError, match="an encoder; a matcher is needed here"):
        registry.load_checkpoint(registry.DEMO / "encoders" / "scenes_clip.safetensors", "matcher")


def test_a_score_is_that_of_the_pair_alone(network):
    regions, words = full(draw(3, 4, 9)), full(draw(5, 3, 8, seed=1))
    found = network(regions, words)
    for n, m in ((0, 0), (2, 1), (1, 4)):
        alone = network(full(regions.states[[n]]), full(words.states[[m]]))
        torch.testing.assert_close(alone[0, 0], found[n, m], rtol=1e-5, atol=1e-6)


def test_what_fills_up_a_set_changes_no_score(network):
    regions, words = full(draw(2, 4, 9)), full(draw(2, 3, 8, seed=1))
    longer = [
        torch.cat([part.states, 9 * draw(2, 2, part.states.shape[2], seed=2)], dim=1) for part in (regions, words)
    ]
    keep = [torch.arange(part.shape[1])[None].expand(2, -1) < part.shape[1] - 2 for part in longer]
    found = network(Sets(longer[0], keep[0]), Sets(longer[1], keep[1]))
    torch.testing.assert_close(found, network(regions, words), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("length", [1, 2])
def test_sentences_shorter_than_a_window_have_a_score(network, length):
    alone = network(full(draw(1, 4, 9)), full(draw(1, length, 8, seed=1)))
    padded = Sets(
        torch.cat([draw(1, length, 8, seed=1), torch.zeros(1, 3, 8)], dim=1), torch.arange(length + 3)[None] < length
    )
    torch.testing.assert_close(alone, network(full(draw(1, 4, 9)), padded), rtol=1e-5, atol=1e-6)


def test_a_region_is_a_cell_and_knows_where_it_is():
    features = draw(2, 3, 2, 4)
    found = cells(features)
    assert found.states.shape == (2, 8, 3 + BOX) and found.keep.all()
    place = 1 * 4 + 2  # second row, third column
    assert found.states[1, place, :3].equal(features[1, :, 1, 2])
    assert found.states[1, place, 3:].tolist() == [0.5, 0.5, 0.75, 1.0, 0.125]


def test_a_region_under_a_mask_is_the_mean_there_and_an_empty_mask_is_none():
    features, masks = draw(1, 3, 4, 4), torch.zeros(1, 3, 8, 8)
    masks[0, 0, 2:6, 4:8] = 1  # whole places
    masks[0, 1] = 1
    found = under(features, masks)
    torch.testing.assert_close(found.states[0, 0, :3], features[0, :, 1:3, 2:4].mean((1, 2)), rtol=1e-6, atol=1e-6)
    assert found.states[0, 0, 3:].tolist() == [0.5, 0.25, 1.0, 0.75, 0.25]
    torch.testing.assert_close(found.states[0, 1, :3], features[0].mean((1, 2)), rtol=1e-6, atol=1e-6)
    assert found.keep.tolist() == [[True, True, False]] and not found.states[0, 2].any()
