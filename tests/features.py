"""Every feature that runs a network, at its smallest: nodes in, one tensor out.

What residency, two devices and half precision are tested on.
"""

from pathlib import Path

import torch
from hosts import hosts_own
from networks import SIDE, STEPS, pictures, sampled, seeded
from published_features import embedded, enlarged, filled_hole, glide, imagen, karlo, latent_diffusion

ALWAYS = {"start_percent": 0.0, "end_percent": 1.0}


def guided(networks, guider, sampler="euler"):
    """SamplerCustomAdvanced."""
    import comfy.samplers

    model = guider.model_patcher
    noise = seeded(1, 3, SIDE, SIDE, seed=1)
    sigmas = networks.levels
    if sigmas is None:
        sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "normal", STEPS)
    if isinstance(sampler, str):
        sampler = comfy.samplers.sampler_object(sampler)
    with torch.inference_mode():
        return guider.sample(noise, torch.zeros_like(noise), sampler, sigmas, disable_pbar=True, seed=1).cpu()


def with_guides(networks, guides, kind="unet", vae=None, **options):
    given = {"strength": 1.0, "every": 1, **options}
    if kind == "host":
        (model,) = networks.execute("Guidance_ApplyGuides", model=networks.unet, guides=guides, vae=vae, **given)
        return sampled(networks, model, networks.words(), networks.words(4))
    (model,) = networks.execute(
        "Guidance_ApplyGuides", model=networks.load(kind), guides=guides, vae=networks.vae(kind), **given
    )
    return sampled(networks, model)


def guide(networks, kind, encoder=None):
    """One guide of a kind, in the whole run."""
    given = {"encoder": encoder or networks.encoder, **ALWAYS}
    if kind == "Classifier":
        given = {"classifier": networks.classifier, "class_label": "star", "weight": 20.0, **ALWAYS}
    elif kind == "Text":
        given |= {"text": "a red star"}
    elif kind == "Match":
        given |= {"matcher": networks.matcher, "text": "a red star left of a blue circle"}
    elif kind == "Score":
        given |= {"scorer": networks.scorer, "output": "star"}
    elif kind == "Palette":
        given = {"image": pictures(), **ALWAYS}
    else:
        given |= {"image": pictures()}
    return networks.execute(f"Guidance_{kind}Guide", **given)[0]


def edited(networks, asymmetric):
    """HSpace Edit along a drawn direction."""
    hspace = direction(networks, 128)
    (model,) = networks.execute(
        "Guidance_HSpaceEdit", model=networks.load("hspace"), hspace=hspace, asymmetric=asymmetric, **ALWAYS
    )
    return sampled(networks, model)


def direction(networks, channels):
    """A drawn direction, out of a file as Save HSpace Direction writes it."""
    import folder_paths
    from safetensors.torch import save_file

    folder = Path(folder_paths.get_folder_paths("guidance_directions")[0])
    folder.mkdir(parents=True, exist_ok=True)
    record = {"kind": "hspace_edit", "form": "direction", "name": "drawn"}
    save_file({"delta_h": seeded(1, channels, 1, 1, seed=2)}, folder / f"drawn_{channels}.safetensors", record)
    folder_paths.filename_list_cache.clear()
    return networks.execute("Guidance_LoadHSpaceDirection", direction_name=f"drawn_{channels}.safetensors")[0]


def in_blocks(networks, **options):
    """HSpace Edit behind a block of a transformer, under CFG."""
    from pack.nodes.host.hspace.edit import direction_edit

    hspace = [direction_edit(seeded(1, 80, 1, 1, seed=2), name="drawn", block=1)]
    given = {"model": networks.transformer, "hspace": hspace, **ALWAYS, **options}
    return sampled(networks, networks.execute("Guidance_HSpaceEdit", **given)[0], *tokens(networks), cfg=3.0)


def tokens(networks):
    """(a red shape, no text) for the pack's transformer."""
    given = {"model": networks.transformer, "clip": networks.encoder}
    return [networks.execute("Guidance_TextConditioning", text=text, **given)[0] for text in ("a red shape", "")]


