"""The small diffusion autoencoder through our nodes and the host's sampler: what holds exactly, and what is refused."""

import json
from dataclasses import replace

import pytest
import torch
from conftest import run_node

from training import scenes

pytestmark = pytest.mark.host
STEPS = 25


def drawn(count, seed, **fixed):
    """Scenes as IMAGE; `fixed` gives attributes by name."""
    fixed = {kind: torch.full((count,), scenes.CLASSES[kind].index(name)) for kind, name in fixed.items()}
    scene = scenes.render(scenes.draw(count, torch.Generator().manual_seed(seed), **fixed))
    return (scene.image.movedim(1, -1) + 1) / 2


@pytest.fixture(scope="module")
def loaded(pack_nodes):
    """(MODEL, codec) of the shipped file."""
    return run_node(pack_nodes, "Guidance_LoadDiffusionAutoencoder", model_name="scenes_diffae.safetensors")[:2]


@pytest.fixture(scope="module")
def codec(loaded):
    return loaded[1]


@pytest.fixture(scope="module")
def direction(pack_nodes, codec):
    sets = {"positive": drawn(12, 1, colour="red"), "negative": drawn(12, 2, colour="blue")}
    found, report = run_node(pack_nodes, "Guidance_FitSemanticDirection", codec=codec, **sets)
    assert json.loads(report)["cross_validated_accuracy"] > 0.8
    return found


@pytest.fixture
def encoded(loaded, execute):
    """(semantic, x_T) of pictures."""

    def encode(image):
        (semantic,) = execute("Guidance_SemanticEncode", codec=loaded[1], image=image)
        code = execute("Guidance_StochasticEncode", model=loaded[0], semantic=semantic, image=image, steps=STEPS)
        return semantic, code[0]

    return encode


@pytest.fixture
def decode(loaded, execute):
    """Pictures [B 3 H W] of the stock sampler, on x_T or any NOISE."""
    import comfy.samplers
    from comfy_extras.nodes_custom_sampler import SamplerCustomAdvanced

    def run(positive, noise, batch, negative=None, cfg=1.0, steps=STEPS):
        model = loaded[0]
        (sigmas,) = execute("Guidance_RespacedSigmas", model=model, respacing=f"ddim{steps}")
        (sampler,) = execute("Guidance_DDIMSampler")
        (latent,) = execute("Guidance_EmptyPixelLatent", width=32, height=32, batch_size=batch)
        guider = comfy.samplers.CFGGuider(model)
        guider.set_conds(positive, negative or positive)
        guider.set_cfg(cfg)
        with torch.inference_mode():
            return SamplerCustomAdvanced.execute(noise, guider, sampler, sigmas, latent).args[0]["samples"]

    return run


def of(semantic):
    return semantic.conditioning()


def test_z_sem_and_x_T_give_the_pictures_back(encoded, decode):  # noqa: N802
    image = drawn(2, 5)
    semantic, noise = encoded(image)
    again = (decode(of(semantic), noise, 2).movedim(1, -1) + 1) / 2
    assert (again - image).abs().mean() < 0.05


@pytest.fixture(scope="module")
def code_of_100_steps(loaded, pack_nodes):
    """Three pictures, (semantic, NOISE, LATENT)."""
    image = drawn(3, 21)
    (semantic,) = run_node(pack_nodes, "Guidance_SemanticEncode", codec=loaded[1], image=image)
    given = {"model": loaded[0], "semantic": semantic, "image": image, "steps": 100}
    return image, semantic, *run_node(pack_nodes, "Guidance_StochasticEncode", **given)


