"""Training h-space directions in the host: what is learned, that a stopped run goes on exactly, what is refused."""

import json

import pytest
import torch

pytestmark = pytest.mark.host
RECIPE = {"source_text": "a shape", "target_text": "a red shape", "form": "one direction", "seed": 0, "samples": 4}
RECIPE |= {"rounds": 2, "steps": 6, "end_percent": 0.5, "pull": 1.0, "keep": 1.0, "loss": "paper", "optimizer": "Adam"}
RECIPE |= {"learning_rate": 0.02, "size": 512}


@pytest.fixture
def model(execute):
    return execute("Guidance_LoadModel", model_name="scenes_hspace.safetensors")[0]


@pytest.fixture
def encoder(execute):
    return execute("Guidance_LoadEncoder", encoder_name="scenes_clip.safetensors")[0]


@pytest.fixture(autouse=True)
def user_folder(tmp_path, monkeypatch, pack_nodes):
    import folder_paths

    monkeypatch.setattr(folder_paths, "get_user_directory", lambda: str(tmp_path))
    return tmp_path


@pytest.fixture
def train(execute, model, encoder):
    def run(**changed):
        hspace, report = execute("Guidance_TrainHSpaceDirection", model=model, encoder=encoder, **{**RECIPE, **changed})
        return hspace[0], json.loads(report)

    return run


@pytest.mark.parametrize(
    "form, loss, optimizer, rate",
    [
        ("one direction", "paper", "Adam", 0.02),
        ("a direction by noise level", "code", "Adam", 0.02),
        ("delta block", "paper", "Adam", 0.003),
        ("delta block", "code", "SGD", 0.5),
    ],
)
def test_every_form_learns(train, form, loss, optimizer, rate):
    """More rounds bring what changes nearer to what the texts say."""
    _, report = train(form=form, loss=loss, rounds=4, keep=0.1, learning_rate=rate, optimizer=optimizer)
    assert report["S_dir"] > report["S_dir_by_round"][0]
    assert len(report["S_dir_by_round"]) == 4


def tensors(edit):
    return edit.tensors


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("form, stop", [("delta block", 1), ("a direction by noise level", 2)])
def test_a_stopped_run_goes_on_to_the_same_bits(train, user_folder, monkeypatch, form, stop):
    """Interrupted by the user in the middle of a batch: what was learned before it is kept, and nothing else."""
    import comfy.model_management as mm

    whole, _ = train(form=form, rounds=3, samples=2)
    from pack.nodes.host.hspace.directions.training import Training

    step, made = Training.step, []

    def interrupted(self, *args):
        made.append(1)
        if len(self.losses) == stop + 1 and self.losses[-1]:
            raise mm.InterruptProcessingException
        return step(self, *args)

    monkeypatch.setattr(Training, "step", interrupted)
    with pytest.raises(mm.InterruptProcessingException):
        train(form=form, rounds=3, samples=2)
    assert len(list((user_folder / "guidance_training").glob("*.safetensors"))) == 1
    monkeypatch.setattr(Training, "step", step)
    resumed, report = train(form=form, rounds=3, samples=2)
    assert report["taken_up_from_a_stopped_run"] == stop
    assert same(tensors(resumed), tensors(whole))
    assert not list((user_folder / "guidance_training").iterdir())


