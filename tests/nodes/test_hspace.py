"""h-space in the host, in process: neutral bits, an edit against hooks of torch, files, Asyrp's golden trajectories."""

import json
from pathlib import Path

import asyrp_golden
import golden_files
import guided_sampling
import pytest
import torch
from hspace_scenes import Scene, off, on_hosts, predicted, random, run
from safetensors.torch import save_file

pytestmark = pytest.mark.host
KINDS = [*guided_sampling.KINDS, "unet"]
ALWAYS = {"start_percent": 0.0, "end_percent": 1.0}


@pytest.fixture(scope="module")
def scenes(models, pack_nodes):
    return on_hosts(models, pack_nodes)


@pytest.fixture(params=KINDS)
def scene(request, scenes):
    return scenes[request.param]


@pytest.fixture
def host(scenes):
    return scenes["unet"]


@pytest.fixture
def edit(execute):
    """HSpace Edit with directions given as tensors or edits, in the whole run."""
    from pack.nodes.host.hspace import Edit, direction_edit

    def apply(model, *directions, **options):
        edits = [one if isinstance(one, Edit) else direction_edit(one, name="d") for one in directions]
        return execute("Guidance_HSpaceEdit", model=model, hspace=edits, **{**ALWAYS, **options})[0]

    return apply


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


# Nothing changes


@pytest.mark.parametrize("asymmetric", [True, False])
@pytest.mark.parametrize(
    "neutral", ["zero strength", "empty window", "window between steps", "zero delta", "black mask"]
)
def test_a_neutral_edit_leaves_every_bit(scene, edit, neutral, asymmetric):
    delta, options = scene.direction, {"asymmetric": asymmetric}
    if neutral == "zero strength":
        options["strength"] = 0.0
    elif neutral == "empty window":
        options |= {"start_percent": 0.3, "end_percent": 0.3}
    elif neutral == "window between steps":
        options |= {"start_percent": 0.98, "end_percent": 0.99}
    elif neutral == "black mask":
        options["mask"] = torch.zeros(1, 8, 8)
    else:
        delta = torch.zeros_like(delta)
    edited = edit(scene.model, delta, **options)
    if neutral in ("zero strength", "empty window"):
        assert edited is scene.model
        return
    cfg = 3.0 if scene.channels == 128 else 1.0
    assert torch.equal(run(edited, scene, cfg=cfg), run(scene.model, scene, cfg=cfg))


@pytest.mark.parametrize("asymmetric", [True, False])
def test_a_direction_changes_the_picture(scene, edit, asymmetric):
    changed = run(edit(scene.model, 10 * scene.direction, asymmetric=asymmetric), scene)
    assert changed.isfinite().all()
    assert not torch.equal(changed, run(scene.model, scene))


@pytest.mark.parametrize("asymmetric", [True, False])
def test_an_image_of_a_batch_equals_itself_alone(scene, edit, asymmetric):
    model = edit(scene.model, scene.direction, asymmetric=asymmetric, preserve_norm=True)
    noise = random(3, *scene.shape, seed=6)
    levels = (0.3, 0.1, 0.0)
    together = predicted(model, scene, noise=noise, levels=levels)
    for index in range(3):
        alone = predicted(model, scene, noise=noise[index : index + 1], levels=levels)
        assert off(alone[0], together[index]) < 1e-5


# Against the network with a hook of torch


@pytest.mark.parametrize("asymmetric", [True, False])
@pytest.mark.parametrize("side", ["both", "cond", "uncond"])
def test_each_side_of_cfg_is_the_hooked_network(host, edit, side, asymmetric):
    """By hand: D' = D + (D~ - D) / (1 - 2 / 5), or D~, on the sides that were asked for; then CFG."""
    parts = {}
    for name, cond in (("cond", host.positive), ("uncond", host.negative)):
        plain = predicted(host.model, host, positive=cond)
        with Hooked(host, host.direction):
            moved = predicted(host.model, host, positive=cond)
        changed = plain + (moved - plain) / (1 - 2 / 5) if asymmetric else moved
        parts[name] = changed if side in ("both", name) else plain
    expected = parts["uncond"] + 3.0 * (parts["cond"] - parts["uncond"])
    model = edit(host.model, host.direction, asymmetric=asymmetric, apply_to=side)
    assert off(predicted(model, host, cfg=3.0), expected) < 1e-5


