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
