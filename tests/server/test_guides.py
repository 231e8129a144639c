"""Guides in a real server, through the HTTP API, around the host's own samplers, guiders, patches and masks."""

import io
import itertools
import json

import numpy as np
import pytest
import torch
import websocket
from PIL import Image
from safetensors.torch import save_file

from bench.host_server import HostError
from training import scenes

pytestmark = pytest.mark.server
MODELS = {"pixel": "scenes_unet", "latent": "scenes_latent", "flow": "scenes_flow"}
REFERENCE, MASK, LORA = "guides_reference.png", "guides_mask.png", "guides_lora.safetensors"
FREE = 16  # the mask is white from this column on
fresh = itertools.count()  # an input that no node has: the host runs a node with a new one again, with all it keeps


def node(class_type, **inputs):
    return {"class_type": class_type, "inputs": inputs}


def guide(kind, **inputs):
    """A guide for the whole run."""
    given = {"weight": 1.0, "start_percent": 0.0, "end_percent": 1.0, "curve": "constant"}
    return node(f"Guidance_{kind}Guide", **given | inputs)


def text(words="a blue star on a yellow background"):
    return guide("Text", encoder=["encoder", 0], text=words, loss="cosine")


def like(kind, **inputs):
    """A guide towards the reference picture."""
    return guide(kind, encoder=["encoder", 0], image=["reference", 0], **inputs)


GUIDES = {
    "text": text(),
    "content": like("Content"),
    "structure by difference": like("Structure", method="difference", layers=""),
    "structure by self-similarity": like("Structure", method="self-similarity", layers=""),
    "style": like("Style", layers=""),
    "palette": guide("Palette", image=["reference", 0]),
    "classifier": guide("Classifier", classifier=["classifier", 0], class_label="star", weight=8.0),
    "score": guide("Score", encoder=["encoder", 0], scorer=["scorer", 0], output="star", text="a", opposite="b"),
    "pair of texts": guide("Score", encoder=["encoder", 0], text="a star", opposite="a ring", output=""),
    "two combined": node("Guidance_CombineGuides", **{"guides.guide0": ["text", 0], "guides.guide1": ["palette", 0]}),
}


def apply(space, strength, **inputs):
    given = {"strength": strength, "gradient": "auto", "unit": "auto", "cap": 1.0, "every": 1, "inner_steps": 3}
    given |= {"guides": ["guide", 0], "views": 2, "recurrence": 1, "vae": ["model", 1] if space == "latent" else None}
    return node("Guidance_ApplyGuides", **{key: value for key, value in (given | inputs).items() if value is not None})


def parts(space="pixel", batch=1, steering=None, size=32):
    """What all graphs need; the host runs only what an output asks for."""
    loader = {"model_name": f"{MODELS[space]}.safetensors", "clip_denoised": True, "schedule": "auto", "heads": "auto"}
    prompt = {
        "model": node("Guidance_LoadModel", **loader),
        "encoder": node("Guidance_LoadEncoder", encoder_name="scenes_clip.safetensors", activation="auto"),
        "classifier": node("Guidance_LoadClassifier", classifier_name="scenes_classifier.safetensors"),
        "scorer": node("Guidance_LoadScorer", scorer_name="scenes_scorer.safetensors", activation="auto"),
        "reference": node("LoadImage", image=REFERENCE),
        "mask": node("LoadImageMask", image=MASK, channel="red"),
        "text": GUIDES["text"],
        "palette": GUIDES["palette"],
        "guide": steering or GUIDES["text"],
        "latent": node("EmptyLatentImage", width=size, height=size, batch_size=batch),
    }
    for key, label in {"yes": "heart", "other": "ring", "no": ""}.items():
        prompt[key] = node("Guidance_ClassConditioning", model=["model", 0], class_label=label)
    return prompt


def ksampler(name="euler", cfg=2.0, steps=4, seed=1, **inputs):
    given = {"steps": steps, "cfg": cfg, "sampler_name": name, "scheduler": "normal", "denoise": 1.0, "seed": seed}
    given |= {"positive": ["yes", 0], "negative": ["no", 0], "latent_image": ["latent", 0], **inputs}
    return lambda model, key: {f"sample {key}": node("KSampler", model=model, **given)}