@pytest.mark.parametrize("asymmetric", [True, False])
def test_an_older_host_gives_the_same_numbers(host, edit, asymmetric):
    model = edit(host.model, host.direction, asymmetric=asymmetric)
    assert off(run(older(model), host, cfg=3.0), run(model, host, cfg=3.0)) < 1e-5
    still = edit(host.model, 0 * host.direction, asymmetric=asymmetric)
    assert torch.equal(run(older(still), host, cfg=3.0), run(host.model, host, cfg=3.0))


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


@pytest.mark.parametrize("host_age", ["new", "old"])
@pytest.mark.parametrize("kind", ["LoRA", "FreeU_V2", "output patch", "ControlNet"])
def test_another_nodes_patch_acts_on_both_passes(host, edit, kind, host_age):
    model, positive = composed(host, kind)
    age = older if host_age == "old" else lambda model: model
    plain = predicted(model, host, 3.0, positive)
    assert not torch.allclose(plain, predicted(host.model, host, 3.0))
    for asymmetric in (True, False):
        still = age(edit(model, 0 * host.direction, asymmetric=asymmetric))
        assert torch.equal(predicted(still, host, 3.0, positive), plain)
    with Hooked(host, host.direction):
        expected = predicted(model, host, 3.0, positive)
    moved = age(edit(model, host.direction, asymmetric=False))
    assert off(predicted(moved, host, 3.0, positive), expected) < 1e-5


def test_two_edits_in_a_chain_share_one_plain_pass(host, edit):
    first, second = host.direction, random(1, host.channels, 1, 1, seed=9)
    plain = predicted(host.model, host)
    single = [predicted(edit(host.model, part), host) - plain for part in (first, second)]
    both = predicted(edit(edit(host.model, first), second), host)
    assert off(both, plain + sum(single)) < 1e-5


# Cost


def test_the_decoder_half_runs_again_inside_the_window_alone(scene, edit):
    names = {"input_blocks": 0, "output_blocks": 0}
    handles = []
    for half in names:
        layers = [
            part
            for name, part in scene.model.model.diffusion_model.named_modules()
            if half in name and not list(part.children()) and list(part.parameters())
        ]

        def count(module, inputs, out, half=half):
            names[half] += 1

        handles.append(layers[0].register_forward_hook(count))

    def counted(**window):
        names.update(dict.fromkeys(names, 0))
        run(edit(scene.model, scene.direction, **window), scene, steps=1)
        return dict(names)

    try:
        inside, outside = counted(), counted(start_percent=0.5)
    finally:
        for handle in handles:
            handle.remove()
    assert outside == {"input_blocks": 1, "output_blocks": 1}
    assert inside == {"input_blocks": 1 if has_middle_patch(scene) else 2, "output_blocks": 2}


def has_middle_patch(scene):
    """Hosts before 0.24 let no node see the middle of their U-Nets; there the whole network runs again."""
    import inspect

    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    network = scene.model.model.diffusion_model
    return not isinstance(network, UNetModel) or "middle_block_after_patch" in inspect.getsource(UNetModel)


# Several directions, files


@pytest.fixture(scope="module")
def folder(pack_nodes):
    import folder_paths

    path = Path(folder_paths.get_folder_paths("guidance_directions")[0])
    path.mkdir(parents=True, exist_ok=True)
    return path


@pytest.fixture
def load(execute):
    def edits(name, **options):
        return execute("Guidance_LoadHSpaceDirection", direction_name=str(name), **options)[0]

    return edits


