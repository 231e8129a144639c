"""What older hosts lack or do another way: a test that needs what they lack is skipped with the reason."""

import importlib
import json
import tempfile
from pathlib import Path

import pytest


def version():
    from comfyui_version import __version__

    return __version__


def hosts_own(module, name):
    """A node or class of the host's."""
    found = getattr(importlib.import_module(module), name, None)
    if found is None:
        pytest.skip(f"ComfyUI {version()} has no {name}")
    return found


def hands_over_the_middle():
    """Whether the host's U-Net shows its middle block to patches, with all that a decoder half needs: from 0.24."""
    import inspect

    import comfy.ldm.modules.diffusionmodules.openaimodel as unet

    return "middle_block_after_patch" in inspect.getsource(unet.UNetModel)


def needs_the_middle():
    if not hands_over_the_middle():
        pytest.skip(f"ComfyUI {version()} runs the whole U-Net again for an edit, and in its own precision")


def clip_vision_model(config):
    """Of a configuration, which hosts before 0.24 read from a file only."""
    import comfy.clip_vision

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.json"
        path.write_text(json.dumps(config))
        return comfy.clip_vision.ClipVisionModel(str(path))


def reads_the_width_of_a_vae():
    """Whether the host takes small VAEs: from 0.24. Before, a decoder has 128 channels whatever the file says."""
    import inspect

    import comfy.sd

    return "decoder_ch" in inspect.getsource(comfy.sd.VAE)
