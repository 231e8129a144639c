"""CFG Patch, CFG Condition and CFG Combiner in a real server, through the HTTP API, beside the host's own nodes."""

import io
import json
from itertools import combinations, count

import numpy as np
import pytest
import torch
import websocket
from hosts import hosts_own
from PIL import Image
from safetensors.torch import save_file

from bench.host_server import HostError

pytestmark = pytest.mark.server
MODELS = {"pixel": "scenes_unet", "latent": "scenes_latent", "flow": "scenes_flow"}
FILE, LORA, FREE = "cfg_picture.png", "cfg_lora.safetensors", 16  # the mask is white from this column on
MODEL, VAE, YES, OTHER, NO, LATENT = ["model", 0], ["model", 1], ["yes", 0], ["other", 0], ["no", 0], ["latent", 0]
PICTURE, MASK, GUIDE, HOOKS = ["picture", 0], ["mask", 0], ["guide", 0], ["hooks", 0]
WINDOW = {"start_percent": 0.0, "end_percent": 1.0, "curve": "constant"}
LOADER = {"clip_denoised": True, "schedule": "auto", "heads": "auto"}
fresh = count()  # an input that no node has: the host runs a node with a new one again, with all it keeps


def node(class_type, **inputs):
    return {"class_type": class_type, "inputs": inputs}


def method(name, **settings):
    return {"method": name, **{f"method.{key}": value for key, value in settings.items()}}


class Graph(dict):
    """A prompt: methods add nodes and return links to them. What nothing saved asks for, the host leaves out."""

    def __init__(self, space="pixel", batch=1, steps=4, sampler="euler", seed=1):
        self["model"] = node("Guidance_LoadModel", model_name=f"{MODELS[space]}.safetensors", **LOADER)
        for key, label in {"yes": "heart", "other": "ring", "no": ""}.items():
            self[key] = node("Guidance_ClassConditioning", model=MODEL, class_label=label)
        self["latent"] = node("EmptyLatentImage", width=32, height=32, batch_size=batch)
        self["picture"], self["mask"] = node("LoadImage", image=FILE), node("LoadImageMask", image=FILE, channel="red")
        self["guide"] = node("Guidance_PaletteGuide", image=PICTURE, weight=1.0, **WINDOW)
        self["hooks"] = node("CreateHookLoraModelOnly", lora_name=LORA, strength_model=1.0)
        self.steps, self.sampler, self.seed, self.latent = steps, sampler, seed, LATENT

    def add(self, made, **inputs):
        made = node(made) if isinstance(made, str) else made
        given = {name: value for name, value in (made["inputs"] | inputs).items() if value is not None}
        self[key := f"{made['class_type']} {len(self)}"] = node(made["class_type"], **given)
        return [key, 0]

    def second(self):  # the model once more, from a loader that is set otherwise, with a LoRA
        return self.add(LOW_RANK, model=self.add(self["model"], clip_denoised=False))

    def patch(self, model=MODEL, **inputs):
        given = {"model": model, **method("constant"), "guidance_scale": 0.0, **WINDOW}
        return self.add("Guidance_CFGPatch", **given | inputs)

    def condition(self, conditioning=YES, scale=4.0, **inputs):
        given = {"conditioning": conditioning, "guidance_scale": scale, "reference": "negative", **WINDOW}
        return self.add("Guidance_CFGCondition", **given | inputs)

    def combiner(self, *conditions, **inputs):
        wired = {f"conditions.condition{k}": link for k, link in enumerate(conditions or [self.condition()])}
        given = {"model": MODEL, "negative": NO, **method("constant"), **wired}
        return self.add("Guidance_CFGCombiner", **given | inputs)

    def ksampler(self, model=MODEL, cfg=4.0, **inputs):
        given = {"positive": YES, "negative": NO, "latent_image": self.latent, "denoise": 1.0, "seed": self.seed}
        given |= {"model": model, "cfg": cfg, "sampler_name": self.sampler, "scheduler": "normal", "steps": self.steps}
        return self.add("KSampler", **given | inputs)

    def sampled(self, guider, denoise=1.0, **inputs):
        schedule = {"scheduler": "normal", "steps": self.steps, "denoise": denoise}
        given = {"noise": self.add("RandomNoise", noise_seed=self.seed), "latent_image": self.latent}
        given["sampler"] = self.add("KSamplerSelect", sampler_name=self.sampler)
        given["sigmas"] = self.add("BasicScheduler", model=MODEL, **schedule)
        return self.add("SamplerCustomAdvanced", guider=guider, **given | inputs)

    def combined(self, *conditions, **inputs):
        return self.sampled(self.combiner(*conditions, **inputs))

    def hosted(self, guider="CFGGuider", **inputs):
        return self.sampled(self.add(guider, **{"model": MODEL, "positive": YES, "negative": NO, "cfg": 4.0} | inputs))


