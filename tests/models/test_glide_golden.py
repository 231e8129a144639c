"""GLIDE's networks print what openai/glide-text2im printed."""

from functools import partial

import golden_files
import pytest
import torch
from glide_golden import CASE, Published, beside, tokens, towers, unet
from torch.nn.functional import normalize

from pack.guidance.sampling import sample_ddpm


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


@pytest.fixture(scope="module")
def noisy_clip():
    return towers(golden_files.load(CASE)[0])


def test_the_noisy_clips_embeddings_are_the_published_ones(noisy_clip):
    """There they have unit length."""
    _, golden = golden_files.load(CASE)
    image, text = noisy_clip
    seen = normalize(image.embed(golden["forward.x"], golden["forward.t"]), dim=1)
    read = normalize(text.read(golden["clip.tokens"], golden["clip.lens"] - 1), dim=1)
    assert golden_files.relative_error(seen, golden["clip.image_embedding"]) < 1e-5
    assert golden_files.relative_error(read, golden["clip.text_embedding"]) < 1e-5


def test_the_noisy_clips_gradient_is_the_published_one(noisy_clip):
    arguments, golden = golden_files.load(CASE)
    x = golden["forward.x"].clone().requires_grad_(True)
    seen = normalize(noisy_clip[0].embed(x, golden["forward.t"]), dim=1)
    similar = 100 * (seen * golden["clip.text_embedding"]).sum()
    (grad,) = torch.autograd.grad(similar, x)
    scale = grad.norm() / golden["clip.grad"].norm()
    assert golden_files.relative_error(grad, golden["clip.grad"]) < 1e-5, scale


@pytest.mark.parametrize("kind", ["cfg", "plain", "clip_guided"])
def test_a_whole_run_is_the_published_one(noisy_clip, kind):
    run = Published()
    cfg = run.arguments["cfg_scale"] if kind == "cfg" else 1.0
    gradient = run.gradient(noisy_clip[0]) if kind == "clip_guided" else None
    with torch.no_grad():
        predict = partial(run.predict, cfg=cfg)
        final = sample_ddpm(predict, run.x_T, run.sigmas, run.noise, gradient=gradient)
    assert golden_files.relative_error(final, run.golden[f"{kind}.ddpm.final"]) < 1e-3
