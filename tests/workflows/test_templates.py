"""What a person sees of a template before anything runs: its name, its picture, and a graph that fits the screen."""

import json
import re

import pytest
from conftest import ROOT

FOLDER, TEMPLATES = ROOT / "workflows", ROOT / "example_workflows"
API = sorted((FOLDER / "api").glob("*.json"))
NAMES = json.loads((FOLDER / "browser" / "names.json").read_text("utf-8"))
TITLE_BAR, PADDING = 30, 10  # of a node; around what the frontend fits
SCREEN, MARGIN = (1600, 960), 0.75  # a window of 1600 x 1000 without its tabs; how much of it the frontend fills
BLOCK = (1800, 1000)
GREY = "#a0a0a0"  # of notes in frontend 1.58
GROUPS = ["1 load", "2 guide", "3 sample", "4 look"]


def template(path):
    return json.loads((TEMPLATES / f"{NAMES[path.stem]}.json").read_text("utf-8"))


def every_template(test):
    return pytest.mark.parametrize("path", API, ids=lambda path: path.stem)(test)


def extent(nodes):
    """Width and height of the block that holds nodes with their titles."""
    left = min(node["pos"][0] for node in nodes)
    top = min(node["pos"][1] - TITLE_BAR for node in nodes)
    right = max(node["pos"][0] + node["size"][0] for node in nodes)
    bottom = max(node["pos"][1] + node["size"][1] for node in nodes)
    return right - left, bottom - top


def test_every_workflow_has_a_name_and_every_name_a_workflow():
    assert set(NAMES) == {path.stem for path in API}
    assert len(set(NAMES.values())) == len(NAMES)


def test_the_folder_of_templates_holds_a_graph_and_a_picture_for_each_name_and_nothing_else():
    wanted = {f"{name}.{kind}" for name in NAMES.values() for kind in ("json", "jpg")}
    assert {path.name for path in TEMPLATES.iterdir()} == wanted


def test_the_first_template_by_name_is_where_one_starts():
    assert min(NAMES.values()) == "1 Start here"


@pytest.mark.parametrize("name", ["example", "examples", "workflow", "workflows"])
def test_no_other_folder_that_the_host_takes_for_templates_holds_a_file_of_their_kind(name):
    assert list((ROOT / name).glob("*.json")) == []


@every_template
def test_a_template_fits_the_screen(path):
    width, height = extent(template(path)["nodes"])
    assert width <= BLOCK[0] and height <= BLOCK[1]
    zoom = MARGIN * min(SCREEN[0] / (width + 2 * PADDING), SCREEN[1] / (height + 2 * PADDING))
    assert zoom >= 0.6


@every_template
def test_no_two_nodes_of_a_template_overlap(path):
    boxes = [
        (x, y - TITLE_BAR, x + width, y + height)
        for (x, y), (width, height) in ((node["pos"], node["size"]) for node in template(path)["nodes"])
    ]
    for place, a in enumerate(boxes):
        for b in boxes[place + 1 :]:
            assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]


@every_template
def test_the_titles_of_a_graph_are_unique_and_so_are_those_within_a_subgraph(path):
    graph = template(path)
    for part in (graph, *graph.get("definitions", {}).get("subgraphs", [])):
        titles = [node.get("title", node["type"]) for node in part["nodes"]]
        assert sorted(set(titles)) == sorted(titles)


@every_template
def test_groups_lead_from_loading_to_looking(path):
    titles = [group["title"] for group in template(path)["groups"]]
    assert set(titles) <= set(GROUPS) and {"1 load", "4 look"} <= set(titles) and len(set(titles)) == len(titles)


@every_template
def test_the_note_lies_beside_the_results(path):
    graph = template(path)
    (note,) = [node for node in graph["nodes"] if node["type"] == "MarkdownNote"]
    (look,) = [group["bounding"] for group in graph["groups"] if group["title"] == "4 look"]
    assert abs(note["pos"][1] + note["size"][1] - look[1] - look[3]) < 20
    assert 0 < look[0] - note["pos"][0] - note["size"][0] < 40


@every_template
def test_a_note_says_how_long_it_takes_in_two_languages_without_code_that_the_new_renderer_hides(path):
    (note,) = [node for node in template(path)["nodes"] if node["type"] == "MarkdownNote"]
    text = note["widgets_values"][0]
    assert text == path.with_suffix(".md").read_text("utf-8")
    assert "`" not in text and "**Time** " in text and "**中文** " in text


