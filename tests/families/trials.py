"""What is tried on each family. A new node of guides is one line of GUIDES, another feature one of TRIALS."""

import json
import math
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from compatibility.verdicts import REFUSED, SAID, SILENT, WORKS, Verdict, verdict
from networks import pictures, seeded
from torch import nn

from .build import built
from .table import FAMILIES

STEPS, CFG = 2, 3.0
PUSH = 0.5  # of the conditions of CFG Combiner
NEAR = 2e-3  # largest difference over the largest value, of what must be the same
SLOPE = 5e-3  # of slopes by our gradient from those of differences
WHOLE = {"start_percent": 0.0, "end_percent": 1.0}


class Painter(nn.Module):
    """A linear decoder of latents of any rank: colours by a fixed map, `ratio` pixels for each latent element."""

    def __init__(self, channels, ratio):
        super().__init__()
        self.register_buffer("factors", seeded(channels, 3, seed=8) * 0.3 / channels**0.5)
        self.ratio = ratio

    def decode(self, z):
        colours = torch.einsum("cr,bc...->br...", self.factors, z)
        return colours.repeat_interleave(self.ratio, -1).repeat_interleave(self.ratio, -2)


@dataclass
class Scene:
    """One family with what is tried on it, and the pack's nodes."""

    execute: Any
    name: str
    encoder: Any
    known: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        made = built(self.name)
        self.refuses = FAMILIES[self.name].refuses
        self.model, self.shape, self.conds = made.model, made.shape, made.conds
        self.sampling = self.model.get_model_object("model_sampling")

    @property
    def vae(self):
        """The VAE that belongs to the model; None where a sample is a picture, and no VAE is needed."""
        from pack.nodes.host.model import latent_channels
        from pack.nodes.host.pictures import is_pixel_model, vae_around

        if is_pixel_model(self.model):
            return None
        ratio = self.model.model.latent_format.spacial_downscale_ratio
        channels = latent_channels(self.model)
        return vae_around(Painter(channels, ratio), channels, ratio)

    def draw(self, model=None, cfg=CFG):
        """Two steps of euler from one seed, as KSampler does."""
        import comfy.sample

        given = self.noise()
        positive, negative, _ = self.conds
        with torch.inference_mode():
            drawn = comfy.sample.sample(
                model or self.model, given, STEPS, cfg, "euler", "simple", positive, negative, given * 0.0, seed=1,
                disable_pbar=True,
            )  # fmt: skip
        return torch.cat([part.flatten() for part in drawn.unbind()]) if drawn.is_nested else drawn

    def noise(self):
        """What a run begins with: a tensor, or several that are packed into one."""
        import comfy.nested_tensor

        found = [seeded(*shape, seed=n) for n, shape in enumerate(self.shape)]
        return found[0] if len(found) == 1 else comfy.nested_tensor.NestedTensor(found)

    def plain(self, cfg=CFG):
        key = f"plain {cfg}"
        if key not in self.known:
            self.known[key] = self.draw(cfg=cfg)
        return self.known[key]

    @property
    def sigma(self):
        """A noise level in the middle of the run."""
        return float(self.sampling.percent_to_sigma(0.5))

    def predicted(self, guider, points):
        """D(x, sigma) at samples, as a sampler sees them."""
        import comfy.samplers

        found = []

        def look(model, x, sigmas, extra_args, callback, disable):
            found.extend(model(point, sigmas[0].expand(len(point)), **extra_args) for point in points)
            return x

        zeros, sigmas = self.noise() * 0.0, torch.tensor([self.sigma, 0.0])
        with torch.inference_mode():
            guider.sample(zeros, zeros, comfy.samplers.KSAMPLER(look), sigmas, seed=1, disable_pbar=True)
        return found

    def guider(self, model=None, positive=0, negative=1, cfg=1.0):
        import comfy.samplers

        guider = comfy.samplers.CFGGuider(model or self.model)
        guider.set_conds(self.conds[positive], self.conds[negative])
        guider.set_cfg(cfg)
        return guider

    def point(self):
        """A sample in the model's space at the middle level."""
        return packed(self.noise()) * (1 + self.sigma)

    def first(self, sample):
        """The latent that is a picture, of those that a sample packs."""
        import comfy.utils

        return comfy.utils.unpack_latents(sample, self.shape)[0]

    def along(self, seed):
        """A direction in that latent."""
        import comfy.nested_tensor

        parts = [seeded(*self.shape[0], seed=seed), *(torch.zeros(shape) for shape in self.shape[1:])]
        return packed(comfy.nested_tensor.NestedTensor(parts)) if len(parts) > 1 else parts[0]


