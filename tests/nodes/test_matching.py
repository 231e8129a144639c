"""Load Matcher, Region Features, Image-Sentence Match and Match Guide, in the host."""

import json
from dataclasses import asdict, replace

import pytest
import torch
from guided_sampling import applied, sample
from networks import Networks, pictures

pytestmark = pytest.mark.host
COUNT = 6
TEXTS = "a red star left of a blue circle\na green heart"


@pytest.fixture(scope="module")
def scenes():
    from training.two_shapes import draw_pairs, render_pairs

    images, masks = render_pairs(draw_pairs(COUNT, torch.Generator().manual_seed(5)))
    return (images.movedim(1, -1) + 1) / 2, masks


@pytest.fixture
def matcher(execute):
    return execute("Guidance_LoadMatcher", matcher_name="scenes_matcher.safetensors")[0]


def regions(execute, encoder, images, **options):
    return execute("Guidance_RegionFeatures", **{"encoder": encoder, "images": images, "layer": "layer3", **options})[0]


def matched(execute, matcher, found, text=TEXTS, **options):
    images, order, said, table, attention = execute(
        "Guidance_ImageSentenceMatch", matcher=matcher, regions=found, text=text, **options
    )
    return images, order, json.loads(said), table, attention


def reference(matcher, encoder, images, texts):
    """Scores of the networks themselves; the scenes have the encoder's size, so nothing is resized."""
    from pack.models.clip_noisy.words import indices
    from pack.models.mmca.network import Sets
    from pack.models.mmca.regions import cells

    x = (images * 255).round().movedim(-1, 1) / 127.5 - 1
    with torch.no_grad():
        seen = cells(encoder.network.maps(x, torch.zeros(len(x)), ["layer3"])[0])
        columns = []
        for text in texts:
            words = torch.tensor([indices(text, matcher.config.words, len(text.split()))])
            columns.append(matcher.network(seen, Sets(matcher.network.text(words), words > 0)))
    return torch.cat(columns, dim=1)


def test_the_scores_are_the_networks(execute, encoder, matcher, scenes):
    images, _ = scenes
    _, _, said, table, attention = matched(execute, matcher, regions(execute, encoder, images))
    expected = reference(matcher, encoder, images, TEXTS.splitlines())
    torch.testing.assert_close(torch.tensor(said["scores"]), expected, atol=1e-5, rtol=0)
    for m, order in enumerate(said["orders"]):
        assert order == expected[:, m].argsort(descending=True).tolist()
    assert table.shape[0] == attention.shape[0] == 1 and attention.shape[-1] == 3


def test_pictures_come_sorted_by_the_first_sentence(execute, encoder, matcher, scenes):
    images, _ = scenes
    ranked, order, said, _, _ = matched(execute, matcher, regions(execute, encoder, images))
    assert order == said["orders"][0] and ranked.equal(images[order])


def test_only_the_best_of_the_cheap_score_are_looked_at_closely(execute, encoder, matcher, scenes):
    images, _ = scenes
    found = regions(execute, encoder, images)
    whole = matched(execute, matcher, found)[2]
    for rerank in (0, 2):
        said = matched(execute, matcher, found, rerank=rerank)[2]
        assert said["global_scores"] == whole["global_scores"]
        for m in range(2):
            column = [row[m] for row in said["scores"]]
            cheap = torch.tensor([row[m] for row in whole["global_scores"]]).argsort(descending=True).tolist()
            assert {n for n, value in enumerate(column) if value is not None} == set(cheap[:rerank])
            assert said["orders"][m][rerank:] == cheap[rerank:]


def test_a_picture_of_a_batch_has_the_score_that_it_has_alone(execute, encoder, matcher, scenes):
    images, _ = scenes
    together = matched(execute, matcher, regions(execute, encoder, images))[2]["scores"]
    for place in (0, COUNT - 1):
        alone = matched(execute, matcher, regions(execute, encoder, images[[place]]))[2]["scores"]
        torch.testing.assert_close(torch.tensor(alone[0]), torch.tensor(together[place]), atol=1e-5, rtol=0)


def test_regions_may_be_what_lies_under_masks(execute, encoder, matcher, scenes):
    images, masks = scenes
    found = regions(execute, encoder, images, masks=masks.flatten(0, 1))
    assert found.sets.states.shape == (COUNT, 2, matcher.config.region) and found.sets.keep.all()
    assert len(matched(execute, matcher, found)[2]["scores"]) == COUNT


