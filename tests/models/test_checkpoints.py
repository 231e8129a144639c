"""Files that can't be used are refused in one clear sentence, and nothing in them runs."""

import io
import json
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pack.models import registry
from pack.models.adm import UNET, network
from pack.models.architecture import UnknownArchitectureError
from pack.models.state_dict import CheckpointError

CONFIG = network.UNetConfig(
    model_channels=32, out_channels=6, num_res_blocks=1, channel_mult=(1, 2), attention=(2,), head_channels=64
)


@pytest.fixture
def state():
    torch.manual_seed(0)
    return network.UNet(CONFIG).state_dict()


def saved(state, folder, metadata=None):
    path = folder / "model.safetensors"
    save_file(state, path, metadata)
    return path


class Bomb:
    """A pickle that writes a file when it is executed."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return Path.write_text, (self.target, "ran")


def test_a_public_layout_is_read_from_its_shapes(state, tmp_path):
    checkpoint = registry.load_checkpoint(saved(state, tmp_path), "model")
    assert checkpoint.config == CONFIG
    assert checkpoint.facts.learned_variance and checkpoint.facts.schedule == "linear"


def test_a_plain_and_a_wrapped_pytorch_file_are_the_same(state, tmp_path):
    torch.save(state, tmp_path / "plain.pt")
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "wrapped.ckpt")
    for name in ("plain.pt", "wrapped.ckpt"):
        read = registry.load_checkpoint(tmp_path / name, "model").state
        assert all(torch.equal(read[key], value) for key, value in state.items())


def test_the_metadata_of_our_own_files_says_what_shapes_do_not(tmp_path):
    config = network.UNetConfig(
        model_channels=16,
        out_channels=6,
        num_res_blocks=1,
        channel_mult=(1, 2),
        attention=(2,),
        num_heads=4,
        groups=4,
        num_classes=3,
    )
    metadata = {
        "architecture": UNET.id,
        "config": json.dumps(vars(config)),
        "schedule": "cosine",
        "image_size": "32",
        "class_names": json.dumps(["a", "b"]),
        "no_class": "2",
    }
    checkpoint = registry.load_checkpoint(saved(network.UNet(config).state_dict(), tmp_path, metadata), "model")
    assert checkpoint.config == config
    facts = checkpoint.facts
    assert (facts.schedule, facts.image_size, facts.class_names, facts.no_class) == ("cosine", 32, ("a", "b"), 2)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(zipped, tmp_path):
    target = tmp_path / "ran.txt"
    path = tmp_path / "model.pt"
    torch.save({"state_dict": Bomb(target)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=r"model\.pt holds a pickle that would run code.*safetensors") as error:
        registry.load_checkpoint(path, "model")
    assert "Convert Guidance File" in str(error.value)
    assert not target.exists()


def test_a_bare_pickle_is_refused_and_does_not_run(tmp_path):
    target = tmp_path / "ran.txt"
    path = tmp_path / "model.ckpt"
    path.write_bytes(pickle.dumps(Bomb(target)))
    with pytest.raises(CheckpointError, match=r"model\.ckpt"):
        registry.load_checkpoint(path, "model")
    assert not target.exists()


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
@pytest.mark.parametrize("share", [0.999, 0.5, 0.01])
def test_truncated_files_are_called_damaged(state, suffix, share, tmp_path):
    whole = saved(state, tmp_path)
    if suffix == "pt":
        whole = tmp_path / "whole.pt"
        torch.save(state, whole)
    content = whole.read_bytes()
    path = tmp_path / f"cut.{suffix}"
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(CheckpointError, match=rf"cut\.{suffix} is a damaged or truncated"):
        registry.load_checkpoint(path, "model")


@pytest.mark.parametrize("content", [b"", b"hello, this is text", b"\x89PNG\r\n\x1a\n" + bytes(50)])
def test_files_of_another_kind_are_named(content, tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="neither a safetensors file nor a PyTorch state dict"):
        registry.load_checkpoint(path, "model")


def test_a_zip_that_is_no_checkpoint_is_refused(tmp_path):
    path = tmp_path / "model.pt"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("readme.txt", "nothing")
    path.write_bytes(buffer.getvalue())
    with pytest.raises(CheckpointError, match="model.pt is damaged or was tampered with: it is no archive of PyTorch"):
        registry.load_checkpoint(path, "model")


def test_a_file_without_weights_says_what_it_holds(tmp_path):
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(CheckpointError, match="holds no state dict but list"):
        registry.load_checkpoint(tmp_path / "list.pt", "model")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(state, value, tmp_path):
    state["out.2.bias"][0] = value
    with pytest.raises(CheckpointError, match=r"NaN or infinite weights, first in out\.2\.bias"):
        registry.load_checkpoint(saved(state, tmp_path), "model")


def test_another_architecture_is_answered_with_the_nearest_family_and_what_it_lacks(tmp_path):
    path = saved({"conv_in.weight": torch.zeros(4, 4), "time_embed.0.weight": torch.zeros(4, 4)}, tmp_path)
    with pytest.raises(UnknownArchitectureError) as error:
        registry.load_checkpoint(path, "model")
    assert "nearest is an ADM" in str(error.value)
    assert "middle_block.1.qkv.weight" in str(error.value)
    assert "conv_in.weight" in str(error.value)


@pytest.mark.parametrize("config", [None, '{"surprise": 1}', "nonsense"])
def test_metadata_that_can_not_be_read_is_refused_in_words(state, config, tmp_path):
    metadata = {"architecture": UNET.id} | ({} if config is None else {"config": config})
    with pytest.raises(CheckpointError, match="says it is an ADM U-Net, but its configuration can't be read"):
        registry.load_checkpoint(saved(state, tmp_path, metadata), "model")


def test_a_missing_key_is_named(state, tmp_path):
    del state["output_blocks.1.0.in_layers.2.bias"]
    with pytest.raises(CheckpointError, match=r"lacks output_blocks\.1\.0\.in_layers\.2\.bias"):
        registry.load_checkpoint(saved(state, tmp_path), "model")


def test_a_key_too_many_is_named(state, tmp_path):
    state["surplus.weight"] = torch.zeros(1)
    with pytest.raises(CheckpointError, match=r"has also surplus\.weight"):
        registry.load_checkpoint(saved(state, tmp_path), "model")


def test_a_wrong_shape_is_named_with_both_shapes(state, tmp_path):
    state["time_embed.2.bias"] = torch.zeros(7)
    with pytest.raises(CheckpointError, match=r"time_embed\.2\.bias of shape \[7\] where \[128\] is needed"):
        registry.load_checkpoint(saved(state, tmp_path), "model")


def test_a_model_where_a_classifier_is_needed_is_refused(state, tmp_path):
    with pytest.raises(
        CheckpointError,
        match="is an ADM U-Net: put it into models/guidance_models and load it with Load Guidance Model; a classi",
    ):
        registry.load_checkpoint(saved(state, tmp_path), "classifier")
