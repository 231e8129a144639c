"""Save nodes: a save is a new whole file that others may read, or one sentence that names the input."""

import multiprocessing
import os
import resource
import stat

import pytest
import torch
from safetensors.torch import load_file, save_file

pytestmark = pytest.mark.host
SAVED = {  # what is saved, by its input of the Save node: weights and metadata of its file
    "hspace": ({"delta_h": torch.ones(1, 8, 2, 2)}, {"kind": "hspace_edit", "form": "direction"}),
    "direction": ({"weight": torch.ones(8), "bias": torch.ones(1)}, {"kind": "semantic_direction", "fingerprint": ""}),
}
KINDS = {"hspace": "HSpace", "direction": "Semantic"}


@pytest.fixture
def folder(tmp_path, monkeypatch, pack_nodes):
    """The folder of directions; the one above it has nothing else."""
    import folder_paths

    found = tmp_path / "base" / "directions"
    found.mkdir(parents=True)
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "guidance_directions", ([str(found)], {".safetensors"}))
    return found


@pytest.fixture(params=SAVED)
def save(request, folder, execute):
    """A Save node with something to save, as a function of the prefix."""
    name, (weights, metadata) = request.param, SAVED[request.param]
    save_file(weights, folder / "seed.safetensors", {"name": "a", **metadata})
    (found,) = execute(f"Guidance_Load{KINDS[name]}Direction", direction_name="seed.safetensors")
    (folder / "seed.safetensors").unlink()
    node_id = f"Guidance_Save{KINDS[name]}Direction"
    return lambda prefix: execute(node_id, **{name: found}, filename_prefix=prefix)


def refusal(save, prefix):
    with pytest.raises(ValueError) as error:
        save(prefix)
    said = str(error.value)
    assert "(input 'filename_prefix' of " in said and said.isprintable() and len(said) <= 2000
    return said


def test_a_number_that_another_server_took_meanwhile_is_passed_over(save, folder, monkeypatch):
    """Both count the files before either writes."""
    import folder_paths

    counted = folder_paths.get_save_image_path("race", str(folder))
    monkeypatch.setattr(folder_paths, "get_save_image_path", lambda *_: counted)
    for _ in range(3):
        save("race")
    assert sorted(path.name for path in folder.iterdir()) == [f"race_0000{k}_.safetensors" for k in (1, 2, 3)]


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o002, 0o664)])
def test_a_saved_file_has_the_users_usual_mode_and_nothing_lies_beside_it(save, folder, mask, mode):
    before = os.umask(mask)
    try:
        save("new")
    finally:
        os.umask(before)
    (path,) = folder.iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == mode and load_file(path)


PREFIXES = ["", "a\0b", "n" * 5000, "a\\b", "a\nb", "..", "...", "a/../b", "a/", "../../away", "/away", "\x1b[2J\u202e"]


@pytest.mark.parametrize("prefix", PREFIXES, ids=lambda prefix: ascii(prefix[:20]))
def test_a_prefix_that_can_be_no_files_name_is_refused(save, folder, prefix):
    assert "can't be a file's name" in refusal(save, prefix)
    assert [path.name for path in folder.parent.rglob("*")] == ["directions"]


def test_a_folder_that_cant_be_written_is_a_sentence(save, folder):
    folder.rmdir()
    folder.write_text("a file")
    assert "the folder guidance_directions can't be written: " in refusal(save, "new")


@pytest.mark.parametrize("limit", [0, 50])
def test_a_full_disk_is_a_sentence_and_leaves_nothing(save, folder, limit):
    receiver, sender = multiprocessing.Pipe(duplex=False)

    def fill():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        sender.send(refusal(save, "new"))

    process = multiprocessing.get_context("fork").Process(target=fill)
    process.start()
    sender.close()  # the other's end alone is open: where nothing comes, its end says so
    assert "new_00001_.safetensors can't be written: File too large (input" in receiver.recv()
    process.join()
    assert not list(folder.iterdir())
