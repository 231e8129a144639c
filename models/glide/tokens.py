"""What GLIDE's transformer is told of a text: the byte pairs of GPT-2 (Radford et al. 2019), in lower case.

`gpt2_merges.txt.xz` is the list that openai/glide-text2im and openai/gpt-2 publish under MIT licences; the numbers of
tokens follow from it: 256 bytes in the order of their stand-in letters, then a token a merge, then the end.
"""

from __future__ import annotations

import lzma
from functools import cache
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as Decoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel

MERGES = Path(__file__).parent / "gpt2_merges.txt.xz"


def stand_ins() -> list[str]:
    """The letters that stand for bytes: printable ones for themselves, the others after them."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    return [chr(byte) for byte in printable] + [chr(256 + index) for index in range(256 - len(printable))]


@cache
def tokenizer() -> Tokenizer:
    lines = lzma.decompress(MERGES.read_bytes()).decode("utf-8").splitlines()
    merges = [(first, second) for first, second in (line.split() for line in lines)]
    names = [*stand_ins(), *(first + second for first, second in merges)]
    built = Tokenizer(BPE({name: index for index, name in enumerate(names)}, merges))
    built.pre_tokenizer = ByteLevel(add_prefix_space=False)  # pyright: ignore[reportAttributeAccessIssue]
    built.decoder = Decoder()  # pyright: ignore[reportAttributeAccessIssue]
    return built


def tokens(text: str) -> list[int]:
    """Any number of them; none for an empty text."""
    return tokenizer().encode(text.lower()).ids


def said(numbers: list[int]) -> str:
    """The text of tokens."""
    return tokenizer().decode(numbers)
