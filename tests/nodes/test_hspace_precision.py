"""h-space in half precision: differences stay those of float32, and whose direction it is doesn't depend on it."""

import hashlib

import pytest
import torch
from hosts import needs_the_middle
from hspace_edits import older
from hspace_scenes import off, predicted

pytestmark = pytest.mark.host
CLOSE = (5.0, 4.9, 0.0)  # an asymmetric difference counts 50 times


def in_precision(dtype):
    """The host's U-Net computing in a half precision, with the same drawn weights."""
    import golden_files

    from bench.guide_cost import unet

    model = unet(channels=32)
    golden_files.fill(model.model.diffusion_model, "unet.")
    model.model.diffusion_model.to(dtype)
    model.model.diffusion_model.dtype = dtype
    model.model.manual_cast_dtype = None
    return model


@pytest.mark.parametrize("dtype, error", [(torch.bfloat16, 0.1), (torch.float16, 0.02)])
def test_a_small_asymmetric_step_in_half_precision_is_that_of_float32(host, edit, dtype, error):
    needs_the_middle()

    def moved(model, small):
        edited = edit(model, small)
        return predicted(edited, host, levels=CLOSE) - predicted(model, host, levels=CLOSE)

    small = 0.05 * host.direction
    reached = off(moved(in_precision(dtype), small), moved(host.model, small))
    assert reached < error


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_fingerprint_is_the_same_in_every_precision_and_old_ones_still_hold(host, dtype):
    from pack.nodes.host.model import is_of, owner_of

    half, other = in_precision(dtype), in_precision(dtype)
    fingerprint = owner_of(host.model)[1]
    assert owner_of(half)[1] == fingerprint and is_of(half, fingerprint)
    key = next(
        key for key in half.model.state_dict() if "middle_block" in key and half.model.state_dict()[key].ndim == 4
    )
    old = hashlib.sha256(host.model.model.state_dict()[key].numpy().tobytes()).hexdigest()[:16]
    assert is_of(host.model, old) and not is_of(half, old)
    with torch.no_grad():
        other.model.state_dict()[key].view(-1)[0].neg_()
    assert not is_of(other, fingerprint)


def passes_and_prediction(model, host):
    """How often the decoder half runs in an evaluation, and what comes of it."""
    passes = []
    first = model.model.diffusion_model.output_blocks[0][0]
    hook = first.register_forward_hook(lambda *_: passes.append(True))
    try:
        found = predicted(model, host, cfg=3.0)
    finally:
        hook.remove()
    return len(passes), found


def test_decoder_halves_of_half_precision_run_together_and_alone_where_memory_is_short(host, edit, monkeypatch):
    """CFG's two predictions are one batch, so an evaluation is one pass, and one more for its differences or two."""
    from pack.nodes.host.hspace import edited_run

    needs_the_middle()
    model = edit(in_precision(torch.bfloat16), 0.2 * host.direction)
    together, found = passes_and_prediction(model, host)
    monkeypatch.setattr(edited_run, "MARGIN", 1e9)  # of memory
    alone, again = passes_and_prediction(model, host)
    assert (together, alone) == (2, 3)
    assert off(found, again) < 1e-4


@pytest.mark.parametrize("count", [1, 3])
def test_several_asymmetric_edits_share_one_pass_more(host, edit, count):
    if count > 1:
        needs_the_middle()
    model = host.model
    for place in range(count):
        model = edit(model, 0.1 * (place + 1) * host.direction)
    passes, _ = passes_and_prediction(model, host)
    assert passes == 2


def test_a_host_that_rounds_an_edit_in_half_precision_says_so_once(host, edit, caplog):
    from pack.nodes.host.hspace import halves

    halves._say_that_it_rounds.cache_clear()
    for model in (host.model, in_precision(torch.bfloat16), in_precision(torch.bfloat16)):
        predicted(older(edit(model, 0.2 * host.direction)), host)
    said = [record.message for record in caplog.records if "lost in its rounding" in record.message]
    assert len(said) == 1 and "ComfyUI 0.24 and later are exact" in said[0]
