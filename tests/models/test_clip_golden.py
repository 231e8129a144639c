"""CLIP as openai/CLIP published it: embeddings, zero-shot classes, pair logits, and what it is shown of a picture."""

import math

import golden_files
import pytest
import torch

from pack.guidance.clip_scores import class_weights, cosines, probabilities
from pack.models.clip import ClipConfig
from pack.models.clip.network import Clip

CASE = "clip_zero_shot_vit"


@pytest.fixture(scope="module")
def published():
    arguments, golden = golden_files.load(CASE)
    net = arguments["net"]
    config = ClipConfig(
        embed_dim=net["embed_dim"],
        image_size=arguments["image_size"],
        width=net["vision_width"],
        layers=(net["vision_layers"],),
        patch_size=net["vision_patch_size"],
        head_width=64,
        mlp_ratio=4.0,
        text_width=net["transformer_width"],
        text_layers=net["transformer_layers"],
        text_heads=net["transformer_heads"],
        text_mlp_ratio=4.0,
        context=arguments["context_length"],
        vocabulary=arguments["vocab_size"],
        quick_gelu=True,
    )
    network = golden_files.fill(Clip(config), arguments["salt"])
    with torch.no_grad():
        network.logit_scale.fill_(math.log(arguments["logit_scale"]))
    return network, arguments, golden


def embedded(network, golden):
    """Images [B D], and every class's texts [classes templates D]."""
    tokens = golden["tokens"]
    return network.encode_image(golden["x"]), network.encode_text(tokens.flatten(0, 1)).unflatten(0, tokens.shape[:2])


def test_the_embeddings_are_the_published_ones(published):
    network, _, golden = published
    images, texts = embedded(network, golden)
    assert golden_files.relative_error(images, golden["image.embedding"]) < 1e-5
    assert golden_files.relative_error(texts[:, 0], golden["text.embedding"]) < 1e-5


def test_a_classifier_made_of_texts_is_the_published_one(published):
    network, arguments, golden = published
    images, texts = embedded(network, golden)
    weights = class_weights(texts)
    assert golden_files.relative_error(weights, golden["zero_shot.weights"].T) < 1e-5
    scale = float(network.logit_scale.exp())
    found = cosines(images, weights)
    assert golden_files.relative_error(scale * found, golden["zero_shot.logits"]) < 1e-5
    assert golden_files.relative_error(probabilities(found, scale), golden["zero_shot.probabilities"]) < 1e-4


def test_the_logits_of_pairs_are_the_published_ones(published):
    network, arguments, golden = published
    images, texts = embedded(network, golden)
    logits = arguments["logit_scale"] * cosines(images, texts[:, 0])
    assert golden_files.relative_error(logits, golden["pair.logits_per_image"]) < 1e-5
    assert golden_files.relative_error(logits.T, golden["pair.logits_per_text"]) < 1e-5


def test_the_contrastive_loss_of_the_training_is_the_published_one_where_each_text_fits_one_picture(published):
    """`training.clip` takes the mean of these two cross entropies; its targets are shared where texts fit several."""
    from torch.nn.functional import cross_entropy

    network, arguments, golden = published
    images, texts = embedded(network, golden)
    logits = arguments["logit_scale"] * cosines(images[:4], texts[:4, 0])
    fits = torch.eye(4)
    to_text = cross_entropy(logits, fits / fits.sum(1, keepdim=True))
    to_image = cross_entropy(logits.T, fits.T / fits.T.sum(1, keepdim=True))
    assert golden_files.relative_error((to_text + to_image) / 2, golden["contrastive.loss"]) < 1e-5


@pytest.mark.host
def test_what_it_is_shown_of_a_picture_is_exact_to_the_byte(published, comfy):
    from pack.nodes.host.judging.pictures import published as shown

    network, arguments, golden = published
    pictures = shown(golden["preprocess.image"].float() / 255, arguments["image_size"])
    assert golden_files.relative_error(network.prepared(pictures * 2 - 1), golden["preprocess.out"]) < 2e-6