def packed(noise):
    import comfy.utils

    return comfy.utils.pack_latents(noise.unbind())[0] if noise.is_nested else noise


def different(found, plain):
    assert torch.isfinite(found).all(), "not finite"
    assert not torch.equal(found, plain), "nothing happens"


def unchanged(found, plain):
    assert torch.equal(found, plain), "not the same bits"


def same(found, expected):
    assert torch.isfinite(found).all(), "not finite"
    off = float((found - expected).abs().max() / expected.abs().max())
    assert off < NEAR, f"{off:.2g} off"


# --- guides

GUIDES = {
    "Text Guide": lambda s: s.execute("Guidance_TextGuide", encoder=s.encoder, text="a red star", **WHOLE)[0],
    "Style Guide": lambda s: s.execute("Guidance_StyleGuide", encoder=s.encoder, image=pictures(), **WHOLE)[0],
    "Palette Guide": lambda s: s.execute("Guidance_PaletteGuide", image=pictures(), **WHOLE)[0],
}


def guided(scene, guide, **options):
    """Sampled with a guide: it moves the sample, and the report says by how much."""
    given = {"model": scene.model, "guides": GUIDES[guide](scene), "vae": scene.vae, "gradient": "at denoised"}
    (steered,) = scene.execute("Guidance_ApplyGuides", **given, **options)
    return steered, scene.draw(steered)


def guide(name, scene):
    _, drawn = guided(scene, name)
    different(drawn, scene.plain())


def report(scene):
    """Each look of a run is told in finite numbers, and so is the decoder."""
    steered, drawn = guided(scene, "Style Guide")
    _, text = scene.execute("Guidance_GuideReport", model=steered, samples={"samples": drawn})
    told = json.loads(text)
    (rows,) = told["guides"].values()
    assert len(rows) == STEPS and not told["note"], "a look is missing"
    assert all(math.isfinite(row["loss"]) and row["lambda"] > 0 for row in rows), "no push is told"
    assert bool(told["decoder"]) == (scene.vae is not None), "the decoder isn't told"


def through(scene):
    """The gradient through the model has the slopes that finite differences have."""
    with coloured(scene.model.model.latent_format, scene.shape[0][1]) as factors:
        ours, differences = slopes(scene, factors)
    error = float((ours - differences).norm() / differences.norm())
    assert error < SLOPE, f"the gradient is {error:.2g} off finite differences"


@contextmanager
def coloured(latent_format, channels):
    """Colours are a map that every format has for so long, [C 3]; those of a picture are its own."""
    factors = torch.eye(3) if channels == 3 else seeded(channels, 3, seed=8)
    own = {"latent_rgb_factors": factors.tolist(), "latent_rgb_factors_bias": None, "latent_rgb_factors_reshape": None}
    before = dict(latent_format.__dict__)
    latent_format.__dict__.update(own)
    yield factors.double()
    latent_format.__dict__.clear()
    latent_format.__dict__.update(before)


def slopes(scene, factors):
    """Of E = <colours of D(x), wanted> along random directions, [n]: by our gradient, and by central differences."""
    point = scene.point()
    wanted = seeded(1, 3, scene.first(point)[0, 0].numel(), seed=2)
    plain, steered = (scene.predicted(scene.guider(m), [point])[0] for m in (None, through_model(scene, wanted)))
    shift = scene.sigma**2 / (1 - scene.sigma) if is_flow(scene) else scene.sigma**2
    grad = ((plain - steered) / shift).double()
    directions, h = [scene.along(seed) for seed in (10, 11, 12)], 4e-3 * (1 + scene.sigma)
    points = [point + side * h * along for along in directions for side in (1, -1)]
    found = [scene.first(one).double().flatten(2) for one in scene.predicted(scene.guider(), points)]
    energies = [(torch.einsum("cr,bcn->brn", factors, one) * wanted).sum() for one in found]
    differences = [(up - down) / (2 * h) for up, down in zip(energies[::2], energies[1::2], strict=True)]
    return torch.stack([(grad * along).sum() for along in directions]), torch.stack(differences)


def is_flow(scene):
    from pack.nodes.host.model import is_flow

    return is_flow(scene.sampling)