def advanced(class_type, **inputs):
    """SamplerCustomAdvanced around a guider of the host."""

    def nodes(model, key):
        links = {name: [f"{name} {key}", 0] for name in ("noise", "guider", "sampler", "sigmas")}
        return {
            f"guider {key}": node(class_type, model=model, **inputs),
            f"sigmas {key}": node("BasicScheduler", model=model, scheduler="normal", steps=4, denoise=1.0),
            f"noise {key}": node("RandomNoise", noise_seed=1),
            f"sampler {key}": node("KSamplerSelect", sampler_name="euler"),
            f"sample {key}": node("SamplerCustomAdvanced", latent_image=["latent", 0], **links),
        }

    return nodes


def branch(key, strength, sampling, before=(), after=(), space="pixel", **options):
    """Patches in a row, a sampler and a saved picture; without Apply Guides where the strength is None."""
    model, nodes = ["model", 0], {}
    guided = [] if strength is None else [apply(space, strength, **options)]
    for place, patch in enumerate([*before, *guided, *after]):
        nodes[f"patch {key} {place}"] = node(patch["class_type"], **patch["inputs"] | {"model": model})
        model = [f"patch {key} {place}", 0]
    nodes |= sampling(model, key)
    nodes[f"decode {key}"] = node("VAEDecode", samples=[f"sample {key}", 0], vae=["model", 1])
    nodes[f"save {key}"] = node("SaveImage", images=[f"decode {key}", 0], filename_prefix="guides")
    return nodes


def graph(base, sampling, **choices):
    return base | branch("guided", 1.0, sampling, **choices)


def pictures(server, output):
    return np.stack([np.asarray(Image.open(io.BytesIO(png)).convert("RGB")) for png in server.images(output)])


def distances(one, other):
    """Mean absolute differences of pictures, of 255; one each."""
    return np.abs(one.astype(float) - other).mean((1, 2, 3))


def compared(server, base=None, sampling=None, space="pixel", **choices):
    """Guided and unguided pictures [B H W 3] of one prompt, after the checks that every guided run must pass."""
    strengths = {"guided": 1.0, "off": 0.0, "without": None}
    prompt = parts(space) if base is None else dict(base)
    for key, strength in strengths.items():
        prompt |= branch(key, strength, sampling or ksampler(), space=space, **choices)
    outputs = server.run(prompt)
    guided, off, without = (pictures(server, outputs[f"save {key}"]) for key in strengths)
    assert np.array_equal(off, without)
    assert (distances(guided, without) > 0.5).all()
    return guided, without


@pytest.fixture(scope="module", autouse=True)
def files(server):
    """A reference picture, a mask and a LoRA in the server's own folders."""
    scene = scenes.render(scenes.draw(1, torch.Generator().manual_seed(3))).image[0]
    for folder in ("input", "models/loras"):
        (server.base / folder).mkdir(parents=True, exist_ok=True)
    picture = ((scene.movedim(0, -1) + 1) * 127.5).round().byte().numpy()
    Image.fromarray(picture).save(server.base / "input" / REFERENCE)
    mask = np.zeros((32, 32, 3), np.uint8)
    mask[:, FREE:] = 255
    Image.fromarray(mask).save(server.base / "input" / MASK)
    random, key = torch.Generator().manual_seed(0), "lora_unet_network_time_embed_0"
    down, up = (torch.randn(shape, generator=random) * 0.3 for shape in ((2, 16), (64, 2)))
    lora = {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up, f"{key}.alpha": torch.tensor(2.0)}
    save_file(lora, server.base / "models" / "loras" / LORA)
    return picture


SAMPLERS = ["euler", "euler_ancestral", "dpmpp_2m", "dpmpp_2m_sde", "uni_pc", "ddim"]
AT_CFG = [*((name, 1.0) for name in SAMPLERS), ("euler", 7.0), ("dpmpp_2m_sde", 7.0)]


@pytest.mark.parametrize(("sampler", "cfg"), AT_CFG)
def test_guides_work_with_the_hosts_samplers(server, sampler, cfg):
    compared(server, sampling=ksampler(sampler, cfg))


