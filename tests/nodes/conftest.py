"""Fixtures that the tests of several nodes share."""

from functools import partial

import pytest


@pytest.fixture(scope="module")
def scenes(models, pack_nodes):
    """MODELs whose h can be edited, by kind; "unet" is the host's own."""
    from hspace_scenes import on_hosts

    return on_hosts(models, pack_nodes)


@pytest.fixture
def host(scenes):
    return scenes["unet"]


@pytest.fixture
def edit(execute):
    """HSpace Edit with directions given as tensors or edits."""
    from hspace_edits import apply_edit

    return partial(apply_edit, execute)


@pytest.fixture
def conds(execute, models):
    """CONDITIONING of CFG's tests, by class name; `models` are theirs."""
    from cfg_sampling import class_conditions

    return class_conditions(execute, models)


@pytest.fixture
def draw(execute, models):
    """Runs of the pack's samplers, by their names in `guided_sampling.PUBLISHED`."""
    from guided_sampling import published

    def draw(name, sigmas, latent=None, model=None, **options):
        return published(execute, model or models["scenes_unet"][0], name, sigmas, latent, **options)

    return draw


@pytest.fixture
def sigmas(execute, models):
    """Six steps of a respaced chain."""
    return execute("Guidance_RespacedSigmas", model=models["scenes_unet"][0], respacing="6")[0]


@pytest.fixture
def one_by_one(monkeypatch):
    """The encoder looks at pictures one by one; the function makes a MODEL do the same."""
    import torch

    from pack.models.clip_noisy.network import ClipNoisy

    def each(encode):
        def one_by_one(self, x, t, names):
            found = [encode(self, *one, names) for one in zip(x.split(1), t.split(1), strict=True)]
            return {name: torch.cat([part[name] for part in found]) for name in found[0]}

        return one_by_one

    def each_prediction(predict, args):
        x, t, conds = args["input"], args["timestep"], {**args["c"]}
        label = conds.pop("y")
        return torch.cat([predict(x[[k]], t[[k]], y=label[[k]], **conds) for k in range(len(x))])

    def prepared(model):
        model = model.clone()
        model.set_model_unet_function_wrapper(each_prediction)
        return model

    monkeypatch.setattr(ClipNoisy, "encode", each(ClipNoisy.encode))
    return prepared
