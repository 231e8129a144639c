"""Files that people put where they don't belong, with the key lists and shapes of the real ones and not their weights.

Most lists come out of the host's own classes on the meta device. A file is sparse: as long as the real one, and empty.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path

import torch

META = {"dtype": torch.float16, "device": "meta"}
NAMES = {torch.float16: "F16", torch.float32: "F32", torch.int64: "I64"}
Shapes = dict[str, tuple[int, ...]]


def write(path: Path, shapes: Shapes, metadata: dict[str, str] | None = None) -> Path:
    """A safetensors file of these names and shapes, in half precision; its numbers take no room on the disk."""
    header: dict = {} if metadata is None else {"__metadata__": metadata}
    place = 0
    for key, shape in shapes.items():
        size = 2 * torch.Size(shape).numel()
        header[key] = {"dtype": "F16", "shape": list(shape), "data_offsets": [place, place + size]}
        place += size
    text = json.dumps(header).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + place)
    return path


def of(network, prefix: str = "") -> Shapes:
    return {prefix + key: tuple(value.shape) for key, value in network.state_dict().items()}


# --- the host's own networks


def unet(family: str) -> dict:
    """Arguments of the host's U-Net."""
    import comfy.supported_models

    shared = {"image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 320, "num_res_blocks": [2] * 4}
    shared |= {"num_heads": 8, "use_spatial_transformer": True, "legacy": False}
    known = dict(getattr(comfy.supported_models, family).unet_config)
    if family == "SDXL":
        shape = {"channel_mult": (1, 2, 4), "num_res_blocks": [2, 2, 2], "transformer_depth": [0, 0, 2, 2, 10, 10]}
        shape |= {"transformer_depth_middle": 10, "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10]}
        shape |= {"num_classes": "sequential", "adm_in_channels": 2816}
    else:
        shape = {"channel_mult": (1, 2, 4, 4), "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0]}
        shape |= {"transformer_depth_middle": 1, "transformer_depth_output": [1] * 9 + [0] * 3}
    return {**shared, **known, **shape}


def unet_keys(family: str, prefix: str = "") -> Shapes:
    import comfy.ldm.modules.diffusionmodules.openaimodel as host
    import comfy.ops

    return of(host.UNetModel(**unet(family), **META, operations=comfy.ops.disable_weight_init), prefix)


def diffusers_unet() -> Shapes:
    import comfy.utils

    named = {value: key for key, value in comfy.utils.unet_to_diffusers(unet("SD15")).items()}
    return {named[key]: shape for key, shape in unet_keys("SD15").items() if key in named}


def vae_keys(prefix: str = "") -> Shapes:
    from comfy.ldm.models.autoencoder import AutoencoderKL

    config = {"double_z": True, "z_channels": 4, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 128}
    config |= {"ch_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_resolutions": [], "dropout": 0.0}
    with torch.device("meta"):
        return of(AutoencoderKL(ddconfig=config, embed_dim=4), prefix)


def host_json(name: str) -> dict:
    import comfy.clip_vision

    return json.loads((Path(comfy.clip_vision.__file__).parent / name).read_text("utf-8"))


def clip_text(name: str, prefix: str = "") -> Shapes:
    import comfy.clip_model
    import comfy.ops

    return of(comfy.clip_model.CLIPTextModel(host_json(name), **META, operations=comfy.ops.disable_weight_init), prefix)


def clip_vision(name: str) -> Shapes:
    import comfy.clip_model
    import comfy.ops

    return of(
        comfy.clip_model.CLIPVisionModelProjection(host_json(name), **META, operations=comfy.ops.disable_weight_init)
    )


def t5() -> Shapes:
    import comfy.ops
    import comfy.text_encoders.t5

    config = host_json("text_encoders/t5_config_xxl.json")
    return of(comfy.text_encoders.t5.T5(config, **META, operations=comfy.ops.disable_weight_init))


def dino() -> Shapes:
    import comfy.image_encoders.dino2
    import comfy.ops

    config = host_json("image_encoders/dino2_large.json")
    return of(comfy.image_encoders.dino2.Dinov2Model(config, **META, operations=comfy.ops.disable_weight_init))


def controlnet() -> Shapes:
    import comfy.cldm.cldm
    import comfy.ops

    config = {
        key: value for key, value in unet("SD15").items() if key not in ("out_channels", "transformer_depth_output")
    }
    network = comfy.cldm.cldm.ControlNet(**config, hint_channels=3, **META, operations=comfy.ops.disable_weight_init)
    return of(network, "control_model.")


def flux() -> Shapes:
    import comfy.ldm.flux.model
    import comfy.ops

    config = {"in_channels": 16, "out_channels": 16, "vec_in_dim": 768, "context_in_dim": 4096, "hidden_size": 3072}
    config |= {"mlp_ratio": 4.0, "num_heads": 24, "depth": 19, "depth_single_blocks": 38, "axes_dim": [16, 56, 56]}
    config |= {"theta": 10000, "patch_size": 2, "qkv_bias": True, "guidance_embed": True, "txt_ids_dims": []}
    return of(comfy.ldm.flux.model.Flux(**config, **META, operations=comfy.ops.disable_weight_init))


def wan() -> Shapes:
    import comfy.ldm.wan.model
    import comfy.ops

    return of(comfy.ldm.wan.model.WanModel(**META, num_layers=4, operations=comfy.ops.disable_weight_init))


def sd3() -> Shapes:
    import comfy.ldm.modules.diffusionmodules.mmdit as host
    import comfy.ops

    config = {"input_size": None, "pos_embed_scaling_factor": None, "pos_embed_max_size": 192, "patch_size": 2}
    config |= {"in_channels": 16, "depth": 24, "num_patches": 36864, "adm_in_channels": 2048}
    config |= {
        "context_embedder_config": {"target": "torch.nn.Linear", "params": {"in_features": 4096, "out_features": 1536}}
    }
    return of(host.MMDiT(**config, **META, operations=comfy.ops.disable_weight_init))


def taesd(half: str) -> Shapes:
    import comfy.taesd.taesd as host

    with torch.device("meta"):
        return of(getattr(host, half)())


def style_model() -> Shapes:
    from comfy.ldm.flux.redux import ReduxImageEncoder

    return of(ReduxImageEncoder(device="meta"))


def t2i_adapter() -> Shapes:
    from comfy.t2i_adapter.adapter import Adapter

    with torch.device("meta"):
        return of(Adapter(cin=192, channels=[320, 640, 1280, 1280], nums_rb=2, ksize=1, sk=True, use_conv=False))


# --- networks of other packages


def timm_trunk() -> Shapes:
    import open_clip

    with torch.device("meta"):
        return of(open_clip.create_model("ViT-B-16-SigLIP", device="meta"))


def image_classifier() -> Shapes:
    import torchvision

    with torch.device("meta"):
        return of(torchvision.models.resnet50())


# --- lists from public descriptions of the formats


def lora() -> Shapes:
    """kohya-ss: each layer of the U-Net has an up, a down and an alpha."""
    found: Shapes = {}
    for layer in ("attn1_to_q", "attn1_to_k", "attn2_to_v", "ff_net_2"):
        name = f"lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_{layer}"
        found |= {f"{name}.alpha": (), f"{name}.lora_down.weight": (16, 320), f"{name}.lora_up.weight": (320, 16)}
    return found


def peft_lora() -> Shapes:
    name = "transformer.single_transformer_blocks.0.attn.to_q"
    return {f"{name}.lora_A.weight": (16, 3072), f"{name}.lora_B.weight": (3072, 16)}


def ip_adapter() -> Shapes:
    found: Shapes = {"image_proj.proj.weight": (3072, 1024), "image_proj.norm.weight": (768,)}
    for index in range(1, 32, 2):
        found |= {f"ip_adapter.{index}.to_{part}_ip.weight": (320, 768) for part in "kv"}
    return found


def motion_module() -> Shapes:
    start = "down_blocks.0.motion_modules.0.temporal_transformer"
    parts = {
        "norm.weight": (320,),
        "proj_in.weight": (320, 320),
        "transformer_blocks.0.attention_blocks.0.to_q.weight": (320, 320),
    }
    return {f"{start}.{key}": shape for key, shape in parts.items()}


def siglip() -> Shapes:
    """transformers' SiglipVisionModel: no class token, a head that attends."""
    shapes = clip_vision("clip_vision_siglip_384.json")
    head = {"probe": (1, 1, 1152), "attention.in_proj_weight": (3456, 1152), "layernorm.weight": (1152,)}
    return shapes | {f"vision_model.head.{key}": shape for key, shape in head.items()}


def dit() -> Shapes:
    """facebookresearch/DiT."""
    found: Shapes = {"pos_embed": (1, 256, 1152), "x_embedder.proj.weight": (1152, 4, 2, 2)}
    found |= {"t_embedder.mlp.0.weight": (1152, 256), "y_embedder.embedding_table.weight": (1001, 1152)}
    for index in range(28):
        block = f"blocks.{index}."
        found |= {f"{block}attn.qkv.weight": (3456, 1152), f"{block}mlp.fc1.weight": (4608, 1152)}
        found |= {f"{block}adaLN_modulation.1.weight": (6912, 1152)}
    return found | {"final_layer.linear.weight": (32, 1152), "final_layer.adaLN_modulation.1.weight": (2304, 1152)}


def upscaler() -> Shapes:
    """xinntao/ESRGAN in its older names."""
    block = {f"model.1.sub.0.RDB{k}.conv{n}.0.weight": (32, 64, 3, 3) for k in (1, 2, 3) for n in (1, 2, 3, 4, 5)}
    return {"model.0.weight": (64, 3, 3, 3), **block, "model.10.weight": (3, 64, 3, 3)}


def pixel_diffusers() -> Shapes:
    """google/ddpm-celebahq-256's UNet2DModel."""
    found: Shapes = {"conv_in.weight": (128, 3, 3, 3), "time_embedding.linear_1.weight": (512, 128)}
    found |= {
        "down_blocks.0.resnets.0.conv1.weight": (128, 128, 3, 3),
        "mid_block.attentions.0.query.weight": (512, 512),
    }
    return found | {
        "down_blocks.0.resnets.0.time_emb_proj.weight": (128, 512),
        "up_blocks.0.resnets.0.norm1.weight": (1024,),
    }


def language_model() -> Shapes:
    """Qwen2.5-VL, a text encoder of Qwen-Image."""
    layer = {
        "self_attn.q_proj.weight": (3584, 3584),
        "input_layernorm.weight": (3584,),
        "mlp.gate_proj.weight": (18944, 3584),
    }
    layer |= {"self_attn.k_proj.bias": (512,), "post_attention_layernorm.weight": (3584,)}
    layers = {f"model.layers.{index}.{key}": shape for index in range(28) for key, shape in layer.items()}
    return {"model.embed_tokens.weight": (152064, 3584), **layers, "model.norm.weight": (3584,)}


def checkpoint(family: str) -> Shapes:
    """Network, text encoder and VAE in one file."""
    if family == "SD3":
        network = {f"model.diffusion_model.{key}": shape for key, shape in sd3().items()}
        return network | vae_keys("first_stage_model.")
    text = {
        "SD15": lambda: clip_text("sd1_clip_config.json", "cond_stage_model.transformer."),
        "SDXL": lambda: (
            clip_text("sd1_clip_config.json", "conditioner.embedders.0.transformer.")
            | {"conditioner.embedders.1.model.transformer.resblocks.0.ln_1.weight": (1280,)}
        ),
    }[family]()
    return unet_keys(family, "model.diffusion_model.") | text | vae_keys("first_stage_model.")


# file -> (its list, words of the right answer)
SAFETENSORS = {
    "lora.safetensors": (lora, "a LoRA: put it into models/loras and load it with Load LoRA"),
    "flux_lora.safetensors": (peft_lora, "a LoRA: put it into models/loras"),
    "sd15.safetensors": (lambda: checkpoint("SD15"), "an SD1.5 checkpoint: put it into models/checkpoints"),
    "sd_xl_base_1.0.safetensors": (
        lambda: checkpoint("SDXL"),
        "an SDXL checkpoint: put it into models/checkpoints and load it with Load Checkpoint",
    ),
    "sd3_medium.safetensors": (lambda: checkpoint("SD3"), "an SD3 checkpoint: put it into models/checkpoints"),
    "sd3_network.safetensors": (sd3, "the network of SD3: put it into models/diffusion_models"),
    "flux1-dev.safetensors": (flux, "the network of Flux: put it into models/diffusion_models"),
    "wan2.1.safetensors": (wan, "the network of Wan: put it into models/diffusion_models"),
    "DiT-XL-2-256x256.safetensors": (dit, "a class-conditional DiT: it works on latents"),
    "sd15_unet.safetensors": (lambda: unet_keys("SD15"), "the U-Net of Stable Diffusion: put it into models/diff"),
    "sdxl_unet.safetensors": (lambda: unet_keys("SDXL"), "the U-Net of SDXL: put it into models/diffusion_models"),
    "sd15/unet/diffusion_pytorch_model.safetensors": (diffusers_unet, "the U-Net of a diffusers folder: put it into"),
    "ddpm/diffusion_pytorch_model.safetensors": (pixel_diffusers, "a pixel U-Net of a diffusers folder: download"),
    "clip_l.safetensors": (
        lambda: clip_text("sd1_clip_config.json"),
        "the text encoder CLIP-L: put it into models/text_encoders and load it with Load CLIP",
    ),
    "clip_g.safetensors": (lambda: clip_text("clip_config_bigg.json"), "the text encoder CLIP-G: put it into models/t"),
    "t5xxl_fp16.safetensors": (t5, "the text encoder T5: put it into models/text_encoders"),
    "qwen_2.5_vl.safetensors": (language_model, "a language model as text encoder: put it into models/text_encoders"),
    "clip_vision_h.safetensors": (
        lambda: clip_vision("clip_vision_config_h.json"),
        "a CLIP vision model of transformers: put it into models/clip_vision and load it with Load CLIP Vision",
    ),
    "clip_vit_large/model.safetensors": (
        lambda: clip_text("sd1_clip_config.json") | clip_vision("clip_vision_config_vitl.json"),
        "a CLIP of transformers, with both towers: put it into models/clip_vision",
    ),
    "siglip_so400m.safetensors": (siglip, "a SigLIP vision model: put it into models/clip_vision"),
    "dinov2_large.safetensors": (dino, "a DINO vision model: put it into models/clip_vision"),
    "ip-adapter_sd15.safetensors": (ip_adapter, "an IP-Adapter: put it into models/ipadapter"),
    "control_v11p_sd15_canny.safetensors": (controlnet, "a ControlNet: put it into models/controlnet"),
    "t2iadapter_canny.safetensors": (t2i_adapter, "a T2I-Adapter: put it into models/controlnet"),
    "flux1-redux-dev.safetensors": (style_model, "a style model: put it into models/style_models"),
    "vq-f4.safetensors": (
        lambda: vae_keys() | {"quantize.embedding.weight": (8192, 3)},
        "a vector-quantised VAE: Load VAE can't read it; load the whole checkpoint",
    ),
    "vae-ft-mse.safetensors": (vae_keys, "a VAE: put it into models/vae and load it with Load VAE"),
    "taesd_decoder.safetensors": (lambda: taesd("Decoder"), "a TAESD decoder: put it into models/vae_approx"),
    "taesd_encoder.safetensors": (lambda: taesd("Encoder"), "a TAESD encoder: put it into models/vae_approx"),
    "open_clip_siglip.safetensors": (timm_trunk, "an open_clip model with a timm trunk: this pack reads"),
    "resnet50.safetensors": (image_classifier, "a classifier of clean pictures: classifier guidance needs one"),
    "mm_sd_v15.safetensors": (motion_module, "an AnimateDiff motion module: put it into models/animatediff_models"),
    "4x-UltraSharp.safetensors": (upscaler, "an upscaler: put it into models/upscale_models"),
    "easynegative.safetensors": (lambda: {"emb_params": (8, 768)}, "a textual inversion: put it into models/embeddi"),
}
BYTES = {
    "flux1-dev-Q4.pt": (b"GGUF\x03\0\0\0" + bytes(64), "a GGUF file: put it into models/diffusion_models"),
    "pointer.safetensors": (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS, not the file"),
    "page.ckpt": (b"<!DOCTYPE html><html><head>", "a web page, not a file of weights: download it again"),
}


def pickled() -> dict[str, tuple[object, str]]:
    """Files of PyTorch's own kind: (what they hold, words of the right answer)."""
    tensors = {key: torch.zeros(1) for key in checkpoint("SD15")}
    adapter = {"image_proj": {"proj.weight": torch.zeros(2)}, "ip_adapter": {"1.to_k_ip.weight": torch.zeros(2)}}
    inversion = {"string_to_token": {"*": 265}, "string_to_param": {"*": torch.zeros(1, 768)}, "name": "style"}
    return {
        "v1-5-pruned.ckpt": ({"state_dict": tensors, "callbacks": {}}, "an SD1.5 checkpoint: put it into models/ch"),
        "ip-adapter_sd15.bin": (adapter, "an IP-Adapter: put it into models/ipadapter"),
        "style.pt": (inversion, "a textual inversion: put it into models/embeddings"),
        "vae.pt": ({"state_dict": {key: torch.zeros(1) for key in vae_keys()}}, "a VAE: put it into models/vae"),
        "control.pth": ({key: torch.zeros(1) for key in controlnet()}, "a ControlNet: put it into models/controlnet"),
    }


def written(folder: Path) -> dict[str, str]:
    """Writes all of them into a folder; their names with the words of the right answer."""
    for name, (keys, _) in SAFETENSORS.items():
        write(folder / name, keys())
    for name, (content, _) in BYTES.items():
        (folder / name).write_bytes(content)
    held = pickled()
    for name, (content, _) in held.items():
        torch.save(content, folder / name)
    return {name: words for table in (SAFETENSORS, BYTES, held) for name, (_, words) in table.items()}
