"""Load Scorer and Score Guide, in the host; a control that watches, and what Guide Report says of both."""

import json
from pathlib import Path

import pytest
import torch
from guided_sampling import KINDS, applied, picture, sample, text_guide
from hosts import clip_vision_model
from torch.nn.functional import normalize

pytestmark = pytest.mark.host


@pytest.fixture
def scorer(execute):
    return execute("Guidance_LoadScorer", scorer_name="scenes_scorer.safetensors")[0]


def score_guide(execute, encoder, scorer=None, **options):
    given = {"start_percent": 0.0, "end_percent": 1.0, **({} if scorer is None else {"scorer": scorer}), **options}
    return execute("Guidance_ScoreGuide", encoder=encoder, **given)[0]


def stored(tensors, name):
    import folder_paths
    from safetensors.torch import save_file

    folder = Path(folder_paths.get_folder_paths("guidance_scorers")[0])
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / name)
    folder_paths.filename_list_cache.clear()
    return name


def pictures(count=3):
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(4)).clamp(-1, 1)


def embeddings(encoder, images):
    import comfy.model_management as mm

    from pack.models.encoder import EMBEDDING

    mm.load_models_gpu(encoder.patchers)
    with torch.inference_mode(False), torch.no_grad():
        return encoder.encode(images, None, [EMBEDDING])[EMBEDDING]


def loss_of(guides, images):
    (guide,) = guides
    return guide.compare(guide.measured(images, None), guide.wanted)


