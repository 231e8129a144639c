"""Every shipped workflow against the running host's own list of nodes, without running it."""

import json

import pytest
from conftest import ROOT

pytestmark = pytest.mark.server
API = sorted((ROOT / "workflows" / "api").glob("*.json"))
TEMPLATES = ROOT / "example_workflows"
NAMES = json.loads((ROOT / "workflows" / "browser" / "names.json").read_text("utf-8"))
ONLY_IN_THE_EDITOR = {"MarkdownNote", "Note"}


@pytest.fixture(scope="module")
def known(server):
    """Every node's inputs, by the host."""
    return json.loads(server.get("/object_info"))


def kinds(graph, subgraphs):
    """Of a graph's nodes, with those within its subgraphs."""
    found = []
    for node in graph["nodes"]:
        inner = subgraphs.get(node["type"])
        found += kinds(inner, subgraphs) if inner else [node["type"]]
    return found


def required(info):
    """Names that a prompt must give; growing inputs are checked by their first slot."""
    return {name for name, spec in info["input"].get("required", {}).items() if not str(spec[0]).startswith("COMFY_")}


@pytest.mark.parametrize("path", API, ids=lambda path: path.stem)
def test_an_api_workflow_gives_every_node_what_it_needs_and_nothing_else(known, path):
    for key, node in json.loads(path.read_text("utf-8")).items():
        info = known[node["class_type"]]
        names = {name for part in info["input"].values() for name in part}
        given = {name.split(".")[0] for name in node["inputs"]}
        assert given <= names, (key, node["class_type"])
        assert required(info) <= given, (key, node["class_type"])


@pytest.mark.parametrize("path", API, ids=lambda path: path.stem)
def test_the_editors_form_has_the_same_nodes_and_a_note(path):
    prompt = json.loads(path.read_text("utf-8"))
    graph = json.loads((TEMPLATES / f"{NAMES[path.stem]}.json").read_text("utf-8"))
    subgraphs = {part["id"]: part for part in graph.get("definitions", {}).get("subgraphs", [])}
    shown = kinds(graph, subgraphs)
    assert sorted(kind for kind in shown if kind not in ONLY_IN_THE_EDITOR) == sorted(
        node["class_type"] for node in prompt.values()
    )
    assert ONLY_IN_THE_EDITOR & set(shown)


def test_every_node_of_the_pack_stands_in_a_workflow(known):
    ours = {name for name in known if name.startswith("Guidance_")}
    shown = {node["class_type"] for path in API for node in json.loads(path.read_text("utf-8")).values()}
    assert ours <= shown
