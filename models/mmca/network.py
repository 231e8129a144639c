"""Multi-Modality Cross Attention for image-sentence matching (Wei et al., CVPR 2020), which published neither code nor
weights. T1, c0 and the loss are those of SAEM (Wu et al., MM 2019), the published code of the same construction; the
cross attention, marked "our reading", is not published anywhere.

Regions X [n k region], words E [m w word]:

    R = W_r X + b_r
    i0 = l2(mean T1(R))                      c0 = l2(W_0 [max relu(conv_1 E), max relu(conv_2 E), max relu(conv_3 E)])
    Y = T2([R ; W_w E + b_w])                our reading: one softmax over regions and words together
    i1 = l2(mean Y_R)                        c1 = l2(W_1 [max relu(conv_1 Y_E), ...])       our reading
    S = i0 . c0 + alpha i1 . c1              i1 and c1 are of a pair, i0 and c0 of one picture, one sentence

A window of words lies wholly inside the sentence, and places without a region or a word are never looked at.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, normalize

from ..clip_noisy.network import TextBlock

WINDOWS = (1, 2, 3)  # words
TEXT_HEADS = 4  # of the text tower
LARGEST = 1 << 22  # numbers of an attention's matrix: more at once is slower, as it leaves a CPU's cache


@dataclass(frozen=True)
class MmcaConfig:
    region: int  # numbers that tell of a region
    word: int  # and of a word
    d: int
    heads: int
    inner: int
    channels: int  # a window of words
    alpha: float = 1.0
    words: tuple[str, ...] = ()  # vocabulary of its own text tower; empty: its words are another encoder's states
    text_layers: int = 2  # of that tower
    context: int = 16  # words of a sentence
    encoder: str = ""  # whose features were its regions ...
    layer: str = ""  # ... and where they come from


class Layer(nn.Module):
    """BERT's (Devlin et al. 2018, arXiv 1810.04805): h = LN(x + W_o MHA(x)), LN(h + W_2 gelu(W_1 h)). [n N d]."""

    def __init__(self, config: MmcaConfig):
        super().__init__()
        d = config.d
        self.heads = config.heads
        self.query, self.key, self.value, self.attention_out = (nn.Linear(d, d) for _ in range(4))
        self.inner, self.out = nn.Linear(d, config.inner), nn.Linear(config.inner, d)
        self.attention_norm, self.norm = nn.LayerNorm(d, eps=1e-12), nn.LayerNorm(d, eps=1e-12)

    def opened(self, x: Tensor) -> Tensor:
        """[n N d] -> [n N 4 d]: x, queries, keys and values, which no other place has a part in."""
        return torch.cat([x, self.query(x), self.key(x), self.value(x)], dim=2)

    def attended(self, opened: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
        """keep [n N] bool. The states [n N d], and who looks at whom, [n heads N N]: rows sum to 1."""
        x, *parts = opened.chunk(4, dim=2)
        q, k, v = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in parts)
        scores = q @ k.transpose(2, 3) / q.shape[3] ** 0.5
        seen = scores.masked_fill(~keep[:, None, None], torch.finfo(scores.dtype).min).softmax(3)
        h = self.attention_norm(x + self.attention_out((seen @ v).transpose(1, 2).flatten(2)))
        return self.norm(h + self.out(gelu(self.inner(h)))), seen


class WordPool(nn.Module):
    """Convolutions of 1, 2 and 3 words, the largest of each channel, one Linear: [m w width] -> [m d]."""

    def __init__(self, width: int, config: MmcaConfig):
        super().__init__()
        self.channels = config.channels
        self.convs = nn.ModuleList([nn.Conv1d(width, config.channels, window) for window in WINDOWS])
        self.out = nn.Linear(len(WINDOWS) * config.channels, config.d)

    def forward(self, words: Tensor, keep: Tensor) -> Tensor:
        """keep [m w] bool, true up to a sentence's end. A sentence shorter than a window has zeros for it."""
        found = []
        for window, conv in zip(WINDOWS, self.convs, strict=True):
            if words.shape[1] < window:
                found.append(words.new_zeros(len(words), self.channels))
                continue
            inside = keep[:, window - 1 :]
            found.append((conv(words.transpose(1, 2)).relu() * inside[:, None]).amax(2))
        return self.out(torch.cat(found, dim=1))


