"""Grids: which settings a file means, and which files are refused in one sentence."""

import json
from pathlib import Path

import pytest

from sweep.errors import SweepError
from sweep.grid import read_grid
from sweep.workflow import read_workflow, with_settings

WORKFLOW = {
    "5": {
        "class_type": "KSampler",
        "inputs": {"seed": 1, "cfg": 4.0, "sampler_name": "euler", "model": ["1", 0], "method": "APG"},
        "_meta": {"title": "Sampler"},
    },
    "5:3": {"class_type": "Inside", "inputs": {"text": "a cat"}},
}


@pytest.fixture
def grid(tmp_path):
    def read(text):
        (tmp_path / "grid.yaml").write_text(text)
        return read_grid(tmp_path / "grid.yaml", WORKFLOW)

    return read


def test_axes_are_crossed_and_the_last_runs_fastest(grid):
    settings = grid("5.inputs.cfg: [1, 2]\n5.inputs.seed: [7, 8, 9]").settings()
    assert [tuple(point.values()) for point in settings] == [(1, 7), (1, 8), (1, 9), (2, 7), (2, 8), (2, 9)]


def test_a_zipped_group_is_one_axis(grid):
    text = "zip: [{5.inputs.cfg: [1, 2], 5:3.inputs.text: [a, b]}]\n5.inputs.seed: [7, 8]"
    pairs = [(point["5.inputs.cfg"], point["5:3.inputs.text"]) for point in grid(text).settings()]
    assert sorted(pairs) == [(1, "a"), (1, "a"), (2, "b"), (2, "b")]


def test_whole_numbers_count_both_ends(grid):
    settings = grid("5.inputs.seed: {from: 1, to: 7, step: 3}").settings()
    assert [point["5.inputs.seed"] for point in settings] == [1, 4, 7]


def test_random_settings_stay_in_their_ranges_and_come_again_with_the_seed(grid):
    inputs = "{5.inputs.cfg: {from: 0.01, to: 10, log: true}, 5.inputs.seed: {from: 1, to: 3}}"
    text = f"random: {{n: 50, seed: %d, inputs: {inputs}}}"
    first, again, other = (grid(text % seed).settings() for seed in (0, 0, 1))
    assert first == again != other
    assert all(0.01 <= point["5.inputs.cfg"] <= 10 for point in first)
    assert {point["5.inputs.seed"] for point in first} == {1, 2, 3}
    assert 15 < sum(point["5.inputs.cfg"] < 0.316 for point in first) < 35  # half of the log range


def test_rows_of_a_csv_get_the_kind_that_the_workflow_has(grid, tmp_path):
    (tmp_path / "rows.csv").write_text("5.inputs.seed,5.inputs.cfg,5:3.inputs.text\n3,1.5,007\n4,2,no\n")
    first, second = grid("csv: rows.csv").settings()
    assert first == {"5.inputs.seed": 3, "5.inputs.cfg": 1.5, "5:3.inputs.text": "007"}
    assert second["5:3.inputs.text"] == "no"


def test_what_yaml_takes_for_text_becomes_the_number_it_is(grid):
    assert grid("5.inputs.cfg: [1e-3]").settings() == [{"5.inputs.cfg": 0.001}]


def test_none_takes_an_input_out_and_a_dotted_one_may_come_in():
    changed = with_settings(WORKFLOW, {"5.inputs.method": "rescale", "5.inputs.method.phi": 0.7, "5.inputs.cfg": None})
    assert changed["5"]["inputs"]["method.phi"] == 0.7 and "cfg" not in changed["5"]["inputs"]
    assert WORKFLOW["5"]["inputs"]["cfg"] == 4.0


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("5.inputs.cgf: [1]", r"node 5 \(Sampler\) has no input 'cgf'; did you mean cfg"),
        ("6.inputs.cfg: [1]", "the workflow has no node '6'"),
        ("cfg: [1]", "write NODE.inputs.INPUT, for example 5.inputs.seed"),
        ("5.inputs.cfg: 3", "a list of values or"),
        ("5.inputs.cfg: []", "a list of values or"),
        ("5.inputs.cfg: [high]", "is a number .*'high'"),
        ("5:3.inputs.text: [no]", "is text .*False; put it in quotes"),
        ("5.inputs.seed: [1]\nzip: [{5.inputs.seed: [2]}]", "stands on two axes"),
        ("zip: [{5.inputs.seed: [1, 2], 5.inputs.cfg: [1]}]", "the same length"),
        ("random: {n: 0, inputs: {5.inputs.seed: [1]}}", "n is a whole number above 0"),
        ("random: {n: 2, inputs: {5.inputs.cfg: {from: 0, to: 1, log: true}}}", "above 0 for log"),
        ("csv: nowhere.csv", "nowhere.csv can't be read"),
        ("5.inputs.seed: [1]\nsheet: {columns: 5.inputs.cfg}", "no axis has '5.inputs.cfg'"),
        ("a: [", "can't be read as YAML"),
        ("", "is empty"),
    ],
)
def test_a_wrong_grid_is_refused_in_one_sentence(grid, text, sentence):
    with pytest.raises(SweepError, match=sentence) as error:
        grid(text)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (json.dumps({"nodes": [], "links": []}), "in the editor's form; save it with Workflow > Export"),
        (json.dumps({"5": {"inputs": {}}}), "is no workflow in API form"),
        ("{", "can't be read as JSON"),
        (None, "there is no workflow"),
    ],
)
def test_a_wrong_workflow_is_refused_in_one_sentence(tmp_path, content, sentence):
    path = tmp_path / "workflow.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(SweepError, match=sentence):
        read_workflow(path)


def test_every_api_workflow_of_the_pack_can_be_read():
    files = sorted((Path(__file__).resolve().parents[3] / "workflows" / "api").glob("*.json"))
    assert files and all(read_workflow(path) for path in files)
