"""Files that lie about their tensors, and pickles that swell, are refused in one sentence."""

import zipfile

import pytest
from hostile.pickles import BOMBS, LIES, doubling
from pickles_by_hand import archive, dictionary, storage, tensor

from pack.models.convert import convert
from pack.models.state_dict import CheckpointError, read


@pytest.mark.parametrize("lie", LIES)
def test_a_file_that_lies_is_refused_in_one_sentence(lie, tmp_path):
    path = archive(tmp_path / "model.ckpt", dictionary(state_dict=dictionary(w=LIES[lie])))
    target = tmp_path / "out.safetensors"
    for reader in (read, lambda path: convert(path, target)):
        with pytest.raises(
            CheckpointError, match=r"^model\.ckpt (is damaged or was tampered|is a damaged|holds a)"
        ) as error:
            reader(path)
        assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["model.ckpt"]


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_bomb_does_not_go_off(bomb, tmp_path):
    path = archive(tmp_path / "model.ckpt", BOMBS[bomb])
    for reader in (read, lambda path: convert(path, tmp_path / "out.safetensors")):
        with pytest.raises(CheckpointError, match=r"^model\.ckpt .*holds no"):
            reader(path)


def test_a_pickle_of_more_steps_than_any_model_needs_is_refused(tmp_path):
    path = archive(tmp_path / "model.ckpt", b"]" * 500_000)
    for reader in (read, lambda path: convert(path, tmp_path / "out.safetensors")):
        with pytest.raises(CheckpointError, match="its pickle is too long"):
            reader(path)


@pytest.mark.parametrize("key", [doubling(), b")" + b"\x85" * 300_000], ids=["doubling", "deep"])
def test_a_bomb_as_a_key_is_never_hashed(key, tmp_path):
    path = archive(tmp_path / "model.ckpt", dictionary(w=tensor()) + key + b"Ns")
    convert(path, tmp_path / "out.safetensors")
    assert read(tmp_path / "out.safetensors")[0]["w"].tolist() == [[1, 2], [3, 4]]


def test_many_tensors_of_one_storage_are_no_way_to_a_vast_file(tmp_path):
    many = {f"w{k}": tensor(storage(numel=1 << 16), size=(1 << 16,), stride=(1,)) for k in range(40)}
    path = archive(tmp_path / "model.ckpt", dictionary(**many), bytes(4 << 16))
    for reader in (read, lambda path: convert(path, tmp_path / "out.safetensors")):
        with pytest.raises(CheckpointError, match="its weights are larger than the file"):
            reader(path)


def test_packed_entries_are_refused(tmp_path):
    path = archive(tmp_path / "model.ckpt", dictionary(w=tensor()), bytes(16), zipfile.ZIP_DEFLATED)
    for reader in (read, lambda path: convert(path, tmp_path / "out.safetensors")):
        with pytest.raises(CheckpointError, match="packed or encrypted"):
            reader(path)


def test_a_vast_pickle_is_refused_before_it_is_read(tmp_path):
    path = archive(tmp_path / "model.ckpt", b"N0" * (9 << 20) + dictionary(w=tensor()))
    with pytest.raises(CheckpointError, match="its data.pkl is too large"):
        convert(path, tmp_path / "out.safetensors")
