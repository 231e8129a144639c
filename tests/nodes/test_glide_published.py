"""GLIDE's golden trajectories inside the host: our loaders and nodes, the stock sampling, injected noise."""

import json
from functools import cache, partial

import glide_golden
import golden_files
import pytest
import torch
from networks import seeded
from safetensors.torch import save_file

pytestmark = pytest.mark.host


@pytest.fixture(scope="module")
def load(pack_nodes):
    """MODEL of one of the golden networks, "base." and so on."""
    from conftest import run_node

    @cache
    def model(part):
        name = glide_golden.stored(part, f"published_{part}safetensors")
        return run_node(pack_nodes, "Guidance_LoadModel", model_name=name)[0]

    return model


@pytest.fixture(scope="module")
def golden():
    return golden_files.load(glide_golden.CASE)


@pytest.fixture
def told(load, golden):
    """CONDITIONING of the golden tokens, and the null; one text a picture, which the node makes of one alone."""
    from pack.nodes.host.conditioning import TEXT, numbered

    tokens = glide_golden.tokens(golden[1])
    return [[[numbered(tokens), {TEXT: "GPT-2"}]], [[torch.zeros(1, 12, 2), {TEXT: "GPT-2"}]]]


def denoised(model, x, sigma, positive, negative=None, cfg=1.0):
    """The host's prediction x0 at sigma, where the pack's own clamp is not asked for."""
    import comfy.samplers

    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(positive, negative or positive)
    guider.set_cfg(cfg)
    seen = []

    def look(model, start, sigmas, extra_args, callback, disable=None, **_):
        seen.append(model(x, sigmas[:1].expand(len(x)), **extra_args))
        return start

    sampler = comfy.samplers.KSAMPLER(look)
    with torch.inference_mode():
        zero = torch.zeros_like(x)
        guider.sample(zero, zero, sampler, torch.tensor([sigma, 0.0]), disable_pbar=True, seed=0)
    return seen[0]


class Injected:
    def __init__(self, noise):
        self.noise, self.seed = noise, 0

    def generate_noise(self, latent):
        return self.noise