@pytest.fixture
def save(pack_nodes, folder):
    """Save HSpace Direction; the names of the files."""
    import folder_paths

    def written(edits, prefix):
        with torch.inference_mode():
            output = pack_nodes["Guidance_SaveHSpaceDirection"].execute(hspace=edits, filename_prefix=prefix)
        folder_paths.filename_list_cache.clear()
        return output.ui["text"]

    return written


def test_combined_directions_count_one_over_the_root_of_their_number(host, edit, execute):
    from pack.nodes.host.hspace import direction_edit

    one = direction_edit(host.direction, name="d")
    (four,) = execute("Guidance_CombineHSpace", edits={f"edit{k}": [one] for k in range(4)})
    assert len(four) == 4
    assert off(run(edit(host.model, *four), host), run(edit(host.model, one, strength=2.0), host)) < 1e-5


def block(norm_first, channels=64, embedding=128):
    """A random delta block, and its state under the published name."""
    arguments = {"family": "improved_ddpm" if norm_first else "ddpm", "salt": "delta."}
    network = asyrp_golden.delta_network(arguments, channels, embedding)
    return network, {f"layer_0.{key}": value for key, value in network.state_dict().items()}


def moment(steps=10):
    from pack.nodes.host.hspace import Moment

    return Moment(5.0, 2.0, 0.3, steps)


LAYOUTS = ["published", "bare torch", "safetensors", "numbered safetensors"]


@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_published_layouts_of_delta_blocks_load(folder, load, layout, norm_first):
    network, state = block(norm_first)
    name = f"{layout} {norm_first}" + (".safetensors" if "safetensors" in layout else ".pth")
    if layout == "published":
        torch.save({"0": state, "optimizer": {"state": {}, "param_groups": []}, "scheduler": {}}, folder / name)
    elif layout == "bare torch":
        torch.save(network.state_dict(), folder / name)
    else:
        save_file({("0." if "numbered" in layout else "") + key: value for key, value in state.items()}, folder / name)
    (found,) = load(name, train_steps=0)
    h, emb = random(2, 64, 4, 4, seed=1), random(2, 128, seed=2)
    with torch.inference_mode():
        assert torch.equal(found.delta_h(h, emb, moment()), network(h, emb))
        (spread,) = load(name, train_steps=40)
        assert torch.allclose(spread.delta_h(h, emb, moment(10)), 4 * network(h, emb))


def test_every_attribute_of_a_file_is_an_edit(folder, load):
    _, state = block(False)
    torch.save({"0": state, "1": {key: 2 * value for key, value in state.items()}}, folder / "two.pth")
    assert len(load("two.pth")) == 2


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("foreign", r"input 'direction_name'.*foreign\.safetensors holds no delta block of Asyrp.*first keys are a, b"),
        (
            "partial",
            r"input 'direction_name'.*a part of a delta block only; conv1.weight or temb_proj.weight is missing",
        ),
        ("without a bias", r"input 'direction_name'.*a delta block of another form:.*conv2.bias"),
        ("empty direction", r"input 'direction_name'.*says it is a direction, but delta_h \[n C h w\] is missing"),
    ],
)
def test_files_that_are_none_are_refused_in_words(folder, load, fault, words):
    _, state = block(False)
    metadata = None
    if fault == "foreign":
        state = {"a": torch.ones(2), "b": torch.ones(3)}
    elif fault == "partial":
        state = {key: value for key, value in state.items() if "temb_proj" not in key}
    elif fault == "without a bias":
        del state["layer_0.conv2.bias"]
    else:
        metadata = {"kind": "hspace_edit", "form": "direction"}
    save_file(state, folder / f"{fault}.safetensors", metadata)
    with pytest.raises(ValueError, match=words):
        load(f"{fault}.safetensors")


