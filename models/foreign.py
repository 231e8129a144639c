"""Files of others that people put where this pack's files belong: what each is, by its keys, and what to do with it."""

from __future__ import annotations

from collections.abc import Iterable


def into(folder: str, loader: str) -> str:
    return f"put it into models/{folder} and load it with {loader}"


CHECKPOINT = into("checkpoints", "Load Checkpoint")
DIFFUSION = into("diffusion_models", "Load Diffusion Model")
CONTROL = into("controlnet", "Load ControlNet Model")
VAE = into("vae", "Load VAE")
TEXT = into("text_encoders", "Load CLIP")
VISION = f"{into('clip_vision', 'Load CLIP Vision')}; Encoder from CLIP Vision makes a guidance encoder of it"
TINY = "put it into models/vae_approx, where Apply Guides finds it without a loader"
NATIVE = "this pack reads the ViT and ResNet models of open_clip's own code, such as ViT-B-32, ViT-L-14 and RN50"
NO_LOADER = "no loader of ComfyUI's own reads it"
OWN = ""  # it is no foreign one
PICTURES = "it works on latents, and the pack's models on pictures"

# (what it is, what to do with it, parts of keys that only it has), from specific to general. Of several texts of parts
# one is enough; & joins parts that are needed together; ^ and $ are the beginning and the end of a key.
FILES: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("a ControlNet", CONTROL, ("^lora_controlnet$",)),
    (
        "a LoRA",
        into("loras", "Load LoRA"),
        (".lora_up.", ".lora_down.", ".lora_A.", ".lora_B.", ".lora.up.", ".lora.down.", "_lora.up.", ".hada_w1_a")
        + (".lokr_w1", ".lora_linear_layer.", ".oft_blocks", ".glora_a"),
    ),
    (
        "a textual inversion",
        "put it into models/embeddings and write embedding:NAME into a prompt",
        ("^emb_params$", "^string_to_param", "^clip_l$", "^clip_g$", "^<"),
    ),
    (
        "an IP-Adapter",
        "put it into models/ipadapter and load it with the pack ComfyUI_IPAdapter_plus; to take a style from a picture "
        "without one, use Style Guide",
        ("^image_proj", "^ip_adapter", "_ip.weight$", ".to_k_ip."),
    ),
    (
        "an AnimateDiff motion module",
        "put it into models/animatediff_models and load it with the pack ComfyUI-AnimateDiff-Evolved",
        ("motion_modules.0.",),
    ),
    ("a style model", into("style_models", "Load Style Model"), ("^redux_down.", "^style_embedding$")),
    ("a GLIGEN model", into("gligen", "Load GLIGEN Model"), ("position_net.null_positive_feature",)),
    (
        "a ControlNet",
        CONTROL,
        ("^control_model.", "^input_hint_block.", "^zero_convs.", "^controlnet_", "^control_blocks.0.after_proj."),
    ),
    ("a T2I-Adapter", CONTROL, ("^body.0.in_conv.", "^body.0.block1.", "^adapter.body.", "^adapter.conv_in.")),
    # checkpoints: network, text encoder and VAE in one file
    ("an SDXL checkpoint", CHECKPOINT, ("model.diffusion_model. & conditioner.embedders.1.",)),
    ("an SDXL refiner checkpoint", CHECKPOINT, ("model.diffusion_model. & conditioner.embedders.0.model.",)),
    ("an SD2 checkpoint", CHECKPOINT, ("model.diffusion_model. & cond_stage_model.model.",)),
    ("an SD1.5 checkpoint", CHECKPOINT, ("model.diffusion_model. & cond_stage_model.transformer.",)),
    (
        "an SD3 checkpoint",
        CHECKPOINT,
        ("model.diffusion_model.joint_blocks. & text_encoders.", "model.diffusion_model.joint_blocks. & first_stage_"),
    ),
    ("a Flux checkpoint", CHECKPOINT, ("model.diffusion_model.double_blocks. & vae.",)),
    ("a checkpoint of another model", CHECKPOINT, ("model.diffusion_model. & text_encoders.",)),
    ("a latent diffusion model", OWN, ("model.diffusion_model. & first_stage_model.",)),
    # networks alone
    ("the network of SD3", DIFFUSION, ("joint_blocks.0.context_block.",)),
    ("the network of HunyuanVideo", DIFFUSION, ("txt_in.individual_token_refiner.",)),
    ("the network of Flux", DIFFUSION, ("double_blocks.0.img_attn.", "^transformer_blocks.0. & ^time_text_embed.")),
    ("the network of Wan", DIFFUSION, ("head.modulation & blocks.0.self_attn.",)),
    ("the network of Lumina 2 or Z-Image", DIFFUSION, ("noise_refiner.0. & cap_embedder.",)),
    ("the network of Qwen-Image", DIFFUSION, ("transformer_blocks.0.img_mod. & txt_norm.",)),
    ("the network of PixArt", DIFFUSION, ("t_block.1. & scale_shift_table", "adaln_single. & pos_embed.proj.")),
    ("the network of LTX-Video", DIFFUSION, ("adaln_single. & transformer_blocks.0.",)),
    ("the network of AuraFlow", DIFFUSION, ("double_layers.0.attn.w1q",)),
    ("the network of Cosmos", DIFFUSION, ("blocks.block0.blocks.0.block.attn.", "blocks.0.mlp.layer1. & x_embedder.")),
    ("the network of Stable Cascade", DIFFUSION, ("clf.1.weight & down_blocks.0.",)),
    (
        "a class-conditional DiT",
        f"{PICTURES}; {NO_LOADER}, the pack ComfyUI_ExtraModels does",
        ("y_embedder.embedding_table. & blocks.0.adaLN_modulation.",),
    ),
    ("the U-Net of SDXL", DIFFUSION, ("input_blocks.4.1.transformer_blocks.1.attn2.",)),
    ("the U-Net of Stable Diffusion", DIFFUSION, ("input_blocks.1.1.transformer_blocks.0.attn2.",)),
    (
        "the U-Net of a diffusers folder",
        f"{DIFFUSION} if it is Stable Diffusion's, and the whole folder needs DiffusersLoader",
        ("^down_blocks.0.attentions.0.transformer_blocks. & ^conv_in.", "^down_blocks.1.attentions.0.transformer_blo"),
    ),
    (
        "a pixel U-Net of a diffusers folder",
        "download the file in the layout of its authors' own code, such as 256x256_diffusion.pt or celeba_hq.ckpt",
        ("^down_blocks.0.resnets.0. & ^mid_block.",),
    ),
    # VAEs, with the tiny ones that the host's previews use
    ("a TAESD decoder", TINY, ("^3.conv.0.weight$ & ^1.weight$", "^taesd_decoder.")),
    ("a TAESD encoder", TINY, ("^1.conv.0.weight$ & ^0.weight$", "^taesd_encoder.")),
    (
        "a TAESD in the layout of diffusers",
        "download taesd_decoder.safetensors (or taesdxl_decoder) of madebyollin and put that into models/vae_approx",
        ("^decoder.layers.0.weight$ & ^encoder.layers.0.weight$",),
    ),
    (
        "a vector-quantised VAE",
        "Load VAE can't read it; load the whole checkpoint of latent diffusion with Load Guidance Model, which gives "
        "its VAE too",
        ("quantize.embedding.weight & decoder.up.0.block.0.",),
    ),
    ("a VAE", VAE, ("^decoder.up.0.block.0.", "^first_stage_model.decoder.")),
    (
        "a VAE",
        VAE,
        ("^decoder.up_blocks.0.", "^decoder.middle.0.residual.", "^decoder.conv_in.", "^decoder.mid.block_1."),
    ),
    # text encoders and encoders of pictures
    ("a CLIP of transformers, with both towers", VISION, ("text_model.encoder. & vision_model.encoder.",)),
    ("a SigLIP vision model", VISION, ("vision_model.head.attention.",)),
    ("a CLIP vision model of transformers", VISION, ("vision_model.encoder.layers.0.",)),
    ("a DINO vision model", VISION, ("^encoder.layer.0.layer_scale1.", "^layer.0.mlp.gate_proj. & ^layer.0.norm1.")),
    ("the text encoder CLIP-G", TEXT, ("text_model.encoder.layers.30.",)),
    ("the text encoder CLIP-H", TEXT, ("text_model.encoder.layers.22.",)),
    ("the text encoder CLIP-L", TEXT, ("text_model.encoder.layers.0.",)),
    ("the text encoder T5", TEXT, ("encoder.block.0.layer.0.SelfAttention.",)),
    ("a language model as text encoder", TEXT, ("model.layers.0.self_attn. & model.layers.0.input_layernorm.",)),
    (
        "an open_clip model with a timm trunk",
        f"{NATIVE}; of SigLIP or DINO take ComfyUI's own file with Load CLIP Vision and Encoder from CLIP Vision",
        ("^visual.trunk.", "^module.visual.trunk."),
    ),
    (
        "an open_clip model of another layout",
        NATIVE,
        ("^visual.blocks.0.", "^text_decoder.", "^text.transformer. & ^visu"),
    ),
    # networks of other uses
    ("an upscaler", into("upscale_models", "Load Upscale Model"), ("^body.0.rdb1.", "^model.1.sub.0.RDB1.", "RRDB_tr")),
    (
        "a classifier of clean pictures",
        "classifier guidance needs one that was trained on noisy pictures, such as 256x256_classifier.pt of ADM",
        (
            "^layer1.0.conv1.weight$ & ^fc.weight$",
            "^blocks.0.attn.qkv. & ^head.weight$",
            "^vit.encoder. & ^classifier.",
        ),
    ),
)
BEGINNINGS = (
    (b"GGUF", "a GGUF file", "put it into models/diffusion_models (or text_encoders) and load it with ComfyUI-GGUF"),
    (b"version https://", "a pointer of Git LFS, not the file itself", "download it again with its download button"),
    (b"<!DOCTYPE", "a web page, not a file of weights", "download it again with its download button"),
    (b"<html", "a web page, not a file of weights", "download it again with its download button"),
)


def foreign(keys: Iterable[str]) -> str:
    """What a file of these keys is and what to do with it, "an SDXL checkpoint: put it ..."; empty if it is unknown."""
    text = "\n" + "\n".join(keys) + "\n"
    for title, advice, marks in FILES:
        if any(all(_part(part) in text for part in mark.split(" & ")) for mark in marks):
            return advice and f"{title}: {advice}"
    return ""


def _part(written: str) -> str:
    return written.replace("^", "\n").replace("$", "\n")


def foreign_beginning(head: bytes) -> str:
    """The same for what is neither safetensors nor PyTorch's, from its first 16 bytes."""
    return next((f"{title}: {advice}" for start, title, advice in BEGINNINGS if head.startswith(start)), "")
