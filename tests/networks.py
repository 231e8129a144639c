"""Every kind of network that the pack runs, loaded by its nodes; seeded where the host would need a large file."""

from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import torch
from hosts import clip_vision_model

SIDE, STEPS = 32, 2


def seeded(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def pictures(count=1, seed=3, size=SIDE):
    return torch.rand(count, size, size, 3, generator=torch.Generator().manual_seed(seed))


def sampled(networks, model, positive=None, negative=None, cfg=1.0, sampler="euler", size=1):
    """The host's KSampler."""
    import comfy.sample

    positive, negative = positive or networks.label("star"), negative or networks.label()
    latents = model.model.latent_format
    side = 8 if latents.latent_channels == 4 else SIDE // latents.spacial_downscale_ratio
    one_frame = [1] * (latents.latent_dimensions - 2)
    noise = seeded(size, latents.latent_channels, *one_frame, side, side, seed=1)
    options = {"seed": 1, "disable_pbar": True, "sigmas": networks.levels}
    with torch.inference_mode():
        empty = torch.zeros_like(noise)
        return comfy.sample.sample(model, noise, STEPS, cfg, sampler, "normal", positive, negative, empty, **options)


def filled(module, seed=1, size=0.2):
    """A module with seeded weights, as inference tensors: the host loads inside its nodes."""
    with torch.inference_mode():
        generator = torch.Generator().manual_seed(seed)
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * size)
    return module


def hosted_clip(model, tokenizer):
    """The host's CLIP of seeded weights."""
    import comfy.model_management as mm
    import comfy.model_patcher
    import comfy.sd

    clip = comfy.sd.CLIP(no_init=True)
    clip.cond_stage_model = filled(model)
    clip.tokenizer, clip.tokenizer_options = tokenizer, {}
    clip.layer_idx, clip.use_clip_schedule, clip.apply_hooks_to_conds = None, False, None
    devices = {"load_device": mm.get_torch_device(), "offload_device": mm.unet_offload_device()}
    clip.patcher = comfy.model_patcher.ModelPatcher(clip.cond_stage_model, **devices)
    return clip


@dataclass
class Networks:
    """MODELs, VAEs, encoders and the rest, each loaded when it is first asked for."""

    execute: Any
    levels: Any = None  # of runs of the host's samplers; None: two steps of its schedule
    loaded: dict[str, Any] = field(default_factory=dict)

    def load(self, name, copy=0):
        """MODEL of one of the pack's own files; another `copy` has weights of its own."""
        key = f"{name} {copy}"
        if key not in self.loaded:
            self.loaded[key] = self.execute("Guidance_LoadModel", model_name=f"scenes_{name}.safetensors")
        return self.loaded[key][0]

    def vae(self, name):
        """VAE that belongs to the MODEL."""
        self.load(name)
        return self.loaded[f"{name} 0"][1]

    @cached_property
    def encoder(self):
        return self.execute("Guidance_LoadEncoder", encoder_name="scenes_clip.safetensors")[0]

    @cached_property
    def matcher(self):
        return self.execute("Guidance_LoadMatcher", matcher_name="scenes_matcher.safetensors")[0]

    @cached_property
    def scorer(self):
        return self.execute("Guidance_LoadScorer", scorer_name="scenes_scorer.safetensors")[0]

    @cached_property
    def classifier(self):
        return self.execute("Guidance_LoadClassifier", classifier_name="scenes_classifier.safetensors")[0]

    @cached_property
    def autoencoder(self):
        """(MODEL, codec, VAE)."""
        return self.execute("Guidance_LoadDiffusionAutoencoder", model_name="scenes_diffae.safetensors")

    @cached_property
    def clip_vision(self):
        """A small CLIP_VISION of the host."""
        config = {"hidden_act": "gelu", "hidden_size": 32, "image_size": SIDE, "intermediate_size": 64}
        config |= {"num_channels": 3, "num_attention_heads": 2, "num_hidden_layers": 3, "patch_size": 8}
        with torch.inference_mode():
            vision = clip_vision_model({**config, "model_type": "clip_vision_model", "projection_dim": 16})
        filled(vision.model)
        return vision

    @cached_property
    def clip(self):
        """A small CLIP of the host with a projection as wide as `clip_vision`'s."""
        from clip_towers import clip_of

        return clip_of(16)

    @cached_property
    def t5(self):
        """A small T5 of the host, as Load CLIP makes t5xxl one, 48 wide."""
        import comfy.sd1_clip
        import comfy.text_encoders.pixart_t5
        import comfy.text_encoders.t5

        config = {"d_ff": 64, "d_kv": 16, "d_model": 48, "num_heads": 3, "num_layers": 2, "vocab_size": 32128}
        config |= {"dense_act_fn": "gelu_pytorch_tanh", "is_gated_act": True, "model_type": "t5"}
        tower = partial(comfy.sd1_clip.SDClipModel, textmodel_json_config=config, special_tokens={"end": 1, "pad": 0})
        tower = partial(tower, model_class=comfy.text_encoders.t5.T5)
        with torch.inference_mode():
            model = comfy.sd1_clip.SD1ClipModel(dtype=torch.float32, name="t5xxl", clip_model=tower)
        return hosted_clip(model, comfy.text_encoders.pixart_t5.PixArtTokenizer())

    @cached_property
    def unet(self):
        """MODEL of SD1.5's shape, narrow, in the type that the loader of the pack's own files would choose."""
        import comfy.model_base
        import comfy.model_management as mm
        import comfy.model_patcher
        import comfy.supported_models

        layers = {"transformer_depth": [1, 1], "transformer_depth_output": [1] * 4, "transformer_depth_middle": 1}
        shape = {"image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 32, "channel_mult": (1, 2)}
        shape |= {"num_res_blocks": [1, 1], "context_dim": 16, "num_heads": 4, "use_spatial_transformer": True}
        config = comfy.supported_models.SD15({**shape, **layers, "legacy": False})
        device, offload = mm.get_torch_device(), mm.unet_offload_device()
        dtype = mm.unet_dtype(device, 1, config.supported_inference_dtypes)
        config.set_inference_dtype(dtype, mm.unet_manual_cast(dtype, device, config.supported_inference_dtypes))
        model = comfy.model_base.BaseModel(config, device=offload)
        filled(model.diffusion_model, size=0.05).requires_grad_(False)
        return comfy.model_patcher.ModelPatcher(model, load_device=device, offload_device=offload)

    @cached_property
    def transformer(self):
        """MODEL of the pack's own transformer: a class of the host, loaded by the host's node."""
        import nodes

        return nodes.UNETLoader().load_unet("scenes_transformer.safetensors", "default")[0]

    @cached_property
    def unet_vae(self):
        """A VAE with weights for `unet`: the host's TAESD."""
        import comfy.sd
        from comfy.taesd.taesd import TAESD

        state = filled(TAESD(), size=0.05).state_dict()
        with torch.inference_mode():
            return comfy.sd.VAE(sd={key: value.clone() for key, value in state.items()})

    def forget(self):
        """Encoders remember what they have seen; the next ones are loaded anew."""
        self.__dict__.pop("encoder", None)

    def words(self, seed=3):
        """CONDITIONING for `unet`."""
        return [[seeded(1, 5, 16, seed=seed), {}]]

    def label(self, name=""):
        """CONDITIONING for the pack's own models."""
        return self.execute("Guidance_ClassConditioning", model=self.load("unet"), class_label=name)[0]
