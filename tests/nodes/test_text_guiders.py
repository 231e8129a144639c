"""The table of compatibility once more, on the text-conditional model: its guiders, conditioning nodes and patches."""

from functools import cached_property, partial

import pytest
from compatibility.chains import CHAINS
from compatibility.conditioning import NODES
from compatibility.guiders import GUIDERS
from compatibility.patches import PATCHES
from compatibility.scene import Scene, with_lora
from compatibility.verdicts import REFUSED, WORKS, in_chain, together, verdict
from conftest import run_node

pytestmark = pytest.mark.host
TEXTS = {"p": "a striped star", "m": "a red shape", "n": "", "b": "a blue shape"}
REFUSALS = {"Concat": "two texts were joined"}


class TextScene(Scene):
    """The scene of the table, with texts for labels."""

    @cached_property
    def models(self):
        given = {"model_name": "scenes_text.safetensors", "clip_denoised": False}
        main, second = (self.execute("Guidance_LoadModel", **given)[0] for _ in range(2))
        return {"main": main, "second": with_lora(self, second, -1.0)}

    @cached_property
    def labels(self):
        model = self.models["main"]
        return {
            key: self.execute("Guidance_TextConditioning", model=model, text=text)[0] for key, text in TEXTS.items()
        }


@pytest.fixture(scope="module")
def scene(pack_nodes):
    return TextScene(partial(run_node, pack_nodes))


@pytest.mark.parametrize("guider", GUIDERS)
def test_a_guider_on_texts_is_its_formula(scene, guider):
    found = verdict(partial(together, scene, None, guider, None))
    assert found.kind == WORKS, found.words


@pytest.mark.parametrize("node", NODES)
@pytest.mark.parametrize("guider", ["CFGGuider", "PerpNegGuider", "DualCFGGuider, nested", "CFG Combiner"])
def test_a_conditioning_node_on_a_text_does_what_it_does_on_a_label(scene, guider, node):
    found = verdict(partial(together, scene, None, guider, node))
    if node in REFUSALS:
        assert found.kind == REFUSED and REFUSALS[node] in found.words
    else:
        assert found.kind == WORKS, found.words


@pytest.mark.parametrize("patch", PATCHES)
def test_a_patch_acts_on_the_text_conditional_model_or_is_refused_in_words(scene, patch):
    found = verdict(partial(together, scene, patch, "CFGGuider", None))
    assert found.kind in (WORKS, REFUSED), found.words


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("patch", ["Apply Guides, at denoised", "CFG Patch, APG", "HSpace Edit, symmetric"])
def test_two_samplers_in_a_row_are_one_run(scene, patch, chain):
    found = verdict(partial(in_chain, scene, patch, chain))
    assert found.kind == WORKS, found.words