def pictures(server, graph, *samples):
    """[B H W 3] of each, of one prompt. Samples that aren't finite would be black pictures."""
    keys = [graph.add("PreviewImage", images=graph.add("VAEDecode", samples=x, vae=VAE))[0] for x in samples]
    outputs = server.run(graph)
    files = [[io.BytesIO(png) for png in server.images(outputs[key])] for key in keys]
    found = [np.stack([np.asarray(Image.open(file).convert("RGB")) for file in batch]) for batch in files]
    assert all(picture.std() > 5 for batch in found for picture in batch)
    return found


def distances(*found):
    """Mean absolute differences of pictures, of 255: one for each picture of each pair."""
    return np.array([np.abs(one - other.astype(float)).mean((1, 2, 3)) for one, other in combinations(found, 2)])


def same(*found):
    return (distances(*found) == 0).all()


def differ(*found):
    return (distances(*found) > 0.3).all()


@pytest.fixture(scope="module", autouse=True)
def picture(server):
    """A picture whose red is a mask, and a LoRA, in the server's own folders."""
    picture = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    picture[..., 0] = 255 * (np.arange(32) >= FREE)
    random, shapes = torch.Generator().manual_seed(0), {"lora_down": (2, 16), "lora_up": (64, 2)}
    weights = {name: torch.randn(shape, generator=random) * 0.3 for name, shape in shapes.items()}
    lora = {f"lora_unet_network_time_embed_0.{name}.weight": value for name, value in weights.items()}
    for folder in ("input", "models/loras"):
        (server.base / folder).mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(server.base / "input" / FILE)
    save_file(lora, server.base / "models" / "loras" / LORA)
    return picture


@pytest.mark.parametrize("space", MODELS)
def test_constant_cfg_is_the_hosts_to_the_last_pixel(server, space):
    graph = Graph(space, batch=2)
    patched = graph.patch(guidance_scale=4.0)
    ours = graph.combined(), graph.hosted(cfg=7.0, model=patched), graph.ksampler(patched, cfg=7.0)
    assert same(*pictures(server, graph, graph.hosted(), graph.ksampler(), *ours))


METHODS = {  # with settings that show; space, sampler
    "constant": (method("constant"), "flow", "euler_cfg_pp"),
    "rescale": (method("rescale", phi=0.7), "latent", "dpmpp_2m"),
    "dynamic threshold": (method("dynamic threshold", percentile=0.9, limit=0.0), "pixel", "euler_ancestral"),
    "mimic threshold": (method("mimic threshold", mimic_scale=2.0, phi=1.0), "latent", "euler_ancestral"),
    "APG": (method("APG", eta=0.0, cap=0.06, momentum=-0.5), "pixel", "dpmpp_2m"),
    "CFG++": (method("CFG++", strength=0.6), "pixel", "euler"),
    "CFG-Zero*": (method("CFG-Zero*", strength=1.0, zero_init=0.25), "flow", "euler"),
    "tangential": (method("tangential (TCFG)", strength=1.0), "latent", "euler"),
    "frequency": (method("frequency (FDG)", low=0.45, high=1.5), "flow", "dpmpp_2m"),
    "perp-neg": (method("perp-neg", strength=1.0), "flow", "euler_ancestral"),
    "magnitude-aware": (method("magnitude-aware (MAMBO-G)", alpha=8.0), "flow", "euler_ancestral"),
    "history": (method("history (HiGS)", strength=0.5, memory=0.6), "pixel", "euler"),
    "adaptive skip": (method("adaptive skip", threshold=0.5), "pixel", "euler_ancestral"),
}
CHOICES = {key: choice for key, (choice, *_) in METHODS.items()}
APG, RESCALE, THRESHOLD = CHOICES["APG"], CHOICES["rescale"], CHOICES["dynamic threshold"]


