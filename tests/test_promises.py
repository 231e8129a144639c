"""What the pack promises above other packs of its kind, faults that it once had, and the tests that hold each."""

import ast

import pytest
from conftest import ROOT

PROMISES = {
    "neutral settings, bypass and strength 0 are bit-identical to the unpatched graph": {
        "guidance/test_cfg_neutral.py": ["test_a_neutral_method_leaves_plain_cfg_bit_for_bit"],
        "nodes/test_cfg.py": ["test_neutral_settings_have_the_hosts_bits"],
        "nodes/test_hspace.py": ["test_a_neutral_edit_leaves_every_bit"],
        "nodes/test_hspace_inject.py": ["test_an_injection_of_nothing_is_the_model_itself"],
        "nodes/test_nodes.py": ["test_scale_zero_is_the_unguided_sampler_bit_for_bit"],
        "nodes/test_edit_guard.py": ["test_neutral_settings_change_no_bit"],
        "nodes/test_reference_dial.py": [
            "test_at_0_it_is_the_run_without_the_reference_and_at_1_the_run_with_it_to_the_bit"
        ],
    },
    "cfg 1 and every guider and sampler of the host: defined or refused in words": {
        "nodes/test_compatibility.py": ["test_a_cell_works_or_says_in_words_that_it_does_not"],
        "nodes/test_cfg_other_nodes.py": ["test_basic_guider_with_a_patch_and_no_negative_samples"],
        "server/test_guides.py": ["test_guides_work_with_the_hosts_guiders"],
    },
    "image i of a batch equals itself sampled alone": {
        "nodes/test_cfg.py": ["test_each_image_of_a_batch_equals_itself_alone_after_a_step"],
        "nodes/test_hspace.py": ["test_an_image_of_a_batch_equals_itself_alone"],
        "server/test_guides.py": ["test_a_guided_picture_of_a_batch_is_the_one_sampled_alone"],
        "guidance/test_energies.py": ["test_an_image_of_a_batch_has_the_energy_and_gradient_it_has_alone"],
    },
    "the same seed gives the same picture after any run, cancel or exception": {
        "nodes/test_guide_runs.py": ["test_state_does_not_survive_a_run_that_ended_with_an_exception"],
        "nodes/test_nodes.py": ["test_the_same_seed_gives_the_same_image_bit_for_bit"],
        "server/test_server.py": ["test_interrupt_stops_within_two_steps_and_the_next_prompt_works"],
    },
    "latents of any rank take one path": {
        "guidance/test_gradient.py": ["test_latents_of_any_rank_are_steered"],
        "nodes/test_cfg.py": ["test_video_latents_are_guided_frame_by_frame_or_as_a_whole"],
        "nodes/test_guides.py": ["test_video_latents_are_steered_by_their_colours"],
        "nodes/test_hspace_hooked.py": ["test_the_frames_of_a_video_are_edited_together"],
    },
    "numbers of the papers' own code: ADM, SDG, DiffAE, Asyrp, and each form of CFG": {
        "models/test_adm_golden.py": ["test_the_unet_forward_is_the_published_one"],
        "models/test_sdg_golden.py": ["test_value_and_gradient_of_a_guide_are_the_published_ones"],
        "models/test_diffae_golden.py": ["test_decoding_noise_gives_the_published_picture"],
        "models/test_asyrp_golden.py": ["test_a_boosted_trajectory_is_the_published_one"],
        "guidance/test_published_sampling.py": ["test_trajectories_are_the_published_ones"],
        "guidance/test_cfg_order.py": ["test_the_order_is_the_published_one"],
    },
    "every node has a help page, tooltips, a workflow with a picture, and one that runs by API": {
        "nodes/test_schema.py": [
            "test_every_node_has_prefix_category_description_and_help_page",
            "test_every_input_and_output_has_a_tooltip",
        ],
        "server/test_workflows.py": ["test_every_node_of_the_pack_stands_in_a_workflow"],
        "workflows/test_templates.py": [
            "test_the_folder_of_templates_holds_a_graph_and_a_picture_for_each_name_and_nothing_else"
        ],
        "server/test_api_workflows.py": ["test_every_api_workflow_runs_and_saves_a_picture"],
    },
    "no new dependency, no connection, no global patch": {
        "test_layers.py": ["test_the_core_imports_neither_the_host_nor_the_other_half"],
        "test_import.py": [
            "test_importing_changes_no_host_module",
            "test_importing_opens_no_connection_and_prints_nothing",
        ],
        "nodes/test_interference.py": ["test_everything_around_a_run_is_as_it_was"],
    },
    "every error names node, input, what came, what is needed, and a way out": {
        "nodes/test_numbers.py": [
            "test_a_linked_number_that_is_bad_is_refused_in_one_sentence_with_node_and_input",
        ],
        "nodes/test_guide_runs.py": ["test_bad_input_is_one_sentence_with_node_and_input"],
        "server/test_server.py": ["test_an_error_names_node_and_input_in_the_hosts_own_report"],
        "hostile/test_hostile.py": ["test_each_file_is_refused_where_it_is_meant_to_do_harm"],
    },
    "ids, order, types and defaults of inputs only grow": {
        "nodes/test_schema.py": ["test_the_schema_is_the_recorded_one"],
        "nodes/test_loaders.py": ["test_later_inputs_are_optional_so_that_saved_workflows_load"],
    },
}

