"""`dev.py convert`: which tensors come out of a checkpoint, and what the command says of other files."""

import argparse
import importlib.util
import pickle
import struct
import sys
import types
import zipfile
from collections import OrderedDict

import numpy
import pytest
import torch
from conftest import ROOT
from pickles_by_hand import NUMBERS, archive, dictionary, new, tensor, wanted
from safetensors.torch import save_file

from pack.models import registry
from pack.models.convert import convert, main
from pack.models.diffae.network import DiffAEConfig, DiffusionAutoencoder, LatentConfig
from pack.models.state_dict import CheckpointError, read

CONFIG = DiffAEConfig(
    model_channels=32,
    out_channels=3,
    num_res_blocks=1,
    channel_mult=(1, 2),
    attention=(2,),
    semantic=64,
    encoder_mult=(1, 2, 2),
    encoder_res_blocks=1,
    latent=LatentConfig(128, 4),
)


# --- Lightning


class Stranger(types.ModuleType):
    """A module that is there when a file is written and gone when it is read."""


@pytest.fixture
def lightning(tmp_path):
    """A checkpoint as Lightning writes it, and its network with the averaged weights."""
    torch.manual_seed(0)
    network, average = DiffusionAutoencoder(CONFIG), DiffusionAutoencoder(CONFIG)
    package, module = Stranger("pytorch_lightning"), Stranger("pytorch_lightning.callbacks")
    for name in ("ModelCheckpoint", "Config"):
        setattr(module, name, type(name, (), {"__module__": module.__name__}))
    config = module.Config()
    config.net_ch, config.child = 32, module.Config()
    weights = OrderedDict()
    for prefix, part in (("model.", network), ("ema_model.", average)):
        weights |= {prefix + key: value for key, value in part.state_dict(keep_vars=True).items()}
    weights |= {
        "x_T": torch.randn(4, 3, 32, 32),
        "conds_mean": torch.randn(1, 64),
        "conds_std": torch.rand(1, 64) + 0.5,
    }
    content = {
        "epoch": 3,
        "global_step": numpy.int64(1200),
        "pytorch-lightning_version": "1.4.5",
        "state_dict": weights,
        "callbacks": {module.ModelCheckpoint: {"best_model_score": torch.ones(()), "current": numpy.float32(1.5)}},
        "optimizer_states": [{"state": {0: {"step": 7, "exp_avg": torch.zeros(5, 5)}}, "param_groups": [{"lr": 1e-4}]}],
        "lr_schedulers": [],
        "hyper_parameters": argparse.Namespace(conf=config, betas=(0.9, 0.999), names={"a", "b"}),
    }
    path = tmp_path / "last.ckpt"
    sys.modules |= {"pytorch_lightning": package, "pytorch_lightning.callbacks": module}
    try:
        torch.save(content, path)
    finally:
        del sys.modules["pytorch_lightning"], sys.modules["pytorch_lightning.callbacks"]
    return path, average, content


def test_a_lightning_checkpoint_becomes_a_diffusion_autoencoder(lightning, tmp_path, capsys):
    path, average, content = lightning
    with pytest.raises(CheckpointError, match=r"last\.ckpt holds a pickle that would run code.*Convert Guidance File"):
        registry.load_checkpoint(path, "model")
    main([str(path)])
    said = capsys.readouterr().out
    checkpoint = registry.load_checkpoint(tmp_path / "last.safetensors", "model")
    assert checkpoint.architecture.id == "diffae" and checkpoint.config == CONFIG
    expected = average.state_dict()
    assert checkpoint.state.keys() == expected.keys()
    assert all(torch.equal(value, expected[key]) for key, value in checkpoint.state.items())
    for key in ("x_T", "conds_mean", "conds_std"):
        assert torch.equal(checkpoint.beside[key], content["state_dict"][key])
        assert f"{key} (1)" in said
    assert f"{len(expected) + 3} tensors" in said
    assert "left out: model. (ema_model. is the average), epoch, global_step" in said and "callbacks" in said
    assert not any(name.startswith("pytorch_lightning") for name in sys.modules)


