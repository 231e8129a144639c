"""A CLIP without a text projection is refused: it would embed texts as noise, as zeros, or all alike."""

from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

pytestmark = pytest.mark.host
WIDTH = 32
GOOD = torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(0)) * 0.02


class Transformer(torch.nn.Module):
    def __init__(self, weight):
        super().__init__()
        self.text_projection = torch.nn.Linear(WIDTH, WIDTH, bias=False)
        self.text_projection.weight = torch.nn.Parameter(weight.clone(), requires_grad=False)


class Tower(torch.nn.Module):
    """What the host's SDClipModel shows of itself."""

    def __init__(self, weight):
        super().__init__()
        self.transformer = Transformer(weight)


def clip(weight, files=None):
    """A CLIP of the host with one text tower, and where it was loaded from."""
    stage = torch.nn.Module()
    stage.clip_l = Tower(weight)
    source = None if files is None else (None, (files, None, None, {}))
    return SimpleNamespace(cond_stage_model=stage, patcher=SimpleNamespace(cached_patcher_init=source))


def reader(*given):
    from pack.nodes.host.guides.clip_vision import text_reader

    return text_reader(clip(*given), WIDTH)


@pytest.mark.parametrize(
    "weight, words",
    [
        (torch.zeros(WIDTH, WIDTH), "it is zero"),
        (torch.eye(WIDTH), "it is the identity"),
        (GOOD.where(GOOD < 0.05, torch.nan), "it holds values that are not finite"),
        (GOOD.where(GOOD < 0.05, torch.inf), "it holds values that are not finite"),
        (GOOD[:, :1] @ GOOD[:1], "its rank is 1 of 32"),
        (torch.cat([GOOD[:20], GOOD[:12]]), "its rank is 20 of 32"),
        (GOOD * (torch.arange(WIDTH) < 31), "its rank is 31 of 32"),
        (torch.full((WIDTH, WIDTH), 1e-40), "its rank is 1 of 32"),
    ],
)
def test_memory_that_is_no_projection_is_refused_with_what_it_is(comfy, weight, words):
    with pytest.raises(ValueError, match=rf"no text projection \({words}.*load a full CLIP text file"):
        reader(weight)


@pytest.mark.parametrize("scale", [1.0, 0.02, 1e-4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_projection_is_one_in_every_precision(comfy, scale, dtype):
    assert callable(reader((GOOD / 0.02 * scale).to(dtype)))


@pytest.mark.parametrize(
    "tensors, good",
    [
        ({"text_projection.weight": GOOD}, True),
        ({"text_projection": GOOD}, True),
        ({"clip_l.transformer.text_projection.weight": GOOD}, True),
        ({"cond_stage_model.transformer.text_model.encoder.layers.0.mlp.fc1.weight": GOOD}, False),
        ({"conditioner.embedders.1.model.text_projection": torch.zeros(48, 48)}, False),  # another tower's
    ],
)
def test_what_is_not_in_its_file_is_not_believed_however_it_looks(comfy, tensors, good, tmp_path):
    """Memory that is used again may hold another matrix, of full rank."""
    file = tmp_path / "model.safetensors"
    save_file(tensors, file)
    for source in (str(file), [str(file)]):
        if good:
            assert callable(reader(GOOD, source))
        else:
            with pytest.raises(ValueError, match="no text projection .its file has none"):
                reader(GOOD, source)


@pytest.mark.parametrize("source", [[], ["gone.safetensors"], "old.ckpt", [{"a": 1}], {"state": 1}])
def test_sources_that_can_not_be_looked_into_are_left_to_the_weights(comfy, source):
    assert callable(reader(GOOD, source))
    with pytest.raises(ValueError, match="it is zero"):
        reader(GOOD * 0, source)
