"""The real frontend in headless Chromium, the host's own and the newest: what a person sees and clicks."""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT, device_flags, host_folder

pytestmark = pytest.mark.browser
# the host's own noise on a fresh, offline installation
HARMLESS = re.compile(
    r"status of (404|403)|ERR_|Content Security Policy|api\.comfy\.org|googletag|firebase|graph accessed before",
    re.IGNORECASE,
)
NAMES = json.loads((ROOT / "workflows" / "browser" / "names.json").read_text("utf-8"))
FIRST = "1 Start here"
QUEUED = [
    "text_guidance",
    "classifier_guidance",
    "style_guidance",
    "ksampler_pixels",
    "clip_judging",
    "cfg_methods",
    "hspace_dial",
    "semantic_reconstruct",
]
NODE = "Guidance_TextGuide"
LANGUAGES = sorted(path.stem for path in (ROOT / "web" / "docs" / NODE).glob("*.md"))
BLUEPRINT = "Rank and keep the best"
FRONTENDS = {"host": None, "newest": os.environ.get("GUIDANCE_NEWEST_FRONTEND")}


def around_the_blueprint():
    """A small graph with everything that the blueprint takes."""
    sources = ["Guidance_LoadModel", "Guidance_LoadEncoder", "Guidance_ClassConditioning", "Guidance_EmptyPixelLatent"]
    nodes = [
        {"id": place, "type": kind, "pos": [300 * place, 0], "size": [270, 120], "mode": 0, "flags": {}, "order": place}
        for place, kind in enumerate([*sources, "PreviewImage"], 1)
    ]
    nodes[2] |= {"inputs": [{"name": "model", "type": "MODEL", "link": 1}], "widgets_values": ["star"]}
    nodes[0]["outputs"] = [
        {"name": "MODEL", "type": "MODEL", "links": [1]},
        {"name": "VAE", "type": "VAE", "links": []},
    ]
    nodes[0]["widgets_values"], nodes[1]["widgets_values"] = ["scenes_unet.safetensors"], ["scenes_clip.safetensors"]
    nodes[3]["widgets_values"] = [32, 32, 4]
    links = [[1, 1, 0, 3, 0, "MODEL"]]
    return {"last_node_id": 5, "last_link_id": 1, "nodes": nodes, "links": links, "groups": [], "version": 0.4}


@pytest.fixture(scope="module", params=FRONTENDS)
def found(request, tmp_path_factory):
    """What one visit of the page left, by drive.mjs; screenshots lie in GUIDANCE_SCREENSHOTS, if that is set."""
    from bench.host_server import running

    root = FRONTENDS[request.param]
    if request.param == "newest" and not root:
        pytest.fail("GUIDANCE_NEWEST_FRONTEND names no frontend; `dev.py test --browser` installs one")
    kept = os.environ.get("GUIDANCE_SCREENSHOTS")
    folder = Path(kept, request.param) if kept else tmp_path_factory.mktemp(request.param)
    folder.mkdir(parents=True, exist_ok=True)
    plan = {"pack": "diffusion-guidance", "templates": sorted(NAMES.values()), "first": FIRST, "node": NODE}
    plan |= {"queued": [NAMES[name] for name in QUEUED], "languages": LANGUAGES}
    plan["blueprint"] = {"name": BLUEPRINT, "workflow": around_the_blueprint()}
    (folder / "plan.json").write_text(json.dumps(plan), "utf-8")
    flags = (*device_flags(), "--input-directory", str(host_folder() / "input"))
    with running(host_folder(), flags=(*flags, "--front-end-root", root) if root else flags) as host:
        command = ["node", str(Path(__file__).with_name("drive.mjs")), host.url, str(folder / "plan.json"), str(folder)]
        subprocess.run(command, timeout=3600, check=True)
    return json.loads((folder / "found.json").read_text("utf-8"))


def test_the_visit_went_to_its_end_without_an_error_of_ours(found):
    assert "error" not in found, found["error"]
    assert [text for text in found["problems"] if not HARMLESS.search(text)] == []


def test_a_new_user_gets_from_the_template_browser_to_a_picture_by_three_clicks(found):
    assert found["started"]["outcome"] == "success"
    assert {"SaveImage", "PreviewImage"} & set(found["started"]["shown"])


def test_every_template_opens_without_a_missing_node_at_a_size_that_can_be_read(found):
    assert len(found["templates"]) > len(NAMES)
    assert {name: seen["missing"] for name, seen in found["templates"].items() if seen["missing"]} == {}
    assert {name: seen["zoom"] for name, seen in found["templates"].items() if seen["zoom"] < 0.6} == {}


def test_no_title_is_cut_and_no_node_is_too_low_for_its_widgets(found):
    for fault in ("cut", "squeezed"):
        assert {name: seen[fault] for name, seen in found["templates"].items() if seen[fault]} == {}


def test_eight_templates_run_from_the_page(found):
    assert {name: seen["outcome"] for name, seen in found["queued"].items()} == {
        NAMES[name]: "success" for name in QUEUED
    }


def as_in_the_form(prompt):
    """Within subgraphs the page puts the ids of those around before a node's own, which is that of the API form."""
    own = {key: key.split(":")[-1] for key in prompt}
    inputs = {
        key: {
            name: [own[value[0]], value[1]] if isinstance(value, list) else value
            for name, value in node["inputs"].items()
        }
        for key, node in prompt.items()
    }
    return {own[key]: {"class_type": node["class_type"], "inputs": inputs[key]} for key, node in prompt.items()}


def test_the_page_queues_what_the_api_form_says(found):
    """Every template, every link, every value; what the form leaves to defaults, the page fills in."""
    for name, title in NAMES.items():
        api = json.loads((ROOT / "workflows" / "api" / f"{name}.json").read_text("utf-8"))
        queued = as_in_the_form(found["templates"][title]["prompt"])
        assert {key: node["class_type"] for key, node in queued.items()} == {
            key: node["class_type"] for key, node in api.items()
        }
        for key, node in api.items():
            given = queued[key]["inputs"]
            assert {name: given.get(name) for name in node["inputs"]} == node["inputs"], f"{title}: node {key}"
            linked = {name for name, value in given.items() if isinstance(value, list)}
            assert linked == {name for name, value in node["inputs"].items() if isinstance(value, list)}, title


def test_a_blueprint_can_be_placed_and_queued(found):
    assert {"model", "encoder", "latent_image"} <= set(found["blueprint"]["inputs"])
    assert found["blueprint"]["outcome"] == "success"


@pytest.mark.parametrize("language", LANGUAGES)
def test_help_opens_in_each_language(found, language):
    page = (ROOT / "web" / "docs" / NODE / f"{language}.md").read_text("utf-8")
    heading = page.splitlines()[0].lstrip("# ")
    assert heading in found["help"][language]
