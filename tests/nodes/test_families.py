"""Every image and video family of the host, at tiny width: what works on it, and what is refused in words.

After a change, or for a newer ComfyUI:
GUIDANCE_RECORD_FAMILIES=1 python dev.py test -n0 --slow tests/nodes/test_families.py
"""

import os
from functools import partial

import pytest
from compatibility.verdicts import SILENT
from conftest import ROOT, run_node
from families.decoders import decoder_table
from families.page import absent, page, row, sentences
from families.table import FAMILIES, NOT_BUILT, known
from families.trials import TRIALS, Scene, tried
from hosts import version

pytestmark = pytest.mark.host
PAGE = ROOT / "docs" / "models.md"
RECORDS = bool(os.environ.get("GUIDANCE_RECORD_FAMILIES"))
# Latents of 3, 4, 12, 16, 48, 64 and 128 channels, pictures, videos and several packed into one.
EXAMPLES = ["LotusD", "SD15", "SDXL", "SD3", "Flux", "Flux2", "ZImage", "QwenImage", "WAN22_T2V", "GenmoMochi", "LTXAV"]
EXAMPLES += ["Chroma", "ChromaRadiance", "ZImagePixelSpace", "HunyuanImage21", "Lumina2", "Anima"]


def cells():
    for name in FAMILIES:
        marks = [] if name in EXAMPLES else [pytest.mark.slow]
        yield from (pytest.param(name, trial, id=f"{name} | {trial}", marks=marks) for trial in TRIALS)


@pytest.fixture(scope="module")
def verdicts(pack_nodes, encoder):
    """By family and trial, found when asked for; one family lives at a time."""
    known, scenes = {}, {}

    def found(name, trial):
        if (name, trial) not in known:
            if name not in scenes:
                scenes.clear()
                scenes[name] = Scene(partial(run_node, pack_nodes), name, encoder)
            known[name, trial] = tried(scenes[name], trial)
        return known[name, trial]

    return found


def test_every_class_of_the_host_is_built_or_has_a_reason_why_not(comfy):
    import comfy.supported_models

    there = {kind.__name__ for kind in comfy.supported_models.models}
    listed = set(FAMILIES) | set(NOT_BUILT)
    assert there <= listed, f"new in this ComfyUI: {sorted(there - listed)}"
    assert not set(FAMILIES) & set(NOT_BUILT)


@pytest.mark.parametrize("name, trial", list(cells()))
def test_a_cell_works_or_says_in_words_that_it_does_not(verdicts, name, trial):
    found = verdicts(name, trial)
    assert found.kind != SILENT, found.words


@pytest.fixture
def written(comfy):
    """The page in the tree, if it is of this ComfyUI."""
    text = "" if RECORDS else PAGE.read_text("utf-8")
    if not RECORDS and f"on ComfyUI {version()}:" not in text:
        pytest.skip(f"docs/{PAGE.name} was written on another ComfyUI than {version()}")
    return text


@pytest.mark.skipif(RECORDS, reason="the page is being written")
@pytest.mark.parametrize("name", EXAMPLES)
def test_the_page_says_what_was_found_on_the_examples(verdicts, written, name):
    """The other rows are compared behind --slow."""
    found = {(name, trial): verdicts(name, trial) for trial in TRIALS}
    assert row(name, found, sentences(written)) in written, "record it anew; see the head of this file"


@pytest.mark.skipif(RECORDS, reason="the page is being written")
def test_the_page_names_every_family_and_every_decoder(written):
    assert all(f"| {name} |" in written for name in FAMILIES)
    assert decoder_table() in written and written.endswith(absent())


@pytest.mark.slow
def test_the_page_says_what_was_found(verdicts, written):
    found = page({(name, trial): verdicts(name, trial) for name in known() for trial in TRIALS}, version())
    if RECORDS:
        PAGE.write_text(found, "utf-8")
    else:
        assert found == written, "record it anew; see the head of this file"
