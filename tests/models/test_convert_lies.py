"""Files that lie about their tensors, and pickles that swell, are refused in one sentence."""

import zipfile

import pytest
from pickles_by_hand import FLOATS, NO_HOOKS, SYSTEM, archive, dictionary, several, storage, tensor, text, wanted

from pack.models.convert import convert
from pack.models.state_dict import CheckpointError, read

LIES = {
    "a storage of a type that is a callable": tensor(storage(SYSTEM)),
    "a storage of an unknown type": tensor(storage(wanted("torch", "QUInt8Storage"))),
    "a storage whose type is no name": tensor(storage(text("torch.FloatStorage"))),
    "a storage that is not in the archive": tensor(storage(key="7")),
    "a storage outside the folder of storages": tensor(storage(key="../data.pkl")),
    "a storage smaller than the pickle says": tensor(storage(numel=400), size=(400,), stride=(1,)),
    "a storage larger than the pickle says": tensor(storage(numel=3)),
    "a storage of less than nothing": tensor(storage(numel=-4)),
    "a storage without a number": several(text("storage"), FLOATS, text("0"), text("cpu"), text("4")) + b"Q",
    "another kind of persistent id": several(text("module"), SYSTEM, *map(text, "abc")) + b"Q",
    "a persistent id that is a text": text("storage") + b"Q",
    "a persistent id of the oldest protocol": b"Pstorage\n",
    "an offset outside": tensor(offset=3),
    "a vast offset": tensor(offset=1 << 60),
    "a negative offset": tensor(offset=-1),
    "a stride outside": tensor(stride=(1 << 20, 1)),
    "a negative stride": tensor(stride=(-2, 1)),
    "a negative size": tensor(size=(-2, 2)),
    "a size that is a text": tensor(size=(), stride=()).replace(several() + several(), text("no") + several()),
    "sizes and strides that differ in number": tensor(size=(2,), stride=(2, 1)),
    "four numbers that claim to be 2^40": tensor(size=(1 << 20, 1 << 20), stride=(0, 0)),
    "a tensor of something else": tensor(NO_HOOKS),
    "an extension code": b"\x82\x01",
    "a buffer outside the pickle": b"\x97",
    "more taken than there is": b"ttttt",
    "a memo that is empty": b"h\x63",
}


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
    assert not target.exists() and not target.with_name("out.safetensors.part").exists()


def doubling(times=80):
    """A tuple of two of a tuple of two ...: 2^80 leaves in a few hundred bytes."""
    return b")q\x00" + b"".join(b"h" + bytes([k]) + b"\x86q" + bytes([k + 1]) for k in range(times))


BOMBS = {
    "a list within itself": b"]q\x00h\x00a",
    "a dictionary that wraps itself": b"}q\x00" + text("state_dict") + b"h\x00s",
    "doubling tuples": doubling(),
    "doubling tuples as the state dict": dictionary(state_dict=doubling()),
    "deep lists": b"]" * 190_000 + b"a" * 189_999,
    "deep tuples": b")" + b"\x85" * 300_000,
    "deep marks": b"(" * 190_000 + b"t" * 190_000,
}


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
