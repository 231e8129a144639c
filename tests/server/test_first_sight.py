"""What a plain host knows of the pack before anyone clicks: templates with pictures, blueprints, folders for files."""

import json
from urllib.parse import quote

import pytest
from conftest import ROOT

pytestmark = pytest.mark.server
PACK = "diffusion-guidance"
KINDS = ("models", "classifiers", "encoders", "scorers", "directions")


def stems(folder):
    return sorted(path.stem for path in (ROOT / folder).glob("*.json"))


def test_the_host_lists_our_templates_and_no_other_file(server):
    assert sorted(json.loads(server.get("/workflow_templates"))[PACK]) == stems("example_workflows")


@pytest.mark.parametrize("kind", ["json", "jpg"])
def test_the_host_serves_a_template_and_its_picture(server, kind):
    for name in stems("example_workflows"):
        found = server.get(f"/api/workflow_templates/{PACK}/{quote(name)}.{kind}")
        assert found == (ROOT / "example_workflows" / f"{name}.{kind}").read_bytes()


def test_the_host_lists_our_blueprints_and_serves_them(server):
    listed = json.loads(server.get("/global_subgraphs"))
    ours = {key: entry["name"] for key, entry in listed.items() if entry["info"]["node_pack"].endswith(PACK)}
    assert sorted(ours.values()) == stems("subgraphs") and len(ours) >= 4
    for key, name in ours.items():
        data = json.loads(json.loads(server.get(f"/global_subgraphs/{key}"))["data"])
        assert data["nodes"][0]["title"] == data["definitions"]["subgraphs"][0]["name"] == name


def test_a_blueprint_stands_alone_of_nodes_that_the_host_knows(server):
    known = json.loads(server.get("/object_info"))
    for name in stems("subgraphs"):
        graph = json.loads((ROOT / "subgraphs" / f"{name}.json").read_text("utf-8"))
        (outer,), (inner,) = graph["nodes"], graph["definitions"]["subgraphs"]
        assert graph["links"] == [] and outer["type"] == inner["id"]
        assert {node["type"] for node in inner["nodes"]} <= set(known)
        assert {slot["name"] for slot in outer["inputs"]} == {slot["name"] for slot in inner["inputs"]}


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_for_each_kind_of_file_is_there_and_says_what_for(server, kind):
    folder = server.base / "models" / f"guidance_{kind}"
    assert [path.name for path in folder.glob("put_*")] == [f"put_guidance_{kind}_here"]