@pytest.mark.parametrize("kind", ["cfg", "plain"])
def test_the_hosts_sampling_with_cfg_gives_the_published_trajectory(load, golden, told, execute, kind):
    import comfy.samplers
    from comfy_extras.nodes_custom_sampler import SamplerCustomAdvanced

    from pack.guidance.sampling import sample_ddpm
    from pack.nodes.host.sampling import published_sampler

    arguments, tensors = golden
    model, doubled = load("base."), tensors["x_T.doubled"]

    def noise(index):
        return golden_files.draw(tuple(doubled.shape), arguments["seed"] + 1000 + index)[: len(doubled) // 2]

    (sigmas,) = execute("Guidance_RespacedSigmas", model=model, respacing=str(arguments["respacing"]))
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(*told)
    guider.set_cfg(arguments["cfg_scale"] if kind == "cfg" else 1.0)
    sampler = published_sampler(partial(sample_ddpm), True, noise=noise)
    start = doubled[: len(doubled) // 2]
    with torch.inference_mode():
        latent = {"samples": torch.zeros_like(start)}
        final = SamplerCustomAdvanced.execute(Injected(start), guider, sampler, sigmas, latent).args[0]["samples"]
    assert golden_files.relative_error(final, tensors[f"{kind}.ddpm.final"]) < 1e-3


def forward(model, part, told, golden, execute):
    """What the network predicts at the golden x and t, by way of the host: eps out of its x0."""
    from pack.nodes.host.pixel.kept import with_kept
    from pack.nodes.host.pixel.small import with_picture

    positive = told[0]
    if part == "inpaint.":
        positive = with_kept(positive, golden["inpaint.image"], golden["inpaint.mask"])
    if part == "upsample.":
        positive = with_picture(positive, golden["upsample.low_res"])
    model = model.clone()
    model.model_options["sampler_post_cfg_function"] = []
    rows = []
    for row, t in enumerate(golden["forward.t"].tolist()):
        sigma = float(model.get_model_object("model_sampling").sigmas[t])
        scaled = golden["forward.x"] * (1 + sigma**2) ** 0.5
        rows.append(((scaled - denoised(model, scaled, sigma, positive)) / sigma)[row])
    return torch.stack(rows)


@pytest.mark.parametrize("part", ["base.", "inpaint.", "upsample."])
def test_the_hosts_prediction_is_the_published_forward(load, golden, told, execute, part):
    _, tensors = golden
    expected = tensors["forward.out" if part == "base." else f"{part}forward.out"][:, :3]
    assert golden_files.relative_error(forward(load(part), part, told, tensors, execute), expected) < 1e-4


def test_what_is_kept_stands_in_every_x0(load, golden, told):
    """Pasted before the clamp, which leaves pictures alone."""
    from pack.nodes.host.pixel.kept import with_kept

    _, tensors = golden
    image, mask = tensors["inpaint.image"].clamp(-1, 1), tensors["inpaint.mask"].round()
    positive, negative = (with_kept(side, image, mask) for side in told)
    x0 = denoised(load("inpaint."), 3 * seeded(2, 3, 16, 16), 3.0, positive, negative, cfg=3.0)
    torch.testing.assert_close(x0 * mask, image * mask)
    assert not (x0 * (1 - mask)).sub(image * (1 - mask)).abs().max() < 0.1
    with pytest.raises(ValueError, match="the same Inpaint Conditioning to both"):
        denoised(load("inpaint."), 3 * seeded(2, 3, 16, 16), 3.0, positive, told[1], cfg=3.0)


@pytest.fixture(scope="module")
def noisy_clip(pack_nodes, golden):
    """Both halves in one folder, as published: one encoder."""
    from pathlib import Path

    import folder_paths
    from conftest import run_node

    folder = Path(folder_paths.get_folder_paths("guidance_encoders")[0])
    folder.mkdir(parents=True, exist_ok=True)
    halves = glide_golden.towers(golden[0], vocabulary=49408)
    for half, network in zip(("image", "text"), halves, strict=True):
        state = network.state_dict()
        metadata = {"architecture": f"glide_clip_{half}", "config": json.dumps(vars(network.config))}
        save_file(state, folder / f"glide_clip_{half}.safetensors", metadata)
    folder_paths.filename_list_cache.clear()
    return run_node(pack_nodes, "Guidance_LoadEncoder", encoder_name="glide_clip_image.safetensors")[0]


@pytest.mark.parametrize("row", [0, 1])
def test_clip_guidance_gives_the_published_trajectory(load, golden, told, noisy_clip, execute, row):
    """Algorithm 1 with the learned variance: weight 1 is 3 times exp(logit scale), 300. Each picture has its text.

    The text is given by its embedding, whose tokens are none of any text.
    """
    import comfy.samplers
    from comfy_extras.nodes_custom_sampler import SamplerCustomAdvanced

    from pack.guidance.sampling import sample_ddpm
    from pack.nodes.host.sampling import published_sampler

    arguments, tensors = golden
    start = tensors["x_T.doubled"][:2]
    noisy_clip.texts.get(f"text {row}", lambda: [tensors["clip.text_embedding"][[row]]])
    window = {"start_percent": 0.0, "end_percent": 1.0}
    (guide,) = execute("Guidance_TextGuide", encoder=noisy_clip, text=f"text {row}", weight=1.0, **window)
    (model,) = execute("Guidance_ApplyGuides", model=load("base."), guides=guide, cap=0.0)
    (sigmas,) = execute("Guidance_RespacedSigmas", model=model, respacing=str(arguments["respacing"]))
    guider = comfy.samplers.CFGGuider(model)
    guider.inner_set_conds({"positive": [[told[0][0][0][[row]], told[0][0][1]]]})

    def noise(index):
        return golden_files.draw(tuple(start.shape), arguments["seed"] + 1000 + index)[[row]]

    sampler = published_sampler(sample_ddpm, True, noise=noise)
    one = start[[row]]
    with torch.inference_mode():
        latent = {"samples": torch.zeros_like(one)}
        final = SamplerCustomAdvanced.execute(Injected(one), guider, sampler, sigmas, latent).args[0]["samples"]
    assert golden_files.relative_error(final, tensors["clip_guided.ddpm.final"][[row]]) < 1e-3


def test_the_two_files_of_the_noisy_clip_are_one_encoder(noisy_clip, execute):
    import folder_paths

    alone = execute("Guidance_LoadEncoder", encoder_name="glide_clip_text.safetensors")[0]
    assert noisy_clip.text("a corgi").equal(alone.text("a corgi"))
    with pytest.raises(ValueError, match="this is the text half.*'images'"):
        execute("Guidance_CLIPScore", encoder=alone, images=torch.rand(1, 16, 16, 3), text="a corgi")
    from pathlib import Path

    folder = Path(folder_paths.get_folder_paths("guidance_encoders")[0])
    (folder / "glide_clip_image.safetensors").rename(folder / "lonely.safetensors")
    folder_paths.filename_list_cache.clear()
    lonely = execute("Guidance_LoadEncoder", encoder_name="lonely.safetensors")[0]
    with pytest.raises(ValueError, match="put clip_text_enc.pt into the same folder.*'encoder'"):
        execute("Guidance_CLIPScore", encoder=lonely, images=torch.rand(1, 16, 16, 3), text="a corgi")
    joined = execute("Guidance_LoadEncoder", encoder_name="lonely.safetensors", text_encoder=alone)[0]
    assert joined.text("a corgi").equal(alone.text("a corgi"))
