"""A job's name is what it computes."""

import copy
import uuid

from conftest import WORKFLOW

from sweep.jobs import make_jobs, pack_version

SEEDS = [{"2.inputs.seed": seed} for seed in (1, 2, 1)]


def names(workflow=WORKFLOW, version="1"):
    return [job.name for job in make_jobs(workflow, SEEDS, version)]


def changed(node, **values):
    workflow = copy.deepcopy(WORKFLOW)
    for key, value in values.items():
        workflow[node][key] = value
    return workflow


def test_a_setting_that_comes_twice_is_one_job():
    assert len(names()) == 2


def test_the_name_tells_values_kinds_links_and_the_packs_version_apart():
    others = [
        names(changed("2", class_type="Other")),
        names(changed("9", inputs={"images": ["2", 1]})),
        names(version="2"),
    ]
    assert len({name for found in [names(), *others] for name in found}) == 8


def test_titles_and_the_order_of_nodes_are_not_in_the_name():
    assert names(changed("2", _meta={"title": "another"})) == names()
    assert names(dict(reversed(WORKFLOW.items()))) == names()


def test_every_driver_gives_a_job_the_same_id_on_hosts():
    one, other = (make_jobs(WORKFLOW, SEEDS, "1")[0].prompt_id for _ in range(2))
    assert one == other == str(uuid.UUID(one))


def test_jobs_that_load_the_same_files_share_their_loaders():
    settings = [{"2.inputs.seed": 1}, {"2.inputs.seed": 2}, {"1.inputs.model": "b"}]
    first, second, third = (job.loaders for job in make_jobs(WORKFLOW, settings, "1"))
    assert first == second != third


def test_the_packs_version_is_read_from_around_the_folder():
    assert pack_version()[0].isdigit()
