"""The numbers of the host's networks at tiny width, and what their conditionings say beside the text."""

import torch

WIDTH = 16  # of texts
TOKENS = 5
SIDE, FRAMES = 8, 3  # of latents
PIXELS = 32  # side of a sample of a model on pixels


def zeros(*shape):
    return torch.zeros(shape)


def noise(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(9))


# --- U-Nets

UNET = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 64,
    "num_res_blocks": [1, 1],
    "channel_mult": (1, 1),
    "transformer_depth": [1, 1],
    "transformer_depth_middle": 1,
    "transformer_depth_output": [1, 1, 1, 1],
    "context_dim": WIDTH,
    "use_spatial_transformer": True,
    "use_linear_in_transformer": True,
    "legacy": False,
}
FOUR_LEVELS = {"num_res_blocks": [1] * 4, "channel_mult": (1, 1, 1, 1), "transformer_depth": [1] * 4}
FOUR_LEVELS |= {"transformer_depth_output": [1] * 8}
KNOWS = {"num_classes": "sequential"}
VIDEO_UNET = {
    **UNET,
    **KNOWS,
    "in_channels": 8,
    "use_temporal_resblock": True,
    "use_temporal_attention": True,
    "extra_ff_mix_layer": True,
    "use_spatial_context": True,
    "merge_strategy": "learned_with_images",
    "merge_factor": 0.0,
    "video_kernel_size": [3, 1, 1],
    "disable_temporal_crossattention": False,
}


def whole_text(shape, seed):
    return {"attention_mask": torch.ones(1, TOKENS, dtype=torch.long)}


def two_texts(shape, seed):
    mask = whole_text(shape, seed)["attention_mask"]
    return {"attention_mask": mask, "attention_mask_mt5xl": mask, "conditioning_mt5xl": noise(1, TOKENS, WIDTH)}


def at_time(shape, seed):
    return {"time_conditioning": zeros(1, 1, WIDTH)}


# --- transformers

