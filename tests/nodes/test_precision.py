"""Half-precision weights: convolutions in the host's type, normalisation and the last layer in float32."""

import pytest
import torch

pytestmark = pytest.mark.host


def load(pack_nodes, monkeypatch, dtype, compute):
    import comfy.model_management as mm

    monkeypatch.setattr(mm, "unet_dtype", lambda *args, **kwargs: dtype)
    monkeypatch.setattr(mm, "unet_manual_cast", lambda *args, **kwargs: compute)
    with torch.inference_mode():
        given = {"model_name": "scenes_unet.safetensors", "clip_denoised": True, "schedule": "auto", "heads": "auto"}
        return pack_nodes["Guidance_LoadModel"].execute(**given).args[0]


def predict(model, sigma=5.0):
    """eps, what the network itself predicts."""
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * sigma
    with torch.inference_mode():
        denoised = model.model.apply_model(x, torch.full((2,), sigma), y=torch.tensor([3, 29]))
    return (x - denoised) / sigma


@pytest.mark.parametrize(
    ("dtype", "compute", "tolerance"), [(torch.float16, torch.float32, 1e-5), (torch.bfloat16, None, 0.01)]
)
def test_half_precision_predicts_the_same_noise(pack_nodes, monkeypatch, dtype, compute, tolerance):
    full = predict(load(pack_nodes, monkeypatch, torch.float32, None))
    model = load(pack_nodes, monkeypatch, dtype, compute)
    seen = set()
    for module in model.model.diffusion_model.modules():
        if isinstance(module, torch.nn.GroupNorm):
            module.register_forward_pre_hook(lambda module, inputs: seen.add(inputs[0].dtype))
    half = predict(model)
    assert half.dtype == torch.float32 and seen == {torch.float32}
    assert next(model.model.diffusion_model.network.parameters()).dtype == dtype
    assert ((half - full).norm() / full.norm()).item() < tolerance