def luminance(colour):
    """Relative luminance of #rgb or #rrggbb, WCAG 2.1."""
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    parts = [int(digits[place : place + 2], 16) / 255 for place in (0, 2, 4)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@every_template
def test_a_note_can_be_read_in_the_grey_of_the_new_renderer(path):
    """Contrast of WCAG 2.1, level AA."""
    (note,) = [node for node in template(path)["nodes"] if node["type"] == "MarkdownNote"]
    assert (luminance(GREY) + 0.05) / (luminance(note["bgcolor"]) + 0.05) >= 4.5


@every_template
def test_a_published_file_comes_with_its_address_and_its_folder(path):
    for node in json.loads(path.read_text("utf-8")).values():
        for file in node["_meta"].get("models", []):
            assert file["name"] in node["inputs"].values()
            assert file["url"].startswith("https://") and file["url"].endswith("/" + file["name"])
            assert file["directory"]
    shown = json.dumps(template(path))
    for file in re.findall(r'"url": "([^"]+)"', path.read_text("utf-8")):
        assert file in shown


@every_template
def test_nothing_in_a_template_changes_by_itself(path):
    graph = template(path)
    parts = (graph, *graph.get("definitions", {}).get("subgraphs", []))
    values = [value for part in parts for node in part["nodes"] for value in node.get("widgets_values") or []]
    assert "randomize" not in values and "increment" not in values


def links(graph):
    """(kind of node, input) of every link, also within subgraphs."""
    subgraphs = {part["id"]: part for part in graph.get("definitions", {}).get("subgraphs", [])}
    found, parts = [], [graph]
    while parts:
        for node in parts.pop()["nodes"]:
            if node["type"] in subgraphs:
                parts.append(subgraphs[node["type"]])
            else:
                found += [
                    (node["type"], slot["name"]) for slot in node.get("inputs", []) if slot.get("link") is not None
                ]
    return found


@every_template
def test_no_link_of_the_api_form_is_lost_in_the_template(path):
    wanted = [
        (node["class_type"], name)
        for node in json.loads(path.read_text("utf-8")).values()
        for name, value in node["inputs"].items()
        if isinstance(value, list)
    ]
    shown = links(template(path))
    assert [link for link in set(wanted) if shown.count(link) < wanted.count(link)] == []


def leads_to(part, name, subgraphs):
    """The node and its widget behind what a subgraph shows under a name."""
    (entry,) = [entry for entry in part["inputs"] if entry["name"] == name]
    (link,) = [link for link in part["links"] if link["id"] == entry["linkIds"][0]]
    (node,) = [node for node in part["nodes"] if node["id"] == link["target_id"]]
    widget = node["inputs"][link["target_slot"]]["widget"]["name"]
    inner = subgraphs.get(node["type"])
    return leads_to(inner, widget, subgraphs) if inner else (str(node["id"]), widget)


def shown_outside(graph):
    """(node, widget) with the value that its subgraph shows: the editor queues that one, whatever the node holds."""
    subgraphs = {part["id"]: part for part in graph.get("definitions", {}).get("subgraphs", [])}
    for node in (node for part in (graph, *subgraphs.values()) for node in part["nodes"] if node["type"] in subgraphs):
        names = [slot["name"] for slot in node["inputs"] if slot.get("widget")]
        for name, value in zip(names, node.get("widgets_values") or [], strict=True):
            yield leads_to(subgraphs[node["type"]], name, subgraphs), value


BLUEPRINTS = sorted((FOLDER / "blueprints").glob("*.json"))


@pytest.mark.parametrize("path", [*API, *BLUEPRINTS], ids=lambda path: f"{path.parent.name} {path.stem}")
def test_what_a_subgraph_shows_outside_is_what_the_api_form_says(path):
    """Where the form says nothing, the default stands."""
    api = json.loads(path.read_text("utf-8"))
    if path in BLUEPRINTS:
        (title,) = {node["_meta"]["inside"] for node in api.values() if "inside" in node["_meta"]}
        graph = json.loads((ROOT / "subgraphs" / f"{title}.json").read_text("utf-8"))
    else:
        graph = template(path)
    shown = list(shown_outside(graph))
    assert [(key, name, value) for (key, name), value in shown if api[key]["inputs"].get(name, value) != value] == []
    assert shown or path in API


@pytest.mark.parametrize(
    "path", sorted([*TEMPLATES.glob("*.json"), *(ROOT / "subgraphs").glob("*.json")]), ids=lambda p: p.stem
)
def test_every_link_knows_the_place_of_its_input(path):
    """Frontends differ in whom they believe, the link or the input."""
    graph = json.loads(path.read_text("utf-8"))
    places = [(link[0], link[3], link[4]) for link in graph["links"]]
    parts = [(graph, places)]
    for part in graph.get("definitions", {}).get("subgraphs", []):
        parts.append((part, [(link["id"], link["target_id"], link["target_slot"]) for link in part["links"]]))
    for part, places in parts:
        inputs = {node["id"]: node.get("inputs", []) for node in part["nodes"]}
        lost = [key for key, node, slot in places if node in inputs and inputs[node][slot]["link"] != key]
        assert lost == [], part.get("name")
