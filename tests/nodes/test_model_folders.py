"""The folders for the pack's files, made when the host starts."""

import pytest


@pytest.fixture
def files(pack_nodes):
    from pack.nodes.host import files

    return files


def test_folders_with_a_hint_are_made_once_and_what_is_in_them_stays(files, tmp_path, monkeypatch):
    import folder_paths

    monkeypatch.setattr(folder_paths, "models_dir", str(tmp_path))
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", {})
    files.register_folders()
    kept = tmp_path / "guidance_models" / "mine.safetensors"
    kept.write_bytes(b"mine")
    files.register_folders()
    assert kept.read_bytes() == b"mine"
    assert {path.name for path in tmp_path.iterdir()} == {f"guidance_{kind}" for kind in files.KINDS}


def test_models_on_a_disk_that_cannot_be_written_are_no_error(files, tmp_path, monkeypatch):
    import folder_paths

    (tmp_path / "models").write_text("a file where the folder would be")
    monkeypatch.setattr(folder_paths, "models_dir", str(tmp_path / "models"))
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", {})
    files.register_folders()
    own = {f"guidance_{kind}" for kind in files.KINDS}
    assert set(folder_paths.folder_names_and_paths) == own | {"diffusion_models"}


def test_the_small_transformer_stands_in_the_hosts_own_list_behind_the_users_folders(files, tmp_path, monkeypatch):
    import folder_paths

    mine = tmp_path / "diffusion_models"
    monkeypatch.setattr(folder_paths, "models_dir", str(tmp_path))
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", {"diffusion_models": ([str(mine)], {".safetensors"})})
    files.register_folders()
    folders, _ = folder_paths.folder_names_and_paths["diffusion_models"]
    assert folders == [str(mine), str(files.SHIPPED / "diffusion_models")]
    assert (files.SHIPPED / "diffusion_models" / "scenes_transformer.safetensors").is_file()