def test_a_run_of_anything_else_does_not_take_up_a_stopped_one(model, models, encoder):
    """Settings, prompt, size, schedule, VAE, encoder, model, and its LoRAs."""
    from pack.nodes.host.hspace.directions.training import Recipe, Training
    from pack.nodes.host.pictures import pixel_vae, vae_around

    settings = {key: value for key, value in RECIPE.items() if key != "size"}
    cond = [[torch.zeros(1, 2, 3), {"pooled_output": torch.zeros(1, 3)}]]
    noise, sigmas = torch.zeros(2, 3, 32, 32), torch.tensor([5.0, 1.0, 0.0])

    def name(model=model, vae=None, cond=cond, noise=noise, sigmas=sigmas, **changed):
        recipe = Recipe(**{**settings, **changed})
        return Training(model, encoder, vae, cond, recipe).name([(noise, noise)], sigmas)

    lora = model.clone()
    key = next(key for key, value in model.model.state_dict().items() if value.ndim == 4)
    lora.add_patches({key: (torch.ones_like(model.model.state_dict()[key]),)}, 0.5)
    with torch.inference_mode(False):
        other_vae = vae_around(torch.nn.Conv2d(3, 3, 1), 3, 1)
    changes = [
        {},
        *({"seed": 1}, {"target_text": "a blue shape"}, {"pictures": "other"}, {"keep": 2.0}),
        {"cond": [[torch.ones(1, 2, 3), cond[0][1]]]},
        {"cond": [[cond[0][0], {"pooled_output": torch.ones(1, 3)}]]},
        {"cond": [[cond[0][0], {**cond[0][1], "start_percent": 0.2}]]},
        {"noise": torch.zeros(2, 3, 16, 16)},
        {"sigmas": torch.tensor([5.0, 2.0, 0.0])},
        {"vae": other_vae},
        {"model": lora},
        {"model": models["scenes_unet_flow"][0] if "scenes_unet_flow" in models else models["scenes_latent"][0]},
    ]
    names = [name(**change) for change in changes]
    assert len(set(names)) == len(names)
    assert name() == names[0] and name(vae=pixel_vae()) != names[-3]


HARMS = ["cut short", "no file of tensors", "without losses", "another shape", "not finite", "all batches known"]


@pytest.mark.parametrize("harm", [*HARMS, "another optimiser"])
def test_a_state_that_is_no_use_is_set_aside_and_training_begins_anew(train, user_folder, monkeypatch, caplog, harm):
    import comfy.model_management as mm
    from safetensors.torch import load_file, save_file

    from pack.nodes.host.hspace.directions.training import Training

    whole, _ = train(rounds=2, samples=2)
    step = Training.step

    def interrupted(self, *args):
        if len(self.losses) == 2:
            raise mm.InterruptProcessingException
        return step(self, *args)

    monkeypatch.setattr(Training, "step", interrupted)
    with pytest.raises(mm.InterruptProcessingException):
        train(rounds=2, samples=2)
    monkeypatch.setattr(Training, "step", step)
    (path,) = (user_folder / "guidance_training").glob("*.safetensors")
    spoil(path, harm, load_file, save_file)
    resumed, report = train(rounds=2, samples=2)
    assert report["taken_up_from_a_stopped_run"] == 0
    assert same(tensors(resumed), tensors(whole))
    assert [part.suffix for part in path.parent.iterdir()] == [".broken"]
    assert "set aside" in caplog.text and path.stem in caplog.text
    (path.parent / f"{path.stem}.broken").unlink()


LOSSES = {
    "a batch without a step": "[[]]",
    "400 digits": "[[1" + "0" * 400 + "]]",
    "texts": '[["0.5", "0.5"]]',
    "NaN": "[[NaN, 0.5]]",
    "nested deep": "[" * 990,
    "an object": '{"0": [0.5]}',
}


@pytest.mark.parametrize("losses", LOSSES.values(), ids=LOSSES)
def test_a_state_whose_losses_are_none_is_set_aside(user_folder, losses):
    from safetensors.torch import save_file

    from pack.nodes.host.hspace.directions.resume import StateFile

    file = StateFile("losses")
    file.path.parent.mkdir(exist_ok=True)
    save_file({"delta/a": torch.ones(1)}, file.path, {"losses": losses})
    assert file.load() == ({}, []) and not file.path.exists()
    file.path.with_suffix(".broken").unlink()


def spoil(path, harm, load_file, save_file):
    if harm == "cut short":
        path.write_bytes(path.read_bytes()[:-100])
    elif harm == "no file of tensors":
        path.write_text("nothing")
    else:
        state = load_file(path)
        if harm == "another shape":
            state = {key: value[..., :1].contiguous() if value.ndim > 1 else value for key, value in state.items()}
        elif harm == "another optimiser":
            state = {key.replace("exp_avg_sq", "momentum_buffer"): value for key, value in state.items()}
        elif harm == "not finite":
            state = {key: value * float("nan") for key, value in state.items()}
        losses = "[[0.5], [0.5]]" if harm == "all batches known" else "[[0.5, 0.5]]"
        save_file(state, path, {} if harm == "without losses" else {"losses": losses})


