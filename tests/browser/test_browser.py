"""The real frontend in headless Chromium, the host's own and the newest: what a person sees and clicks."""

import json
import os
import re
import subprocess
from collections import Counter
from functools import cache
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


def test_the_page_queues_what_the_api_form_says(found):
    """What the form leaves to defaults, the page fills in."""
    api = json.loads((ROOT / "workflows" / "api" / "classifier_guidance.json").read_text("utf-8"))
    queued = found["queued"][NAMES["classifier_guidance"]]["prompt"]
    assert {key: node["class_type"] for key, node in queued.items()} == {
        key: node["class_type"] for key, node in api.items()
    }
    for key, node in api.items():
        wanted = node["inputs"] | ({"steps": 4} if "steps" in node["inputs"] else {})
        assert {name: queued[key]["inputs"].get(name) for name in wanted} == wanted


def wiring(prompt):
    """Every node as its kind and, by input, all that leads to it; ids of nodes within subgraphs are the page's own."""

    @cache
    def described(key):
        links = {name: value for name, value in prompt[key]["inputs"].items() if isinstance(value, list)}
        return prompt[key]["class_type"], tuple(
            (name, described(source), slot) for name, (source, slot) in sorted(links.items())
        )

    return Counter(map(described, prompt))


def test_every_template_is_wired_in_the_page_as_in_its_api_form(found):
    lost = []
    for name, title in NAMES.items():
        api = json.loads((ROOT / "workflows" / "api" / f"{name}.json").read_text("utf-8"))
        lost += [title] if wiring(found["templates"][title]["prompt"]) != wiring(api) else []
    assert lost == []


def test_a_blueprint_can_be_placed_and_queued(found):
    assert {"model", "encoder", "latent_image"} <= set(found["blueprint"]["inputs"])
    assert found["blueprint"]["outcome"] == "success"


@pytest.mark.parametrize("language", LANGUAGES)
def test_help_opens_in_each_language(found, language):
    page = (ROOT / "web" / "docs" / NODE / f"{language}.md").read_text("utf-8")
    heading = page.splitlines()[0].lstrip("# ")
    assert heading in found["help"][language]
