"""No cell of the table is silent: a patch works under a guider, on a conditioning node and in a chain, or words come.

After a change: GUIDANCE_RECORD_COMPATIBILITY=1 python dev.py test -n0 tests/nodes/test_compatibility.py
"""

import os
from functools import partial
from itertools import product

import pytest
from compatibility.conditioning import NODES
from compatibility.guiders import GUIDERS
from compatibility.page import page
from compatibility.patches import NETWORK, PATCHES
from compatibility.scene import Scene
from compatibility.verdicts import SILENT, cells, together, verdict
from conftest import ROOT, run_node
from hosts import version

pytestmark = pytest.mark.host
PAGE = ROOT / "docs" / "compatibility.md"

CELLS = cells()


@pytest.fixture(scope="module")
def scene(pack_nodes):
    return Scene(partial(run_node, pack_nodes))


@pytest.fixture(scope="module")
def verdicts(scene):
    """By cell, found when asked for."""
    known = {}

    def found(key):
        if key not in known:
            known[key] = verdict(partial(CELLS[key], scene))
        return known[key]

    return found


@pytest.mark.parametrize("key", [pytest.param(key, id=" | ".join(key)) for key in CELLS])
def test_a_cell_works_or_says_in_words_that_it_does_not(verdicts, key):
    found = verdicts(key)
    assert found.kind != SILENT, found.words


def triples():
    """Network patches under every guider on every conditioning node: formulas of formulas, without a page."""
    patches = (name for name, patch in PATCHES.items() if patch.kind == NETWORK)
    return [pytest.param(*names, id=" | ".join(names)) for names in product(patches, GUIDERS, NODES)]


@pytest.mark.slow
@pytest.mark.parametrize("patch, guider, node", list(triples()))
def test_three_together_work_or_are_refused_in_words(scene, patch, guider, node):
    found = verdict(partial(together, scene, patch, guider, node))
    assert found.kind != SILENT, found.words


def test_the_page_says_what_was_found(verdicts):
    if f"on ComfyUI {version()}." not in PAGE.read_text("utf-8") and not os.environ.get(
        "GUIDANCE_RECORD_COMPATIBILITY"
    ):
        pytest.skip(f"docs/{PAGE.name} was written on another ComfyUI than {version()}")
    written = page({key: verdicts(key) for key in CELLS}, version())
    if os.environ.get("GUIDANCE_RECORD_COMPATIBILITY"):
        PAGE.write_text(written, "utf-8")
    assert written == PAGE.read_text("utf-8"), "record it anew; see the head of this file"
