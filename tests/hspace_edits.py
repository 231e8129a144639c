"""Edits of h-space as tests make them, out of tensors and files, and what they meet: hooks, other nodes, old hosts."""

from pathlib import Path

import asyrp_golden
from hspace_scenes import random

ALWAYS = {"start_percent": 0.0, "end_percent": 1.0}


def apply_edit(execute, model, *directions, **options):
    """HSpace Edit with directions given as tensors or edits, in the whole run."""
    from pack.nodes.host.hspace.edit import Edit, direction_edit

    edits = [one if isinstance(one, Edit) else direction_edit(one, name="d") for one in directions]
    return execute("Guidance_HSpaceEdit", model=model, hspace=edits, **{**ALWAYS, **options})[0]


class Hooked:
    """The host's U-Net with a direction added behind its middle block, by torch alone."""

    def __init__(self, scene, direction):
        self.layer = scene.model.model.diffusion_model.middle_block[-1]
        self.direction = direction

    def __enter__(self):
        self.handle = self.layer.register_forward_hook(lambda module, inputs, h: h + self.direction)

    def __exit__(self, *problem):
        self.handle.remove()


def older(model):
    """The MODEL on a host that hands out neither middle nor embedding: its U-Net never sees that patch."""
    from comfy.patcher_extension import WrappersMP

    def without(part):
        if not (isinstance(part, dict) and "patches" in part):
            return part
        kept = {key: value for key, value in part["patches"].items() if key != "middle_block_after_patch"}
        return {**part, "patches": kept}

    def forget(executor, x, timesteps, *args, **kwargs):
        kwargs = {key: without(value) for key, value in kwargs.items()}
        return executor(x, timesteps, *(without(part) for part in args), **kwargs)

    model = model.clone()
    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "an older host", forget)
    return model


def residuals():
    """A CONTROL_NET that always returns the same residuals; the host takes them off its lists."""
    from comfy.controlnet import ControlBase

    class Residuals(ControlBase):
        def get_control(self, x_noisy, t, cond, batched_number, transformer_options):
            parts = [random(1, 1, 1, 1, seed=seed) for seed in range(12)]
            return {"input": [], "middle": [random(1, 128, 1, 1, seed=20)], "output": parts}

    return Residuals()


def composed(scene, kind):
    """(MODEL, positive) with what another node adds."""
    model, positive = scene.model.clone(), scene.positive
    if kind == "LoRA":
        names = ("middle_block.0.in_layers.2.weight", "output_blocks.3.0.in_layers.2.weight")
        weights = model.model.state_dict()
        keys = [f"diffusion_model.{name}" for name in names]
        model.add_patches({key: (0.1 * random(*weights[key].shape, seed=7),) for key in keys}, 0.7)
    elif kind == "FreeU_V2":
        from comfy_extras.nodes_freelunch import FreeU_V2

        model = FreeU_V2.execute(model, 1.3, 1.4, 0.9, 0.2).args[0]
    elif kind == "output patch":
        model.set_model_output_block_patch(lambda h, skip, options: (h.mul_(1.1), skip.mul_(0.9)))
    elif kind == "ControlNet":
        more = {"control": residuals(), "control_apply_to_uncond": True}
        positive = [[positive[0][0], more]]
    return model, positive


def direction_folder():
    import folder_paths

    path = Path(folder_paths.get_folder_paths("guidance_directions")[0])
    path.mkdir(parents=True, exist_ok=True)
    return path


def load_direction(execute, name, **options):
    return execute("Guidance_LoadHSpaceDirection", direction_name=str(name), **options)[0]


def block(norm_first, channels=64, embedding=128):
    """A random delta block, and its state under the published name."""
    arguments = {"family": "improved_ddpm" if norm_first else "ddpm", "salt": "delta."}
    network = asyrp_golden.delta_network(arguments, channels, embedding)
    return network, {f"layer_0.{key}": value for key, value in network.state_dict().items()}


def moment(steps=10):
    from pack.nodes.host.hspace.edit import Place

    return Place(5.0, 0.3, steps)
