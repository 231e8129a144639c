"""Files as training loops and the host write them: wrapped, prefixed, twice, with counters beside."""

import json

import pytest
import torch
from own_networks import OWN, own_classifier, own_unet

from pack.models import registry
from pack.models.architecture import DESCRIPTION, description, metadata_of, parse
from pack.models.convert import convert
from pack.models.state_dict import CheckpointError
from pack.models.told import Told


@pytest.fixture(scope="module")
def state():
    return dict(own_unet().state_dict())


@pytest.fixture(scope="module")
def other():
    """The same network at another moment of its training."""
    return {key: value + 1 for key, value in own_unet().state_dict().items()}


def with_prefix(prefix, state):
    return {prefix + key: value for key, value in state.items()}


def read(content, folder):
    torch.save(content, folder / "own.pt")
    return registry.load_checkpoint(folder / "own.pt", "model")


def same(checkpoint, state):
    return checkpoint.state.keys() == state.keys() and all(
        torch.equal(value, checkpoint.state[key]) for key, value in state.items()
    )


@pytest.mark.parametrize(
    "prefix",
    [
        "module.",
        "net.",
        "model.",
        "model_ema.",
        "params_ema.",
        "_orig_mod.",
        "module.net.",
        "model.diffusion_model.",
        "model.diffusion_model.network.",
        "denoise_fn.module.",
    ],
)
def test_a_prefix_before_every_key_is_taken_off(prefix, state, tmp_path):
    assert same(read(with_prefix(prefix, state), tmp_path), state)


def test_a_classifier_and_its_prefix_too(tmp_path):
    state = dict(own_classifier().state_dict())
    torch.save(with_prefix("module.", state), tmp_path / "own.pt")
    assert same(registry.load_checkpoint(tmp_path / "own.pt", "classifier"), state)


WRAPPED = {
    "BasicSR": lambda mean, raw: {"params": raw, "params_ema": mean},
    "timm": lambda mean, raw: {"state_dict": raw, "state_dict_ema": mean, "epoch": 3},
    "model and model_ema": lambda mean, raw: {"model": raw, "model_ema": mean, "args": "x"},
    "net": lambda mean, raw: {"net": mean, "step": 3},
    "DDP inside": lambda mean, raw: {"state_dict": with_prefix("module.", mean)},
    "counters of an average": lambda mean, raw: {"model": mean, "ema": {"decay": 0.999, "num_updates": 3}},
}


@pytest.mark.parametrize("loop", WRAPPED)
def test_a_wrapper_is_opened_and_averaged_weights_go_first(loop, state, other, tmp_path):
    content = WRAPPED[loop](state, other)
    assert same(read(content, tmp_path), state)
    convert(tmp_path / "own.pt", tmp_path / "own.safetensors")
    assert same(registry.load_checkpoint(tmp_path / "own.safetensors", "model"), state)


def lit_ema(mean, raw):
    """Latent diffusion's code: the average without dots, a schedule's tables, counters."""
    table = {"betas": torch.rand(9), "sqrt_recip_alphas_cumprod": torch.rand(9), "logvar": torch.rand(9)}
    counters = {"model_ema.decay": torch.tensor(0.999), "model_ema.num_updates": torch.tensor(3)}
    dotless = {"model_ema." + f"diffusion_model.{key}".replace(".", ""): value for key, value in mean.items()}
    return {**table, **with_prefix("model.diffusion_model.", raw), **counters, **dotless}


TWICE = {
    "Lightning": lambda mean, raw: with_prefix("model.", raw) | with_prefix("ema_model.", mean),
    "torch.optim.swa_utils": lambda mean, raw: {"n_averaged": torch.tensor(3)} | with_prefix("module.", mean),
    "model_ema": lambda mean, raw: with_prefix("model.", raw) | with_prefix("model_ema.module.", mean),
    "latent diffusion": lit_ema,
}


@pytest.mark.parametrize("loop", TWICE)
def test_of_a_network_that_a_file_holds_twice_the_average_is_read(loop, state, other, tmp_path):
    assert same(read(TWICE[loop](state, other), tmp_path), state)


def test_what_is_no_part_of_the_network_is_named_behind_a_prefix_too(state, tmp_path):
    with pytest.raises(CheckpointError, match=r"has also surplus\.weight"):
        read(with_prefix("module.", state | {"surplus.weight": torch.ones(3)}), tmp_path)
    lost = {key: value for key, value in state.items() if key != "out.2.bias"}
    with pytest.raises(CheckpointError, match=r"lacks out\.2\.bias"):
        read(with_prefix("module.", lost), tmp_path)


def test_a_description_among_the_tensors_tells_what_weights_do_not(state):
    """As `PixelModel.state_dict_for_saving` writes it."""
    told = Told(schedule="cosine", num_heads=4, training_steps=2000, rescale_timesteps="yes", image_size=64)
    checkpoint = told.of(parse("own.pt", dict(state), {}, registry.ARCHITECTURES))
    content = with_prefix("model.diffusion_model.network.", state) | {DESCRIPTION: description(checkpoint)}
    again = parse("own.safetensors", content, {"prompt": "{}"}, registry.ARCHITECTURES)
    assert (again.config, again.facts, again.guesses) == (checkpoint.config, checkpoint.facts, checkpoint.guesses)
    assert again.config.num_heads == OWN.num_heads and again.guesses.keys() == {"attention_order"}
    assert parse("own.pt", dict(state), metadata_of(checkpoint), registry.ARCHITECTURES).facts == checkpoint.facts


@pytest.mark.parametrize("damage", [b"not JSON", b"[1, 2]", b"\xff\xfe"])
def test_a_damaged_description_is_refused_in_words(damage, state):
    content = state | {DESCRIPTION: torch.tensor(list(damage), dtype=torch.uint8)}
    with pytest.raises(CheckpointError, match="its description is damaged"):
        parse("own.pt", content, {}, registry.ARCHITECTURES)


def test_the_description_is_plain_json(state):
    checkpoint = parse("own.pt", dict(state), {}, registry.ARCHITECTURES)
    assert json.loads(bytes(description(checkpoint).tolist())) == metadata_of(checkpoint)
