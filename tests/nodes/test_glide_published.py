"""GLIDE's golden trajectories inside the host: our loaders and nodes, the stock sampling, injected noise."""

from functools import cache, partial

import glide_golden
import golden_files
import pytest
import torch
from networks import seeded

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
    from pack.nodes.host.conditioning import with_picture
    from pack.nodes.host.pixel.kept import with_kept

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
