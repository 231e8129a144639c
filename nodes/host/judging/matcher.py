"""Matchers of pictures and sentences under the host's memory management: the value of a GUIDANCE_MATCHER socket."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import comfy.model_management as mm
import comfy.utils
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ....guidance.match_scores import UNSEEN, asked
from ....models.architecture import Checkpoint
from ....models.clip_noisy.words import indices
from ....models.encoder import NoTextsError
from ....models.mmca.network import Mmca, MmcaConfig, Sets
from ....models.mmca.regions import BOX, cells
from ..errors import about
from ..gradients import make_differentiable
from ..guides.encoder import Encoder
from ..memory import hosted_small
from .regions import Regions


@dataclass(frozen=True)
class Words:
    sets: Sets  # states of m sentences' words, on the matcher's device
    names: Sequence[Sequence[str]]  # of the words of each


@dataclass(frozen=True)
class Scores:
    """Of n pictures with m sentences, on the CPU; `whole` is minus infinity where the cross attention didn't look."""

    first: Tensor  # [n m] i0 . c0
    whole: Tensor  # [n m] i0 . c0 + alpha i1 . c1


class Matcher:
    """Computes in float32 on its own device; its networks are small."""

    def __init__(self, checkpoint: Checkpoint):
        self.name = checkpoint.name
        self.config: MmcaConfig = checkpoint.config
        self.patcher = hosted_small(checkpoint)
        self.network = cast(Mmca, self.patcher.model)

    def check_width(self, width: int, origin: str) -> None:
        """Raises ValueError for regions of another width than its own."""
        if width != self.config.region:
            own = f" ({self.config.layer} of {self.config.encoder})" * bool(self.config.encoder)
            raise ValueError(
                f"{self.name} reads regions of {self.config.region} numbers{own}, and {width} came ({origin}); choose "
                "the encoder and the layer that it was trained on"
            )

    def layer_of(self, encoder: Encoder) -> str:
        """The layer of an encoder whose cells it reads. Raises ValueError where there is none, or of another width."""
        layer = self.config.layer
        if layer not in encoder.network.layers:
            raise ValueError(
                f"{self.name} reads {layer or 'a layer without a name'} of {self.config.encoder or 'an encoder'}, and "
                f"{encoder.name} has no such layer; use the encoder that it was trained on"
            )
        mm.load_models_gpu(encoder.patchers)
        with torch.inference_mode(False), torch.no_grad():
            (seen,) = encoder.maps(torch.zeros(1, 3, encoder.size, encoder.size), None, [layer])
        self.check_width(seen.shape[1] + BOX, f"{layer} of {encoder.name}")
        return layer

    def words(self, texts: Sequence[str], encoder: Encoder) -> Words:
        """Of sentences, by its own text tower, else by that of the encoder which saw the regions.

        Raises InputError: of `text` for a sentence that can't be read, of `matcher` where there is no text tower.
        """
        mm.load_models_gpu([self.patcher, *([] if self.config.words else encoder.patchers)])
        rows, names = [], []
        for text in texts:
            with torch.inference_mode(False), torch.no_grad(), self._blaming(text, encoder):
                states, said = self._own_words(text) if self.config.words else _words_of(encoder, text)
            if states.shape[1] != self.config.word:
                with about("matcher"):
                    raise ValueError(
                        f"{self.name} reads words of {self.config.word} numbers, and those of {encoder.name} have "
                        f"{states.shape[1]}; take regions of the encoder that it was trained on"
                    )
            rows.append(states.float().to(self.patcher.load_device))
            names.append(said)
        states = pad_sequence(rows, batch_first=True)
        lengths = torch.tensor([len(row) for row in rows], device=states.device)
        return Words(Sets(states, torch.arange(states.shape[1], device=states.device) < lengths[:, None]), names)

    def _own_words(self, text: str) -> tuple[Tensor, list[str]]:
        found = [index for index in indices(text, self.config.words, self.config.context) if index]
        states = self.network.text(torch.tensor([found], device=self.patcher.load_device))[0]
        return states, [self.config.words[index - 1] for index in found]

    @contextmanager
    def _blaming(self, text: str, encoder: Encoder) -> Iterator[None]:
        try:
            yield
        except NoTextsError as error:
            with about("matcher"):
                raise ValueError(
                    f"{self.name} has no text tower of its own, and the regions are of {encoder.name}, which gives it "
                    "no words; take regions of a CLIP that reads texts, or a matcher with words of its own"
                ) from error
        except ValueError as error:
            with about("text"):
                raise ValueError(f"{text!r}: {error}") from error

    def scores(self, regions: Regions, words: Words, rerank: int) -> Scores:
        """The cross attention looks at the `rerank` best pictures of each sentence; shown, and cancelled between two
        parts."""
        mm.load_models_gpu([self.patcher])
        device, network = self.patcher.load_device, self.network
        with torch.inference_mode(False), torch.no_grad():
            sets = Sets(regions.sets.states.to(device), regions.sets.keep.to(device))
            first = network.global_scores(sets, words.sets)
            rows, columns = (part.split(network.pairs_at_once(sets, words.sets)) for part in asked(first, rerank))
            pictures, sentences = network.opened(sets, words.sets)
            whole, progress = torch.full_like(first, UNSEEN), comfy.utils.ProgressBar(len(rows))
            for some, others in zip(rows, columns, strict=True):
                mm.throw_exception_if_processing_interrupted()
                whole[some, others] = first[some, others] + network.cross_scores(pictures[some], sentences[others])
                progress.update(1)
        return Scores(first.cpu(), whole.cpu())

    def attention(self, regions: Regions, words: Words, pictures: Sequence[int], sentence: int) -> Tensor:
        """How much each word looks at each region, [n w k] in [0, 1], of some pictures with one sentence."""
        device, network = self.patcher.load_device, self.network
        with torch.inference_mode(False), torch.no_grad():
            rows = torch.tensor(pictures)
            sets = Sets(regions.sets.states[rows].to(device), regions.sets.keep[rows].to(device))
            chosen = words.sets[torch.full((len(rows),), sentence, device=device)]
            seen = network.crossed(*network.opened(sets, chosen))[2]
        k, length = sets.keep.shape[1], len(words.names[sentence])
        return seen[:, k : k + length, :k].cpu()

    def of_maps(self, maps: Tensor, states: Tensor) -> Tensor:
        """S [B] of the cells of feature maps [B C h w] with one sentence [1 w word]; gradients pass to the maps."""
        make_differentiable(self.network)  # after the host moved it; otherwise nothing to do
        device = self.patcher.load_device
        states = states.to(device)
        said = Sets(states, torch.ones(states.shape[:2], dtype=torch.bool, device=device))
        return self.network(cells(maps.float().to(device)), said)[:, 0].to(maps.device)


def _words_of(encoder: Encoder, text: str) -> tuple[Tensor, list[str]]:
    states = encoder.network.embed_words(text)
    said = text.split()
    return states, said if len(said) == len(states) else [str(place + 1) for place in range(len(states))]
