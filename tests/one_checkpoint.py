"""Workflows whose model, text encoder and VAE are three files, for models that are one.

For models that the host knows by their full width alone, so that no small file can stand in for them: Qwen-Image.
"""

WIDE = "qwen"  # how their names begin
PARTS = {"UNETLoader": 0, "CLIPLoader": 1, "VAELoader": 2}  # outputs of Load Checkpoint
SMALL = {"upscale_method": "area", "width": 32, "height": 32, "crop": "disabled"}  # of an edit model's own size


def as_one_checkpoint(prompt):
    """A workflow with a model of three files, as if they were one, and texts that are read without a picture."""
    parts = {key: PARTS[node["class_type"]] for key, node in prompt.items() if node["class_type"] in PARTS}
    models = {key: prompt[key]["inputs"]["unet_name"] for key, place in parts.items() if place == 0}
    whole = next((key for key, name in models.items() if name.startswith(WIDE)), None)
    if whole is None:
        return prompt
    replaced = {}
    for key, node in prompt.items():
        kind, inputs = node["class_type"], node["inputs"]
        if key == whole:
            kind, inputs = "CheckpointLoaderSimple", {"ckpt_name": inputs["unet_name"]}
        elif kind.startswith("TextEncodeQwenImageEdit"):
            kind, inputs = "CLIPTextEncode", {"clip": inputs["clip"], "text": inputs["prompt"]}
        elif kind == "FluxKontextImageScale":
            kind, inputs = "ImageScale", {**inputs, **SMALL}
        links = {
            name: [whole, parts[value[0]]]
            for name, value in inputs.items()
            if isinstance(value, list) and value[0] in parts
        }
        if key == whole or key not in parts:
            replaced[key] = {"class_type": kind, "inputs": {**inputs, **links}}
    return replaced
