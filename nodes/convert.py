"""Published files that ask for code, made readable without a developer's tool."""

from __future__ import annotations

from pathlib import Path

from comfy_api.latest import io

from ..models.convert import convert
from .host.errors import GuidanceNode, about
from .host.files import locate_pickle, pickles


class ConvertFile(GuidanceNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Guidance_ConvertFile",
            display_name="Convert Guidance File",
            category="guidance/loaders",
            description="Takes the weights out of a PyTorch file that asks for code, as the published diffusion "
            "autoencoders do, and writes them beside it as safetensors. Nothing in the file runs.",
            search_aliases=[
                "ckpt to safetensors",
                "DiffAE",
                "last.ckpt",
                "pickle",
                "Lightning",
                "convert",
                "转换",
                "格式转换",
            ],
            inputs=[
                io.Combo.Input(
                    "file_name",
                    options=pickles(),
                    tooltip="A .ckpt, .pt, .pth or .bin in guidance_models or another of this pack's folders.",
                ),
            ],
            outputs=[
                io.String.Output(display_name="report", tooltip="What was written, what was kept and what left out.")
            ],
            is_output_node=True,
        )

    @classmethod
    def run(cls, file_name: str) -> io.NodeOutput:
        with about("file_name"):
            path = Path(locate_pickle(file_name))
            report = convert(path, path.with_suffix(".safetensors"))
        text = f"{report}\nReload the page (R), and choose it in its loader."
        return io.NodeOutput(text, ui={"text": [text]})


NODES: list[type[io.ComfyNode]] = [ConvertFile]
