"""The real frontend in headless Chromium: template list, missing nodes, a run from the page, a picture on a node."""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT

pytestmark = pytest.mark.browser
# the host's own noise on a fresh, offline installation
HARMLESS = re.compile(
    r"status of (404|403)|ERR_|Content Security Policy|api\.comfy\.org|googletag|firebase|graph accessed before",
    re.IGNORECASE,
)


def api_inputs():
    """Class and inputs of every node of the API form."""
    workflow = json.loads((ROOT / "workflows" / "api" / "classifier_guidance.json").read_text("utf-8"))
    return {key: {"class_type": node["class_type"], "inputs": node["inputs"]} for key, node in workflow.items()}


def test_a_template_loads_and_runs_from_the_page(server, tmp_path):
    folder = Path(os.environ.get("GUIDANCE_SCREENSHOTS") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    script = Path(__file__).with_name("run_template.mjs")
    command = ["node", str(script), server.url, "diffusion-guidance", "classifier_guidance", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)
    found = json.loads(done.stdout.splitlines()[-1])
    assert "error" not in found, found
    assert found["missing"] == [] and found["overlay"] == 0
    assert found["outcome"] == "success"
    assert "SaveImage" in found["shown"] or "PreviewImage" in found["shown"]
    assert found["prompt"] == api_inputs()
    assert [text for text in found["problems"] if not HARMLESS.search(text)] == []
    assert (folder / "finished.png").stat().st_size > 20_000
