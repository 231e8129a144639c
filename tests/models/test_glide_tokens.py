"""Texts become the very tokens that openai/glide-text2im makes."""

import json
import lzma

import golden_files
import pytest
import torch
from glide_golden import CASE, config

from pack.models.glide.network import GlideConfig, GlideUNet
from pack.models.glide.tokens import MERGES, tokenizer, tokens

TEXTS = json.loads((golden_files.FOLDER / "texts.json").read_text("utf-8"))["prompts"]
END = 50256


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: text["text"][:20] or "empty")
def test_the_tokens_of_a_text_are_the_published_ones(text):
    found = tokens(text["text"])[:128]
    assert found + [END] * (128 - len(found)) == text["glide"]
    assert len(found) == text["glide_mask_true"]


def test_every_merge_has_a_number_and_the_end_comes_after_the_last():
    lines = lzma.decompress(MERGES.read_bytes()).decode("utf-8").splitlines()
    numbers = sorted(tokenizer().get_vocab().values())
    assert len(lines) == 50_000
    assert numbers == list(range(END))


def test_a_small_vocabulary_takes_its_own_words_and_refuses_others():
    arguments, _ = golden_files.load(CASE)
    words = ("a", "red", "star")
    settings = {**vars(config(arguments, 3)), "words": words, "vocabulary": 3}
    with torch.device("meta"):
        network = GlideUNet(GlideConfig(**settings))
    assert network.tokens("A red star.") == [0, 1, 2]
    assert network.tokens("  ") == []
    with pytest.raises(ValueError, match="'blue'"):
        network.tokens("a blue star")
