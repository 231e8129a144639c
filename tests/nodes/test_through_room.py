"""What `through denoiser` asks the host for: counted on networks of full size, without weights or computing."""

import math
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from conftest import run_node
from features import guide, with_guides
from networks import Networks

pytestmark = pytest.mark.host
UNET = {"image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 320, "use_spatial_transformer": True}
SD15 = {"num_res_blocks": [2] * 4, "channel_mult": (1, 2, 4, 4), "context_dim": 768, "num_heads": 8, "legacy": False}
SD15 |= {"transformer_depth": [1] * 6 + [0] * 2, "transformer_depth_output": [1] * 9 + [0] * 3}
SDXL = {"num_res_blocks": [2] * 3, "channel_mult": (1, 2, 4), "context_dim": 2048, "num_heads": -1, "legacy": False}
SDXL |= {"num_head_channels": 64, "use_linear_in_transformer": True, "num_classes": "sequential"}
SDXL |= {"adm_in_channels": 2816, "transformer_depth": [0, 0, 2, 2, 10, 10], "transformer_depth_middle": 10}
SDXL |= {"transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10]}
SD3 = {"input_size": None, "pos_embed_max_size": 192, "patch_size": 2, "in_channels": 16, "depth": 24}
SD3 |= {"num_patches": 36864, "adm_in_channels": 2048, "pos_embed_scaling_factor": None, "pos_embed_offset": None}
EMBEDDER = {"target": "torch.nn.Linear", "params": {"in_features": 4096, "out_features": 1536}}
FLUX = {"image_model": "flux", "in_channels": 16, "out_channels": 16, "vec_in_dim": 768, "context_in_dim": 4096}
FLUX |= {"hidden_size": 3072, "mlp_ratio": 4.0, "num_heads": 24, "depth": 19, "depth_single_blocks": 38}
FLUX |= {"axes_dim": [16, 56, 56], "theta": 10000, "patch_size": 2, "qkv_bias": True, "guidance_embed": True}
WAN = {"image_model": "wan2.1", "model_type": "t2v", "dim": 1536, "ffn_dim": 8960, "num_heads": 12, "num_layers": 30}
KINDS = {  # the host's configuration, its network, a sample, length and width of words, width of y
    "SD15": ("BaseModel", UNET | SD15 | {"transformer_depth_middle": 1}, (4, 64, 64), (77, 768), None),
    "SDXL": ("SDXL", UNET | SDXL, (4, 128, 128), (77, 2048), 2816),
    "SD3": ("SD3", SD3 | {"context_embedder_config": EMBEDDER}, (16, 128, 128), (154, 4096), 2048),
    "Flux": ("Flux", FLUX | {"txt_ids_dims": []}, (16, 128, 128), (512, 4096), 768),
    "WAN21_T2V": ("WAN21", WAN, (16, 5, 60, 104), (512, 4096), None),
}


class Fused(torch.autograd.Function):
    """What fused attention keeps: q, k, v, its result, and a number for each row."""

    @staticmethod
    def forward(ctx, q, k, v, heads, split):
        rows, width = (q.shape[-2], heads * q.shape[-1]) if split else q.shape[1:]
        out = q.new_empty(len(q), rows, width)
        ctx.save_for_backward(q, k, v, out, q.new_empty(len(q), heads, rows, dtype=torch.float32))
        return out


def fused(function, q, k, v, heads, *args, skip_reshape=False, **kwargs):
    return Fused.apply(q, k, v, heads, skip_reshape)


def counted(model, shape, words, vector):
    """Bytes that autograd keeps of one prediction of one sample, as `differentiable` lets it."""
    from pack.nodes.host.gradients import differentiable

    sizes = []

    def packed(tensor):
        sizes.append(0 if isinstance(tensor, torch.nn.Parameter) else tensor.numel() * tensor.element_size())
        return tensor

    half = {"device": "meta", "dtype": torch.float16}
    given = {"context": torch.zeros(1, *words, **half), "transformer_options": {"optimized_attention_override": fused}}
    if vector:
        given["y"] = torch.zeros(1, vector, **half)
    x = torch.zeros(1, *shape, **half).requires_grad_(True)
    with differentiable(model.diffusion_model), torch.autograd.graph.saved_tensors_hooks(packed, lambda part: part):
        model.diffusion_model(x, torch.zeros(1, **half), **given)
    return sum(sizes)


@pytest.mark.parametrize("kind", KINDS)
def test_the_room_asked_for_is_what_autograd_keeps(comfy, kind):
    import comfy.model_base
    import comfy.supported_models

    from pack.nodes.host.guides.through import kept

    base, network, shape, words, vector = KINDS[kind]
    config = getattr(comfy.supported_models, kind)(network)
    config.set_inference_dtype(torch.float16, None)
    model = getattr(comfy.model_base, base)(config, device=torch.device("meta"))
    model.diffusion_model.requires_grad_(False)
    room = kept(SimpleNamespace(model=model), [1, *shape])
    assert math.isclose(room, counted(model, shape, words, vector), rel_tol=0.02)


def test_the_host_is_asked_for_that_room_for_both_sides_of_cfg(pack_nodes, comfy, monkeypatch):
    """In whole pictures of the host's own reckoning, few beside a room made large for that."""
    import comfy.model_management as mm

    from pack.nodes.host.guides.through import KEPT, kept

    asked, load = [], mm.load_models_gpu

    def noted(models, memory_required=0, **options):
        asked.append(memory_required)
        return load(models, memory_required=memory_required, **options)

    networks = Networks(partial(run_node, pack_nodes))
    palette = guide(networks, "Palette")
    monkeypatch.setattr(mm, "load_models_gpu", noted)
    monkeypatch.setitem(KEPT, "SD15", 1000.0)
    for gradient in ("at denoised", "through denoiser"):
        with_guides(networks, palette, "host", gradient=gradient)
    shape = [1, 4, 8, 8]
    room, picture = kept(networks.unet, shape), networks.unet.model.memory_required(shape)
    less, more = asked
    assert 0 <= more - less - 2 * room < 2 * picture