def test_statistics_beside_the_state_dict_are_kept(tmp_path):
    body = dictionary(
        state_dict=dictionary(w=tensor()), conds_mean=tensor(), epoch=tensor(), callbacks=new(wanted("a", "B"))
    )
    said = convert(archive(tmp_path / "model.ckpt", body), tmp_path / "out.safetensors")
    assert set(read(tmp_path / "out.safetensors")[0]) == {"w", "conds_mean"}
    assert "left out: epoch, callbacks" in said


# --- what is kept

KINDS = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")


def test_every_kind_of_tensor_comes_out_as_pytorch_reads_it(tmp_path):
    base = torch.arange(24).reshape(2, 3, 4)
    state = {kind: base.to(getattr(torch, kind)) for kind in KINDS}
    state |= {"transposed": torch.randn(3, 5).T, "cut": torch.randn(10)[3:8:2], "row": torch.randn(4, 3)[1]}
    state |= {"last": torch.randn(2, 4, 3, 3).to(memory_format=torch.channels_last), "scalar": torch.tensor(3.0)}
    state |= {
        "empty": torch.zeros(0, 5),
        "repeated": torch.ones(1).expand(3),
        "parameter": torch.nn.Parameter(torch.ones(2)),
    }
    state["tied"] = state["transposed"]
    torch.save(state, tmp_path / "model.pt")
    convert(tmp_path / "model.pt", tmp_path / "out.safetensors")
    found, metadata = read(tmp_path / "out.safetensors")
    assert sorted(found) == sorted(state)
    for key, value in state.items():
        assert found[key].dtype == value.dtype and torch.equal(found[key], value), key
    assert metadata == {"format": "pt", "converted_from": "model.pt"}


@pytest.mark.parametrize("wrapper", ["state_dict", "ema", "model"])
def test_a_wrapped_state_dict_is_unwrapped_as_by_the_reader(wrapper, tmp_path):
    inside = {"w": torch.ones(3)}
    torch.save({"epoch": 1, "params": {"w": torch.zeros(3)}, wrapper: inside}, tmp_path / "model.pt")
    convert(tmp_path / "model.pt", tmp_path / "out.safetensors")
    assert read(tmp_path / "out.safetensors")[0].keys() == {"w"}
    assert torch.equal(read(tmp_path / "out.safetensors")[0]["w"], read(tmp_path / "model.pt")[0]["w"])


def test_nothing_is_overwritten(tmp_path):
    torch.save({"w": torch.ones(3)}, tmp_path / "model.pt")
    (tmp_path / "out.safetensors").write_text("mine")
    with pytest.raises(CheckpointError, match="out.safetensors exists already"):
        convert(tmp_path / "model.pt", tmp_path / "out.safetensors")
    assert (tmp_path / "out.safetensors").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.pt", "out.safetensors"]


def test_names_out_of_a_file_can_not_command_the_terminal(tmp_path):
    torch.save({"\x1b[2Jw": torch.ones(3), "state_dict": {"\x1b[31mred.w": torch.ones(3)}}, tmp_path / "model.pt")
    assert "\x1b" not in convert(tmp_path / "model.pt", tmp_path / "out.safetensors")


# --- files of other kinds, and what the command says


def said_of(path, capsys):
    with pytest.raises(SystemExit) as error:
        main([str(path), str(path.parent / "out.safetensors")])
    message = str(error.value)
    assert message.startswith("convert: ") and "\n" not in message and not capsys.readouterr().out
    assert not (path.parent / "out.safetensors").exists()
    return message


@pytest.mark.parametrize("share", [0.999, 0.5, 0.01])
def test_truncated_files_are_refused(share, lightning, capsys):
    path, *_ = lightning
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    assert "last.ckpt is a damaged or truncated PyTorch file" in said_of(path, capsys)


def test_a_flipped_bit_in_the_weights_is_found(tmp_path, capsys):
    path = archive(tmp_path / "model.ckpt", dictionary(w=tensor()))
    path.write_bytes(path.read_bytes().replace(NUMBERS, struct.pack("<4f", 1, 2, 3, -4)))
    assert "model.ckpt is a damaged or truncated PyTorch file (Bad CRC-32" in said_of(path, capsys)