@pytest.mark.parametrize("key", METHODS)
def test_every_method_makes_the_same_picture_under_ksampler_and_in_the_combiner(server, key):
    choice, space, sampler = METHODS[key]
    graph = Graph(space, sampler=sampler)
    samples = graph.ksampler(graph.patch(**choice)), graph.combined(**choice), graph.ksampler()
    patched, combined, plain = pictures(server, graph, *samples)
    no_change = key in ("constant", "perp-neg")  # the second is about conditions of negative scale
    assert same(patched, combined) and (same if no_change else differ)(patched, plain)


def test_a_negative_scale_pushes_away_and_perp_neg_in_another_direction(server):
    graph = Graph()
    pair = graph.condition(), graph.condition(OTHER, -3.0)
    samples = graph.combined(), graph.combined(*pair), graph.combined(*pair, **CHOICES["perp-neg"])
    assert differ(*pictures(server, graph, *samples))


@pytest.mark.parametrize("space", MODELS)
def test_every_reference_but_the_negative_guides_without_one(server, space):
    graph = Graph(space, batch=2)
    plain, second = graph.condition(scale=1.0, reference="none"), graph.second()
    lists = [[plain], [plain, graph.condition(OTHER, 0.5, reference="parent", parent=plain)]]
    lists += [[graph.condition(reference=kind, model=second)] for kind in ("random condition", "other time", "model")]
    samples = [graph.combined(*conditions, negative=None) for conditions in lists]
    *ours, unguided = pictures(server, graph, *samples, graph.ksampler(cfg=1.0))
    assert same(ours[0], unguided) and differ(*ours)


@pytest.mark.parametrize("space", MODELS)
def test_against_a_second_model_it_is_the_hosts_guider_for_two(comfy, server, space):
    """Which takes its negative from the second."""
    hosts_own("comfy_extras.nodes_custom_sampler", "DualModelGuider")
    graph = Graph(space, batch=2)
    second = graph.second()
    ours = graph.combined(graph.condition(reference="model", model=second), negative=None)
    theirs = graph.hosted("DualModelGuider", model_negative=second, negative=YES)
    assert (distances(*pictures(server, graph, ours, theirs)) < 0.5).all()


GUIDED = {"guides": GUIDE, "vae": VAE, "strength": 1.0, "unit": "auto", "cap": 1.0, "every": 1, "inner_steps": 3}
GUIDES = node("Guidance_ApplyGuides", gradient="auto", views=2, recurrence=1, **GUIDED)
THROUGH = node("Guidance_ApplyGuides", gradient="through denoiser", views=2, recurrence=1, **GUIDED)
LOW_RANK = node("LoraLoaderModelOnly", lora_name=LORA, strength_model=1.0)
RESCALED, PERTURBED = node("RescaleCFG", multiplier=0.7), node("PerturbedAttentionGuidance", scale=3.0)
NODES = [("flow", GUIDES), ("latent", THROUGH), ("pixel", LOW_RANK), ("pixel", PERTURBED), ("latent", node("TCFG"))]


@pytest.mark.parametrize(("space", "made"), NODES, ids=[made["class_type"] for _, made in NODES])
def test_other_nodes_patches_work_before_and_after_ours_and_in_the_combiner(server, space, made):
    graph = Graph(space)
    ours, theirs = graph.patch(**APG), graph.add(made, model=MODEL)
    samples = map(graph.ksampler, (graph.patch(theirs, **APG), graph.add(made, model=ours), ours))
    before, after, alone, combined = pictures(server, graph, *samples, graph.combined(model=theirs, **APG))
    assert same(before, after, combined)
    assert made == PERTURBED or differ(before, alone)  # the small U-Net has no block that it could replace


CONDITIONINGS = [  # the last is a LoRA for this condition only
    ("pixel", node("ConditioningSetArea", conditioning=YES, width=128, height=256, x=128, y=0, strength=1.0)),
    ("flow", node("ConditioningSetMask", conditioning=YES, mask=MASK, strength=1.0, set_cond_area="default")),
    ("pixel", node("ConditioningSetProperties", cond_NEW=YES, hooks=HOOKS, strength=1.0, set_cond_area="default")),
]


