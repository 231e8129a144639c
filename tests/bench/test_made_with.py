"""No figure and no picture in the repository is older than the files that ship."""

import hashlib
import json

import pytest
from conftest import ROOT

from bench import judge, made_with

RESULTS, WORKFLOWS = ROOT / "bench" / "results", ROOT / "workflows"
PICTURES = WORKFLOWS / "pictures"
COSTS = {"adm_speed", "cfg_guider", "gpu_cost", "guide_cost", "guided_step", "hspace_cost", "launches"}  # of networks
TRUE = {"enlarging", "matching", "matching_scenes"}  # whose answers are known, so that nothing judges
ENDINGS = (".safetensors", ".pt", ".pth", ".ckpt")
FIGURES = sorted(path for path in RESULTS.glob("*.json") if path.stem not in COSTS | {"judge", "made_with"})


def shipped(recorded):
    """Paths with the hashes that they have now."""
    return {path: hashlib.sha256((ROOT / path).read_bytes()).hexdigest() for path in recorded}


def pictures(folder, ending):
    return sorted(path.name for path in folder.glob(f"*{ending}") if path.stem not in COSTS)


def recorded(folder):
    return json.loads((folder / "made_with.json").read_text("utf-8"))


def shows_its_result(path):
    """Whether every model file that a workflow names ships: others show their graph."""
    prompt = json.loads(path.read_text("utf-8"))
    named = [value for node in prompt.values() for value in node["inputs"].values() if isinstance(value, str)]
    ours = {file.name for file in made_with.DEMO.rglob("*.safetensors")}
    return {name for name in named if name.endswith(ENDINGS)} <= ours


@pytest.mark.parametrize("path", FIGURES, ids=lambda path: path.stem)
def test_a_figure_was_measured_on_the_files_that_ship(path):
    made = json.loads(path.read_text("utf-8"))["made_with"]
    assert made == shipped(made) and ("bench/judge/judge.safetensors" in made or path.stem in TRUE)


def test_the_judges_own_figures_are_this_judges():
    assert json.loads((RESULTS / "judge.json").read_text("utf-8"))["judge_sha256"] == judge.sha256()


@pytest.mark.parametrize("name", pictures(RESULTS, ".png"))
def test_a_plot_was_drawn_with_the_files_that_ship(name):
    made = recorded(RESULTS)[name]
    assert made and made == shipped(made)


@pytest.mark.parametrize("path", sorted((WORKFLOWS / "api").glob("*.json")), ids=lambda path: path.stem)
def test_the_picture_of_a_workflow_was_drawn_with_the_files_that_ship(path):
    made = recorded(PICTURES).get(f"{path.stem}.jpg")
    if not shows_its_result(path):
        assert made is None, "its picture is its graph"
    else:
        wanted = made_with.hashes(made_with.files_of(json.loads(path.read_text("utf-8"))))
        assert wanted and made == wanted


def test_nothing_is_recorded_that_is_not_there():
    assert set(recorded(PICTURES)) <= set(pictures(PICTURES, ".jpg"))
    assert set(recorded(RESULTS)) == set(pictures(RESULTS, ".png"))


def test_a_view_of_weights_counts_as_the_weights_too():
    prompt = {"1": {"inputs": {"model_name": "scenes_flow.safetensors"}}}
    assert made_with.UNET in made_with.files_of(prompt)
