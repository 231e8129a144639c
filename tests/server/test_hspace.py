"""h-space in a real server, on its workflows cut short: off to the byte, and refused in words."""

import io
import json

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

from bench.host_server import HostError

pytestmark = pytest.mark.server
SHORT = {"Guidance_DiscoverHSpace": {"samples": 8, "steps": 3}, "KSampler": {"steps": 3}}
SHORT |= {"Guidance_TrainHSpaceDirection": {"samples": 2, "steps": 4, "rounds": 1}}
SHORT |= {"Guidance_HSpaceInject": {"steps": 4}, "Guidance_AsyrpTiming": {"steps": 4}}


def workflow(name):
    prompt = json.loads((ROOT / "workflows" / "api" / f"{name}.json").read_text("utf-8"))
    for node in prompt.values():
        node["inputs"].update(SHORT.get(node["class_type"], {}))
    return prompt


def pictures(server, prompt):
    """All saved pictures of a run, as arrays."""
    outputs = server.run(prompt)
    pngs = [png for output in outputs.values() if "images" in output for png in server.images(output)]
    return [np.asarray(Image.open(io.BytesIO(png)).convert("RGB")) for png in pngs]


def by_class(prompt, class_type):
    return [(key, node) for key, node in prompt.items() if node["class_type"] == class_type]


def test_a_strength_of_0_gives_the_same_picture_and_another_does_not(server):
    prompt = workflow("hspace_dial")
    for _, node in by_class(prompt, "Guidance_ContactSheet"):
        node["inputs"]["titles"] = ""
    for _, node in by_class(prompt, "Guidance_HSpaceEdit"):
        node["inputs"]["strength"] = 0.0
    (sheet,) = pictures(server, prompt)
    for _, node in by_class(prompt, "Guidance_HSpaceEdit"):
        node["inputs"]["strength"] = 4.0
    (other,) = pictures(server, prompt)
    rows = np.split(sheet, 5)
    assert all(np.array_equal(row, rows[1]) for row in rows)
    assert not np.array_equal(other, sheet)


@pytest.mark.parametrize(
    "name, class_type, changed, node, said",
    [
        ("hspace_dial", "Guidance_DiscoverHSpace", {"negative": None}, "Discover HSpace", "negative"),
        ("hspace_discovery", "Guidance_DiscoverHSpace", {"component": 16}, "Discover HSpace", "component"),
        ("hspace_trained", "Guidance_TrainHSpaceDirection", {"target_text": "a shape"}, "Train HSpace", "the same"),
        ("hspace_inject", "Guidance_HSpaceInject", {"latent": None}, "HSpace Inject", "either image or latent"),
    ],
)
def test_what_is_missing_is_said_in_a_sentence(server, name, class_type, changed, node, said):
    prompt = workflow(name)
    for _, found in by_class(prompt, class_type):
        found["inputs"].update(changed)
        found["inputs"] = {key: value for key, value in found["inputs"].items() if value is not None}
    with pytest.raises(HostError) as error:
        server.run(prompt)
    assert node in str(error.value) and said in str(error.value)
