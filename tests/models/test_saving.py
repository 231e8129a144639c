"""What is written is whole, has the usual mode, and takes nobody's name."""

import multiprocessing
import os
import re
import resource
import signal
import stat
import tempfile
import time
from itertools import count
from pathlib import Path
from uuid import uuid4

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from pack.models import saving
from pack.models.state_dict import CheckpointError, read

SAVES = 200


def names(folder):
    """As the host counts: from one behind those that are there."""
    start = len(list(folder.glob("*.safetensors"))) + 1
    return (folder / f"direction_{number:05}_.safetensors" for number in count(start))


def save_many(folder, who, begin):
    begin.wait()
    for number in range(SAVES):
        saving.new_file({"w": torch.tensor([float(who), float(number)])}, names(folder), {"who": str(who)})


def test_two_processes_with_200_saves_each_leave_400_files(tmp_path):
    context = multiprocessing.get_context("fork")
    begin = context.Barrier(2)
    writers = [context.Process(target=save_many, args=(tmp_path, who, begin)) for who in (0, 1)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    found = {tuple(load_file(path)["w"].tolist()) for path in tmp_path.iterdir()}
    assert found == {(float(who), float(number)) for who in (0, 1) for number in range(SAVES)}


@pytest.mark.parametrize("mask, mode", [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
@pytest.mark.parametrize("linked", [True, False])
def test_a_file_has_the_users_usual_mode(tmp_path, monkeypatch, mask, mode, linked):
    if not linked:
        monkeypatch.setattr(os, "link", refused)
    before = os.umask(mask)
    try:
        path = saving.new_file({"w": torch.ones(1)}, [tmp_path / "new"], {})
        saving.replace_file({"w": torch.ones(1)}, tmp_path / "replaced", {})
    finally:
        os.umask(before)
    assert {stat.S_IMODE(found.stat().st_mode) for found in (path, tmp_path / "replaced")} == {mode}


def refused(*_):
    raise OSError(1, "Operation not permitted")


@pytest.mark.parametrize("linked", [True, False])
def test_a_name_that_is_taken_is_not_written_again(tmp_path, monkeypatch, linked):
    if not linked:
        monkeypatch.setattr(os, "link", refused)
    paths = [tmp_path / "a", tmp_path / "b"]
    taken = [saving.new_file({"w": torch.ones(1) * k}, paths, {}) for k in range(2)]
    assert taken == paths and [load_file(path)["w"].item() for path in paths] == [0, 1]
    with pytest.raises(CheckpointError, match="the name is taken already"):
        saving.new_file({"w": torch.ones(1)}, paths, {})
    paths[0].unlink()
    paths[0].symlink_to("nowhere")
    with pytest.raises(CheckpointError, match="the name is taken already"):
        saving.new_file({"w": torch.ones(1)}, paths, {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


@pytest.mark.parametrize("write", [saving.replace_file, lambda w, path, m: saving.new_file(w, [path], m)])
def test_a_full_disk_is_a_sentence_and_leaves_the_old_file_and_nothing_beside(tmp_path, monkeypatch, write):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    (tmp_path / "old").write_text("old")
    name = "old" if write is saving.replace_file else "new"
    with pytest.raises(CheckpointError, match=f"^{name} can't be written: No space left on device$"):
        write({"w": torch.ones(1)}, tmp_path / name, {})
    assert [path.name for path in tmp_path.iterdir()] == ["old"] and (tmp_path / "old").read_text() == "old"


def test_a_folder_that_is_a_file_is_a_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="^new can't be written: "):
        saving.replace_file({"w": torch.ones(1)}, tmp_path / "file" / "new", {})


def forked(work, *arguments):
    """A process of its own, as another server is."""
    process = multiprocessing.get_context("fork").Process(target=work, args=arguments)
    process.start()
    return process


def sent(work, count=1):
    """What a process of its own sends before it ends, so often."""
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = forked(work, sender)
    sender.close()  # the other's end alone is open: where nothing comes, its end says so
    found = [receiver.recv() for _ in range(count)]
    process.join()
    return found


# --- what is in a file


def every_kind():
    numbers = torch.arange(24.0).view(2, 3, 4)
    kinds = {str(kind): numbers.to(kind) for kind in saving.KINDS}
    shapes = {"one": torch.tensor(7.0), "none": torch.empty(0, 3), "turned": numbers.movedim(0, 2), "row": numbers[1]}
    return kinds | shapes | {"row again": numbers[1], "ä \n \u202e": torch.ones(1)}


def test_the_library_reads_every_kind_and_shape_as_it_was(tmp_path):
    tensors, metadata = every_kind(), {"config": '{"a": 1}', "name": 'ein "Stern" ☆'}
    path = saving.new_file(tensors, [tmp_path / "file.safetensors"], metadata)
    with safe_open(path, "pt") as file:
        assert file.metadata() == metadata and set(file.keys()) == set(tensors)
        for key, value in tensors.items():
            found = file.get_tensor(key)
            assert found.dtype == value.dtype and torch.equal(found.double(), value.double())
    assert read(path)[1] == metadata


@pytest.mark.parametrize("key, value", [("w", torch.ones(1, dtype=torch.complex64)), ("__metadata__", torch.ones(1))])
def test_what_the_format_cant_hold_is_a_sentence(tmp_path, key, value):
    with pytest.raises(CheckpointError, match=f"^file can't be written: {key} holds torch"):
        saving.new_file({key: value}, [tmp_path / "file"], {})
    assert list(tmp_path.iterdir()) == []


def memory(field):
    """Of this process, in bytes."""
    return int(re.search(rf"{field}:\s+(\d+)", Path("/proc/self/status").read_text())[1]) << 10


def test_writing_holds_one_tensor_beside_those_it_was_given(tmp_path):
    tensors = {str(k): torch.full((4 << 20,), float(k)) for k in range(8)}  # 16 MB each
    tensors["turned"] = torch.zeros(2048, 2048).t()
    path = Path("/proc/self/clear_refs")
    if not path.exists():
        pytest.skip("only Linux tells the most memory that a process had")
    path.write_text("5")  # forgets the peak so far
    before = memory("VmRSS")
    saving.new_file(tensors, [tmp_path / "file"], {})
    assert memory("VmHWM") - before < 24 << 20


# --- what may happen meanwhile


def write_slowly(path):
    """Up to the middle of the file, and then for ever."""
    pieces = saving._pieces

    def some(*given):
        for place, piece in enumerate(pieces(*given)):
            if place == 3:
                path.with_name("written").touch()
                time.sleep(600)
            yield piece

    saving._pieces = some
    saving.replace_file({"a": torch.ones(1 << 20), "b": torch.ones(1 << 20)}, path, {})


def test_a_process_killed_while_it_writes_leaves_the_old_file_whole_and_nothing_that_looks_like_a_model(tmp_path):
    path = tmp_path / "model.safetensors"
    saving.replace_file({"w": torch.tensor([7.0])}, path, {})
    process = forked(write_slowly, path)
    while not (tmp_path / "written").exists():
        assert process.is_alive()
        time.sleep(0.01)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL and load_file(path)["w"].item() == 7
    left = {found.name for found in tmp_path.iterdir()} - {"model.safetensors", "written"}
    assert len(left) == 1 and all(re.fullmatch(r"\.[0-9a-f]{32}\.part", name) for name in left)
    saving.replace_file({"w": torch.tensor([8.0])}, path, {})
    assert load_file(path)["w"].item() == 8


@pytest.mark.parametrize("limit", [0, 50, 1 << 16])
def test_a_disk_that_takes_no_more_is_a_sentence_and_leaves_the_old_file_alone(tmp_path, limit):
    (tmp_path / "old").write_text("old")

    def save(sender):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        try:
            saving.replace_file({"w": torch.ones(1 << 18)}, tmp_path / "old", {})
        except CheckpointError as error:
            sender.send(str(error))

    assert sent(save) == ["old can't be written: File too large"]
    assert [path.name for path in tmp_path.iterdir()] == ["old"] and (tmp_path / "old").read_text() == "old"


def test_a_folder_that_may_not_be_written_is_a_sentence(tmp_path):
    place = Path(tempfile.gettempdir()) / f"guidance-{uuid4().hex}"  # tmp_path is the user's alone

    def save(sender):
        if os.geteuid() == 0:
            os.setuid(65534)  # root may write everywhere
        place.mkdir()
        place.chmod(0o500)
        try:
            for write in (saving.replace_file, lambda w, path, m: saving.new_file(w, [path], m)):
                try:
                    write({"w": torch.ones(1)}, place / "new", {})
                except CheckpointError as error:
                    sender.send(str(error))
        finally:
            place.rmdir()

    assert sent(save, 2) == ["new can't be written: Permission denied"] * 2
