"""{class of the host's `supported_models`: how it is built small}, and of every other class why it isn't built."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from .configs import (
    CHROMA,
    COG,
    COSMOS,
    COSMOS_1,
    DIT_64,
    FLUX,
    FLUX2,
    FOUR_LEVELS,
    FRAMES,
    HUNYUAN_15,
    HUNYUAN_VIDEO,
    KANDINSKY,
    KNOWS,
    LUMINA,
    MMDIT,
    PIXEL_DIT,
    RADIANCE,
    TOKENS,
    UNET,
    VIDEO_UNET,
    WAN,
    WIDTH,
    Z_IMAGE,
    at_time,
    camera,
    noise,
    posed,
    restored,
    scattered,
    two_texts,
    whole_text,
    zeros,
)

Told = Callable[[tuple[int, ...], int], dict[str, Any]]  # (shape of a sample, which conditioning) -> its options


@dataclass(frozen=True)
class Family:
    """A class at tiny width. `names` are what its users know it by."""

    names: str
    config: dict[str, Any]
    pooled: int = WIDTH
    text: int = WIDTH
    side: int = 0  # of a latent, where SIDE or PIXELS doesn't do
    frames: int = FRAMES  # of a latent that has any
    told: Told = lambda shape, seed: {}  # what its conditionings say
    state: dict[str, Any] = field(default_factory=dict)  # what get_model reads of a file
    shapes: tuple[tuple[int, ...], ...] = ()  # of latents that are sampled together
    refuses: str = ""  # words of the network itself about what is tried
    unused: str = ""  # a part of the network that no test runs, and that stays as it is


def sdxl(names, **more):
    """It knows sizes, as 6 numbers of 256 channels, beside the pooled text."""
    return Family(names, {**UNET, **KNOWS, "adm_in_channels": WIDTH + 6 * 256, **more})


def wan(names, told=lambda shape, seed: {}, **more):
    return Family(names, {**WAN, **more}, told=told)


FAMILIES = {
    "LotusD": Family("Lotus-D (depth)", {**UNET, "adm_in_channels": 4, "num_classes": "sequential"}),
    "Stable_Zero123": Family(
        "Stable Zero123",
        {**UNET, "in_channels": 8},
        text=WIDTH + 4,
        state={"cc_projection.weight": zeros(WIDTH, WIDTH + 4) + 0.1, "cc_projection.bias": zeros(WIDTH)},
    ),
    "SD15_instructpix2pix": Family("InstructPix2Pix", {**UNET, "in_channels": 8}),
    "SD15": Family("Stable Diffusion 1.x", {**UNET, "use_linear_in_transformer": False}),
    "SD20": Family("Stable Diffusion 2.x", UNET),
    "SD21UnclipL": Family("SD 2.1 unCLIP (L)", {**UNET, **KNOWS, "adm_in_channels": 1536}),
    "SD21UnclipH": Family("SD 2.1 unCLIP (H)", {**UNET, **KNOWS, "adm_in_channels": 2048}),
    "SDXL_instructpix2pix": sdxl("CosXL Edit", in_channels=8),
    "SDXLRefiner": Family("SDXL refiner", {**UNET, **KNOWS, "adm_in_channels": WIDTH + 5 * 256}),
    "SDXL": sdxl("SDXL, Pony, Illustrious, Lightning, Turbo"),
    "SSD1B": sdxl("SSD-1B"),
    "KOALA_700M": sdxl("KOALA 700M"),
    "KOALA_1B": sdxl("KOALA 1B"),
    "Segmind_Vega": sdxl("Segmind Vega"),
    "SD_X4Upscaler": Family("SD x4 upscaler", {**UNET, **FOUR_LEVELS, "in_channels": 7}, side=16),
    "Stable_Cascade_C": Family(
        "Stable Cascade, stage C",
        {"stable_cascade_stage": "c", "c_r": 16, "c_cond": 32, "c_hidden": [32, 32], "nhead": [2, 2]}
        | {"blocks": [[1, 1], [1, 1]], "c_clip_text": WIDTH, "c_clip_text_pooled": WIDTH},
    ),
    "Stable_Cascade_B": Family(
        "Stable Cascade, stage B",
        {"stable_cascade_stage": "b", "c_r": 16, "c_cond": 32, "c_hidden": [32] * 4, "nhead": [-1, -1, 2, 2]}
        | {"blocks": [[1] * 4, [1] * 4], "block_repeat": [[1] * 4, [1] * 4], "c_clip": WIDTH},
        side=32,
    ),
    "SV3D_u": Family("SV3D", {**VIDEO_UNET, "adm_in_channels": 256}, told=at_time),
    "SV3D_p": Family("SV3D (poses)", {**VIDEO_UNET, "adm_in_channels": 1280}, told=at_time),
    "SVD_img2vid": Family("Stable Video Diffusion", {**VIDEO_UNET, "adm_in_channels": 768}, told=at_time),
    "SD3": Family("SD 3, SD 3.5", MMDIT),
    "AuraFlow": Family(
        "AuraFlow, Pony 7",
        {"dim": 64, "n_layers": 2, "n_double_layers": 1, "n_heads": 2, "global_conddim": 64, "cond_seq_dim": WIDTH}
        | {"max_seq": 64},
    ),
    "PixArtAlpha": Family(
        "PixArt alpha",
        {"hidden_size": 96, "depth": 1, "num_heads": 2, "caption_channels": WIDTH, "model_max_length": TOKENS}
        | {"input_size": 8, "pe_interpolation": 1},
        side=64,
        told=lambda shape, seed: {"width": 512, "height": 512},
    ),
    "PixArtSigma": Family(
        "PixArt sigma",
        {"hidden_size": 96, "depth": 1, "num_heads": 2, "caption_channels": WIDTH, "model_max_length": TOKENS}
        | {"input_size": 8, "pe_interpolation": 1, "micro_condition": False},
        side=64,
    ),
    "HunyuanDiT": Family(
        "Hunyuan-DiT 1.2",
        {"hidden_size": 64, "depth": 2, "num_heads": 2, "text_states_dim": WIDTH, "text_states_dim_t5": WIDTH}
        | {"text_len": TOKENS, "text_len_t5": TOKENS},
        told=two_texts,
    ),
    "HunyuanDiT1": Family(
        "Hunyuan-DiT 1.1",
        {"hidden_size": 64, "depth": 2, "num_heads": 2, "text_states_dim": WIDTH, "text_states_dim_t5": WIDTH}
        | {"text_len": TOKENS, "text_len_t5": TOKENS, "size_cond": True, "use_style_cond": True},
        told=two_texts,
    ),
    "FluxInpaint": Family("FLUX.1 Fill", {**FLUX, "in_channels": 96}),
    "Flux": Family("FLUX.1 dev, Krea, Kontext", FLUX),
    "LongCatImage": Family(
        "LongCat-Image", {**FLUX, "vec_in_dim": None, "guidance_embed": False, "txt_ids_dims": [1, 2]}
    ),
    "FluxSchnell": Family("FLUX.1 schnell", {**FLUX, "guidance_embed": False}),
    "Flux2": Family("FLUX.2 dev, Klein", FLUX2),
    "Lens": Family(
        "Lens",
        DIT_64 | {"enc_hidden_dim": WIDTH, "multi_layer_encoder_feature": False, "selected_layer_index": (0,)},
    ),
    "GenmoMochi": Family(
        "Mochi 1",
        {"hidden_size_x": 64, "hidden_size_y": 32, "depth": 2, "num_heads": 2, "in_channels": 12, "use_t5": True}
        | {"t5_feat_dim": WIDTH, "t5_token_length": TOKENS, "learn_sigma": False, "mlp_ratio_x": 192.0, "qk_norm": True}
        | {"qkv_bias": False, "out_bias": True, "attn_drop": 0.0, "timestep_scale": 1000.0},
        told=whole_text,
    ),
    "LTXV": Family(
        "LTX-Video",
        {"cross_attention_dim": 64, "attention_head_dim": 32, "num_attention_heads": 2, "caption_channels": WIDTH}
        | {"num_layers": 1},
        told=whole_text,
    ),
    "LTXAV": Family(
        "LTX-2",
        {"cross_attention_dim": 64, "audio_cross_attention_dim": 64, "attention_head_dim": 32, "num_layers": 1}
        | {"audio_attention_head_dim": 32, "num_attention_heads": 2, "audio_num_attention_heads": 2}
        | {"caption_channels": WIDTH, "connector_attention_head_dim": 8, "connector_num_attention_heads": 2},
        text=2 * WIDTH,
        shapes=((1, 128, FRAMES, 4, 4), (1, 8, 6, 16)),
    ),
    "MiniMaxH3": Family(
        "MiniMax H3",
        {"hidden_size": 64, "num_layers": 1, "token_refiner_num_layers": 1, "num_attention_heads": 2}
        | {"attention_head_dim": 32, "ffn_hidden_size": 64, "text_dim": WIDTH, "time_embed_hidden_size": 64}
        | {"time_embed_dim": 64, "rope_inv_freq_len": 4},
        shapes=((1, 24, FRAMES, 4, 4), (1, 32, 2, 6)),
    ),
    "HunyuanVideo15_SR_Distilled": Family("HunyuanVideo 1.5 (upscaler)", {**HUNYUAN_15, "in_channels": 98}),
    "HunyuanVideo15": Family("HunyuanVideo 1.5", HUNYUAN_15),
    "HunyuanImage21Refiner": Family(
        "HunyuanImage 2.1 (refiner)",
        HUNYUAN_VIDEO | {"in_channels": 128, "out_channels": 64, "vec_in_dim": None, "patch_size": [1, 1, 1]},
    ),
    "HunyuanImage21": Family(
        "HunyuanImage 2.1",
        HUNYUAN_VIDEO
        | {"in_channels": 64, "out_channels": 64, "vec_in_dim": None, "patch_size": [1, 1], "axes_dim": [16, 16]},
    ),
    "HunyuanVideoSkyreelsI2V": Family("SkyReels image to video", {**HUNYUAN_VIDEO, "in_channels": 32}),
    "HunyuanVideoI2V": Family("HunyuanVideo image to video", {**HUNYUAN_VIDEO, "in_channels": 33}),
    "HunyuanVideo": Family("HunyuanVideo", HUNYUAN_VIDEO),
    "CosmosT2V": Family("Cosmos 1 text to video", COSMOS_1),
    "CosmosI2V": Family("Cosmos 1 image to video", {**COSMOS_1, "in_channels": 17}),
    "CosmosT2IPredict2": Family("Cosmos Predict 2 text to image", COSMOS, frames=1),
    "CosmosI2VPredict2": Family("Cosmos Predict 2 image to video", {**COSMOS, "in_channels": 17}),
    "ZImagePixelSpace": Family(
        "Z-Image in pixel space",
        Z_IMAGE
        | {"patch_size": 8, "in_channels": 3, "decoder_in_channels": 3 * 8 * 8, "decoder_hidden_size": 32}
        | {"decoder_num_res_blocks": 1, "decoder_max_freqs": 2},
    ),
    "ZImage": Family("Z-Image, Z-Image-Turbo", Z_IMAGE),
    "PiD": Family(
        "PiD (pixel decoder)",
        PIXEL_DIT | {"lq_latent_channels": 16, "lq_hidden_dim": 16, "lq_num_res_blocks": 1, "lq_interval": 1},
        told=scattered,
    ),
    "PixelDiTT2I": Family("PixelDiT", PIXEL_DIT),
    "Lumina2": Family("Lumina 2, NetaYume", LUMINA),
    "WAN22_T2V": wan("Wan 2.2 5B", in_dim=48, out_dim=48),
    "WAN21_CausalAR_T2V": wan("Wan 2.1 causal"),
    "WAN21_T2V": wan("Wan 2.1, Wan 2.2 14B text to video"),
    "WAN21_I2V": wan("Wan 2.1, Wan 2.2 14B image to video", model_type="i2v", in_dim=36),
    "WAN21_FunControl2V": wan("Wan Fun Control", model_type="i2v", in_dim=48),
    "WAN21_Vace": wan("Wan VACE", model_type="vace", vace_layers=1, vace_in_dim=96),
    "WAN21_Camera": wan("Wan 2.1 Fun Camera", camera, model_type="camera", in_dim=32),
    "WAN22_Camera": wan("Wan 2.2 Fun Camera", camera, model_type="camera_2.2", in_dim=36),
    "WAN22_S2V": wan("Wan 2.2 S2V", model_type="s2v", audio_inject_layers=[0], audio_dim=32, cond_dim=16),
    "WAN21_HuMo": wan("HuMo", model_type="humo"),
    "WAN_Animate2": wan("Wan-Animate 2", posed, model_type="animate2", in_dim=36),
    "WAN22_Animate": wan("Wan 2.2 Animate", model_type="animate", in_dim=36),
    "WAN21_FlowRVS": wan("FlowRVS"),
    "WAN21_SCAIL": wan("SCAIL", model_type="scail", in_dim=20),
    "WAN21_SCAIL2": wan("SCAIL 2", model_type="scail2", in_dim=20),
    "WAN22_WanDancer": wan("WanDancer", model_type="wandancer", in_dim=36, audio_inject_layers=[0], music_dim=32),
    # all experts at once: choosing some is a step, which no gradient sees and every difference may cross
    "HiDream": Family(
        "HiDream-I1",
        {"patch_size": 2, "in_channels": 16, "out_channels": 16, "num_layers": 1, "num_single_layers": 1}
        | {"attention_head_dim": 32, "num_attention_heads": 2, "caption_channels": [WIDTH, WIDTH]}
        | {"text_emb_dim": WIDTH, "num_routed_experts": 2, "num_activated_experts": 2}
        | {"axes_dims_rope": (16, 8, 8), "max_resolution": (32, 32), "llama_layers": [0, 1]},
        told=lambda shape, seed: {"conditioning_llama3": noise(1, 2, TOKENS, WIDTH)},
    ),
    "HiDreamO1": Family(
        "HiDream-O1",
        {
            "text_config_overrides": {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1}
            | {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 32, "rope_dims": [4, 6, 6]},
            "vision_config_overrides": {"hidden_size": 32, "num_heads": 2, "intermediate_size": 32, "depth": 1}
            | {"num_position_embeddings": 16, "deepstack_visual_indexes": ()},
        },
        side=64,
        told=lambda shape, seed: {"text_input_ids": torch.arange(TOKENS)[None] + 10 * seed},
    ),
    "Chroma": Family("Chroma", CHROMA),
    "ChromaRadiance": Family("Chroma Radiance", RADIANCE),
    "SeedVR2": Family(
        "SeedVR2 (upscaler)",
        {"norm_eps": 1e-5, "num_layers": 2, "mlp_type": "swiglu", "vid_dim": 64, "txt_in_dim": WIDTH, "heads": 2}
        | {"head_dim": 32, "mm_layers": 1, "rope_dim": 32, "vid_out_norm": True, "expand_ratio": 2},
        told=restored,
        refuses="SeedVR2 expected an even text-conditioning batch",
    ),
    "Omnigen2": Family(
        "OmniGen 2",
        {"hidden_size": 64, "num_layers": 1, "num_refiner_layers": 1, "num_attention_heads": 2, "num_kv_heads": 2}
        | {"multiple_of": 16, "axes_dim_rope": (8, 12, 12), "axes_lens": (64, 64, 64), "text_feat_dim": WIDTH},
        told=whole_text,
    ),
    "Boogu": Family(
        "Boogu-Image",
        {"hidden_size": 64, "num_layers": 1, "num_double_stream_layers": 1, "num_refiner_layers": 1}
        | {"num_attention_heads": 2, "num_kv_heads": 2, "multiple_of": 16, "axes_dim_rope": (8, 12, 12)}
        | {"axes_lens": (64, 64, 64), "instruction_feat_dim": WIDTH},
        told=whole_text,
    ),
    "MageFlow": Family("Mage-Flow", DIT_64 | {"joint_attention_dim": WIDTH}),
    "QwenImage": Family("Qwen-Image, Qwen-Image-Edit", DIT_64 | {"joint_attention_dim": WIDTH}, frames=1),
    "JoyImage": Family(
        "JoyImage",
        {"hidden_size": 64, "num_attention_heads": 2, "num_layers": 1, "text_dim": WIDTH, "mlp_width_ratio": 2.0}
        | {"rope_dim_list": [8, 12, 12]},
        frames=1,
    ),
    "Ideogram4": Family(
        "Ideogram 4",
        {"num_layers": 1, "num_attention_heads": 2, "attention_head_dim": 32, "intermediate_size": 64, "adaln_dim": 32}
        | {"llm_features_dim": WIDTH, "mrope_section": [4, 6, 6]},
    ),
    "Krea2": Family(
        "Krea 2",
        {"features": 64, "tdim": 32, "txtdim": WIDTH, "heads": 2, "kvheads": 2, "multiplier": 2, "layers": 1}
        | {"txtlayers": 2, "txtheads": 2, "txtkvheads": 2},
        text=2 * WIDTH,
        frames=1,
    ),
    "Kandinsky5Image": Family(
        "Kandinsky 5 image", KANDINSKY | {"visual_embed_dim": 64, "in_visual_dim": 16, "out_visual_dim": 16}
    ),
    "Kandinsky5": Family("Kandinsky 5 video", {**KANDINSKY, "visual_embed_dim": 132}),
    "Anima": Family("Anima", COSMOS, frames=1, unused="llm_adapter"),
    "ErnieImage": Family(
        "ERNIE-Image",
        {"hidden_size": 64, "num_attention_heads": 2, "num_layers": 1, "ffn_hidden_size": 64, "text_in_dim": WIDTH}
        | {"rope_axes_dim": (8, 12, 12)},
    ),
    "CogVideoX_Inpaint": Family("CogVideoX Fun inpainting", {**COG, "in_channels": 48}),
    "CogVideoX_I2V": Family("CogVideoX image to video", {**COG, "in_channels": 32}),
    "CogVideoX_T2V": Family("CogVideoX text to video", COG),
}


def known():
    """The names of those families that this ComfyUI has."""
    import comfy.supported_models

    return [name for name in FAMILIES if hasattr(comfy.supported_models, name)]


AUDIO = "draws sound: a guide looks at pictures"
MESH = "draws shapes in space, as a list of tokens: a guide looks at pictures"
LOOKS = "looks at pictures and draws none: nothing is sampled"
NOT_BUILT = {
    "StableAudio3": AUDIO,
    "StableAudio": AUDIO,
    "ACEStep": AUDIO,
    "ACEStep15": AUDIO,
    "MiniMaxMusic3": AUDIO,
    "Hunyuan3Dv2mini": MESH,
    "Hunyuan3Dv2": MESH,
    "Hunyuan3Dv2_1": MESH,
    "TripoSplat": MESH,
    "RT_DETR_v4": LOOKS,
    "SAM3": LOOKS,
    "SAM31": LOOKS,
    "DepthAnything3": LOOKS,
}