def told(count, seed=6):
    """Scenes, and a sentence of each that names shapes and colours."""
    from training.two_shapes import draw_pairs, sentences

    pairs, true = draw_pairs(count, torch.Generator().manual_seed(seed)), torch.ones(count, dtype=torch.bool)
    said = torch.tensor([True, True, False]).expand(count, 2, -1)
    return pairs, sentences(pairs, said, true, ~true, torch.zeros(count, dtype=torch.long)).lines()


def test_attention_is_of_each_word_to_each_region(execute, encoder, matcher, scenes):
    images, _ = scenes
    found = regions(execute, encoder, images)
    words = matcher.words(["a red star left of a blue circle"], encoder)
    seen = matcher.attention(found, words, [3, 1], 0)
    assert seen.shape == (2, 8, 16) and seen.min() >= 0 and seen.sum(2).max() <= 1 + 1e-6
    assert words.names == [["a", "red", "star", "left", "of", "a", "blue", "circle"]]


def test_the_name_of_a_shape_looks_at_that_shape(execute, encoder, matcher):
    from training.two_shapes import render_pairs

    pairs, lines = told(32)
    images, masks = render_pairs(pairs)
    found, words = regions(execute, encoder, (images.movedim(1, -1) + 1) / 2), matcher.words(lines, encoder)
    covered = torch.nn.functional.adaptive_avg_pool2d(masks, 4).flatten(2)  # [n 2 k]
    right = 0
    for n, names in enumerate(words.names):
        seen = matcher.attention(found, words, [n], n)[0]
        for place, word in ((0, names.index("a") + 2), (1, len(names) - 1)):  # of its noun
            here, there = ((seen[word] * covered[n, k]).sum() for k in (place, 1 - place))
            right += int(here > there)
    assert right >= 60  # of 64


def test_the_cross_term_alone_tells_a_scene_from_its_twin(execute, encoder, matcher):
    from training.two_shapes import joined, moved, render_pairs, swapped

    pairs, lines = told(64)
    for twin in (swapped(pairs, "colour"), moved(pairs)):
        images, _ = render_pairs(joined(pairs, twin))
        found = regions(execute, encoder, (images.movedim(1, -1) + 1) / 2)
        scores = matcher.scores(found, matcher.words(lines, encoder), len(images))
        own, other = (scores.whole - scores.first).unflatten(0, (2, 64)).diagonal(dim1=1, dim2=2)
        assert (own > other).sum() >= 62 and (own - other).mean() > 0.2  # of 64; beyond the margin of the training


def refused(execute, node, match, **inputs):
    with pytest.raises(ValueError, match=match):
        execute(f"Guidance_{node}", **inputs)


def test_a_sentence_that_is_too_long_or_has_unknown_words_is_refused(execute, encoder, matcher, scenes):
    given = {"matcher": matcher, "regions": regions(execute, encoder, scenes[0])}
    long = "a red star left of a blue circle and a green heart"
    refused(
        execute,
        "ImageSentenceMatch",
        "has 13 words, this encoder reads 12; shorten it.*input 'text'",
        text=f"{long} and",
        **given,
    )
    refused(execute, "ImageSentenceMatch", "does not know the word 'dog'.*input 'text'", text="a dog", **given)
    refused(execute, "ImageSentenceMatch", "it is empty.*input 'text'", text=" ", **given)


def test_pictures_without_regions_are_refused(execute, encoder, matcher, scenes):
    images, masks = scenes
    masks = masks.clone()
    masks[2] = 0
    found = regions(execute, encoder, images, masks=masks.flatten(0, 1))
    refused(
        execute,
        "ImageSentenceMatch",
        "picture 2 has no regions.*input 'regions'",
        matcher=matcher,
        regions=found,
        text="a star",
    )


def test_regions_of_another_width_are_refused(execute, encoder, matcher, scenes):
    found = regions(execute, encoder, scenes[0], layer="layer2")
    match = r"229 numbers \(layer3 of scenes_clip.safetensors\), and 165 came \(layer2 of scenes_clip.*input 'regions'"
    refused(execute, "ImageSentenceMatch", match, matcher=matcher, regions=found, text="a star")


