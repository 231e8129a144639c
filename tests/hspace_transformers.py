"""Small transformers of the host with random weights, and directions behind one of their blocks."""

from families.build import built
from hspace_scenes import Scene, predicted

# Several blocks each; SD3's calls no wrapper of its own, Z-Image's and Lumina's can only be looked at behind a block.
SMALL = {
    "Flux": {"depth": 3},
    "WAN21_T2V": {"num_layers": 3},
    "QwenImage": {"num_layers": 3},
    "ZImage": {"n_layers": 3},
    "SD3": {"num_blocks": 3},
}
BLOCK = 1
LEVELS = (0.7, 0.4, 0.0)


def small(name, **more):
    made = built(name, **SMALL[name], **more)
    (shape,) = made.shape
    one_frame = [1] if len(shape) == 5 else []
    scene = Scene(made.model, (shape[1], *one_frame, *shape[-2:]), *made.conds[:2], channels=0)
    scene.channels = seen(scene.model, scene)[0].shape[1]
    return scene


def seen(model, scene, block=BLOCK):
    """h behind a block at the first look, by what records it."""
    from pack.nodes.host.hspace.record import recording

    found = []
    predicted(recording(model, lambda h, place: found.append(h), block), scene, levels=LEVELS)
    return found


def edited(edit, scene, delta, **given):
    return edit(scene.model, direction(delta), **given)


def direction(delta, block=BLOCK, **known):
    from pack.nodes.host.hspace.edit import direction_edit

    return direction_edit(delta, name="d", block=block, **known)