def found_block(networks):
    """A direction in the block that recorded sensitivity names."""
    positive, negative = tokens(networks)
    (vae,) = networks.execute("Guidance_WaveletVAE", model=networks.transformer)
    given = {"model": networks.transformer, "positive": positive, "negative": negative, "vae": vae, "block": -1}
    given |= {"samples": 2, "steps": 2, "method": "contrast", "size": SIDE}
    return delta_h(networks.execute("Guidance_DiscoverHSpace", **given)[0])


def discovered(networks, name, **options):
    given = {"positive": networks.label("star"), "negative": networks.label(), "samples": 2, "steps": 2}
    given["method"] = "contrast"
    return networks.execute("Guidance_DiscoverHSpace", model=networks.load(name), **{**given, **options})[0]


def delta_h(hspace):
    """The tensor of a direction that was found."""
    return hspace[0].tensors["delta_h"].float().cpu()


def trained(networks, model, **options):
    given = {"encoder": networks.encoder, "samples": 1, "rounds": 1, "steps": 4, "form": "one direction"}
    given |= {"learning_rate": 1.0, "optimizer": "SGD", "end_percent": 0.8}
    return delta_h(networks.execute("Guidance_TrainHSpaceDirection", model=model, **{**given, **options})[0])


def injected(networks, model, sampling, **options):
    (model,) = networks.execute(
        "Guidance_HSpaceInject", model=model, image=pictures(), steps=3, strength=0.5, **ALWAYS, **options
    )
    return sampled(networks, model, **sampling)


def timing(networks, model, **options):
    """Both curves of Asyrp Timing."""
    import json

    report = json.loads(networks.execute("Guidance_AsyrpTiming", model=model, image=pictures(), steps=4, **options)[3])
    return torch.tensor([report["t_edit"]["values"], report["t_boost"]["values"]])


def scored(networks):
    """Cosines of two pictures with two texts."""
    import json

    given = {"encoder": networks.encoder, "images": pictures(2), "text": "a red star\na blue ring"}
    return torch.tensor(json.loads(networks.execute("Guidance_CLIPScore", **given)[1])["cosines"])


def matched(networks):
    """Scores of two pictures with two sentences."""
    import json

    given = {"encoder": networks.encoder, "images": pictures(2), "layer": "layer3"}
    (regions,) = networks.execute("Guidance_RegionFeatures", **given)
    given = {"matcher": networks.matcher, "regions": regions, "text": "a red star left of a blue ring\na heart"}
    return torch.tensor(json.loads(networks.execute("Guidance_ImageSentenceMatch", **given)[2])["scores"])


def code(networks):
    return networks.execute("Guidance_SemanticEncode", codec=networks.autoencoder[1], image=pictures(2))[0]


def decoded(networks):
    """What the autoencoder draws of the codes of two pictures."""
    (conditioning,) = networks.execute("Guidance_ApplySemantic", semantic=code(networks))
    return sampled(networks, networks.autoencoder[0], conditioning, conditioning, size=2)


def fitted(networks):
    sets = {"positive": pictures(2, 5), "negative": pictures(2, 6)}
    return networks.execute("Guidance_FitSemanticDirection", codec=networks.autoencoder[1], **sets)[0]


def combined(networks, **options):
    """CFG Combiner with one condition."""
    negative = networks.label()
    (condition,) = networks.execute(
        "Guidance_CFGCondition", conditioning=networks.label("star"), guidance_scale=3.0, **options
    )
    given = {"conditions": {"condition0": condition}, "negative": negative, "method": {"method": "constant"}}
    return guided(networks, networks.execute("Guidance_CFGCombiner", model=networks.load("unet"), **given)[0])


def dual_model(networks):
    kind = hosts_own("comfy_extras.nodes_custom_sampler", "DualModelGuider")
    pair = {"model": networks.load("unet"), "model_negative": networks.load("unet", 1)}
    conds = {"positive": networks.label("star"), "negative": networks.label()}
    return guided(networks, kind.execute(**pair, **conds, cfg=3.0).args[0])


def patched(networks, method, **settings):
    """CFG Patch under KSampler."""
    (model, _) = networks.execute(
        "Guidance_CFGPatch", model=networks.load("unet"), method={"method": method, **settings}
    )
    return sampled(networks, model, cfg=4.0)


