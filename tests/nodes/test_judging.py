"""CLIP Score, Zero-Shot Classify and Rank Images by Text, with every kind of encoder that reads texts."""

import json

import pytest
import torch
from networks import Networks, pictures

pytestmark = pytest.mark.host
COUNT = 40  # more than one part
TEXTS = "a red star\na blue circle\na striped shape"


@pytest.fixture(scope="module")
def scenes():
    """Scenes and their classes [B 4]."""
    from training.scenes import draw, render

    drawn = render(draw(COUNT, torch.Generator().manual_seed(5)))
    return (drawn.image.movedim(1, -1) + 1) / 2, drawn.attributes.labels()


def reference(encoder, images, texts):
    """Cosines, from the network itself and without a resize: the scenes have the encoder's size."""
    eight = (images * 255).round() / 255
    x = eight.movedim(-1, 1) * 2 - 1
    with torch.no_grad():
        seen = encoder.network.embed(x, torch.zeros(len(x)))
        read = torch.cat([encoder.network.embed_text(text) for text in texts])
    return torch.nn.functional.cosine_similarity(seen[:, None], read[None], dim=-1)


def test_a_score_is_the_cosine_of_the_embeddings(execute, encoder, scenes):
    images, _ = scenes
    score, said, table = execute("Guidance_CLIPScore", encoder=encoder, images=images, text=TEXTS)
    said, expected = json.loads(said), reference(encoder, images, TEXTS.splitlines())
    torch.testing.assert_close(torch.tensor(said["cosines"]), expected, atol=1e-5, rtol=0)
    assert score == said["cosines"][0][0]
    shares = (30 * expected).softmax(1)  # the scale that this encoder was trained with
    torch.testing.assert_close(torch.tensor(said["shares"]), shares, atol=1e-4, rtol=0)
    assert table.shape[0] == 1 and table.shape[-1] == 3


def test_a_picture_of_a_batch_has_the_score_that_it_has_alone(execute, encoder, scenes):
    images, _ = scenes
    together = json.loads(execute("Guidance_CLIPScore", encoder=encoder, images=images, text=TEXTS)[1])["cosines"]
    for place in (0, COUNT - 1):
        alone = json.loads(execute("Guidance_CLIPScore", encoder=encoder, images=images[[place]], text=TEXTS)[1])
        torch.testing.assert_close(torch.tensor(alone["cosines"][0]), torch.tensor(together[place]), atol=1e-5, rtol=0)


def test_labels_are_found_by_the_mean_of_the_templates(execute, encoder, scenes):
    """Unit length, mean, unit length; the temperature is the encoder's."""
    images, _ = scenes
    labels, templates = ["circle", "star", "ring"], ["a {}", "a dotted {}"]
    names, said, bars = execute(
        "Guidance_ZeroShotClassify",
        encoder=encoder,
        images=images,
        labels="\n".join(labels),
        templates="\n".join(templates),
        top=2,
    )
    with torch.no_grad():
        rows = [[encoder.network.embed_text(frame.replace("{}", label)) for frame in templates] for label in labels]
        unit = torch.nn.functional.normalize(torch.stack([torch.cat(row) for row in rows]), dim=-1)
        weights = torch.nn.functional.normalize(unit.mean(1), dim=-1)
        seen = encoder.network.embed((images * 255).round().movedim(-1, 1) / 127.5 - 1, torch.zeros(len(images)))
        expected = (30 * torch.nn.functional.normalize(seen, dim=-1) @ weights.T).softmax(-1)
    said = json.loads(said)
    torch.testing.assert_close(torch.tensor(said["probabilities"]), expected, atol=1e-4, rtol=0)
    assert names.splitlines() == [labels[place] for place in expected.argmax(1).tolist()]
    assert [[row["label"] for row in found] for found in said["top"]] == [
        [labels[place] for place in row.argsort(descending=True)[:2].tolist()] for row in expected
    ]
    assert bars.shape[0] == 1