def test_delta_blocks_of_another_width_or_family_are_refused_in_words(scenes, folder, load, edit):
    scene = scenes["scenes_unet"]
    embedding = 4 * scene.model.model.diffusion_model.network.config.model_channels
    for name, channels in (("narrow", scene.channels // 2), ("ddpm", scene.channels)):
        save_file(block(False, channels, embedding)[1], folder / f"{name}.safetensors")
    with pytest.raises(ValueError, match=rf"input 'hspace'.*{scene.channels // 2} channels.* has {scene.channels};"):
        edit(scene.model, *load("narrow.safetensors"))
    with pytest.raises(ValueError, match=r"'ddpm' is a delta block for DDPM networks, and .* is a ADM network"):
        edit(scene.model, *load("ddpm.safetensors"))
    save_file(block(False, 128)[1], folder / "for pixels.safetensors")
    with pytest.raises(ValueError, match=r"DDPM networks, and this U-Net is a Stable Diffusion network"):
        edit(scenes["unet"].model, *load("for pixels.safetensors"))


def test_a_model_without_a_bottleneck_is_refused_in_words(host, edit):
    model = host.model.clone()
    model.model = torch.nn.Module()
    model.model.diffusion_model = torch.nn.Linear(1, 1)
    with pytest.raises(ValueError, match="input 'model'.*h-space is the bottleneck of a U-Net.*is a Linear"):
        edit(model, host.direction)


def test_a_saved_direction_comes_back_and_belongs_to_its_model(scenes, edit, load, save):
    from pack.nodes.host.hspace import direction_edit, owner_of

    scene = scenes["scenes_unet"]
    owner, fingerprint = owner_of(scene.model)
    delta = random(8, scene.channels, 4, 4, seed=11)
    (name,) = save([direction_edit(delta, name="smile", model=owner, fingerprint=fingerprint)], "round trip")
    (found,) = load(name)
    assert torch.equal(found.tensors["delta_h"], delta)
    assert (found.name, found.model, found.fingerprint) == ("smile", owner, fingerprint)
    assert save([found], "round trip") != [name]
    other = scenes["unet"].model
    with pytest.raises(ValueError, match=rf"input 'hspace'.*'smile' was made for {owner}, .* is {owner_of(other)[0]}"):
        edit(other, found)
    assert owner != owner_of(other)[0]


def test_a_lora_does_not_change_whose_direction_it_is(host, edit):
    from pack.nodes.host.hspace import direction_edit, owner_of

    owner, fingerprint = owner_of(host.model)
    model, _ = composed(host, "LoRA")
    run(model, host, steps=1)
    edit(model, direction_edit(host.direction, name="d", model=owner, fingerprint=fingerprint))
    run(host.model, host, steps=1)


@pytest.mark.parametrize("norm_first", [True, False])
def test_a_saved_delta_block_comes_back(folder, load, save, norm_first):
    network, state = block(norm_first)
    save_file(state, folder / "published.safetensors")
    (name,) = save(load("published.safetensors", train_steps=30), "block")
    (found,) = load(name, train_steps=7)
    h, emb = random(2, 64, 4, 4, seed=1), random(2, 128, seed=2)
    assert found.trained_steps == 30
    with torch.inference_mode():
        assert torch.allclose(found.delta_h(h, emb, moment(10)), 3 * network(h, emb))


# Discover


@pytest.mark.parametrize("method", ["contrast", "pca"])
def test_discovered_directions_show_the_plain_picture_at_strength_zero(scenes, execute, edit, method):
    scene = scenes["scenes_unet"]
    hspace, sheet = execute(
        "Guidance_DiscoverHSpace",
        model=scene.model,
        method=method,
        positive=scene.positive,
        negative=scene.negative,
        samples=3,
        components=2,
        component=2,
        steps=2,
    )
    side = scene.shape[1]
    assert sheet.shape == (1, side * (1 if method == "contrast" else 2), 5 * side, 3)
    (found,) = hspace
    assert found.tensors["delta_h"].shape[:2] == (8, scene.channels)
    assert found.tensors["delta_h"].abs().max() > 0
    assert found.name == ("contrast" if method == "contrast" else "component 2")
    shown = scene.negative if method == "contrast" else scene.positive
    plain = run(scene.model, scene, random(*scene.shape, seed=0)[None], positive=shown)
    middle = sheet[0, :side, 2 * side : 3 * side]
    assert (middle - (plain[0].movedim(0, -1) + 1).clamp(0, 2) / 2).abs().max() < 1e-4
    edit(scene.model, found)


def test_what_discover_needs_is_said_in_words(scenes, execute):
    pixels, host = scenes["scenes_unet"], scenes["unet"]
    given = {"model": pixels.model, "positive": pixels.positive}
    with pytest.raises(ValueError, match="input 'negative'.*a contrast needs two conditions"):
        execute("Guidance_DiscoverHSpace", method="contrast", **given)
    with pytest.raises(ValueError, match="input 'component'.*component 5 was asked for, and there are 4"):
        execute("Guidance_DiscoverHSpace", method="pca", component=5, **given)
    with pytest.raises(ValueError, match="input 'samples'.*need more than 4 samples"):
        execute("Guidance_DiscoverHSpace", method="pca", samples=4, **given)
    with pytest.raises(ValueError, match="input 'vae'"):
        execute("Guidance_DiscoverHSpace", method="pca", model=host.model, positive=host.positive)


# Asyrp's own trajectories


class Injected:
    """NOISE that is a given tensor."""

    seed = 0

    def __init__(self, noise):
        self.noise = noise

    def generate_noise(self, latent):
        return self.noise


@pytest.fixture(scope="module", params=asyrp_golden.CASES)
def asyrp(request, folder, pack_nodes):
    """A golden file with its MODEL and its delta block in the loaders' folders."""
    import folder_paths
    from conftest import run_node

    published = asyrp_golden.Published(request.param)
    family = "ddpm_unet" if published.arguments["family"] == "ddpm" else "adm_unet"
    config = json.dumps(vars(published.network.config))
    metadata = {"architecture": family, "config": config, "schedule": "linear", "image_size": "16"}
    models = Path(folder_paths.get_folder_paths("guidance_models")[0])
    models.mkdir(parents=True, exist_ok=True)
    save_file(published.network.state_dict(), models / f"hspace {request.param}.safetensors", metadata)
    given = {"model_name": f"hspace {request.param}.safetensors", "clip_denoised": False}
    published.model = run_node(pack_nodes, "Guidance_LoadModel", **given)[0]
    delta = asyrp_golden.delta_network(published.arguments, 64, 128)
    state = {f"layer_0.{key}": value for key, value in delta.state_dict().items()}
    torch.save({"0": state, "optimizer": {}}, folder / f"{request.param}.pth")
    return published


@pytest.mark.parametrize("path", ["plain", "edited"])
def test_the_nodes_give_the_published_trajectory(asyrp, path, execute, load, monkeypatch):
    """hs_coeff is the strength; t_edit and t_boost are percents of the 1000 training steps."""
    import comfy.samplers
    from comfy_extras.nodes_custom_sampler import SamplerCustomAdvanced

    from pack.nodes.host import sampling

    arguments, case = asyrp.arguments, asyrp.arguments["case"]
    keep, move = arguments["hs_coeff"]
    assert keep == 1
    last = len(asyrp.schedule.sigmas) - 1
    percents = {name: 1 - arguments[name] / last for name in ("t_edit", "t_boost")}
    model = asyrp.model
    if path == "edited":
        hspace = load(f"{case}.pth", train_steps=arguments["steps"])
        options = {"strength": move, "start_percent": 0.0, "end_percent": percents["t_edit"]}
        (model,) = execute("Guidance_HSpaceEdit", model=model, hspace=hspace, **options)
    (sampler,) = execute("Guidance_AsyrpSampler", model=model, boost_percent=percents["t_boost"])
    (sigmas,) = execute("Guidance_RespacedSigmas", model=model, respacing=f"linspace{arguments['steps']}")
    monkeypatch.setattr(sampling, "StepNoise", lambda x, seed, indices: asyrp.noise)
    guider = comfy.samplers.CFGGuider(model)
    guider.inner_set_conds({"positive": [[torch.zeros(1, 1, 1), {}]]})
    x_T = asyrp.golden["inverted"]
    with torch.inference_mode():
        latent = {"samples": torch.zeros_like(x_T)}
        final = SamplerCustomAdvanced.execute(Injected(x_T), guider, sampler, sigmas, latent).args[0]["samples"]
    assert off(final, asyrp.golden[f"sample.{path}"]) < 1e-3
    others = {"plain": "edited", "edited": "plain"}
    assert off(final, asyrp.golden[f"sample.{others[path]}"]) > 1e-2


@pytest.mark.parametrize("train_steps", [0, 40])
def test_train_steps_spread_a_delta_block_over_the_run(asyrp, train_steps, load):
    (found,) = load(f"{asyrp.arguments['case']}.pth", train_steps=train_steps)
    h, emb = random(2, 64, 4, 4, seed=1), random(2, 128, seed=2)
    with torch.inference_mode():
        ten, forty = (found.delta_h(h, emb, moment(steps)) for steps in (10, 40))
    assert torch.allclose(ten, (4 if train_steps else 1) * forty)


# U-Nets of videos


@pytest.fixture(scope="module")
def video(comfy):
    """A U-Net of SVD's kind on clips of two frames, whose blocks also need the number of frames."""
    import comfy.conds
    import comfy.model_base
    import comfy.model_patcher
    import comfy.supported_models

    config = comfy.supported_models.SD15(
        {
            "image_size": 32,
            "in_channels": 4,
            "out_channels": 4,
            "model_channels": 32,
            "num_res_blocks": [1, 1],
            "channel_mult": (1, 2),
            "transformer_depth": [1, 1],
            "transformer_depth_output": [1] * 4,
            "transformer_depth_middle": 1,
            "context_dim": 16,
            "num_heads": 4,
            "use_spatial_transformer": True,
            "use_temporal_attention": True,
            "use_temporal_resblock": True,
            "video_kernel_size": [3, 1, 1],
            "extra_ff_mix_layer": True,
            "use_spatial_context": True,
            "merge_strategy": "learned_with_images",
            "legacy": False,
        }
    )
    config.set_inference_dtype(torch.float32, None)
    model = comfy.model_base.BaseModel(config, device=torch.device("cpu"))
    golden_files.fill(model.diffusion_model, "video.")
    conds = model.extra_conds
    model.extra_conds = lambda **given: {**conds(**given), "num_video_frames": comfy.conds.CONDConstant(2)}
    cpu = torch.device("cpu")
    patcher = comfy.model_patcher.ModelPatcher(model, load_device=cpu, offload_device=cpu)
    positive, negative = ([[random(1, 5, 16, seed=seed), {}]] for seed in (3, 4))
    return Scene(patcher, (4, 8, 8), positive, negative, 64)


@pytest.mark.parametrize("host_age", ["new", "old"])
def test_the_frames_of_a_video_are_edited_together(video, edit, host_age):
    age = older if host_age == "old" else lambda model: model
    plain = predicted(video.model, video, cfg=3.0)
    assert torch.equal(predicted(age(edit(video.model, 0 * video.direction)), video, cfg=3.0), plain)
    with Hooked(video, video.direction):
        expected = predicted(video.model, video, cfg=3.0)
    moved = age(edit(video.model, video.direction, asymmetric=False))
    assert off(predicted(moved, video, cfg=3.0), expected) < 1e-5