def test_layers_and_masks_that_do_not_fit_are_refused(execute, encoder, scenes):
    images, masks = scenes
    given = {"encoder": encoder, "images": images}
    refused(execute, "RegionFeatures", "there is no layer 'layer9'.*layer3.*input 'layer'", layer="layer9", **given)
    refused(execute, "RegionFeatures", "one layer is needed.*input 'layer'", layer="layer2, layer3", **given)
    refused(execute, "RegionFeatures", "one layer is needed.*input 'layer'", layer="", **given)
    few, small = masks.flatten(0, 1)[:5], masks.flatten(0, 1)[..., :16]
    refused(
        execute, "RegionFeatures", "5 masks can't be shared out to 6.*input 'masks'", layer="layer3", masks=few, **given
    )
    refused(execute, "RegionFeatures", "the masks are 16 x 32.*input 'masks'", layer="layer3", masks=small, **given)


def towerless(execute, word, name):
    """A matcher of the shipped one's regions without a text tower."""
    from pathlib import Path

    import folder_paths
    from safetensors.torch import save_file

    from pack.models.mmca.network import Mmca
    from pack.models.registry import DEMO, load_checkpoint

    config = load_checkpoint(DEMO / "matchers" / "scenes_matcher.safetensors", "matcher").config
    config = replace(config, words=(), word=word)
    folder = Path(folder_paths.get_folder_paths("guidance_matchers")[0])
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    metadata = {"architecture": "mmca", "config": json.dumps(asdict(config))}
    save_file(Mmca(config).state_dict(), folder / name, metadata)
    folder_paths.filename_list_cache.clear()
    return execute("Guidance_LoadMatcher", matcher_name=name)[0]


def test_a_matcher_without_a_text_tower_takes_the_words_of_the_encoder(execute, encoder, scenes):
    found = regions(execute, encoder, scenes[0])
    said = matched(execute, towerless(execute, 64, "towerless.safetensors"), found, "a red star\na blue ring")[2]
    assert torch.tensor(said["scores"]).isfinite().all()
    wide = towerless(execute, 32, "towerless_32.safetensors")
    refused(
        execute,
        "ImageSentenceMatch",
        "words of 32 numbers.*have 64.*input 'matcher'",
        matcher=wide,
        regions=found,
        text="a star",
    )


def test_a_matcher_without_a_text_tower_and_an_encoder_without_one_are_refused(execute, encoder):
    (seeing,) = execute("Guidance_EncoderFromClipVision", clip_vision=Networks(execute).clip_vision)
    found = regions(execute, seeing, pictures(2), layer="block 2")
    matcher = towerless(execute, 64, "towerless.safetensors")
    matcher.config = replace(matcher.config, region=found.sets.states.shape[2])
    match = "towerless.safetensors has no text tower of its own, and the regions are of CLIP Vision.*input 'matcher'"
    refused(execute, "ImageSentenceMatch", match, matcher=matcher, regions=found, text="a star")


def test_words_of_an_encoder_are_the_states_that_its_embedding_is_made_of(encoder):
    network = encoder.network
    with torch.no_grad():
        states = network.embed_words("a red star")
        torch.testing.assert_close(network.text.projection(states.mean(0)), network.embed_text("a red star")[0])


def match_guide(execute, encoder, matcher, **options):
    given = {"text": "a red star left of a blue circle", "start_percent": 0.0, "end_percent": 1.0, **options}
    return execute("Guidance_MatchGuide", encoder=encoder, matcher=matcher, **given)[0]


def test_a_guide_of_another_encoder_and_one_at_noisy_are_refused(execute, encoder, matcher, models):
    (seeing,) = execute("Guidance_EncoderFromClipVision", clip_vision=Networks(execute).clip_vision)
    with pytest.raises(ValueError, match="reads layer3 of scenes_clip.safetensors.*no such layer.*input 'encoder'"):
        match_guide(execute, seeing, matcher)
    with pytest.raises(ValueError, match="does not know the word.*input 'text'"):
        match_guide(execute, encoder, matcher, text="a dog")
    model, vae = models["scenes_unet"]
    with pytest.raises(ValueError, match="can't look at noisy pictures"):
        sample(execute, applied(execute, model, match_guide(execute, encoder, matcher), vae, gradient="at noisy"))