def test_real_scenes_are_classified(execute, encoder, scenes):
    from training.scenes import SHAPES

    images, labels = scenes
    names, _, _ = execute(
        "Guidance_ZeroShotClassify", encoder=encoder, images=images, labels="\n".join(SHAPES), templates="a {}"
    )
    right = [list(SHAPES)[index] for index in labels[:, 0].tolist()]
    assert sum(a == b for a, b in zip(names.splitlines(), right, strict=True)) >= 0.9 * COUNT


def test_the_best_pictures_come_first_and_equal_ones_in_their_order(execute, encoder, scenes):
    images, _ = scenes
    doubled = torch.cat([images[:6], images[:6]])
    kept, order, said = execute("Guidance_RankImages", encoder=encoder, images=doubled, text="a red star", keep=5)
    scores = reference(encoder, doubled, ["a red star"])[:, 0]
    said = json.loads(said)
    assert order == said["order"]
    assert kept.equal(doubled[order])
    assert [place % 6 for place in order] == [place for place in scores[:6].argsort(descending=True) for _ in "ab"][:5]
    assert order[0] < 6 <= order[1]
    torch.testing.assert_close(torch.tensor(said["all_scores"]), scores, atol=1e-5, rtol=0)


def test_what_pictures_should_not_show_is_taken_off(execute, encoder, scenes):
    images, _ = scenes
    given = {"encoder": encoder, "images": images, "keep": 0}
    said = json.loads(execute("Guidance_RankImages", text="a star", negative="a red star", **given)[2])
    pair = reference(encoder, images, ["a star", "a red star"])
    torch.testing.assert_close(torch.tensor(said["all_scores"]), pair[:, 0] - pair[:, 1], atol=1e-5, rtol=0)
    assert len(said["order"]) == COUNT


def test_the_hosts_clip_vision_with_its_clip_judges_as_well(execute):
    networks = Networks(execute)
    (encoder,) = execute("Guidance_EncoderFromClipVision", clip_vision=networks.clip_vision, clip=networks.clip)
    images = pictures(3, size=48)
    score, said, _ = execute("Guidance_CLIPScore", encoder=encoder, images=images, text="a dog\na cat")
    cosines = torch.tensor(json.loads(said)["cosines"])
    assert cosines.shape == (3, 2) and cosines.isfinite().all() and cosines[0, 0] == score
    assert encoder.logit_scale == 100


def test_a_file_of_open_clip_says_its_temperature(execute, tmp_path):
    import folder_paths
    from safetensors.torch import save_file

    from pack.models.clip import CLIP, ClipConfig

    torch.manual_seed(0)
    text = {"text_width": 64, "text_layers": 2, "text_heads": 1, "text_mlp_ratio": 4.0, "context": 77}
    network = CLIP.build(ClipConfig(16, 32, 64, (3,), 8, 64, 4.0, **text, vocabulary=49408))
    with torch.no_grad():
        network.logit_scale.fill_(3.0)
    state = {key: value.contiguous() for key, value in network.state_dict().items()}
    folder_paths.add_model_folder_path("guidance_encoders", str(tmp_path))
    save_file(state, tmp_path / "judging_vit.safetensors")
    folder_paths.filename_list_cache.clear()
    (encoder,) = execute("Guidance_LoadEncoder", encoder_name="judging_vit.safetensors")
    said = json.loads(execute("Guidance_CLIPScore", encoder=encoder, images=pictures(2), text="a dog\na cat")[1])
    expected = (torch.tensor(3.0).exp() * torch.tensor(said["cosines"])).softmax(1)
    torch.testing.assert_close(torch.tensor(said["shares"]), expected, atol=1e-5, rtol=0)


