"""Files that belong elsewhere: every loader says what each is and where it belongs, before anything runs."""

import asyncio
import logging
import os
import time
from pathlib import Path

import pytest
import wrong_files

from pack.models.registry import DEMO

pytestmark = pytest.mark.host
LOADERS = {
    "Guidance_LoadModel": ("models", "model_name"),
    "Guidance_LoadDiffusionAutoencoder": ("models", "model_name"),
    "Guidance_LoadClassifier": ("classifiers", "classifier_name"),
    "Guidance_LoadEncoder": ("encoders", "encoder_name"),
    "Guidance_LoadHSpaceDirection": ("directions", "direction_name"),
    "Guidance_LoadSemanticDirection": ("directions", "direction_name"),
    "Guidance_LoadMatcher": ("matchers", "matcher_name"),
    "Guidance_LoadScorer": ("scorers", "scorer_name"),
}
KINDS = ("models", "classifiers", "encoders", "directions", "matchers", "scorers")


@pytest.fixture(autouse=True)
def patient(pack_nodes, monkeypatch):
    """Lists look into every file, however busy the machine is."""
    from pack.nodes.host import files

    monkeypatch.setattr(files, "PATIENCE", 600)


@pytest.fixture(scope="module")
def wrong(pack_nodes, tmp_path_factory):
    """Names and right answers of files that lie in the folders of all loaders."""
    import folder_paths

    folder = tmp_path_factory.mktemp("wrong")
    answers = wrong_files.written(folder)
    for kind in KINDS:
        folder_paths.add_model_folder_path(f"guidance_{kind}", str(folder))
    folder_paths.filename_list_cache.clear()
    yield answers
    for kind in KINDS:
        folder_paths.folder_names_and_paths[f"guidance_{kind}"][0].remove(str(folder))
    folder_paths.filename_list_cache.clear()


def validated(pack_nodes, node_id, **inputs):
    """The errors of the host's own validation of one node."""
    import execution

    import nodes

    nodes.NODE_CLASS_MAPPINGS[node_id] = pack_nodes[node_id]
    required = {
        entry.id: entry.default if getattr(entry, "default", None) is not None else entry.options[0]
        for entry in pack_nodes[node_id].define_schema().inputs
        if not getattr(entry, "optional", False) and entry.id not in inputs
    }
    prompt = {"1": {"class_type": node_id, "inputs": {**required, **inputs}}}
    return asyncio.run(execution.validate_inputs("test", prompt, "1", {}))[1]


def test_there_are_more_than_thirty(wrong):
    assert len(wrong) >= 40


@pytest.mark.parametrize("node_id", LOADERS)
def test_each_wrong_file_is_told_where_it_belongs_before_anything_runs(wrong, pack_nodes, node_id):
    """The answer comes first, once, and names the file; nothing names the node, which the host does."""
    _, name = LOADERS[node_id]
    for file, words in wrong.items():
        (error,) = validated(pack_nodes, node_id, **{name: file})
        assert error["extra_info"]["input_name"] == name
        start = f"{name} - {Path(file).name} is {words}"
        assert error["details"].startswith(start), (error["details"], start)
        assert "nearest" not in error["details"] and "Guidance_" not in error["details"]


@pytest.mark.parametrize("node_id", LOADERS)
def test_a_run_without_the_hosts_validation_says_the_same(wrong, execute, node_id):
    _, name = LOADERS[node_id]
    for file, words in wrong.items():
        with pytest.raises(ValueError) as caught:
            execute(node_id, **{name: file})
        assert str(caught.value).startswith(f"{Path(file).name} is {words}")
        assert f" (input '{name}' of " in str(caught.value)


@pytest.mark.parametrize("node_id", LOADERS)
def test_lists_have_none_of_them_but_pickles_and_files_that_can_not_be_read(
    wrong, pack_nodes, node_id, caplog, monkeypatch
):
    from pack.nodes.host import files

    monkeypatch.setattr(files, "PATIENCE", 600)
    files._uses.cache_clear()
    _, name = LOADERS[node_id]
    with caplog.at_level(logging.WARNING):
        (listed,) = [entry.options for entry in pack_nodes[node_id].define_schema().inputs if entry.id == name]
    assert set(listed) & set(wrong_files.SAFETENSORS) == set()
    assert {"v1-5-pruned.ckpt", "pointer.safetensors"} <= set(listed)
    assert "lora.safetensors is a LoRA" in caplog.text and "not listed" in caplog.text


OWN = {
    "scenes_unet.safetensors": ("models", {"Guidance_LoadModel"}, "an ADM U-Net", "Load Guidance Model"),
    "scenes_flow.safetensors": ("models", {"Guidance_LoadModel"}, "an ADM U-Net", "Load Guidance Model"),
    "scenes_diffae.safetensors": (
        "models",
        {"Guidance_LoadModel", "Guidance_LoadDiffusionAutoencoder"},
        "a diffusion autoencoder",
        "Load Guidance Model",
    ),
    "scenes_classifier.safetensors": (
        "classifiers",
        {"Guidance_LoadClassifier"},
        "an ADM classifier",
        "Load Guidance Classifier",
    ),
    "scenes_clip.safetensors": ("encoders", {"Guidance_LoadEncoder"}, "", "Load Guidance Encoder"),
}