def published(networks, name, **options):
    (sampler,) = networks.execute(f"Guidance_{name}Sampler", **options)
    guider = _cfg_guider(networks.load("unet"), networks.label("star"), networks.label(), 1.0)
    return guided(networks, guider, sampler)


def _cfg_guider(model, positive, negative, cfg):
    import comfy.samplers

    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(positive, negative)
    guider.set_cfg(cfg)
    return guider


def inverted(networks, model, **options):
    return networks.execute("Guidance_DDIMInversion", model=model, image=pictures(), steps=4, **options)[1]["samples"]


def classifier_guided(networks, algorithm):
    (latent,) = networks.execute("Guidance_EmptyPixelLatent", width=SIDE, height=SIDE, batch_size=2)
    given = {"model": networks.load("unet"), "classifier": networks.classifier, "class_label": "star", "seed": 1}
    given |= {"latent_image": latent, "steps": STEPS, "algorithm": algorithm, "guidance_scale": 5.0}
    return networks.execute("Guidance_ClassifierGuidedSampler", **given)[0]["samples"]


def looked(networks, **towers):
    """A guide of Encoder from CLIP Vision."""
    (encoder,) = networks.execute("Guidance_EncoderFromClipVision", clip_vision=networks.clip_vision, **towers)
    return with_guides(networks, guide(networks, "Text" if towers else "Content", encoder))


def on_unet(networks):
    """How the host's U-Net is sampled."""
    return {"positive": networks.words(), "negative": networks.words(4)}


def guarded(networks, hold):
    """Edit Guard with a mask that it finds."""
    source = {"samples": pictures().movedim(-1, 1) * 2 - 1}
    given = {"model": networks.load("unet"), "source": source, "hold": hold}
    return sampled(networks, networks.execute("Guidance_EditGuard", **given)[0])


