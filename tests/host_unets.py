"""The host's U-Nets without a file: SD1.5's and SDXL's proportions at any width, and networks on the meta device."""

import inspect

import torch
from torch import Tensor


def sd15(width=320, device="cpu"):
    """A MODEL of SD1.5's shape, and its contexts."""
    from bench.guide_cost import unet

    return unet(width, device), [[[random(1, 77, 768, seed=seed), {}]] for seed in (3, 4)]


def sdxl(width=320, device="cpu"):
    """A MODEL of SDXL's shape, and its contexts with what it knows of the picture."""
    import comfy.model_base

    from bench.costs import sdxl_config

    config = sdxl_config(width)
    config.set_inference_dtype(torch.float32, None)
    model = comfy.model_base.SDXL(config, device=torch.device(device))
    model.diffusion_model.requires_grad_(False)
    contexts = [[[random(1, 77, 2048, seed=s), {"pooled_output": random(1, 1280, seed=s)}]] for s in (3, 4)]
    return patcher(model), contexts


def patcher(model):
    """MODEL of the host's BaseModel."""
    import comfy.model_patcher

    cpu = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(model, load_device=cpu, offload_device=cpu)


def random(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def on_meta(model):
    """The MODEL with its network where tensors have shapes and no numbers; the run around it stays the host's own."""
    from comfy.patcher_extension import WrappersMP

    hide(model.model)

    def moved(part):
        return part.to("meta") if isinstance(part, Tensor) else part

    def there(executor, *args, **kwargs):
        out = executor(*(moved(part) for part in args), **{key: moved(part) for key, part in kwargs.items()})
        return torch.zeros(out.shape)

    model = model.clone()
    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "on the meta device", there)
    return model


def hide(model):
    """What the host does not see as a part it does not load."""
    network = model._modules.pop("diffusion_model")
    object.__setattr__(model, "diffusion_model", network)


def has_middle_patch():
    """Hosts before 0.24 let no node see the middle of their U-Nets; there the whole network runs again."""
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    return "middle_block_after_patch" in inspect.getsource(UNetModel)


def edited(execute, model, direction, window=(0.0, 1.0), **options):
    """HSpace Edit with a direction [1 C h w]."""
    from pack.nodes.host.hspace.edit import direction_edit

    start, end = window
    hspace = [direction_edit(direction, name="d")]
    window = {"start_percent": start, "end_percent": end}
    return execute("Guidance_HSpaceEdit", model=model, hspace=hspace, **window, **options)[0]


def euler(model, noise, conditions, cfg=1.0, sigmas=None, steps=1):
    """A run of the host's own."""
    import comfy.sample

    options = {"sigmas": sigmas, "seed": 1, "disable_pbar": True}
    empty = torch.zeros_like(noise)
    with torch.inference_mode():
        return comfy.sample.sample(model, noise, steps, cfg, "euler", "normal", *conditions, empty, **options)
