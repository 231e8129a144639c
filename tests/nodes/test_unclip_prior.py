"""Priors inside the host: golden runs, seeds, the best of several, blends, and what is refused."""

import json
from functools import cache

import golden_files
import prior_golden
import pytest
import torch
from networks import seeded
from torch.nn.functional import cosine_similarity

pytestmark = pytest.mark.host


@pytest.fixture(scope="module")
def load(pack_nodes):
    from conftest import run_node

    @cache
    def prior(which):
        given = {"prior_name": prior_golden.stored(which, f"{which}.safetensors")}
        if which == "karlo":
            given["statistics_name"] = "stats.th"
        return run_node(pack_nodes, "Guidance_LoadPrior", **given)[0]

    return prior


@pytest.fixture(scope="module")
def clip(comfy):
    from clip_towers import clip_of

    return clip_of(24)


@pytest.mark.parametrize(
    ("which", "name", "tolerance"), [("karlo", "cfg.ddpm.final", 1e-5), ("kandinsky", "cfg.range10", 1e-3)]
)
def test_a_prior_in_the_host_gives_the_published_embeddings(load, monkeypatch, which, name, tolerance):
    from pack.nodes.host.pixel.states import Read
    from pack.nodes.host.unclip import prior as module

    run = prior_golden.Published(which)
    texts = dict(zip(("wanted", "null"), map(run.texts, run.halves), strict=True))

    def read(clip, text, width):
        states, pooled, mask = texts[text]
        return Read(states, mask, pooled)

    monkeypatch.setattr(module, "read_clip", read)
    monkeypatch.setattr(module, "own_noise", lambda *_: run.start)
    monkeypatch.setattr(module, "StepNoise", lambda *_: run.noise)
    scale = run.arguments["cfg_scale"]
    with torch.inference_mode():
        found, _ = load(which).embed(None, ("wanted", "null"), (0, 2), run.steps, scale, 10.0)
    assert golden_files.relative_error(found, run.golden[name]) < tolerance


def drawn(execute, load, clip, which="karlo", **options):
    given = {"prior": load(which), "clip": clip, "text": "a red dog", "seed": 3, "steps": 4, **options}
    output, report = execute("Guidance_UnclipPrior", **given)
    return output, json.loads(report)


def test_the_best_of_several_is_the_one_nearest_to_the_text(execute, load, clip):
    output, report = drawn(execute, load, clip, samples=3)
    assert report["cosine"] == max(report["cosines"]) and len(report["cosines"]) == 3
    alone, _ = drawn(execute, load, clip, seed=3 + report["sample"])
    torch.testing.assert_close(alone.image_embeds, output.image_embeds, atol=1e-4, rtol=1e-4)
    assert output.image_embeds.shape == (1, 24)


def test_seed_scale_negative_and_text_matter_and_scale_1_needs_no_negative(execute, load, clip):
    usual = drawn(execute, load, clip)[0].image_embeds
    assert drawn(execute, load, clip)[0].image_embeds.equal(usual)
    for change in ({"seed": 4}, {"guidance_scale": 2.0}, {"negative": "a cat"}, {"text": "a blue cat"}):
        assert not drawn(execute, load, clip, **change)[0].image_embeds.equal(usual), change
    one, other = (
        drawn(execute, load, clip, guidance_scale=1.0, negative=text)[0].image_embeds for text in ("", "a cat")
    )
    assert one.equal(other)


def test_the_clamp_is_the_files_or_the_users(execute, load, clip):
    assert (load("karlo").clamp, load("kandinsky").clamp) == (10.0, 10.0)
    usual, tight = (drawn(execute, load, clip, x0_clamp=value)[0].image_embeds for value in (0.0, 0.1))
    assert drawn(execute, load, clip, x0_clamp=10.0)[0].image_embeds.equal(usual)
    run = prior_golden.Published("karlo")
    assert ((tight - run.mean) / run.std).abs().max() < 0.1 + 1e-4 < ((usual - run.mean) / run.std).abs().max()


def test_the_output_is_one_that_the_hosts_own_node_takes(execute, load, clip):
    from nodes import unCLIPConditioning

    output, _ = drawn(execute, load, clip)
    (told,) = unCLIPConditioning().apply_adm([[torch.zeros(1, 77, 24), {}]], output, 1.0, 0.0)
    assert told[0][1]["unclip_conditioning"][0]["clip_vision_output"].image_embeds is output.image_embeds


@pytest.fixture(scope="module")
def encoder(pack_nodes):
    from conftest import run_node

    return run_node(pack_nodes, "Guidance_LoadEncoder", encoder_name="scenes_clip.safetensors")[0]


def test_the_packs_own_clip_reads_for_its_prior(execute, encoder):
    """What it makes of a caption is nearer to pictures of it than to pictures of another."""
    from training.scenes import draw, render

    (prior,) = execute("Guidance_LoadPrior", prior_name="scenes_prior.safetensors")
    given = {"prior": prior, "clip": encoder, "seed": 0, "steps": 10}
    made = [
        execute("Guidance_UnclipPrior", text=f"a red {shape}", **given)[0].image_embeds for shape in ("star", "ring")
    ]
    mean = []
    for shape in (3, 5):
        fixed = {"shape": torch.full((16,), shape), "colour": torch.zeros(16, dtype=torch.long)}
        images = render(draw(16, torch.Generator().manual_seed(shape), **fixed)).image.movedim(1, -1).add(1).div(2)
        (found,) = execute("Guidance_ImageEmbeds", encoder=encoder, images=images)
        assert found.image_embeds.shape == (16, 64)
        mean.append(found.image_embeds.mean(0, keepdim=True))
    for own, other in ((0, 1), (1, 0)):
        assert cosine_similarity(made[own], mean[own]) > cosine_similarity(made[own], mean[other])


