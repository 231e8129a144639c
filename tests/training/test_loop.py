"""Training resumes where it stopped, and its files say what they are."""

import argparse
import json
import math

import pytest
import torch
from safetensors import safe_open

from models.registry import load_checkpoint
from training import classifier, loop, unet


def given(path, resume=None):
    return argparse.Namespace(out=path, resume=resume, device="cpu", compile=False, minutes=math.inf, commit="test")


def loss(network, scenes, generator):
    value = (network(scenes.image[:, :, ::8, ::8]) - scenes.mask[:, :, ::8, ::8]).square().mean()
    return value, {"loss": value}


def run(images, path, resume=None):
    torch.manual_seed(0)
    recipe = loop.Recipe(images=images, batch=4, warmup=1, flat=1 - 1e-9)
    state = loop.Run(torch.nn.Conv2d(3, 1, 1), recipe, "cpu", {"architecture": "test"})
    loop.train(state, loss, given(path, resume))
    return state


def test_a_resumed_run_goes_on_from_weights_average_and_optimiser(tmp_path):
    first = run(16, tmp_path / "a.safetensors")
    second = loop.Run(torch.nn.Conv2d(3, 1, 1), first.recipe, "cpu", {})
    second.resume(tmp_path / "a.resume.safetensors")
    assert second.step == 4
    assert all(torch.equal(second.network.state_dict()[k], v) for k, v in first.network.state_dict().items())
    assert all(torch.equal(second.ema[k], v) for k, v in first.ema.items())
    moments = [state.optimizer.state_dict()["state"][0]["exp_avg"] for state in (first, second)]
    assert torch.equal(*moments)


def test_a_shipped_file_starts_a_new_run_that_counts_on(tmp_path):
    run(16, tmp_path / "a.safetensors")
    run(8, tmp_path / "b.safetensors", tmp_path / "a.safetensors")
    with safe_open(tmp_path / "b.safetensors", "pt") as file:
        record = json.loads(file.metadata()["training"])
    assert record["images"] == 24 and record["commit"] == "test" and "loss" in record["losses"]


RESUMES = {
    "nothing": b"",
    "text": b"hello",
    "cut": lambda data: data[:-20],
    "another network": lambda data: data.replace(b"network/weight", b"network/weighs"),
    "no progress": lambda data: data.replace(b'"progress"', b'"progresS"'),
    "a step of text": lambda data: data.replace(b'\\"step\\": 4', b'\\"step\\": "'),
    "a negative step": lambda data: data.replace(b'\\"step\\": 4', b'\\"step\\":-4'),
}


@pytest.mark.parametrize("case", RESUMES)
def test_a_bad_file_to_resume_from_is_one_sentence(case, tmp_path):
    run(16, tmp_path / "a.safetensors")
    path, content = tmp_path / "a.resume.safetensors", RESUMES[case]
    path.write_bytes(content if isinstance(content, bytes) else content(path.read_bytes()))
    with pytest.raises(SystemExit) as error:
        run(32, tmp_path / "b.safetensors", path)
    assert str(error.value).startswith("--resume: a.resume.safetensors ") and str(error.value).isprintable()


def test_the_rate_warms_up_stays_flat_and_ends_at_zero():
    recipe = loop.Recipe(images=1000, batch=1, learning_rate=1.0, warmup=10, flat=0.5)
    assert recipe.rate(0, 0.0) == pytest.approx(0.1)
    assert recipe.rate(300, 0.3) == recipe.rate(499, 0.499) == 1.0
    assert recipe.rate(750, 0.75) == pytest.approx(0.5)
    assert recipe.rate(999, 1.0) == 0.0


def test_labels_name_one_attribute_each_in_the_stated_shares():
    labels = torch.tensor([[1, 2, 3, 4]]).repeat(40_000, 1)
    chosen = unet.choose_labels(labels, torch.Generator().manual_seed(0))
    shares = torch.bincount(chosen, minlength=30) / len(chosen)
    expected = torch.zeros(30)
    expected[[1, 8 + 2, 16 + 3, 24 + 4, unet.NO_CLASS]] = torch.tensor([0.45, 0.15, 0.15, 0.15, 0.10])
    assert (shares - expected).abs().max() < 0.01


@pytest.mark.parametrize(("script", "kind"), [(unet, "model"), (classifier, "classifier")])
def test_a_script_writes_a_file_that_the_pack_loads(script, kind, tmp_path, monkeypatch):
    path = tmp_path / "tiny.safetensors"
    monkeypatch.setattr("sys.argv", ["train", "--count", "8", "--batch", "4", "--device", "cpu", "--out", str(path)])
    script.main()
    facts = load_checkpoint(path, kind).facts
    assert facts.image_size == 32 and "heart" in facts.class_names


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--count", "3", "--batch", "4"], "--count 3 and --batch 4: give a batch of 1"),
        (["--batch", "0"], "--count 8 and --batch 0"),
        (["--minutes", "0"], "--minutes 0.0: give a length above 0"),
        (["--minutes", "nan"], "--minutes nan: give a length above 0"),
        (["--flat", "1"], "--flat 1.0: give a share of the run below 1"),
    ],
    ids=str,
)
def test_a_run_without_a_step_is_refused_in_words(monkeypatch, capsys, given, said):
    monkeypatch.setattr("sys.argv", ["train", *given])
    with pytest.raises(SystemExit):
        loop.arguments("out.safetensors", loop.Recipe(images=8, batch=4))
    assert said in capsys.readouterr().err