FEATURES = {
    "plain pixel model": lambda n: sampled(n, n.load("unet"), cfg=3.0),
    "plain latent model": lambda n: sampled(n, n.load("latent"), cfg=3.0),
    "plain flow model": lambda n: sampled(n, n.load("flow"), cfg=3.0),
    "plain host U-Net": lambda n: sampled(n, n.unet, n.words(), n.words(4), cfg=3.0),
    "CFG Patch: APG": lambda n: patched(n, "APG", eta=0.0, cap=0.06, momentum=-0.5),
    "CFG Patch: rescale": lambda n: patched(n, "rescale", phi=0.7),
    "CFG Patch: perp-neg": lambda n: patched(n, "perp-neg", strength=1.0),
    "CFG Combiner": combined,
    "Reference Dial": lambda n: filled_hole(n, 1.5),
    "Edit Guard: all": lambda n: guarded(n, "all"),
    "Edit Guard: colours": lambda n: guarded(n, "colours"),
    "CFG Combiner: a second model": lambda n: combined(n, reference="model", model=n.load("unet", 1)),
    "CFG Combiner: other time": lambda n: combined(n, reference="other time"),
    "Dual Model CFG Guider": dual_model,
    "Text Guide at denoised": lambda n: with_guides(n, guide(n, "Text"), gradient="at denoised"),
    "Text Guide at denoised optimised": lambda n: with_guides(n, guide(n, "Text"), gradient="at denoised optimised"),
    "Text Guide at noisy": lambda n: with_guides(n, guide(n, "Text"), gradient="at noisy"),
    "Text Guide through denoiser": lambda n: with_guides(n, guide(n, "Text"), gradient="through denoiser"),
    "Content Guide, latent model": lambda n: with_guides(n, guide(n, "Content"), "latent", gradient="at denoised"),
    "Structure Guide, flow model": lambda n: with_guides(n, guide(n, "Structure"), "flow", gradient="at denoised"),
    "Style Guide": lambda n: with_guides(n, guide(n, "Style"), gradient="at denoised"),
    "Score Guide": lambda n: with_guides(n, guide(n, "Score"), gradient="at denoised"),
    "Match Guide": lambda n: with_guides(n, guide(n, "Match"), gradient="at denoised"),
    "Palette Guide": lambda n: with_guides(n, guide(n, "Palette")),
    "Classifier Guide at noisy": lambda n: with_guides(n, guide(n, "Classifier")),
    "Content Guide, host U-Net and VAE": lambda n: with_guides(n, guide(n, "Content"), "host", n.unet_vae),
    "Encoder from CLIP Vision": looked,
    "Encoder from CLIP Vision and CLIP": lambda n: looked(n, clip=n.clip),
    "Classifier-Guided Sampler: ddim": lambda n: classifier_guided(n, "ddim"),
    "Classifier-Guided Sampler: ddpm": lambda n: classifier_guided(n, "ddpm"),
    "DDIM Sampler": lambda n: published(n, "DDIM", eta=0.5),
    "DDPM Sampler": lambda n: published(n, "DDPM"),
    "DDIM Inversion": lambda n: inverted(n, n.load("unet")),
    "DDIM Inversion, host U-Net and VAE": lambda n: inverted(n, n.unet, conditioning=n.words(), vae=n.unet_vae),
    "GLIDE with CFG, inpainting": glide,
    "Karlo with CFG": karlo,
    "UnCLIP Prior": lambda n: embedded(n).image_embeds,
    "Karlo's super-resolution": enlarged,
    "IF, stage I with CFG": lambda n: imagen(n, "one"),
    "IF, stage II with CFG": lambda n: imagen(n, "two"),
    "latent diffusion with CFG": lambda n: latent_diffusion(n, "checkpoint", ("class 1", "")),
    "latent diffusion without classes": lambda n: latent_diffusion(n, "unconditional", ("", "")),
    "CLIP Score": scored,
    "Image-Sentence Match": matched,
    "HSpace Edit, symmetric": lambda n: edited(n, False),
    "HSpace Edit, asymmetric": lambda n: edited(n, True),
    "HSpace Edit, transformer, symmetric": lambda n: in_blocks(n, asymmetric=False),
    "HSpace Edit, transformer, asymmetric": in_blocks,
    "HSpace Inject": lambda n: injected(n, n.load("hspace"), {}),
    "HSpace Inject, host U-Net and VAE": lambda n: injected(
        n, n.unet, on_unet(n), conditioning=n.words(), vae=n.unet_vae
    ),
    "Discover HSpace: contrast": lambda n: delta_h(discovered(n, "hspace")),
    "Discover HSpace: pca": lambda n: delta_h(discovered(n, "hspace", method="pca", components=1)),
    "Discover HSpace: pictures": lambda n: delta_h(
        discovered(n, "hspace", positive_images=pictures(2, 5), negative_images=pictures(2, 6))
    ),
    "Discover HSpace, transformer": found_block,
    "Train HSpace Direction": lambda n: trained(n, n.load("hspace")),
    # |P~ - P| of `keep` has its kink where training begins: its gradient there is the sign of P~'s rounding
    "Train HSpace Direction, pictures": lambda n: trained(n, n.load("hspace"), images=pictures(), keep=0.0),
    "Train HSpace Direction, host U-Net and VAE": lambda n: trained(
        n, n.unet, vae=n.unet_vae, conditioning=n.words(), size=64
    ),
    "Asyrp Timing": lambda n: timing(n, n.load("unet")),
    "Asyrp Timing, encoder": lambda n: timing(
        n, n.load("unet"), encoder=n.encoder, source_text="a shape", target_text="a star"
    ),
    "Asyrp Timing, host U-Net and VAE": lambda n: timing(
        n, n.unet, encoder=n.encoder, conditioning=n.words(), vae=n.unet_vae
    ),
    "Semantic Encode": lambda n: code(n).z_sem,
    "Stochastic Encode": lambda n: n.execute(
        "Guidance_StochasticEncode", model=n.autoencoder[0], semantic=code(n), image=pictures(2), steps=4
    )[1]["samples"],
    "Apply Semantic": decoded,
    "Fit Semantic Direction": lambda n: fitted(n).line.weight,
    "Move Semantic": lambda n: (
        n.execute("Guidance_MoveSemantic", codec=n.autoencoder[1], semantic=code(n), direction=fitted(n), amount=1.0)[
            0
        ].z_sem
    ),
    "Sample Semantic": lambda n: (
        n.execute("Guidance_SampleSemantic", codec=n.autoencoder[1], seed=1, batch_size=2, steps=5)[0].z_sem
    ),
}
