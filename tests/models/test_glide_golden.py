"""GLIDE's networks print what openai/glide-text2im printed."""

import golden_files
import pytest
import torch
from glide_golden import CASE, beside, tokens, unet


def test_the_text_transformer_is_the_published_one():
    arguments, golden = golden_files.load(CASE)
    text = unet("base.", arguments).read(tokens(golden))
    assert golden_files.relative_error(text.states, golden["text.states"]) < 1e-5
    assert golden_files.relative_error(text.pooled, golden["text.pooled"]) < 1e-5


@pytest.mark.parametrize("part", ["base.", "inpaint.", "upsample."])
def test_the_unet_forward_is_the_published_one(part):
    arguments, golden = golden_files.load(CASE)
    network = unet(part, arguments)
    x = torch.cat([golden["forward.x"], *beside(part, golden)], dim=1)
    out = network(x, golden["forward.t"], network.read(tokens(golden)))
    expected = golden["forward.out" if part == "base." else f"{part}forward.out"]
    assert golden_files.relative_error(out, expected) < 1e-5
