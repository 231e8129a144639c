"""What is put into a MODEL."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from features import direction
from networks import pictures

ALWAYS = (0.0, 1.0)


def classifier_guide(scene, window):
    given = {"classifier": scene.networks.classifier, "class_label": "star", "weight": 20.0}
    return scene.execute("Guidance_ClassifierGuide", **given, start_percent=window[0], end_percent=window[1])[0]


def guides(gradient, **options):
    def apply(scene, model, window=ALWAYS):
        given = {"guides": classifier_guide(scene, window), "gradient": gradient, "views": 1, **options}
        return scene.execute("Guidance_ApplyGuides", model=model, **given)[0]

    return apply


def cfg(method="constant", scale=0.0, **settings):
    def apply(scene, model, window=ALWAYS):
        given = {"method": {"method": method, **settings}, "guidance_scale": scale}
        return scene.execute("Guidance_CFGPatch", model=model, **given, start_percent=window[0], end_percent=window[1])[
            0
        ]

    return apply


def hspace(asymmetric, block=False):
    def apply(scene, model, window=ALWAYS):
        edit = delta_block(scene) if block else drawn_direction(scene)
        given = {"hspace": edit, "asymmetric": asymmetric, "strength": 2.0}
        return scene.execute(
            "Guidance_HSpaceEdit", model=model, **given, start_percent=window[0], end_percent=window[1]
        )[0]

    return apply


def drawn_direction(scene):
    return direction(scene.networks, scene.channels)


def delta_block(scene):
    """A published delta block; its effect is spread over the steps of a run."""
    import folder_paths
    from hspace_edits import block, direction_folder

    name = "compatibility.pth"
    torch.save(block(norm_first=True, channels=scene.channels, embedding=scene.embedding)[1], direction_folder() / name)
    folder_paths.filename_list_cache.clear()
    return scene.execute("Guidance_LoadHSpaceDirection", direction_name=name, train_steps=40)[0]


def inject(scene, model, window=ALWAYS):
    given = {"image": pictures(), "steps": 4, "strength": 0.6}
    return scene.execute("Guidance_HSpaceInject", model=model, **given, start_percent=window[0], end_percent=window[1])[
        0
    ]


def dial(scene, model, window=ALWAYS):
    """Against what another class says, as the models of the table see no reference."""
    given = {"dial": 2.0, "without": scene.label("ring"), "start_percent": window[0], "end_percent": window[1]}
    return scene.execute("Guidance_ReferenceDial", model=model, **given)[0]


def guard(given):
    """With a mask that is given, or found."""

    def apply(scene, model, window=ALWAYS):
        mask = torch.zeros(1, 32, 32)
        mask[..., :16] = 1
        options = {"source": {"samples": pictures().movedim(-1, 1) * 2 - 1}, "mask": mask if given else None}
        options |= {"start_percent": window[0], "end_percent": window[1]}
        return scene.execute("Guidance_EditGuard", model=model, **options)[0]

    return apply


SCALED = 6.0
NETWORK, RESCALED, METHOD, GUIDES = "network", "scale", "method", "guides"


@dataclass(frozen=True, eq=False)
class Patch:
    """A node that changes a MODEL. `kind` says what is known of its result: of a network patch, each row's.

    `memory`: how the log begins to say that a run which goes on where another ended remembers nothing of it.
    `placed`: what it brings lies in the picture, so an area has its part of it.
    """

    kind: str
    apply: Callable[..., Any]
    memory: str = ""
    placed: bool = False


PATCHES = {
    "Apply Guides, at noisy": Patch(GUIDES, guides("at noisy")),
    "Apply Guides, at denoised": Patch(GUIDES, guides("at denoised")),
    "Apply Guides, through denoiser": Patch(GUIDES, guides("through denoiser")),
    "CFG Patch, guidance_scale": Patch(RESCALED, cfg(scale=SCALED)),
    "CFG Patch, APG": Patch(METHOD, cfg("APG", eta=0.0, cap=0.01, momentum=0.0)),
    "CFG Patch, CFG++": Patch(METHOD, cfg("CFG++", strength=0.6)),
    "HSpace Edit, asymmetric": Patch(NETWORK, hspace(True)),
    "HSpace Edit, symmetric": Patch(NETWORK, hspace(False)),
    "HSpace Inject": Patch(NETWORK, inject, placed=True),
    "Reference Dial": Patch(GUIDES, dial),
    "Edit Guard": Patch(GUIDES, guard(True)),
}
IN_CHAINS = {
    "Apply Guides, every 3": Patch(GUIDES, guides("at denoised", every=3, views=3), "Apply Guides: every"),
    "CFG Patch, APG with momentum": Patch(
        METHOD, cfg("APG", eta=0.0, cap=0.06, momentum=-0.5), "CFG Patch: APG's momentum"
    ),
    "CFG Patch, history": Patch(METHOD, cfg("history (HiGS)", strength=0.5, memory=0.6), "CFG Patch: history (HiGS)"),
    "CFG Patch, adaptive skip": Patch(METHOD, cfg("adaptive skip", threshold=0.8), "CFG Patch: adaptive skip"),
    "CFG Patch, zero_init": Patch(METHOD, cfg("CFG-Zero*", strength=1.0, zero_init=0.5)),
    "HSpace Edit, delta block": Patch(NETWORK, hspace(False, block=True)),
    "Edit Guard, mask found": Patch(GUIDES, guard(False), "Edit Guard: the mask"),
}