PAIR = {"positive": ["yes", 0], "negative": ["no", 0], "cfg": 2.0}
SCALES = {"cfg_conds": 2.0, "cfg_cond2_negative": 2.0, "style": "regular"}
GUIDERS = {
    "CFGGuider": PAIR,
    "BasicGuider": {"conditioning": ["yes", 0]},
    "DualCFGGuider": {"cond1": ["yes", 0], "cond2": ["other", 0], "negative": ["no", 0], **SCALES},
    "PerpNegGuider": {**PAIR, "empty_conditioning": ["other", 0], "neg_scale": 1.0},
}


@pytest.mark.parametrize("guider", GUIDERS)
def test_guides_work_with_the_hosts_guiders(server, guider):
    compared(server, sampling=advanced(guider, **GUIDERS[guider]))


@pytest.mark.parametrize("space", MODELS)
def test_a_guided_picture_of_a_batch_is_the_one_sampled_alone(server, space):
    """Of 255. Rounding depends on the batch, and the kinks of an encoder would amplify it; colours have none."""
    sizes = [parts(space, size, GUIDES["palette"]) for size in (1, 3, 8)]
    alone, three, eight = (compared(server, base, space=space)[0] for base in sizes)
    assert [len(alone), len(three), len(eight)] == [1, 3, 8]
    assert distances(three[:1], alone) < 1 and (distances(eight[:3], three) < 1).all()


@pytest.mark.parametrize("space", MODELS)
@pytest.mark.parametrize("gradient", ["at denoised", "at denoised optimised", "through denoiser"])
def test_every_estimator_works_on_every_kind_of_model(server, gradient, space):
    compared(server, space=space, gradient=gradient)


PATCHES = {
    "LoRA": node("LoraLoaderModelOnly", lora_name=LORA, strength_model=1.0),
    "RescaleCFG": node("RescaleCFG", multiplier=0.7),
    "perturbed attention": node("PerturbedAttentionGuidance", scale=3.0),
}


@pytest.mark.parametrize("gradient", ["auto", "through denoiser"])
@pytest.mark.parametrize("patch", PATCHES)
def test_other_nodes_patches_work_before_and_after_guides(server, patch, gradient):
    sampling, nodes = ksampler(cfg=7.0), [PATCHES[patch]]
    guided, patched = compared(server, sampling=sampling, before=nodes, gradient=gradient)
    prompt = parts() | branch("bare", None, sampling)
    prompt |= branch("after", 1.0, sampling, after=nodes, gradient=gradient)
    outputs = server.run(prompt | branch("off", 0.0, sampling, after=nodes, gradient=gradient))
    bare, after, off = (pictures(server, outputs[f"save {key}"]) for key in ("bare", "after", "off"))
    assert np.array_equal(after, guided) and np.array_equal(off, patched)
    if patch != "perturbed attention":  # the small U-Net has no block that it could replace
        assert not np.array_equal(patched, bare)


PICTURE = {"pixels": ["reference", 0], "vae": ["model", 1]}
INPAINTING = {
    "SetLatentNoiseMask": node("SetLatentNoiseMask", samples=["encode", 0], mask=["mask", 0]),
    "VAEEncodeForInpaint": node("VAEEncodeForInpaint", mask=["mask", 0], grow_mask_by=6, **PICTURE),
}


@pytest.mark.parametrize("space", MODELS)
@pytest.mark.parametrize("way", INPAINTING)
def test_inpainting_guides_the_free_part_and_keeps_the_rest(server, files, way, space):
    base = parts(space)
    base["encode"] = node("VAEEncode", **PICTURE)
    base["latent"] = INPAINTING[way]
    guided, unguided = compared(server, base, space=space)
    kept = FREE if way == "SetLatentNoiseMask" else FREE - 4  # the other one grows the mask by half of 6 pixels
    assert np.abs(guided[0, :, :kept].astype(int) - files[:, :kept]).max() <= 1
    assert distances(guided[:, :, FREE:], unguided[:, :, FREE:]) > 1


IN_SPACE = [*((kind, "pixel") for kind in GUIDES), ("style", "latent"), ("two combined", "latent")]


@pytest.mark.parametrize(("kind", "space"), IN_SPACE)
def test_every_kind_of_guide_works(server, kind, space):
    compared(server, parts(space, steering=GUIDES[kind]), space=space)


def reported(server, prompt, **inputs):
    report = node("Guidance_GuideReport", model=["patch guided 0", 0], samples=["sample guided", 0], **inputs)
    outputs = server.run(prompt | {"report": report, "shown": node("PreviewAny", source=["report", 1])})
    return json.loads(outputs["shown"]["text"][0])