@pytest.mark.parametrize("steps", [20, 50, 100])
@pytest.mark.parametrize("how", ["SamplerCustomAdvanced", "KSampler (Advanced)"])
def test_a_code_of_100_steps_decodes_in_any_number_to_what_it_shows(code_of_100_steps, loaded, decode, steps, how):
    from bench import judge
    from nodes import KSamplerAdvanced

    image, semantic, noise, latent = code_of_100_steps
    positive = of(semantic)
    if how == "SamplerCustomAdvanced":
        pictures = decode(positive, noise, len(image), steps=steps)
    else:
        options = {"add_noise": "disable", "noise_seed": 0, "steps": steps, "cfg": 1.0, "sampler_name": "euler"}
        options |= {"scheduler": "normal", "start_at_step": 0, "end_at_step": 10000}
        options |= {"return_with_leftover_noise": "disable", "latent_image": latent}
        with torch.inference_mode():
            (out,) = KSamplerAdvanced().sample(loaded[0], positive=positive, negative=positive, **options)
        pictures = out["samples"]
    shown, there = judge.classify(pictures), judge.classify(image.movedim(-1, 1) * 2 - 1)
    assert all(torch.equal(shown[name], there[name]) for name in there)


def test_the_ends_of_an_interpolation_are_the_single_reconstructions(encoded, decode, execute):
    (semantic_a, noise_a), (semantic_b, noise_b) = encoded(drawn(1, 5)), encoded(drawn(1, 6))
    given = {"semantic_a": semantic_a, "semantic_b": semantic_b, "noise_a": noise_a, "noise_b": noise_b, "frames": 3}
    semantic, noise, latent = execute("Guidance_SemanticInterpolate", **given)
    assert torch.equal(latent["samples"], noise.x_T * noise.scale)
    frames = decode(of(semantic), noise, 3)
    for place, end in ((0, (semantic_a, noise_a)), (2, (semantic_b, noise_b))):
        alone = decode(of(end[0]), end[1], 3)
        torch.testing.assert_close(frames[place], alone[place], rtol=0, atol=1e-5)


def test_an_amount_of_0_changes_no_bit_and_others_go_both_ways(codec, direction, execute):
    (semantic,) = execute("Guidance_SemanticEncode", codec=codec, image=drawn(2, 5))
    given = {"codec": codec, "semantic": semantic, "direction": direction}
    less, same, more = (
        execute("Guidance_MoveSemantic", **given, amount=amount)[0].z_sem for amount in (-0.3, 0.0, 0.3)
    )
    assert torch.equal(same, semantic.z_sem)
    torch.testing.assert_close(more + less, 2 * same)
    assert not torch.equal(more, same)


def test_another_code_as_the_negative_acts_at_a_cfg_of_2(encoded, decode):
    (one, noise), (other, _) = encoded(drawn(1, 5)), encoded(drawn(1, 6))
    plain, pushed = (decode(of(one), noise, 1, of(other), cfg) for cfg in (1.0, 2.0))
    assert pushed.isfinite().all() and (plain - pushed).abs().mean() > 0.01


def test_sampled_codes_depend_on_their_own_seed_alone_and_a_direction_selects(codec, direction, execute):
    given = {"codec": codec, "steps": 10}
    four, _ = execute("Guidance_SampleSemantic", **given, seed=3, batch_size=4)
    two, _ = execute("Guidance_SampleSemantic", **given, seed=5, batch_size=2)
    torch.testing.assert_close(four.z_sem[2:], two.z_sem, rtol=0, atol=1e-3)
    kept, report = execute("Guidance_SampleSemantic", **given, batch_size=4, direction=direction, threshold=0.8)
    mean, std = codec.statistics(direction)
    assert (direction.line.log_odds((kept.z_sem - mean) / std).sigmoid() > 0.79).all()
    assert json.loads(report)["accepted"] == 4


def test_codes_of_a_direction_are_kept_with_their_probability_by_seeds_of_their_own(codec, direction, execute):
    """At threshold 0 many are kept below .5: of those that were drawn, as many as their probabilities sum to."""
    given = {"codec": codec, "steps": 5, "direction": direction, "threshold": 0.0}
    mean, std = codec.statistics(direction)

    def probabilities(semantic):
        return direction.line.log_odds((semantic.z_sem - mean) / std).sigmoid()

    many, report = execute("Guidance_SampleSemantic", **given, seed=3, batch_size=64)
    two, _ = execute("Guidance_SampleSemantic", **given, seed=5, batch_size=2)
    torch.testing.assert_close(many.z_sem[2:4], two.z_sem, rtol=0, atol=1e-3)
    prior, _ = execute("Guidance_SampleSemantic", codec=codec, steps=5, seed=3, batch_size=64)
    p = probabilities(prior)
    expected, deviation = float(p.mean()), float((p * (1 - p)).sum().sqrt()) / 64
    first = (many.z_sem - prior.z_sem).abs().amax(1) < 1e-2  # kept at the first draw
    assert abs(float(first.float().mean()) - expected) < 3 * deviation
    assert 64 / json.loads(report)["drawn"] < 1
    assert float(probabilities(many).mean()) > expected + 0.05