def test_a_row_is_what_the_encoder_sees_in_the_picture_alone(execute, encoder):
    images = seeded(3, 32, 32, 3).sigmoid()
    (both,) = execute("Guidance_ImageEmbeds", encoder=encoder, images=images)
    (last,) = execute("Guidance_ImageEmbeds", encoder=encoder, images=images[2:])
    torch.testing.assert_close(both.image_embeds[2:], last.image_embeds, atol=1e-4, rtol=1e-4)


def test_an_empty_text_is_one_state_of_zeros_for_the_packs_own_clip(encoder):
    from pack.nodes.host.pixel.towers import read_clip

    empty, said = read_clip(encoder, "", 64), read_clip(encoder, "a red star", 64)
    assert not empty.states.any() and not empty.pooled.any() and empty.mask.sum() == 1
    assert said.mask.sum() == 3 and said.pooled.equal(encoder.text("a red star"))


class Seen:
    def __init__(self, image_embeds):
        self.image_embeds = image_embeds


def test_blends_begin_at_the_first_and_lead_to_the_goal(execute, clip):
    a, b = Seen(seeded(1, 24)), Seen(seeded(1, 24, seed=1))
    (rows,) = execute("Guidance_BlendImageEmbeds", embed_a=a, embed_b=b, frames=5, fraction=1.0)
    assert rows.image_embeds.shape == (5, 24)
    assert rows.image_embeds[0].equal(a.image_embeds[0]) and rows.image_embeds[-1].equal(b.image_embeds[0])
    given = {"embed_a": a, "clip": clip, "source_text": "a dog", "target_text": "a cat", "fraction": 0.4}
    (edited,) = execute("Guidance_BlendImageEmbeds", method="text difference", **given)
    from pack.nodes.host.unclip.outputs import difference_of

    with torch.inference_mode():
        difference = difference_of(clip, "a dog", "a cat", 24)[None]
    before, after = (cosine_similarity(x.image_embeds, difference) for x in (a, edited))
    assert after > before


def test_what_does_not_fit_is_refused(execute, load, clip, encoder):
    from networks import Networks

    bare = prior_golden.stored("karlo", "bare.safetensors")
    narrow = Networks(execute).clip  # 16 wide
    a, b = Seen(seeded(1, 24)), Seen(seeded(1, 16))
    for node, given, match in (
        ("LoadPrior", {"prior_name": bare}, r"bare.safetensors holds no statistics.*ViT-L-14_stats.*'statistics_name'"),
        ("LoadPrior", {"prior_name": bare, "statistics_name": "narrow.th"}, r"a mean and a deviation of 24 numbers"),
        ("UnclipPrior", {"prior": load("karlo"), "clip": narrow, "text": "a"}, r"24 numbers.*have 16.*'clip'"),
        ("UnclipPrior", {"prior": load("karlo"), "clip": encoder, "text": "a"}, r"24 numbers.*clip.* has 64.*'clip'"),
        ("UnclipPrior", {"prior": load("karlo"), "clip": clip, "text": " "}, r"it is empty.*'text'"),
        ("BlendImageEmbeds", {"embed_a": a, "embed_b": b}, r"an embedding of 16 numbers came, and embed_a.*'embed_b'"),
        ("BlendImageEmbeds", {"embed_a": a}, r"nothing is connected.*'embed_b'"),
        ("BlendImageEmbeds", {"embed_a": a, "method": "text difference"}, r"nothing is connected.*'clip'"),
        (
            "BlendImageEmbeds",
            {"embed_a": a, "method": "text difference", "clip": clip, "source_text": "a", "target_text": "a"},
            "are the same, and lead nowhere",
        ),
    ):
        with pytest.raises(ValueError, match=match):
            execute(f"Guidance_{node}", **given)


def test_a_model_is_no_prior(execute):
    import shutil
    from pathlib import Path

    import folder_paths
    from conftest import ROOT

    folder = Path(folder_paths.get_folder_paths("guidance_priors")[0])
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / "models" / "demo" / "encoders" / "scenes_clip.safetensors", folder / "clip.safetensors")
    folder_paths.filename_list_cache.clear()
    with pytest.raises(ValueError, match="Load Guidance Encoder; a prior is needed here"):
        execute("Guidance_LoadPrior", prior_name="clip.safetensors")


def test_other_statistics_under_the_same_name_are_read_anew(pack_nodes):
    import os
    from pathlib import Path

    import folder_paths

    name = prior_golden.stored("karlo", "aged.safetensors")
    node = pack_nodes["Guidance_LoadPrior"]
    before = node.fingerprint_inputs(prior_name=name, statistics_name="stats.th")
    os.utime(Path(folder_paths.get_full_path("guidance_priors", "stats.th")), (1, 1))
    assert node.fingerprint_inputs(prior_name=name, statistics_name="stats.th") != before
    assert len(node.fingerprint_inputs(prior_name=name)) == 1