def through_model(scene, wanted):
    """The MODEL with a guide that likes a pattern of colours."""
    from pack.guidance.weight import Weight
    from pack.nodes.host.guides.application import Application
    from pack.nodes.host.guides.guide import COLOURS_ONLY, Guide
    from pack.nodes.host.guides.report import Report
    from pack.nodes.host.guides.run import apply

    liked = Guide(
        name="pattern",
        weight=Weight(1.0),
        measure=lambda colours, sigma: [colours],
        compare=lambda found, wanted: (found[0] * wanted[0]).sum((1, 2)),
        size=COLOURS_ONLY,
        noise_aware=False,
        scale=1.0,
        wanted=[wanted],
    )
    settings = {"strength": 1.0, "unit": "paper", "cap": 0.0, "every": 1, "inner_steps": 1, "views": 1, "frames": 1}
    with torch.inference_mode():
        given = Application([liked], None, gradient="through denoiser", recurrence=1, report=Report(), **settings)
        return apply(scene.model, given)


# --- CFG


SKIPPING = {"adaptive skip": {"threshold": 0.0}}  # predictions of random networks are never as alike as trained ones


def methods(scene):
    """CFG Patch with every method; what is refused, with its sentence."""
    from cfg_sampling import METHODS

    refused = []
    for name, settings in (METHODS | SKIPPING).items():
        found = verdict(partial(method, scene, name, settings))
        assert found.kind != SILENT, f"{name}: {found.words}"
        if found.kind == REFUSED:
            refused.append((name, found.words))
    return refused


def method(scene, name, settings):
    patched = scene.execute("Guidance_CFGPatch", model=scene.model, method={"method": name, **settings})[0]
    drawn = scene.draw(patched)
    assert torch.isfinite(drawn).all(), "not finite"
    if name in ("constant", "perp-neg"):  # without a condition of negative scale there is nothing to project
        assert torch.equal(drawn, scene.plain()), "it is not the guider's own"
    else:
        different(drawn, scene.plain())


def combiner(scene):
    """D = n + s (p - n) + t (m - n) over what each condition predicts alone."""
    conditions = {
        f"condition{place}": scene.execute(
            "Guidance_CFGCondition", conditioning=scene.conds[which], guidance_scale=scale, **WHOLE
        )[0]
        for place, (which, scale) in enumerate(((0, CFG), (2, PUSH)))
    }
    given = {"conditions": conditions, "negative": scene.conds[1], "method": {"method": "constant"}}
    guider = scene.execute("Guidance_CFGCombiner", model=scene.model, **given)[0]
    point = scene.point()
    p, m = (scene.predicted(scene.guider(positive=which), [point])[0] for which in (0, 2))
    (n,) = scene.predicted(scene.guider(cfg=0.0), [point])  # as a negative, which some models tell from a positive
    (found,) = scene.predicted(guider, [point])
    same(found, n + CFG * (p - n) + PUSH * (m - n))


# --- h-space


def hspace(scene):
    """An edit of 0 changes no bit, another one the picture; what is shown of h is what the network goes on with."""
    from pack.nodes.host.hspace.edit import direction_edit, place_of
    from pack.nodes.host.hspace.record import recording

    shown = []
    scene.draw(recording(scene.model, lambda h, place: shown.append(h), place_of(scene.model, 0)))
    width = shown[0].shape[1]
    for asymmetric in (True, False):
        for size in (0.0, 1.0):
            delta = size * seeded(1, width, 1, 1, seed=5)
            edits = [direction_edit(delta, name="d", block=place_of(scene.model, 0))]
            given = {"model": scene.model, "hspace": edits, "asymmetric": asymmetric, **WHOLE}
            (edited,) = scene.execute("Guidance_HSpaceEdit", **given)
            (different if size else unchanged)(scene.draw(edited), scene.plain())


TRIALS = {
    **{name: partial(guide, name) for name in GUIDES},
    "through denoiser": through,
    "Guide Report": report,
    "CFG Patch": methods,
    "CFG Combiner": combiner,
    "HSpace Edit": hspace,
}


def tried(scene, trial):
    """The verdict of a cell."""
    found = []
    kind = verdict(lambda: found.append(TRIALS[trial](scene)))
    network = type(scene.model.model.diffusion_model).__name__
    kind = Verdict(kind.kind, kind.words.replace(f"is a {network},", "is another network,"))
    if kind.kind == SILENT and scene.refuses and scene.refuses in kind.words:
        return Verdict(REFUSED, f"by the model itself: {scene.refuses}")
    (refused,) = found or [None]
    if kind.kind == WORKS and refused:
        return Verdict(SAID, "; ".join(words for _, words in refused))
    return kind