@pytest.fixture
def own(pack_nodes):
    """The pack's own files in the folders of all loaders."""
    import folder_paths

    for kind in KINDS:
        for folder in ("models", "classifiers", "encoders"):
            folder_paths.add_model_folder_path(f"guidance_{kind}", str(DEMO / folder))
    folder_paths.filename_list_cache.clear()
    yield
    for kind in KINDS:
        for folder in ("models", "classifiers", "encoders"):
            if folder != kind:
                folder_paths.folder_names_and_paths[f"guidance_{kind}"][0].remove(str(DEMO / folder))
    folder_paths.filename_list_cache.clear()


@pytest.mark.parametrize("node_id", LOADERS)
def test_the_packs_own_files_are_listed_by_their_loaders_alone_and_sent_there_by_others(own, pack_nodes, node_id):
    _, name = LOADERS[node_id]
    (listed,) = [entry.options for entry in pack_nodes[node_id].define_schema().inputs if entry.id == name]
    for file, (folder, loaders, title, loader) in OWN.items():
        assert (file in listed) == (node_id in loaders), (node_id, file)
        errors = validated(pack_nodes, node_id, **{name: file})
        if node_id in loaders:
            assert errors == []
            continue
        (error,) = errors
        assert error["details"].startswith(f"{name} - {file} is {title}")
        assert f": put it into models/guidance_{folder} and load it with {loader}; " in error["details"]


def test_a_saved_direction_is_sent_to_its_loader(pack_nodes, tmp_path):
    import folder_paths

    kinds = {"dial": "hspace_edit", "meaning": "semantic_direction"}
    for file, kind in kinds.items():
        wrong_files.write(tmp_path / f"{file}.safetensors", {"weight": (8,)}, {"kind": kind})
    folder_paths.add_model_folder_path("guidance_directions", str(tmp_path))
    folder_paths.filename_list_cache.clear()
    try:
        for node_id, file in (("Guidance_LoadSemanticDirection", "dial"), ("Guidance_LoadHSpaceDirection", "meaning")):
            (error,) = validated(pack_nodes, node_id, direction_name=f"{file}.safetensors")
            other = {"dial": "HSpace", "meaning": "Semantic"}[file]
            assert f"load it with Load {other} Direction" in error["details"]
            (listed,) = [
                entry.options for entry in pack_nodes[node_id].define_schema().inputs if entry.id == "direction_name"
            ]
            assert f"{file}.safetensors" not in listed
    finally:
        folder_paths.folder_names_and_paths["guidance_directions"][0].remove(str(tmp_path))
        folder_paths.filename_list_cache.clear()


def test_a_file_that_is_gone_is_asked_for_before_anything_runs(pack_nodes):
    (error,) = validated(pack_nodes, "Guidance_LoadModel", model_name="nothing.pt")
    assert error["details"].startswith(
        "model_name - there is no file 'nothing.pt'; put it into ComfyUI/models/guidance_m"
    )


def test_a_linked_name_is_left_to_the_run(pack_nodes):
    assert pack_nodes["Guidance_LoadModel"].validate_inputs() is True


@pytest.mark.parametrize("name", [5, {"a": 1}, "a\0b", "../../../etc/passwd", ""])
def test_what_is_no_name_is_refused(pack_nodes, name):
    assert isinstance(pack_nodes["Guidance_LoadModel"].validate_inputs(model_name=name), str)


@pytest.fixture
def folder_of_500(tmp_path):
    """A function (names in a header) -> one more folder of models: 500 names of one file."""
    import folder_paths

    def make(count):
        keys = {f"model.diffusion_model.blocks.{index}.attention.weight": (64, 64) for index in range(count)}
        first = wrong_files.write(tmp_path / "0.safetensors", keys)
        for index in range(1, 500):
            os.link(first, tmp_path / f"{index}.safetensors")
        folder_paths.add_model_folder_path("guidance_models", str(tmp_path))
        folder_paths.filename_list_cache.clear()

    yield make
    folder_paths.folder_names_and_paths["guidance_models"][0].remove(str(tmp_path))
    folder_paths.filename_list_cache.clear()


def test_a_folder_of_500_large_files_is_listed_at_once(pack_nodes, folder_of_500, monkeypatch):
    """Headers of a large model's length, 3000 names. What isn't looked into at once is later."""
    from pack.nodes.host import files

    folder_of_500(3000)
    monkeypatch.setattr(files, "PATIENCE", 2)
    start = time.process_time()
    assert len(files.choices("models", "model")) >= 500
    assert time.process_time() - start < 3


def test_a_file_is_looked_into_once(pack_nodes, folder_of_500, monkeypatch):
    from pack.nodes.host import files

    folder_of_500(30)
    monkeypatch.setattr(files, "PATIENCE", 600)
    look, paths = files.uses_of_file, []
    monkeypatch.setattr(files, "uses_of_file", lambda path: paths.append(path) or look(path))
    files.choices("models", "model")
    assert len(paths) >= 500
    files.choices("models", "model")
    assert len(paths) == len(set(paths))
