"""Small text towers of the host's CLIP, of any width."""

from functools import partial

import torch
from networks import hosted_clip


def clip_of(width):
    """As Load CLIP makes clip_l one."""
    import comfy.sd1_clip

    config = {"num_hidden_layers": 2, "hidden_size": width, "intermediate_size": 32, "num_attention_heads": 2}
    config |= {"max_position_embeddings": 77, "hidden_act": "quick_gelu", "eos_token_id": 49407}
    tower = partial(comfy.sd1_clip.SDClipModel, textmodel_json_config={**config, "model_type": "clip_text_model"})
    with torch.inference_mode():
        model = comfy.sd1_clip.SD1ClipModel(dtype=torch.float32, clip_model=tower)
    return hosted_clip(model, comfy.sd1_clip.SD1Tokenizer())