@pytest.mark.parametrize(("space", "made"), CONDITIONINGS, ids=[made["class_type"] for _, made in CONDITIONINGS])
def test_what_the_host_puts_into_a_conditioning_works_beside_another_one(server, space, made):
    graph = Graph(space)
    positive = graph.add("ConditioningCombine", conditioning_1=OTHER, conditioning_2=graph.add(made))
    two = graph.condition(positive, 2.0, reference="model", model=graph.second()), graph.condition(OTHER, 2.0)
    samples = graph.combined(*two), graph.ksampler(graph.patch(**APG), positive=positive), graph.ksampler()
    both = graph.hosted(positive=positive), graph.combined(graph.condition(positive))
    theirs, ours, *others = pictures(server, graph, *both, *samples)
    assert same(ours, theirs) and differ(ours, *others)


@pytest.mark.parametrize("space", MODELS)
def test_inpainting_keeps_what_the_noise_mask_holds(server, picture, space):
    graph = Graph(space)
    encoded = graph.add("VAEEncode", pixels=PICTURE, vae=VAE)
    graph.latent = graph.add("SetLatentNoiseMask", samples=encoded, mask=MASK)
    two = graph.combined(graph.condition(reference="model", model=graph.second()), **APG)
    found = pictures(server, graph, graph.ksampler(), graph.ksampler(graph.patch(**APG)), graph.combined(**APG), two)
    assert all(np.abs(one[0, :, :FREE].astype(int) - picture[:, :FREE]).max() <= 1 for one in found)
    plain, patched, combined, two = (one[:, :, FREE:] for one in found)
    assert same(patched, combined) and differ(plain, patched, two)


@pytest.mark.parametrize("space", MODELS)
def test_a_mask_says_where_a_condition_counts(server, space):
    """One step: inside as without the mask, outside as without the condition. Of 255."""
    graph = Graph(space, steps=1)
    graph.latent = graph.add("VAEEncode", pixels=PICTURE, vae=VAE)
    first, inside, whole = graph.condition(), *(graph.condition(OTHER, 40.0, mask=mask) for mask in (MASK, None))
    guiders = graph.combiner(first, inside), graph.combiner(first, whole), graph.combiner(first)
    masked, whole, without = pictures(server, graph, *(graph.sampled(guider, denoise=0.5) for guider in guiders))
    wanted = np.concatenate([without[:, :, :FREE], whole[:, :, FREE:]], 2)
    assert differ(whole, without) and np.abs(masked.astype(int) - wanted).max() <= 1


@pytest.mark.parametrize(("key", "space"), [("APG", "latent"), ("history", "flow"), ("adaptive skip", "pixel")])
def test_a_picture_of_a_batch_is_the_one_sampled_alone(server, key, space):
    """Of 255: rounding depends on the batch."""
    graph = Graph(space, batch=4)
    latents = [LATENT, *(graph.add("LatentFromBatch", samples=LATENT, batch_index=k, length=1) for k in (0, 3))]
    patched = [graph.ksampler(graph.patch(**CHOICES[key]), latent_image=latent) for latent in latents]
    combined = [graph.sampled(graph.combiner(**CHOICES[key]), latent_image=latent) for latent in latents]
    found = pictures(server, graph, *patched, *combined)
    for whole, first, last in (found[:3], found[3:]):
        assert len(whole) == 4 and differ(first, last)
        assert distances(first, whole[:1]) < 1 and distances(last, whole[3:]) < 1


def cancelled(server, sample):
    """A run of 300 steps, interrupted at the third."""
    graph = Graph(steps=300)
    graph.add("PreviewImage", images=graph.add("VAEDecode", samples=sample(graph), vae=VAE))
    socket = websocket.create_connection(f"{server.url.replace('http', 'ws')}/ws?clientId={server.client}", timeout=60)
    prompt_id = server.queue(graph)
    events = (json.loads(message) for message in iter(socket.recv, None) if isinstance(message, str))
    assert any(event["type"] == "progress" and event["data"]["value"] >= 3 for event in events)
    server.post("/interrupt", {})
    assert "execution_interrupted" in [kind for kind, _ in server.wait(prompt_id)["status"]["messages"]]
    socket.close()


