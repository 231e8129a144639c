"""h-space edits that differ from picture to picture or from place to place: batches, areas, windows, frames."""

import pytest
import torch
from hspace_edits import Hooked
from hspace_scenes import looked, off, predicted, random, run, windows

pytestmark = pytest.mark.host


def masks(*parts):
    """[n 8 8], white in these (rows, columns)."""
    found = torch.zeros(len(parts), 8, 8)
    for mask, (rows, columns) in zip(found, parts, strict=True):
        mask[rows, columns] = 1
    return found


LEFT, RIGHT = (slice(None), slice(0, 4)), (slice(None), slice(4, 8))
EMPTY, FULL = (slice(0), slice(0)), (slice(None), slice(None))


@pytest.mark.parametrize("asymmetric", [True, False])
@pytest.mark.parametrize("cfg", [1.0, 3.0])
@pytest.mark.parametrize("kind", ["unet", "scenes_unet"])
def test_each_picture_has_its_mask(scenes, edit, asymmetric, cfg, kind):
    scene, noise = scenes[kind], random(3, *scenes[kind].shape, seed=4)
    parts = masks(LEFT, EMPTY, RIGHT)
    together = predicted(edit(scene.model, scene.direction, asymmetric=asymmetric, mask=parts), scene, cfg, noise=noise)
    for index in range(3):
        mask = parts[index : index + 1]
        one = edit(scene.model, scene.direction, asymmetric=asymmetric, mask=mask)
        assert (
            off(together[index], predicted(one, scene, cfg, noise=noise[index : index + 1])[0]) < 1e-4
        )  # reached: 2e-5
    plain = predicted(scene.model, scene, cfg, noise=noise)
    assert torch.equal(together[1], plain[1])
    assert not torch.equal(together[0], plain[0]) and not torch.equal(together[2], plain[2])


def test_masks_of_another_number_than_the_pictures_are_refused(host, edit):
    model = edit(host.model, host.direction, mask=masks(LEFT, RIGHT))
    with pytest.raises(ValueError, match="HSpace Edit: mask has 2 pictures for a latent of 3; give one, or 3: that of"):
        predicted(model, host, noise=random(3, *host.shape))


def area_run(model, scene, area, direction=None):
    """A positive that only covers (height, width, top, left)."""
    import comfy.samplers

    guider = comfy.samplers.CFGGuider(model)
    cond = [[scene.positive[0][0], {"area": area, "strength": 1.0}], [scene.negative[0][0], {}]]
    guider.set_conds(cond, scene.negative)
    guider.set_cfg(3.0)
    return looked(guider, scene)


AREAS = {"right half": (16, 8, 0, 8), "lower right": (8, 8, 8, 8), "beyond the border": (16, 24, 0, 8)}


@pytest.mark.parametrize("name", AREAS)
@pytest.mark.parametrize("what", ["mask", "direction", "masks"])
def test_under_an_area_an_edit_stays_at_its_place(host, edit, name, what):
    """h is 2 x 2 here: what is edited on the left alone never reaches the network's crop of the right."""
    left = torch.zeros(1, 1, 2, 2)
    left[..., 0] = 1

    class Here:
        """The hooked network: the left half is added where the whole picture is seen, nothing in its right crop."""

        def __enter__(self):
            def hook(module, inputs, h):
                whole = h.shape[-2:] == (2, 2)
                return h + host.direction * left if whole else h

            self.handle = host.model.model.diffusion_model.middle_block[-1].register_forward_hook(hook)

        def __exit__(self, *problem):
            self.handle.remove()

    if what == "direction":
        model = edit(host.model, host.direction * left, asymmetric=False)
    else:
        mask = masks(LEFT) if what == "mask" else masks(LEFT, LEFT)
        model = edit(host.model, host.direction, asymmetric=False, mask=mask)
    with Here():
        expected = area_run(host.model, host, AREAS[name])
    assert off(area_run(model, host, AREAS[name]), expected) < 1e-5
    stretched = edit(host.model, host.direction, asymmetric=False)
    assert off(area_run(stretched, host, AREAS[name]), expected) > 1e-4