def test_a_batch_shows_its_progress_and_can_be_cancelled_between_its_parts(execute, encoder, scenes):
    import comfy.model_management as mm
    import comfy.utils

    seen = []

    def hook(value, total, preview, node_id=None):
        seen.append((value, total))
        if len(seen) == 1:
            mm.interrupt_current_processing(True)

    before, comfy.utils.PROGRESS_BAR_HOOK = comfy.utils.PROGRESS_BAR_HOOK, hook
    try:
        with pytest.raises(mm.InterruptProcessingException):
            execute("Guidance_CLIPScore", encoder=encoder, images=scenes[0], text="a star")
    finally:
        comfy.utils.PROGRESS_BAR_HOOK = before
        mm.interrupt_current_processing(False)
    assert seen == [(32, COUNT)]


SCORE, CLASSIFY, RANK = "Guidance_CLIPScore", "Guidance_ZeroShotClassify", "Guidance_RankImages"
REFUSED = {
    "no text": (SCORE, {"text": " \n "}, "it is empty.*'text'"),
    "the same text twice": (SCORE, {"text": "a star\na star"}, "'a star' stands there twice.*'text'"),
    "a word that the encoder lacks": (SCORE, {"text": "a dog"}, "'a dog': .*does not know the word 'dog'.*'text'"),
    "too many words": (SCORE, {"text": "a " * 17}, "17 words, this encoder reads 16.*'text'"),
    "no labels": (CLASSIFY, {"labels": ""}, "it is empty.*'labels'"),
    "a label twice": (CLASSIFY, {"labels": "star\nring\nstar"}, "'star' stands there twice.*'labels'"),
    "an unknown label": (CLASSIFY, {"labels": "star\ndog"}, "'a dog'.*'labels'"),
    "an unknown template": (CLASSIFY, {"templates": "a photo of a {}."}, "'photo'.*'templates'"),
    "a template without a place": (CLASSIFY, {"templates": "a star"}, "'a star' has no {}.*'templates'"),
    "a linked scale below 0": (SCORE, {"logit_scale": -1.0}, "0.0 to 1000.0 are possible.*'logit_scale'"),
    "a linked top of 0": (CLASSIFY, {"top": 0}, "1 to 100 are possible.*'top'"),
    "more than there are": (RANK, {"keep": 9}, "9 of 4 pictures.*'keep'"),
    "no text to rank by": (RANK, {"text": ""}, "empty.*'text'"),
    "an unknown negative": (RANK, {"negative": "a dog"}, "'dog'.*'negative'"),
}
FITTING = {
    SCORE: {"text": "a star"},
    CLASSIFY: {"labels": "star\nring", "templates": "a {}"},
    RANK: {"text": "a star", "keep": 2, "negative": ""},
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_can_not_be_judged_is_said_with_node_and_input(execute, pack_nodes, encoder, scenes, case):
    node, wrong, message = REFUSED[case]
    with pytest.raises(ValueError, match=message) as error:
        execute(node, encoder=encoder, images=scenes[0][:4], **{**FITTING[node], **wrong})
    assert pack_nodes[node].GET_SCHEMA().display_name in str(error.value)


@pytest.mark.parametrize("node", FITTING)
def test_encoders_without_texts_and_of_two_clips_are_refused(execute, encoder, scenes, node):
    networks = Networks(execute)
    blind = execute("Guidance_EncoderFromClipVision", clip_vision=networks.clip_vision)[0]
    with pytest.raises(ValueError, match="this encoder has no text tower.*'encoder'"):
        execute(node, encoder=blind, images=scenes[0][:4], **FITTING[node])
    with pytest.raises(ValueError, match="its pictures become 16 numbers and its texts 64.*'encoder'"):
        execute(node, encoder=blind.with_text_of(encoder), images=scenes[0][:4], **FITTING[node])


def test_hundreds_of_pictures_are_judged_and_the_first_are_drawn(execute, encoder):
    images = pictures(100)
    _, said, table = execute("Guidance_CLIPScore", encoder=encoder, images=images, text="a star")
    assert len(json.loads(said)["cosines"]) == 100
    assert table.shape[1] < 64 * 70