class WordTower(nn.Module):
    """In place of the paper's BERT: word indices [m w], 0 where there is no word -> states [m w word]."""

    def __init__(self, config: MmcaConfig):
        super().__init__()
        self.token_embedding = nn.Embedding(len(config.words) + 1, config.word)
        self.positional_embedding = nn.Parameter(0.1 * torch.randn(config.context, config.word))
        self.blocks = nn.ModuleList([TextBlock(config.word, TEXT_HEADS) for _ in range(config.text_layers)])
        self.ln_final = nn.LayerNorm(config.word)

    def forward(self, indices: Tensor) -> Tensor:
        x = self.token_embedding(indices) + self.positional_embedding[: indices.shape[1]]
        for block in self.blocks:
            x = block(x, indices > 0)
        return self.ln_final(x)


@dataclass(frozen=True)
class Sets:
    """A batch of sets, the regions of pictures or the words of sentences, filled up to one length."""

    states: Tensor  # [n N width]
    keep: Tensor  # [n N] bool; words: true up to a sentence's end

    def __len__(self) -> int:
        return len(self.states)

    def __getitem__(self, rows: Tensor) -> Sets:
        return Sets(self.states[rows], self.keep[rows])


class Mmca(nn.Module):
    def __init__(self, config: MmcaConfig):
        super().__init__()
        self.config = config
        self.region_in, self.word_in = nn.Linear(config.region, config.d), nn.Linear(config.word, config.d)
        self.self_layer, self.cross_layer = Layer(config), Layer(config)
        self.self_words, self.cross_words = WordPool(config.word, config), WordPool(config.d, config)
        if config.words:
            self.text = WordTower(config)

    def pictures(self, regions: Sets) -> Tensor:
        """i0 [n d], of unit length."""
        states, _ = self.self_layer.attended(self.self_layer.opened(self.region_in(regions.states)), regions.keep)
        return normalize(_mean(states, regions.keep), dim=1)

    def sentences(self, words: Sets) -> Tensor:
        """c0 [m d], of unit length."""
        return normalize(self.self_words(words.states, words.keep), dim=1)

    def global_scores(self, regions: Sets, words: Sets) -> Tensor:
        """i0 . c0, [n m] in [-1, 1]: self attention alone, one pass a picture and one a sentence."""
        return self.pictures(regions) @ self.sentences(words).T

    def opened(self, regions: Sets, words: Sets) -> tuple[Sets, Sets]:
        """What T2 makes of each picture and each sentence by itself, once for all their pairs."""
        return (
            Sets(self.cross_layer.opened(self.region_in(regions.states)), regions.keep),
            Sets(self.cross_layer.opened(self.word_in(words.states)), words.keep),
        )

    def crossed(self, regions: Sets, words: Sets) -> tuple[Tensor, Tensor, Tensor]:
        """i1, c1 [n d] of n pairs of what is `opened`, of unit length, and who looks at whom, [n k + w k + w]: the mean
        of the heads."""
        k = regions.keep.shape[1]
        keep = torch.cat([regions.keep, words.keep], dim=1)
        states, seen = self.cross_layer.attended(torch.cat([regions.states, words.states], dim=1), keep)
        picture = normalize(_mean(states[:, :k], regions.keep), dim=1)
        sentence = normalize(self.cross_words(states[:, k:], words.keep), dim=1)
        return picture, sentence, seen.mean(1)

    def cross_scores(self, pictures: Sets, sentences: Sets) -> Tensor:
        """alpha i1 . c1 in [-alpha, alpha] of n pairs of what is `opened`."""
        picture, sentence, _ = self.crossed(pictures, sentences)
        return self.config.alpha * (picture * sentence).sum(1)

    def pairs_at_once(self, regions: Sets, words: Sets) -> int:
        """How many pairs fit into memory."""
        places = regions.keep.shape[1] + words.keep.shape[1]
        return max(1, LARGEST // (self.config.heads * places**2))

    def forward(self, regions: Sets, words: Sets) -> Tensor:
        """S [n m] of every picture with every sentence."""
        first = self.global_scores(regions, words)
        pictures, sentences = self.opened(regions, words)
        pairs = torch.arange(first.numel(), device=first.device).split(self.pairs_at_once(regions, words))
        crossed = [self.cross_scores(pictures[part // len(words)], sentences[part % len(words)]) for part in pairs]
        return first + torch.cat(crossed).view_as(first)


def _mean(states: Tensor, keep: Tensor) -> Tensor:
    """[n N d] -> [n d], of the kept ones."""
    share = keep / keep.sum(1, keepdim=True)
    return (states * share[..., None].to(states)).sum(1)