def test_the_models_own_samples_and_given_pictures_are_both_learned_on(train, tmp_path):
    image = torch.rand(3, 40, 48, 3, generator=torch.Generator().manual_seed(2))
    of_pictures, report = train(images=image, rounds=1)
    assert report["batches"] == 1
    drawn, _ = train(rounds=1)
    assert not same(tensors(of_pictures), tensors(drawn))


def test_what_was_trained_is_saved_loaded_and_steers(train, model, execute, tmp_path, monkeypatch):
    import folder_paths
    from guided_sampling import sample

    monkeypatch.setitem(folder_paths.folder_names_and_paths, "guidance_directions", ([str(tmp_path)], {".safetensors"}))
    trained, _ = train(form="delta block", rounds=2, samples=4, learning_rate=0.003)
    execute("Guidance_SaveHSpaceDirection", hspace=[trained], filename_prefix="red")
    (loaded,) = execute("Guidance_LoadHSpaceDirection", direction_name="red_00001_.safetensors", train_steps=0)
    assert (loaded[0].trained_steps, loaded[0].name) == (RECIPE["steps"], "a red shape")
    given = {"strength": 1.0, "start_percent": 0.0, "end_percent": 0.5, "asymmetric": True}
    given |= {"apply_to": "both", "preserve_norm": False}
    results = [
        sample(execute, execute("Guidance_HSpaceEdit", model=model, hspace=edits, **given)[0])
        for edits in ([trained], loaded)
    ]
    assert torch.equal(*results) and not torch.equal(results[0], sample(execute, model))


@pytest.mark.parametrize("form", ["one direction", "delta block"])
def test_training_uses_up_nobodys_random_numbers(train, monkeypatch, form):
    """Those of a GPU are all seeded by one function of torch, which also a machine without one calls."""
    seeded = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    train(form=form, rounds=1)
    assert torch.equal(torch.get_rng_state(), before) and seeded == [3]


def test_the_model_itself_is_not_changed_by_training_on_it(train, model, execute):
    from guided_sampling import sample

    before = sample(execute, model)
    train(rounds=1)
    assert torch.equal(sample(execute, model), before)
    assert not any(parameter.requires_grad for parameter in model.model.diffusion_model.parameters())


@pytest.mark.parametrize(
    "changed, said",
    [
        ({"target_text": "a shape"}, "mean the same"),
        ({"source_text": "a giraffe"}, "giraffe"),
    ],
)
def test_texts_that_say_nothing_are_refused_in_a_sentence(train, changed, said):
    with pytest.raises(ValueError, match=f"{said}.*source_text.*of Train HSpace Direction"):
        train(**changed)


def test_the_hosts_unet_learns_directions_and_no_delta_blocks(execute, encoder, pack_nodes):
    """SD1.5's shape with drawn weights, a drawn decoder behind it."""
    import golden_files
    from comfy.taesd.taesd import TAESD

    from bench.guide_cost import unet
    from pack.nodes.host.pictures import vae_around

    model = unet(channels=32)
    golden_files.fill(model.model.diffusion_model, "unet.")
    with torch.inference_mode(False):
        vae = vae_around(golden_files.fill(TAESD(None, None, latent_channels=4), "taesd."), 4, 8)
    context = [[torch.randn(1, 5, 768, generator=torch.Generator().manual_seed(3)), {}]]
    given = {"model": model, "encoder": encoder, **RECIPE, "rounds": 1, "samples": 2, "steps": 3, "size": 64}
    given |= {"vae": vae, "conditioning": context}
    hspace, _ = execute("Guidance_TrainHSpaceDirection", **given)
    assert hspace[0].tensors["delta_h"].shape == (1, 128, 1, 1)
    assert hspace[0].tensors["delta_h"].abs().max() > 0
    with pytest.raises(ValueError, match="SD1.5 and SDXL, choose"):
        execute("Guidance_TrainHSpaceDirection", **{**given, "form": "delta block"})
    with pytest.raises(ValueError, match="input 'vae'"):
        execute("Guidance_TrainHSpaceDirection", **{**given, "vae": None})
    with pytest.raises(ValueError, match="CONDITIONING"):
        execute("Guidance_TrainHSpaceDirection", **{**given, "conditioning": None})
