"""What is written is whole, has the usual mode, and takes nobody's name."""

import multiprocessing
import os
import stat
from itertools import count

import pytest
import torch
from safetensors.torch import load_file

from pack.models import saving
from pack.models.state_dict import CheckpointError

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