def test_the_content_of_a_crop_is_that_of_its_place():
    from pack.nodes.host.hspace.edit import Place
    from pack.nodes.host.hspace.inject import Content
    from pack.nodes.host.hspace.rows import View

    pictures = torch.arange(32.0).view(2, 1, 4, 4)
    content = Content({1.0: pictures})
    views = [View(range(2), 2, (0.5, 0.0, 0.5, 0.5)), View([1, 0], 2, (0.0, 0.5, 0.5, 0.5))]
    rows = content(torch.zeros(4, 1, 2, 2), Place(1.0, 0.5, 10, views))
    expected = [pictures[0, :, 2:, :2], pictures[1, :, 2:, :2], pictures[1, :, :2, 2:], pictures[0, :, :2, 2:]]
    assert torch.equal(rows, torch.stack(expected))


@pytest.mark.parametrize("asymmetric", [True, False])
@pytest.mark.parametrize("side", ["both", "cond"])
def test_in_a_context_window_each_frame_has_its_mask(host, edit, asymmetric, side):
    """The U-Net sees each frame by itself, so windows change nothing."""
    noise, parts = random(5, *host.shape, seed=4), masks(LEFT, EMPTY, RIGHT, FULL, LEFT)
    model = edit(host.model, host.direction, asymmetric=asymmetric, mask=parts, apply_to=side)
    whole = predicted(model, host, cfg=3.0, noise=noise)
    assert off(predicted(windows(model), host, cfg=3.0, noise=noise), whole) < 1e-5
    assert off(whole, predicted(host.model, host, cfg=3.0, noise=noise)) > 1e-3


def test_a_window_of_the_picture_is_refused_for_what_has_a_place(host, edit):
    noise = random(1, 4, 32, 16)
    everywhere = edit(host.model, host.direction, asymmetric=False)
    with Hooked(host, host.direction):
        expected = predicted(windows(host.model, 2, 16), host, noise=noise)
    assert off(predicted(windows(everywhere, 2, 16), host, noise=noise), expected) < 1e-5
    model = edit(host.model, host.direction, mask=masks(LEFT))
    with pytest.raises(ValueError, match="which part of the picture the network sees"):
        predicted(windows(model, 2, 16), host, noise=noise)


@pytest.mark.parametrize("kind", ["latent", "image"])
def test_content_of_another_model_is_refused_naming_the_input(scenes, execute, kind):
    """scenes_latent has 12 channels, pixels have 3."""
    scene, pixels = scenes["scenes_latent"], scenes["scenes_unet"]
    given = {"model": scene.model, "conditioning": scene.negative, "steps": 2}
    if kind == "latent":
        given["latent"] = {"samples": torch.zeros(1, *pixels.shape)}
    else:
        from pack.nodes.host.pictures import pixel_vae

        given |= {"image": torch.rand(1, 32, 32, 3), "vae": pixel_vae()}
    name = "latent" if kind == "latent" else "vae"
    with pytest.raises(
        ValueError, match=rf"has 3 channels, the model's latents have 12.*input '{name}' of HSpace Inject"
    ):
        execute("Guidance_HSpaceInject", **given)


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m"])
def test_masks_and_rows_keep_to_their_pictures_in_a_whole_run(host, edit, sampler):
    noise, parts = random(2, *host.shape, seed=4), masks(LEFT, EMPTY)
    model = edit(host.model, host.direction, mask=parts)
    together = run(model, host, noise, steps=3, cfg=2.0, sampler=sampler)
    plain = run(host.model, host, noise, steps=3, cfg=2.0, sampler=sampler)
    assert torch.equal(together[1], plain[1]) and not torch.equal(together[0], plain[0])