def test_the_loss_is_minus_the_score_of_an_embedding_of_length_one(execute, encoder):
    weight, bias = torch.randn(1, 64, generator=torch.Generator().manual_seed(2)), torch.tensor([0.7])
    name = stored({"weight": weight, "bias": bias}, "one_score.safetensors")
    (one,) = execute("Guidance_LoadScorer", scorer_name=name)
    images = pictures()
    expected = normalize(embeddings(encoder, images), dim=1) @ weight[0] + bias
    torch.testing.assert_close(loss_of(score_guide(execute, encoder, one), images), -expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("output, group", [("star", slice(0, 8)), ("11", slice(8, 16))])
def test_of_several_outputs_it_is_minus_the_log_probability_in_the_outputs_group(
    execute, encoder, scorer, output, group
):
    images = pictures()
    index = list(scorer.outputs).index(output) if output in scorer.outputs else int(output)
    scores = scorer.scores(embeddings(encoder, images))
    expected = scores[:, index] - scores[:, group].logsumexp(1)
    found = loss_of(score_guide(execute, encoder, scorer, output=output), images)
    torch.testing.assert_close(found, -expected, rtol=1e-5, atol=1e-5)


def test_without_a_scorer_it_is_one_text_against_its_opposite(execute, encoder):
    images = pictures()
    given = {"text": "a red shape", "opposite": "a blue shape"}
    seen = normalize(embeddings(encoder, images), dim=1)
    cosines = torch.cat([seen @ normalize(encoder.text(text), dim=1).T for text in given.values()], dim=1)
    expected = -(encoder.logit_scale * cosines).log_softmax(1)[:, 0]
    torch.testing.assert_close(loss_of(score_guide(execute, encoder, **given), images), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", [{"weight": 0.0}, {"start_percent": 0.4, "end_percent": 0.4}])
def test_what_is_off_changes_no_bit(execute, encoder, models, scorer, options):
    model, vae = models["scenes_flow"]
    steered = applied(execute, model, score_guide(execute, encoder, scorer, output="star", **options), vae)
    assert torch.equal(sample(execute, steered), sample(execute, model))


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_of_a_batch_is_the_one_it_is_alone(execute, encoder, models, one_by_one, scorer, kind):
    model, vae = models[kind]
    steered = one_by_one(applied(execute, model, score_guide(execute, encoder, scorer, output="star"), vae))
    shape = sample(execute, model, steps=1, batch=1).shape[1:]
    noise = torch.randn(3, *shape, generator=torch.Generator().manual_seed(1))
    sigmas = torch.tensor([0.5, 0.0])
    whole = sample(execute, steered, latent=torch.zeros_like(noise), noise=noise, sigmas=sigmas)
    alone = sample(execute, steered, latent=torch.zeros_like(noise[:1]), noise=noise[2:], seed=7, sigmas=sigmas)
    torch.testing.assert_close(whole[2:], alone, rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    "options, words",
    [
        ({}, "scenes_scorer.safetensors has 29 outputs; name one of them: circle, square.*input 'output'"),
        ({"output": "dog"}, "there is no class 'dog'.*input 'output'"),
        ({"output": "29"}, "class index 29 is out of range.*input 'output'"),
    ],
)
def test_an_output_that_is_not_there_is_refused(execute, encoder, scorer, options, words):
    with pytest.raises(ValueError, match=words):
        score_guide(execute, encoder, scorer, **options)


def test_another_encoder_than_the_scorers_is_refused(execute, encoder):
    name = stored({"weight": torch.zeros(1, 768), "bias": torch.zeros(1)}, "wide.safetensors")
    (wide,) = execute("Guidance_LoadScorer", scorer_name=name)
    words = "wide.safetensors scores embeddings of 768 numbers, and those of scenes_clip.safetensors"
    with pytest.raises(ValueError, match=f"{words} have 64; use the encoder that it was trained on.*input 'encoder'"):
        score_guide(execute, encoder, wide)


def test_a_text_that_the_encoder_can_not_read_is_named_by_its_input(execute, encoder):
    with pytest.raises(ValueError, match="'dog'.*input 'opposite'"):
        score_guide(execute, encoder, text="a star", opposite="a dog")


def test_the_activation_of_an_mlp_can_be_chosen(execute, encoder):
    generator = torch.Generator().manual_seed(3)
    tensors = {"0.weight": torch.randn(5, 64, generator=generator), "0.bias": torch.randn(5, generator=generator)}
    tensors |= {"2.weight": torch.randn(1, 5, generator=generator), "2.bias": torch.zeros(1)}
    name = stored(tensors, "mlp.safetensors")
    seen = embeddings(encoder, pictures())
    hidden = normalize(seen, dim=1) @ tensors["0.weight"].T + tensors["0.bias"]
    for activation, expected in (("auto", hidden.relu()), ("none", hidden), ("SiLU", hidden.sigmoid() * hidden)):
        (mlp,) = execute("Guidance_LoadScorer", scorer_name=name, activation=activation)
        torch.testing.assert_close(mlp.scores(seen), expected @ tensors["2.weight"].T, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def clip_vision(comfy):
    """A small random CLIP_VISION of the host."""
    config = {"hidden_act": "gelu", "hidden_size": 32, "image_size": 32, "intermediate_size": 64, "num_channels": 3}
    config |= {"model_type": "clip_vision_model", "num_attention_heads": 2, "num_hidden_layers": 3, "patch_size": 8}
    with torch.inference_mode():
        vision = clip_vision_model({**config, "projection_dim": 16})
        for parameter in vision.model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.2)
    return vision


def test_a_scorer_of_the_hosts_clip_vision_raises_its_score(execute, models, clip_vision):
    (seeing,) = execute("Guidance_EncoderFromClipVision", clip_vision=clip_vision)
    width = embeddings(seeing, torch.zeros(1, 3, seeing.size, seeing.size)).shape[1]
    weight = torch.randn(1, width, generator=torch.Generator().manual_seed(2))
    name = stored({"weight": weight, "bias": torch.zeros(1)}, f"vision_{width}.safetensors")
    (one,) = execute("Guidance_LoadScorer", scorer_name=name)
    model, _ = models["scenes_flow"]
    last = {}
    for scale in (1.0, 1e-9):
        steered = applied(execute, model, score_guide(execute, seeing, one), strength=scale)
        last[scale] = report(execute, steered, sample(execute, steered, steps=3))[1][f"score: {name}"][-1]["score"]
    assert last[1.0] > last[1e-9]


def report(execute, model, samples):
    """(verdict, rows by guide)."""
    image, text = execute("Guidance_GuideReport", model=model, samples={"samples": samples})
    assert torch.isfinite(image).all()
    found = json.loads(text)
    return found["verdict"], found["guides"]


def test_the_report_shows_the_score_by_step(execute, encoder, models, scorer):
    model, _ = models["scenes_flow"]
    steered = applied(execute, model, score_guide(execute, encoder, scorer, output="star"))
    said, rows = report(execute, steered, sample(execute, steered, steps=3))
    (rows,) = rows.values()
    assert len(rows) == 3 and all(row["score"] == -row["loss"] for row in rows)
    assert f"score {rows[0]['score']:.3g} to {rows[-1]['score']:.3g}" in said
    text = applied(execute, model, text_guide(execute, encoder))
    assert "score" not in report(execute, text, sample(execute, text))[1]["text: a red star"][0]


@pytest.mark.parametrize("kind", KINDS)
def test_a_control_pushes_nothing_and_is_reported(execute, encoder, models, kind):
    model, vae = models[kind]
    guides = execute("Guidance_PaletteGuide", image=picture(), start_percent=0.0, end_percent=1.0)[0]
    control = text_guide(execute, encoder, weight=5.0)
    plain, watched = applied(execute, model, guides, vae), applied(execute, model, guides, vae, control=control)
    samples = sample(execute, watched)
    assert torch.equal(samples, sample(execute, plain))
    said, rows = report(execute, watched, samples)
    assert list(rows) == ["palette", "control: text: a red star"]
    assert all(row["lambda"] == 0 for row in rows["control: text: a red star"])
    assert "control: text: a red star sees" in said


@pytest.mark.parametrize("losses, words", [((-0.2, -0.3), "sees a rise"), ((-0.3, -0.3), "sees no rise")])
def test_a_control_that_sees_no_rise_is_a_warning(pack_nodes, losses, words):
    from pack.nodes.host.guides.report import verdict

    rows = [{"lambda": 0.0, "capped": 0.0, "loss": loss} for loss in losses]
    said = verdict("control: text: a star", rows)
    assert words in said and ("lower the weight" in said) == (words == "sees no rise")