@pytest.mark.parametrize(
    "name, content, said",
    [
        ("text.ckpt", b"hello, this is text", "is no PyTorch file"),
        ("picture.ckpt", b"\x89PNG\r\n\x1a\n" + bytes(50), "is no PyTorch file"),
        ("empty.ckpt", b"", "is no PyTorch file"),
        ("end.ckpt", b"PK\x03\x04" + bytes(100), "damaged or truncated"),
    ],
)
def test_other_files_are_named(name, content, said, tmp_path, capsys):
    (tmp_path / name).write_bytes(content)
    assert f"{name} {said}" in said_of(tmp_path / name, capsys).replace("is a damaged", "damaged")


def test_a_file_of_before_version_1_6_is_read_and_converted(tmp_path):
    state = {"w": torch.randn(3, 4).T, "n": torch.tensor(7), "none": torch.zeros(0), "half": torch.ones(5).half()}
    state["part"] = state["w"][1:]
    torch.save({"state_dict": state}, tmp_path / "old.ckpt", _use_new_zipfile_serialization=False)
    convert(tmp_path / "old.ckpt", tmp_path / "out.safetensors")
    for found in (read(tmp_path / "old.ckpt")[0], read(tmp_path / "out.safetensors")[0]):
        assert all(torch.equal(found[key], value) and found[key].dtype == value.dtype for key, value in state.items())


def test_renamed_files_and_bare_pickles_are_named(tmp_path, capsys):
    state = {"w": torch.ones(3)}
    save_file(state, tmp_path / "renamed.ckpt")
    (tmp_path / "bare.pkl").write_bytes(pickle.dumps([1]))
    archive(tmp_path / "program.pt", dictionary(w=tensor()), **{"constants.pkl": b""})
    assert "renamed.ckpt is a safetensors file already" in said_of(tmp_path / "renamed.ckpt", capsys)
    assert "it is a bare pickle, not a file of PyTorch" in said_of(tmp_path / "bare.pkl", capsys)
    assert "program.pt is a TorchScript program" in said_of(tmp_path / "program.pt", capsys)
    assert "nowhere.ckpt can't be read: No such file" in said_of(tmp_path / "nowhere.ckpt", capsys)


def test_a_zip_of_something_else_is_named(tmp_path, capsys):
    with zipfile.ZipFile(tmp_path / "other.pt", "w") as file:
        file.writestr("readme.txt", "nothing")
    assert "other.pt is damaged or was tampered with: it is no archive of PyTorch" in said_of(
        tmp_path / "other.pt", capsys
    )


def test_a_damaged_table_of_contents_is_named_by_both_readers(tmp_path, capsys):
    path = tmp_path / "model.pt"
    torch.save({"w": torch.ones(3)}, path)
    content = path.read_bytes()
    path.write_bytes(content.replace(b"PK\x01\x02", b"PK\x01\x07"))
    assert "model.pt is a damaged or truncated" in said_of(path, capsys)
    with pytest.raises(CheckpointError, match=r"model\.pt is a damaged or truncated"):
        read(path)


def test_a_file_without_weights_says_what_it_holds(tmp_path, capsys):
    torch.save({"epoch": 3, "state_dict": {"names": ["a"]}}, tmp_path / "model.pt")
    assert "model.pt holds no weights by name; its keys are 'names'" in said_of(tmp_path / "model.pt", capsys)


def test_dev_py_hands_on_whole_paths(monkeypatch, tmp_path):
    spec = importlib.util.spec_from_file_location("dev", ROOT / "dev.py")
    dev = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(dev)
    monkeypatch.chdir(tmp_path)
    seen = []
    monkeypatch.setattr(dev, "module", lambda *arguments: seen.append(arguments) or 0)
    assert dev.main(["convert", "last.ckpt", "../out.safetensors"]) == 0
    assert seen == [("models.convert", str(tmp_path / "last.ckpt"), f"{tmp_path}/../out.safetensors")]