FLUX = {
    "in_channels": 16,
    "out_channels": 16,
    "vec_in_dim": WIDTH,
    "context_in_dim": WIDTH,
    "hidden_size": 64,
    "mlp_ratio": 2.0,
    "num_heads": 2,
    "depth": 1,
    "depth_single_blocks": 1,
    "axes_dim": [8, 12, 12],
    "theta": 10000,
    "patch_size": 2,
    "qkv_bias": True,
    "guidance_embed": True,
    "txt_ids_dims": [],
}
FLUX2 = {
    **FLUX,
    "in_channels": 128,
    "out_channels": 128,
    "vec_in_dim": None,
    "axes_dim": [8, 8, 8, 8],
    "theta": 2000,
    "patch_size": 1,
    "qkv_bias": False,
    "global_modulation": True,
    "mlp_silu_act": True,
    "ops_bias": False,
    "default_ref_method": "index",
    "ref_index_scale": 10.0,
    "txt_ids_dims": [3],
}
CHROMA = {key: value for key, value in FLUX.items() if key != "guidance_embed"} | {
    "in_channels": 64,
    "out_channels": 64,
    "in_dim": 64,
    "out_dim": 64,
    "hidden_dim": 64,
    "n_layers": 1,
    "vec_in_dim": None,
}
RADIANCE = CHROMA | {
    "in_channels": 3,
    "out_channels": 3,
    "patch_size": 8,
    "nerf_hidden_size": 16,
    "nerf_mlp_ratio": 2,
    "nerf_depth": 1,
    "nerf_max_freqs": 4,
    "nerf_tile_size": 512,
    "nerf_final_head_type": "conv",
    "nerf_embedder_dtype": torch.float32,
    "use_x0": False,
    "use_sequential_txt_ids": False,
}
MMDIT = {
    "in_channels": 16,
    "depth": 1,
    "num_blocks": 2,
    "input_size": None,
    "adm_in_channels": WIDTH,
    "context_embedder_config": {"target": "torch.nn.Linear", "params": {"in_features": WIDTH, "out_features": 64}},
    "pos_embed_max_size": 16,
    "num_patches": 256,
    "qk_norm": "rms",
    "x_block_self_attn_layers": [0],
}
HUNYUAN_VIDEO = {
    "in_channels": 16,
    "out_channels": 16,
    "vec_in_dim": WIDTH,
    "context_in_dim": WIDTH,
    "hidden_size": 64,
    "mlp_ratio": 2.0,
    "num_heads": 2,
    "depth": 1,
    "depth_single_blocks": 1,
    "axes_dim": [8, 12, 12],
    "theta": 256,
    "patch_size": [1, 2, 2],
    "qkv_bias": True,
    "guidance_embed": True,
    "byt5": False,
    "meanflow": False,
    "use_cond_type_embedding": False,
    "vision_in_dim": None,
    "meanflow_sum": False,
}
HUNYUAN_15 = HUNYUAN_VIDEO | {
    "in_channels": 65,
    "out_channels": 32,
    "vec_in_dim": None,
    "patch_size": [1, 1, 1],
    "guidance_embed": False,
    "use_cond_type_embedding": True,
    "vision_in_dim": WIDTH,
    "meanflow_sum": True,
}
COSMOS = {
    "max_img_h": 32,
    "max_img_w": 32,
    "max_frames": 16,
    "in_channels": 16,
    "out_channels": 16,
    "patch_spatial": 2,
    "patch_temporal": 1,
    "concat_padding_mask": True,
    "model_channels": 64,
    "num_blocks": 1,
    "num_heads": 2,
    "crossattn_emb_channels": WIDTH,
    "pos_emb_cls": "rope3d",
    "pos_emb_learnable": True,
    "pos_emb_interpolation": "crop",
    "use_adaln_lora": True,
    "adaln_lora_dim": 8,
}
COSMOS_1 = COSMOS | {
    "block_config": "FA-CA-MLP",
    "block_x_format": "THWBD",
    "affline_emb_norm": True,
    "pos_emb_learnable": False,
    "extra_per_block_abs_pos_emb": True,
    "extra_per_block_abs_pos_emb_type": "learnable",
}
LUMINA = {
    "patch_size": 2,
    "in_channels": 16,
    "dim": 64,
    "cap_feat_dim": WIDTH,
    "n_layers": 1,
    "n_refiner_layers": 1,
    "n_heads": 2,
    "n_kv_heads": 2,
    "multiple_of": 16,
    "ffn_dim_multiplier": 1.0,
    "qk_norm": True,
    "axes_dims": [8, 12, 12],
    "axes_lens": [64, 64, 64],
}
Z_IMAGE = (
    LUMINA
    | {"dim": 256, "n_heads": 8, "n_kv_heads": 8}
    | {"rope_theta": 256.0, "z_image_modulation": True, "time_scale": 1000.0, "pad_tokens_multiple": 4}
)
PIXEL_DIT = {
    "num_groups": 2,
    "hidden_size": 64,
    "pixel_hidden_size": 8,
    "pixel_attn_hidden_size": 32,
    "pixel_num_groups": 2,
    "patch_depth": 1,
    "pixel_depth": 1,
    "patch_size": 8,
    "txt_embed_dim": WIDTH,
    "txt_max_length": 8,
}
WAN = {
    "model_type": "t2v",
    "dim": 64,
    "ffn_dim": 64,
    "num_heads": 2,
    "num_layers": 1,
    "freq_dim": 32,
    "text_dim": WIDTH,
    "text_len": 8,
    "patch_size": (1, 2, 2),
}


def camera(shape, seed):
    """A camera's rays for each pixel, 8 to a latent element."""
    return {"camera_conditions": noise(1, 6 * 4, shape[2], shape[3] * 8, shape[4] * 8)}


def posed(shape, seed):
    """The frames whose poses are followed: all but the first, which is a picture of who moves."""
    return {"pose_video_latent": noise(1, shape[1], shape[2] - 1, *shape[3:])}


def restored(shape, seed):
    return {"condition": noise(shape[0], 17, *shape[2:])}


def scattered(shape, seed):
    """What PiD decodes, and how noisy it is."""
    return {"lq_latent": noise(1, 16, shape[2] // 32, shape[3] // 32), "degrade_sigma": zeros(1)}


KANDINSKY = {
    "in_text_dim": WIDTH,
    "in_text_dim2": WIDTH,
    "time_dim": 32,
    "model_dim": 64,
    "ff_dim": 64,
    "num_text_blocks": 1,
    "num_visual_blocks": 1,
    "axes_dims": (8, 12, 12),
    "rope_scale_factor": (1.0, 1.0, 1.0),
}
COG = {"num_attention_heads": 2, "attention_head_dim": 32, "num_layers": 1, "time_embed_dim": 32}
COG |= {"text_embed_dim": WIDTH, "max_text_seq_length": TOKENS, "in_channels": 16, "out_channels": 16}
COG |= {"use_rotary_positional_embeddings": True}
DIT_64 = {"attention_head_dim": 32, "num_attention_heads": 2, "num_layers": 1, "axes_dims_rope": (8, 12, 12)}
