"""The table of compatibility once more, on models of texts and of tokens: guiders, conditioning nodes, patches."""

from functools import partial

import pytest
from compatibility.chains import CHAINS
from compatibility.conditioning import NODES
from compatibility.guiders import GUIDERS
from compatibility.patches import PATCHES
from compatibility.verdicts import REFUSED, WORKS, in_chain, together, verdict
from conftest import run_node
from text_scenes import SCENES

pytestmark = pytest.mark.host
EMPTIED = {"Zero Out": "the text was emptied"}
REFUSALS = {
    "GLIDE": {"Concat": "two texts were joined"},
    "Karlo": EMPTIED,
    "IF": EMPTIED,
    "latent diffusion": {"Concat": "two conditionings were joined"},
}
DRAWN = ("IF", "latent diffusion")  # whose weights are drawn, so that the gradient of a guide moves nothing


@pytest.fixture(scope="module", params=SCENES)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def scene(family, pack_nodes):
    return SCENES[family](partial(run_node, pack_nodes))


@pytest.mark.parametrize("guider", GUIDERS)
def test_a_guider_on_texts_is_its_formula(scene, guider):
    found = verdict(partial(together, scene, None, guider, None))
    assert found.kind == WORKS, found.words


@pytest.mark.parametrize("node", NODES)
@pytest.mark.parametrize("guider", ["CFGGuider", "PerpNegGuider", "DualCFGGuider, nested", "CFG Combiner"])
def test_a_conditioning_node_on_a_text_does_what_it_does_on_a_label(scene, family, guider, node):
    found = verdict(partial(together, scene, None, guider, node))
    if node in REFUSALS[family]:
        assert found.kind == REFUSED and REFUSALS[family][node] in found.words
    else:
        assert found.kind == WORKS, found.words


@pytest.mark.parametrize("patch", PATCHES)
def test_a_patch_acts_on_such_a_model_or_is_refused_in_words(scene, patch):
    found = verdict(partial(together, scene, patch, "CFGGuider", None))
    assert found.kind in (WORKS, REFUSED), found.words


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("patch", ["Apply Guides, at denoised", "CFG Patch, APG", "HSpace Edit, symmetric"])
def test_two_samplers_in_a_row_are_one_run(scene, family, patch, chain):
    if family in DRAWN and patch.startswith("Apply Guides"):
        pytest.skip("guides are tried on trained weights, and those of this model are drawn")
    found = verdict(partial(in_chain, scene, patch, chain))
    assert found.kind == WORKS, found.words