def test_a_saved_direction_is_the_one_that_is_loaded(codec, direction, execute):
    import folder_paths

    execute("Guidance_SaveSemanticDirection", direction=direction, filename_prefix="tests/red")
    folder_paths.filename_list_cache.clear()
    (again,) = execute("Guidance_LoadSemanticDirection", direction_name="tests/red_00001_.safetensors")
    codec.check(again)
    assert torch.equal(again.line.weight, direction.line.weight)
    assert again.line.bias == pytest.approx(direction.line.bias)


def test_decoding_without_a_code_or_with_one_of_another_width_is_refused(encoded, decode):
    semantic, noise = encoded(drawn(1, 5))
    with pytest.raises(ValueError, match="decodes a semantic code of 64 numbers, and none was given"):
        decode([[torch.zeros(1, 1, 1), {}]], noise, 1)
    with pytest.raises(ValueError, match="and one of 3 was given"):
        decode(of(replace(semantic, z_sem=semantic.z_sem[:, :3])), noise, 1)


FOREIGN = {"fingerprint": "another", "owner": "another.safetensors"}
WRONG = {  # the node, its input, the words, and what it gets
    "a code of another file": ("Move Semantic", "semantic", "it was made with another.safetensors", {}),
    "a direction of another file": ("Move Semantic", "direction", "it was made with another.safetensors", {}),
    "codes of two files": ("Semantic Interpolate", "semantic_b", "the codes are of two autoencoders", {"frames": 3}),
    "too few pictures": ("Fit Semantic Direction", "positive and negative", "there are 1 and 4", {}),
    "an attribute that nothing has": ("Sample Semantic", "threshold", "lower threshold", {"threshold": 0.999}),
    "as many codes as pictures": ("Stochastic Encode", "semantic", "there are 2 codes for 3 pictures", {}),
    "one x_T": ("Semantic Interpolate", "noise_b", "both noises must be x_T", {"frames": 3}),
}


@pytest.mark.parametrize("case", WRONG)
def test_an_error_is_one_sentence_that_names_node_and_input(case, loaded, direction, encoded, execute):
    title, wrong, words, inputs = WRONG[case]
    model, codec = loaded
    semantic, noise = encoded(drawn(2, 5))
    never = replace(direction, line=replace(direction.line, bias=-1e4))
    given = {
        "a code of another file": {"codec": codec, "semantic": replace(semantic, **FOREIGN), "direction": direction},
        "a direction of another file": {
            "codec": codec,
            "semantic": semantic,
            "direction": replace(direction, **FOREIGN),
        },
        "codes of two files": {"semantic_a": semantic, "semantic_b": replace(semantic, **FOREIGN)},
        "too few pictures": {"codec": codec, "positive": drawn(1, 1), "negative": drawn(4, 2)},
        "an attribute that nothing has": {"codec": codec, "direction": never, "batch_size": 2, "steps": 1},
        "as many codes as pictures": {"model": model, "semantic": semantic, "image": drawn(3, 5)},
        "one x_T": {"semantic_a": semantic, "semantic_b": semantic, "noise_a": noise},
    }[case]
    node_id = f"Guidance_{title.replace(' ', '')}"
    with pytest.raises(ValueError, match=words) as error:
        execute(node_id, **inputs, **given)
    message = str(error.value)
    assert message.endswith(f" (input '{wrong}' of {title})")
    assert "\n" not in message and ". " not in message


def test_a_direction_is_not_saved_outside_its_folder(direction, execute):
    with pytest.raises(ValueError, match="'../../away' can't be a file's name.*input 'filename_prefix'"):
        execute("Guidance_SaveSemanticDirection", direction=direction, filename_prefix="../../away")
