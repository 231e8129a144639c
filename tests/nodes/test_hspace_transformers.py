"""HSpace Edit in the host's transformers: h is what stands behind a block, on small models of several families."""

from contextlib import contextmanager

import pytest
import torch
from families.build import built
from hosts import hosts_own
from hspace_scenes import Scene, cached, off, painter, predicted, random, refused, run, streams_at_levels, windows
from hspace_transformers import BLOCK, LEVELS, SMALL, direction, edited, small

pytestmark = pytest.mark.host


@pytest.fixture(scope="module", params=SMALL)
def scene(request, comfy):
    return small(request.param)


@pytest.fixture(scope="module")
def wan(comfy):
    return small("WAN21_T2V")


@contextmanager
def entering(model, block):
    """Tokens [B N C] that go into a block, of every time that it runs."""
    from pack.nodes.host.model import _block_list

    network, found = model.model.diffusion_model, []
    part = getattr(network, _block_list(network))[block]

    def look(module, args, kwargs):
        tokens = [part for part in (*args, *kwargs.values()) if isinstance(part, torch.Tensor) and part.ndim == 3]
        found.append([part.clone() for part in tokens])

    hook = part.register_forward_pre_hook(look, with_kwargs=True)
    try:
        yield found
    finally:
        hook.remove()


@pytest.mark.parametrize("asymmetric", [True, False])
@pytest.mark.parametrize("neutral", ["zero strength", "window between steps", "zero delta", "black mask"])
def test_a_neutral_edit_leaves_every_bit(scene, edit, neutral, asymmetric):
    delta, options = scene.direction, {"asymmetric": asymmetric}
    if neutral == "zero strength":
        options["strength"] = 0.0
    elif neutral == "window between steps":
        options |= {"start_percent": 0.98, "end_percent": 0.99}
    elif neutral == "black mask":
        options["mask"] = torch.zeros(1, 8, 8)
    else:
        delta = torch.zeros_like(delta)
    model = edited(edit, scene, delta, **options)
    assert (model is scene.model) == (neutral == "zero strength")
    assert torch.equal(run(model, scene, cfg=3.0), run(scene.model, scene, cfg=3.0))