def test_the_report_has_rows_for_every_guide_and_tells_where_samples_came_from(server):
    prompt = graph(parts(steering=GUIDES["two combined"]), ksampler(steps=5, fresh=next(fresh)))
    at_once = reported(server, prompt)
    assert at_once["note"] == ""
    assert sorted(at_once["guides"]) == ["palette", "text: a blue star on a yellow background"]
    for rows in at_once["guides"].values():
        assert len(rows) == 5
        assert all(row["grad_norm"] > 0 and row["lambda"] > 0 and row["dropped"] == 0 for row in rows)
    later = reported(server, prompt, fresh=next(fresh))
    assert "samples came from the cache" in later["note"]
    assert later["guides"] == at_once["guides"]


def cancelled(server, base, gradient):
    """A guided run of 300 steps, interrupted at the third."""
    address = server.url.replace("http", "ws") + f"/ws?clientId={server.client}"
    socket = websocket.create_connection(address, timeout=60)
    prompt_id = server.queue(graph(base, ksampler(steps=300, fresh=next(fresh)), gradient=gradient))
    sent = False
    while True:
        event = json.loads(message) if isinstance(message := socket.recv(), str) else {"type": "preview"}
        if event["type"] == "progress" and event["data"]["value"] >= 3 and not sent:
            server.post("/interrupt", {})
            sent = True
        if event["type"] == "execution_interrupted" and event["data"]["prompt_id"] == prompt_id:
            break
        assert event["type"] != "execution_success", "the run was not interrupted"
    socket.close()
    assert server.wait(prompt_id)["status"]["status_str"] == "error"


def failed(server, base, gradient):
    """Guides refuse while the host samples: pictures of another size than theirs, labels for another batch."""
    wrong = base | {"latent": parts(size=64)["latent"]}
    with pytest.raises(HostError, match="looks at noisy pictures of 32 x 32, the sample is 64 x 64"):
        server.run(graph(wrong, ksampler(), gradient="at noisy"))
    labels = guide("Classifier", classifier=["classifier", 0], class_label="star; ring")
    with pytest.raises(HostError, match="2 labels came for a batch of 3"):
        server.run(graph(parts(batch=3, steering=labels), ksampler(), gradient=gradient))


def something_else(server, base, gradient):
    other = parts("flow", 2, GUIDES["style"])
    server.run(graph(other, ksampler(fresh=next(fresh)), before=[PATCHES["LoRA"]], gradient=gradient))


@pytest.mark.parametrize("gradient", ["auto", "through denoiser"])
@pytest.mark.parametrize("disturbance", [cancelled, failed, something_else], ids=lambda what: what.__name__)
def test_the_same_seed_gives_the_same_picture_after(server, disturbance, gradient):
    base = parts(steering=GUIDES["content"])  # its reference gets noise of its own at each step

    def sampled():
        prompt = graph(base, ksampler(seed=9, fresh=next(fresh)), gradient=gradient)
        return pictures(server, server.run(prompt)["save guided"])

    first = sampled()
    disturbance(server, base, gradient)
    assert np.array_equal(sampled(), first)


WRONG = {  # the node, its input, and the graph
    "a model on latents without its VAE": ("Apply Guides", "vae", "latent", text(), {"vae": None}),
    "noisy latents": ("Apply Guides", "gradient", "latent", text(), {"gradient": "at noisy"}),
    "an unknown layer": ("Style Guide", "layers", "pixel", like("Style", layers="layer9"), {}),
    "more than 16 words": ("Text Guide", "text", "pixel", text("a " * 16 + "star"), {}),
    "an unknown word": ("Text Guide", "text", "pixel", text("a zebra"), {}),
}


@pytest.mark.parametrize("case", WRONG)
def test_an_error_is_one_sentence_that_names_node_and_input(server, case):
    title, wrong, space, steering, options = WRONG[case]
    with pytest.raises(HostError) as error:
        server.run(graph(parts(space, steering=steering), ksampler(), space=space, **options))
    node_id, message = f"Guidance_{title.replace(' ', '')}", str(error.value).strip()
    assert error.value.details["node_type"] == node_id
    assert message.endswith(f" (input '{wrong}' of {title})")
    assert "\n" not in message and ". " not in message