def failed(server, sample):
    graph = Graph()
    graph.latent = graph.add("Guidance_EmptyPixelLatent", width=36, height=30, batch_size=1)  # the network refuses it
    with pytest.raises(HostError, match="multiples of"):
        pictures(server, graph, sample(graph))


def something_else(server, sample):
    graph = Graph("flow", batch=2)
    pictures(server, graph, graph.ksampler(graph.add(GUIDES, model=graph.patch(**CHOICES["history"]))), sample(graph))


@pytest.mark.parametrize("combined", [False, True], ids=["patch", "combiner"])
@pytest.mark.parametrize("disturbance", [cancelled, failed, something_else], ids=lambda what: what.__name__)
def test_the_same_seed_gives_the_same_picture_after(server, disturbance, combined):
    def sample(graph):
        make, link = (graph.sampled, graph.combiner) if combined else (graph.ksampler, graph.patch)
        return make(link(**APG), fresh=next(fresh))

    graphs = Graph(seed=9), Graph(seed=9)
    (first,) = pictures(server, graphs[0], sample(graphs[0]))
    disturbance(server, sample)
    assert same(first, *pictures(server, graphs[1], sample(graphs[1])))


WIDGETS, WIRES = "'guidance_scale, start_percent, end_percent or curve'", "'model, conditions and negative'"
TAKEN = "is already taken by RescaleCFG"
DUAL = {"positive": None, "cond1": YES, "cond2": OTHER, "cfg_conds": 2.0, "cfg_cond2_negative": 2.0, "style": "regular"}
BASIC, PERP = {"positive": None, "negative": None, "conditioning": YES}, {"empty_conditioning": OTHER, "neg_scale": 1.0}
WRONG = [
    ("came (input 'guidance_scale' of CFG Condition)", lambda g: g.combined(g.condition(scale=float("nan")))),
    (f"(input {WIDGETS} of CFG Patch)", lambda g: g.ksampler(g.patch(start_percent=0.8, end_percent=0.2))),
    ("there is no curve 'love'", lambda g: g.ksampler(g.patch(curve="love"))),
    ("(input 'parent' of CFG Condition)", lambda g: g.combined(g.condition(reference="parent"))),
    ("(input 'model' of CFG Condition)", lambda g: g.combined(g.condition(reference="model"))),
    ("conditions.condition0", lambda g: g.sampled(g.add("Guidance_CFGCombiner", model=MODEL, **method("constant")))),
    ("condition 1 is measured against the negative", lambda g: g.combined(negative=None)),
    (
        f"set it on the conditions instead (input {WIRES} of CFG Combiner)",
        lambda g: g.combined(model=g.patch(guidance_scale=2.0)),
    ),
    ("(input 'method' of CFG Patch)", lambda g: g.ksampler(g.patch(g.patch(**RESCALE), **RESCALE))),
    ("CFG Patch sets a guidance scale", lambda g: g.hosted("BasicGuider", model=g.patch(guidance_scale=2.0), **BASIC)),
    ("CFG Patch can't act under Guider_DualCFG", lambda g: g.hosted("DualCFGGuider", model=g.patch(**APG), **DUAL)),
    ("CFG Patch can't act under Guider_PerpNeg", lambda g: g.hosted("PerpNegGuider", model=g.patch(**APG), **PERP)),
    ("zero_init", lambda g: g.ksampler(g.patch(**CHOICES["CFG-Zero*"]))),
    ("the reference 'perturbed self'", lambda g: g.combined(g.condition(reference="perturbed self"))),
    ("dynamic threshold is for models on pixels", lambda g: g.ksampler(g.patch(**THRESHOLD))),
    (TAKEN, lambda g: g.ksampler(g.patch(g.add(RESCALED, model=MODEL), **APG))),
    (TAKEN, lambda g: g.combined(model=g.add(RESCALED, model=MODEL))),
]


@pytest.mark.parametrize(("words", "build"), WRONG, ids=[words for words, _ in WRONG])
def test_an_error_is_one_sentence_that_says_what_it_is_about(server, words, build):
    graph = Graph("latent")
    with pytest.raises(HostError) as error:
        pictures(server, graph, build(graph))
    message = str(error.value).strip()
    assert words in message and "\n" not in message and ". " not in message