FAULTS = {  # as they were found by attacks on an early version; each of these tests failed there
    "a file of a few kB eats memory or hangs: sizes that it states, blocks without end, bombs, pickles, pipes": {
        "hostile/test_hostile.py": ["test_each_file_is_refused_where_it_is_meant_to_do_harm"],
    },
    "NaN and infinity pass, and so does what is outside a widget's limits where it is linked": {
        "nodes/test_numbers.py": [
            "test_a_linked_number_that_is_bad_is_refused_in_one_sentence_with_node_and_input",
            "test_a_typed_number_that_is_bad_is_refused_by_the_host_or_by_the_node",
            "test_a_linked_value_of_another_kind_or_size_is_refused",
        ],
    },
    "two servers on one folder overwrite each other's saves": {
        "models/test_saving.py": ["test_two_processes_with_200_saves_each_leave_400_files"],
        "nodes/test_saves.py": ["test_a_number_that_another_server_took_meanwhile_is_passed_over"],
        "server/test_many.py": ["test_two_servers_of_one_folder_lose_none_of_their_saves"],
    },
    "what is written is not whole, not of the usual mode, or leaves a part beside it": {
        "models/test_saving.py": [
            "test_a_file_has_the_users_usual_mode",
            "test_a_disk_that_takes_no_more_is_a_sentence_and_leaves_the_old_file_alone",
        ],
        "nodes/test_saves.py": ["test_a_saved_file_has_the_users_usual_mode_and_nothing_lies_beside_it"],
    },
    "a broken file of a stopped training locks its recipe out": {
        "nodes/test_hspace_training.py": ["test_a_state_that_is_no_use_is_set_aside_and_training_begins_anew"],
    },
    "a bad file to --resume from ends in a traceback": {
        "training/test_loop.py": ["test_a_bad_file_to_resume_from_is_one_sentence"],
    },
    "Python's own words leave a node: for a file, a label, a prefix, a full disk": {
        "hostile/test_hostile.py": ["test_each_file_is_refused_where_it_is_meant_to_do_harm"],
        "nodes/test_nodes.py": ["test_whatever_is_written_for_a_class_is_answered_in_one_line_that_fits_a_screen"],
        "nodes/test_saves.py": [
            "test_a_folder_that_cant_be_written_is_a_sentence",
            "test_a_full_disk_is_a_sentence_and_leaves_nothing",
            "test_a_prefix_that_can_be_no_files_name_is_refused",
        ],
    },
    "a file that lies is taken, and fails later or never": {
        "hostile/test_hostile.py": ["test_each_file_is_refused_where_it_is_meant_to_do_harm"],
    },
    "messages echo keys of a file and labels of a user as they came, at any length": {
        "hostile/test_hostile.py": ["test_each_file_is_refused_where_it_is_meant_to_do_harm"],
        "models/test_messages.py": ["test_a_text_is_one_harmless_line"],
        "nodes/test_nodes.py": ["test_whatever_is_written_for_a_class_is_answered_in_one_line_that_fits_a_screen"],
    },
    "loading and training use up random numbers of others": {
        "nodes/test_hspace_training.py": ["test_training_uses_up_nobodys_random_numbers"],
        "nodes/test_interference.py": ["test_a_loader_uses_up_nobodys_random_numbers"],
    },
    "a message names another input than the wrong one, or none": {
        "nodes/test_numbers.py": [
            "test_a_linked_number_that_is_bad_is_refused_in_one_sentence_with_node_and_input",
            "test_a_linked_window_that_ends_before_it_starts_is_refused_with_node_and_inputs",
        ],
    },
    "a curve is more than a number can be": {
        "guidance/test_curves.py": ["test_what_is_no_curve_is_refused_with_what_came_and_what_there_is"],
    },
    "of three labels for one picture the first is taken in silence": {
        "nodes/test_cfg_conditionings.py": ["test_more_labels_than_pictures_are_refused"],
    },
    "a caption of a million letters is drawn for 22 s": {
        "nodes/test_pictures.py": ["test_of_a_caption_of_a_million_letters_only_what_can_be_seen_is_drawn"],
    },
    "an exception inside a guide doesn't say which guide it was": {
        "nodes/test_interference.py": ["test_an_exception_inside_a_guide_names_the_guide_and_keeps_its_kind"],
    },
    "SIGTERM doesn't end a run of the tests that holds a host": {
        "bench/test_host_server.py": ["test_sigterm_ends_both_though_exceptions_are_caught"],
    },
    "tests fail where the machine is busy": {
        "test_layers.py": ["test_no_test_looks_at_the_clock_on_the_wall"],
    },
}
HELD = PROMISES | FAULTS


def functions_in(name):
    tree = ast.parse((ROOT / "tests" / name).read_text("utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_there_are_ten_promises():
    assert len(PROMISES) == 10


@pytest.mark.parametrize("fact", HELD)
def test_a_promise_or_a_mended_fault_has_tests_that_exist(fact):
    for name, wanted in HELD[fact].items():
        assert set(wanted) <= functions_in(name), name