def test_the_next_block_gets_h_with_the_direction_and_texts_as_they_were(scene, edit):
    """Of all that goes into it, the tokens of the picture alone differ, by delta_h."""
    model = edited(edit, scene, scene.direction, asymmetric=False, end_percent=1.0)
    with entering(scene.model, BLOCK + 1) as before:
        predicted(scene.model, scene, levels=LEVELS)
    with entering(scene.model, BLOCK + 1) as after:
        predicted(model, scene, levels=LEVELS)
    plain, again, changed = before[0], *after[-2:]  # SD3's first look finds out that it calls no wrapper
    assert all(torch.equal(one, other) for one, other in zip(plain, again, strict=True))
    moved = [(new - old).flatten(0, 1) for old, new in zip(plain, changed, strict=True)]
    moved = torch.cat([part for part in moved if part.abs().max() > 0])
    rows = moved[moved.abs().amax(1) > 0]
    noise = scene.noise
    tokens = noise.shape[-1] * noise.shape[-2] * len(noise)
    assert len(rows) in (tokens, tokens // 4)  # a token is one element of a latent, or 2 x 2
    assert off(rows, scene.direction.flatten().expand_as(rows)) < 1e-5


def test_an_asymmetric_edit_moves_x0_by_what_a_symmetric_one_changes_in_its_prediction(scene, edit):
    """The first step of euler on a flow: D' = D + (D~ - D) (1 - s') / (1 - s' / s)."""
    plain = predicted(scene.model, scene, levels=LEVELS)
    symmetric = predicted(edited(edit, scene, scene.direction, asymmetric=False), scene, levels=LEVELS)
    found = predicted(edited(edit, scene, scene.direction), scene, levels=LEVELS)
    sigma, following, _ = LEVELS
    factor = (1 - following) / (1 - following / sigma)
    assert off(found - plain, factor * (symmetric - plain)) < 2e-3


@pytest.mark.parametrize("asymmetric", [True, False])
def test_an_image_of_a_batch_equals_itself_alone(scene, edit, asymmetric):
    model = edited(edit, scene, scene.direction, asymmetric=asymmetric, preserve_norm=True)
    noise = random(3, *scene.shape, seed=6)
    together = predicted(model, scene, noise=noise, levels=LEVELS)
    for index in range(3):
        alone = predicted(model, scene, noise=noise[index : index + 1], levels=LEVELS)
        assert off(alone[0], together[index]) < 1e-3


def test_a_mask_keeps_the_edit_in_its_part_of_h(scene, edit):
    """Recorded behind the edited block in the pass with the edit."""
    mask = torch.zeros(1, 8, 8)
    mask[:, :, :4] = 1
    model = edited(edit, scene, scene.direction, asymmetric=False, mask=mask, end_percent=1.0)
    with entering(scene.model, BLOCK + 1) as found:
        predicted(model, scene, levels=LEVELS)
    plain, changed = found[-2:]
    difference = max(
        ((new - old) for old, new in zip(plain, changed, strict=True)), key=lambda part: float(part.abs().max())
    )
    moved = difference.abs().amax(2)[0] > 0
    assert 2 * int(moved.sum()) in (64, 16)  # half of 8 x 8 elements, or of 4 x 4 tokens


@pytest.mark.parametrize("side, cfg", [("cond", 0.0), ("uncond", 1.0)])
def test_one_side_of_cfg_leaves_the_other_alone(scene, edit, side, cfg):
    """Where the result is the other side's prediction alone, nothing changes."""
    model = edited(edit, scene, scene.direction, apply_to=side)
    assert torch.equal(
        predicted(model, scene, cfg=cfg, levels=LEVELS), predicted(scene.model, scene, cfg=cfg, levels=LEVELS)
    )


@pytest.mark.parametrize("dtype, error", [(torch.float16, 2e-3), (torch.bfloat16, 0.2)])
def test_half_precision_asks_for_the_difference_in_float32(edit, dtype, error):
    """A small asymmetric edit of Flux, whose difference counts 35 times, against the same weights in float32.

    In its own precision it would be .012 and .3 off.
    """
    moves = []
    for precision in (dtype, torch.float32):
        scene = small("Flux")
        network = scene.model.model.diffusion_model
        with torch.inference_mode():
            network.to(dtype).to(precision)
        network.dtype, scene.model.model.manual_cast_dtype = precision, None
        scene.model.model.model_config.set_inference_dtype(precision, None)
        models = (scene.model, edited(edit, scene, 0.05 * scene.direction))
        plain, changed = (predicted(model, scene, levels=(0.7, 0.68, 0.0)) for model in models)
        moves.append((changed - plain).float())
    assert off(*moves) < error


def test_a_network_without_wrappers_says_once_that_its_edit_rounds_in_half_precision(edit, caplog):
    """SD3 is edited around the model's call, which the host casts to its precision."""
    from pack.nodes.host.hspace import stream

    stream._say_that_it_rounds.cache_clear()
    scene = small("SD3")
    predicted(edited(edit, scene, scene.direction), scene, levels=LEVELS)
    assert "lost in rounding" not in caplog.text
    with torch.inference_mode():
        scene.model.model.diffusion_model.to(torch.bfloat16)
    scene.model.model.diffusion_model.dtype = torch.bfloat16
    scene.model.model.model_config.set_inference_dtype(torch.bfloat16, None)
    scene.model.model.manual_cast_dtype = None
    for _ in range(2):
        predicted(edited(edit, scene, scene.direction), scene, levels=LEVELS)
    assert sum("lost in rounding" in record.message for record in caplog.records) == 1


def test_every_frame_of_a_video_gets_the_direction(wan, edit):
    video = random(1, wan.shape[0], 3, *wan.shape[-2:], seed=4)
    model = edited(edit, wan, wan.direction, asymmetric=False, end_percent=1.0)
    with entering(wan.model, BLOCK + 1) as found:
        predicted(model, wan, noise=video, levels=LEVELS)
    plain, changed = (tokens[0] for tokens in found)
    assert plain.shape[1] % 3 == 0
    assert off(changed - plain, wan.direction.flatten().expand_as(plain)) < 1e-5


def test_a_videos_mask_holds_for_all_its_frames(wan, edit):
    """Where it is black each frame's tokens stay; one for each frame is refused."""
    mask = torch.zeros(3, 8, 8)
    mask[0, :, :4] = 1
    video = random(1, wan.shape[0], 3, *wan.shape[-2:], seed=4)
    model = edited(edit, wan, wan.direction, asymmetric=False, mask=mask[:1], end_percent=1.0)
    with entering(wan.model, BLOCK + 1) as found:
        predicted(model, wan, noise=video, levels=LEVELS)
    plain, changed = (tokens[0] for tokens in found)
    moved = ((changed - plain).abs().amax(2) > 0).view(3, 4, 4)
    assert moved[:, :, :2].all() and not moved[:, :, 2:].any()
    refused(
        lambda: predicted(edited(edit, wan, wan.direction, mask=mask), wan, noise=video, levels=LEVELS),
        "mask has 3 pictures for a latent of 1; give one: that of a video holds for all its frames",
    )


def test_a_video_is_edited_frame_by_frame_asymmetrically_too(wan, edit):
    video = random(1, wan.shape[0], 3, *wan.shape[-2:], seed=4)
    plain = run(wan.model, wan, noise=video)
    moved = run(edited(edit, wan, wan.direction), wan, noise=video)
    assert moved.isfinite().all() and (moved - plain).abs().amax((0, 1, 3, 4)).min() > 0


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("family", ["Flux", "QwenImage"])
def test_references_of_an_edit_model_keep_their_tokens(edit, comfy, family, count):
    """They stand behind the picture's; with three of its size there are as many tokens as elements of the latent."""
    scene = small(family)
    ((text, told),) = scene.positive
    references = [random(1, *scene.shape, seed=9 + k) for k in range(count)]
    model = edited(edit, scene, scene.direction, asymmetric=False, end_percent=1.0)
    with entering(scene.model, BLOCK + 1) as found:
        predicted(model, scene, positive=[[text, {**told, "reference_latents": references}]], levels=LEVELS)
    plain, changed = (max(tokens, key=lambda part: part.shape[1]) for tokens in found)
    own = plain.shape[1] // (1 + count)
    assert torch.equal(changed[:, own:], plain[:, own:])
    assert off(changed[:, :own] - plain[:, :own], scene.direction.flatten().expand_as(plain[:, :own])) < 1e-5


def test_what_fills_the_tokens_of_z_image_up_is_no_picture(edit, comfy):
    """9 tokens are filled up to 12."""
    scene = small("ZImage")
    noise = random(1, scene.shape[0], 6, 6, seed=4)
    model = edited(edit, scene, scene.direction, asymmetric=False, end_percent=1.0)
    with entering(scene.model, BLOCK + 1) as found:
        predicted(model, scene, noise=noise, levels=LEVELS)
    (plain, *_), (changed, *_) = found
    moved = (changed - plain).abs().amax((0, 2)) > 0
    assert moved.nonzero().flatten().tolist() == [*range(len(moved) - 12, len(moved) - 3)]


@pytest.mark.parametrize("asymmetric", [True, False])
def test_windows_over_a_videos_frames_take_an_edit_that_has_places(wan, edit, asymmetric):
    """A direction that is everywhere the same says as much as one of a single element."""
    video, delta = random(1, wan.shape[0], 6, 8, 8, seed=4), wan.direction
    moved = [
        predicted(windows(edited(edit, wan, part, asymmetric=asymmetric), 2, 3), wan, noise=video, levels=LEVELS)
        for part in (delta, delta.expand(-1, -1, 4, 4).contiguous())
    ]
    assert off(*moved) < 1e-5


def test_a_step_cache_behind_an_edit_is_refused_and_in_front_of_it_works(wan, edit):
    """Also where it skips the first look inside the window."""
    late = {"start_percent": 0.5, "end_percent": 1.0}
    before = Scene(cached(wan.model, "EasyCache"), wan.shape, wan.positive, wan.negative, wan.channels)
    found = run(edited(edit, before, wan.direction, **late), wan, steps=8)
    assert not torch.equal(found, run(before.model, wan, steps=8))
    for given in (late, {}):
        behind = cached(edited(edit, wan, wan.direction, **given), "EasyCache")
        refused(lambda behind=behind: run(behind, wan, steps=8), "put EasyCache in front of HSpace Edit")


def test_another_network_in_the_run_leaves_sd3s_edit_at_work(edit, comfy):
    """Flux predicts the negative and calls wrappers of its own, SD3 doesn't."""
    kind = hosts_own("comfy_extras.nodes_custom_sampler", "Guider_DualModel")

    scene, other = small("SD3"), small("Flux")
    model = edited(edit, scene, scene.direction, asymmetric=False, end_percent=1.0)

    def looks(first, cfg):
        guider = kind(first, other.model)
        guider.set_conds(scene.positive, other.negative)
        guider.set_cfg(cfg)
        return both_looks(guider, scene.noise)

    together = [after - before for after, before in zip(looks(model, 3.0), looks(scene.model, 3.0), strict=True)]
    alone = [after - before for after, before in zip(looks(model, 1.0), looks(scene.model, 1.0), strict=True)]
    assert all(off(one, 3 * two) < 1e-5 for one, two in zip(together, alone, strict=True))


def both_looks(guider, noise):
    """What a sampler sees at two noise levels of the same sample."""
    import comfy.samplers

    found = []

    def look(model, x, sigmas, extra_args, callback, disable):
        found.extend(model(x, sigma.expand(len(x)), **extra_args) for sigma in sigmas[:2])
        return x

    with torch.inference_mode():
        sampler, sigmas = comfy.samplers.KSAMPLER(look), torch.tensor(LEVELS)
        guider.sample(noise, torch.zeros_like(noise), sampler, sigmas, disable_pbar=True, seed=0)
    return found


def test_a_transformer_with_an_edit_is_not_searched(wan, edit, execute):
    given = {"method": "pca", "positive": wan.positive, "samples": 5, "steps": 2, "size": 64, "vae": painter(wan)}
    model = edited(edit, wan, wan.direction)
    refused(
        lambda: execute("Guidance_DiscoverHSpace", model=model, **given), "in front of HSpace Edit", "input 'model'"
    )


def test_directions_of_another_place_are_refused(scenes, wan, edit):
    unet = scenes["unet"]
    refused(lambda: edit(unet.model, direction(unet.direction)), "'d' acts behind block 1", "this model is a U-Net")
    refused(lambda: edit(wan.model, direction(wan.direction, block=None)), "bottleneck", "this model is a transformer")
    refused(lambda: edit(wan.model, direction(wan.direction, block=7)), "behind block 7", "blocks 0 to 2")
    other = direction(wan.direction, block=2)
    refused(lambda: edit(wan.model, direction(wan.direction), other), "input 'hspace'", "behind one block", "1, 2")
    refused(lambda: edit(edited(edit, wan, wan.direction), other), "input 'hspace'", "behind one block", "1, 2")
    refused(lambda: run(edit(wan.model, direction(random(1, 5, 1, 1))), wan), "5", str(wan.channels))


@pytest.mark.parametrize("family", ["PixArtAlpha", "Anima", "Omnigen2"])
def test_a_transformer_whose_blocks_show_nothing_is_refused_before_a_run(edit, comfy, family):
    model = built(family).model
    refused(lambda: edit(model, direction(random(1, 64, 1, 1), block=0)), "which shows neither", "input 'model'")


def test_a_block_that_is_not_there_is_named(wan, execute):
    given = {"model": wan.model, "method": "pca", "positive": wan.positive, "samples": 5, "steps": 2, "size": 64}
    refused(lambda: execute("Guidance_DiscoverHSpace", **given, block=3, vae=painter(wan)), "block 3", "0 to 2")


def test_too_few_samples_are_refused_before_blocks_are_tried(wan, execute):
    given = {"model": wan.model, "method": "pca", "positive": wan.positive, "steps": 2, "size": 64}
    refused(
        lambda: execute("Guidance_DiscoverHSpace", **given, samples=4, vae=painter(wan)),
        "more than 4",
        "input 'samples'",
    )


def test_a_contrast_is_the_mean_difference_of_the_stream_at_the_same_pictures(wan, execute):
    """In the first range of the run, where the first step lies: of both conditions at the same noise."""
    given = {"positive": wan.positive, "negative": wan.negative, "samples": 2, "seed": 7, "steps": 6, "size": 64}
    (found,), *_ = execute(
        "Guidance_DiscoverHSpace", model=wan.model, method="contrast", **given, block=BLOCK, vae=painter(wan)
    )
    assert found.block == BLOCK
    from pack.nodes.host.hspace.record import recording
    from pack.nodes.host.sampling import sampled

    noise, seen = torch.stack([random(*wan.shape, seed=seed) for seed in (7, 8)]), []
    model = recording(wan.model, lambda h, place: seen.append((place.names, h)), BLOCK)
    with torch.inference_mode():
        sampled(model, wan.negative, noise, 6, beside=wan.positive)
    names, h = seen[0]
    parts = dict(zip(names, h.chunk(2), strict=True))
    assert off(found.tensors["delta_h"][0], (parts["negative"] - parts["positive"]).mean(0)) < 1e-4


def test_a_saved_direction_keeps_its_block(wan, execute, tmp_path, monkeypatch):
    import folder_paths

    from pack.nodes.host.model import owner_of

    monkeypatch.setitem(folder_paths.folder_names_and_paths, "guidance_directions", ([str(tmp_path)], {".safetensors"}))
    owner, fingerprint = owner_of(wan.model)
    given = direction(wan.direction, model=owner, fingerprint=fingerprint)
    execute("Guidance_SaveHSpaceDirection", hspace=[given], filename_prefix="stream")
    (name,) = [path.name for path in tmp_path.glob("*.safetensors")]
    ((found,),) = execute("Guidance_LoadHSpaceDirection", direction_name=name, train_steps=0)
    assert found.block == BLOCK and torch.equal(found.tensors["delta_h"], wan.direction)
    other = small("WAN21_T2V", dim=128)
    refused(
        lambda: execute("Guidance_HSpaceEdit", model=other.model, hspace=[found]), "'d' was made for", "this model is"
    )


def test_all_blocks_are_tried_and_a_direction_of_nothing_does_nothing(wan):
    from pack.nodes.host.hspace.directions.sensitivity import LEVELS as PARTS
    from pack.nodes.host.hspace.directions.sensitivity import sensitivity

    noise = random(2, *wan.shape, seed=3)
    with torch.inference_mode():
        found = sensitivity(
            wan.model, wan.negative, wan.positive, noise, 2, lambda block: direction(0 * wan.direction, block)
        )
        freely = sensitivity(wan.model, wan.negative, None, noise, 2, lambda block: direction(wan.direction, block))
    assert found.shares == {block: [0.0] * PARTS for block in range(3)} and found.window == (0.0, 1.0)
    assert all(share > 0 for shares in freely.shares.values() for share in shares)
    assert freely.report()["block"] == freely.block


def test_what_leads_to_the_stream_of_the_condition_behind_the_last_block_does_all_that_it_does(wan):
    """There nothing but the output follows, and the other blocks' directions are 0."""
    from pack.nodes.host.hspace.directions.sensitivity import sensitivity
    from pack.nodes.host.hspace.edit import Edit

    noise, last = random(1, *wan.shape, seed=3), 2
    with torch.inference_mode():
        there = streams_at_levels(wan, noise, last)

        def find(block):
            nothing = direction(0 * wan.direction, block)
            return Edit("all", lambda h, emb, place: there[place.sigma] - h, wan.channels) if block == last else nothing

        found = sensitivity(wan.model, wan.negative, wan.positive, noise, 2, find)
    assert found.block == last and found.window == (0.0, 1.0)
    assert all(abs(share - 1) < 1e-4 for share in found.shares[last])
