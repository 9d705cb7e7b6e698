"""The faults that can happen, and the tests that inject them. Some are checks of a suite that every engine runs.

| fault | what happens | test |
|---|---|---|
| F1 | killed before anything is stored | test_a_crash_on_the_way_in_leaves_all_of_a_request_or_nothing_and_the_key_gives_the_same_ids |
| F2 | killed as a request is stored, with its key | test_a_crash_on_the_way_in_leaves_all_of_a_request_or_nothing_and_the_key_gives_the_same_ids |
| F3 | killed between ledger and queue | test_letters_whose_notes_a_crash_prevented_are_found_and_sent_once |
| F4 | killed between the notes of a request | test_letters_whose_notes_a_crash_prevented_are_found_and_sent_once |
| F5 | killed before or after the answer | test_a_crash_on_the_way_in_leaves_all_of_a_request_or_nothing_and_the_key_gives_the_same_ids |
| F6 | killed with a note in hand | test_a_crash_on_the_way_out_loses_nothing_and_doubles_nothing_unless_the_policy_says_so |
| F7 | killed before the first byte | test_a_crash_on_the_way_out_loses_nothing_and_doubles_nothing_unless_the_policy_says_so |
| F8 | killed in the middle of the body | test_a_crash_on_the_way_out_loses_nothing_and_doubles_nothing_unless_the_policy_says_so |
| F9 | killed when the provider may have the mail | test_a_crash_on_the_way_out_loses_nothing_and_doubles_nothing_unless_the_policy_says_so |
| F10 | killed between the end and the ack | test_a_crash_on_the_way_out_loses_nothing_and_doubles_nothing_unless_the_policy_says_so |
| F11 | killed after the ack | test_a_crash_on_the_way_out_loses_nothing_and_doubles_nothing_unless_the_policy_says_so |
| F1-F11 | with every pair of ledger and queue | test_with_every_pair_a_crash_where_the_stores_matter_loses_nothing_and_doubles_nothing |
| F12 | killed again and again, also while it starts | test_whenever_it_is_killed_nothing_is_lost_and_with_hold_nothing_doubled |
| F12 | with every pair | test_with_every_pair_nothing_is_lost_whenever_it_is_killed |
| F12 | within a round of the clerk, within any write | test_no_law_is_broken_in_any_run |
| F12 | while a backlog moves | test_commands_that_are_killed_at_every_step_lose_and_double_nothing |
| F13 | stands still for longer than a lease, at each step | test_a_stall_beyond_the_lease_sends_nothing_late_and_nothing_twice |
| F13 | while another instance judges its call | test_what_another_instance_has_judged_meanwhile_is_mended_and_nothing_is_sent_twice |
| F13 | is told by the other instances | test_an_instance_that_says_nothing_any_more_is_named_unless_it_was_stopped |
| F15 | a plugin raises what it likes | test_a_plugin_s_crash_of_any_kind_ends_neither_worker_nor_letter |
| F15 | is told in the status | test_whatever_a_provider_suffers_from_stands_in_the_status |
| F15 | a bug of ours in a delivery | test_workers_outlive_a_ledger_that_does_not_answer_and_a_bug_of_ours |
| F15 | a bug of ours in the clerk | test_a_store_that_fails_costs_a_round_and_not_the_clerk |
| F15 | a bug of ours in a request | test_what_nobody_catches_ends_one_connection_alone |
| F16 | told to stop with 100 calls in hand | test_of_100_deliveries_in_hand_each_ends_or_is_cut_and_written_down |
| F16 | says so meanwhile | test_while_deliveries_end_whoever_asks_is_told_that_the_service_is_stopping |
| F17 | signals at any moment of the work | test_whenever_a_signal_comes_the_process_ends_in_time_and_nothing_is_lost |
| F17 | signals at any moment of the start | test_whenever_a_signal_comes_while_the_house_is_opened_it_is_obeyed |
| F17 | a second signal | test_a_second_signal_ends_at_once_unless_it_comes_with_the_first |
| F17 | signals while a reload runs | test_one_process_under_load_takes_every_change_and_survives_every_mistake |
| F18 | a note of a newer version | test_a_note_of_a_newer_version_is_given_back_untouched_without_spinning_and_told_once |
| F18 | a row of a newer version | what_a_newer_postman_wrote_is_left_alone_and_the_others_go_on |
| F18 | both, among ours, under several instances | test_what_the_next_version_takes_meanwhile_is_left_to_it_and_ours_is_sent |
| F18 | instances replaced one by one under load | test_a_roll_out_under_load_loses_doubles_and_doubts_nothing |
| F19 | the power is cut under SQLite | test_what_was_promised_survives_and_with_hold_nothing_is_sent_twice |
| F19 | while a backlog moves | test_mails_that_left_a_ledger_are_in_the_backlog |
| F19 | under Redis and PostgreSQL | test_a_server_that_lost_its_power_still_has_what_was_promised |
| F20 | Redis dies and comes back | test_while_the_server_is_down_callers_are_told_at_once_and_afterwards_all_goes_on |
| F20 | under load | test_what_was_acknowledged_is_there_after_three_kills_under_load |
| F20 | forgets its scripts | test_scripts_are_loaded_again_when_the_server_has_lost_them |
| F20 | is told in the status | test_what_is_down_is_named_and_only_the_ledger_stops_the_way_in |
| F21 | each error that Redis can say | test_each_error_of_the_server_has_its_meaning |
| F21 | Redis takes no writes, and says so in the status | test_a_ledger_that_can_be_read_and_not_written_is_told_for_as_long_as_it_lasts |
| F21 | Redis still loads | test_a_server_that_is_still_loading_is_waited_for |
| F22 | the memory of Redis is full, ledger | test_when_the_memory_is_full_letters_are_refused_and_sending_goes_on |
| F22 | queue | test_when_the_memory_is_full_nothing_is_put_and_consuming_goes_on |
| F22 | is told in the status | test_a_refusal_for_want_of_room_is_told_until_mail_is_taken_again_or_none_comes |
| F23 | Redis may evict, or does not write down | test_a_ledger_is_not_kept_where_it_may_be_forgotten_unless_that_is_accepted |
| F24 | a stale replica takes over | test_after_a_failover_to_a_stale_replica_nothing_is_lost_with_wait_and_without_it_what_came_last_and_told |
| F24 | under PostgreSQL a standby is behind | test_what_no_standby_confirmed_is_not_taken_for_done_whoever_asks_again |
| F24 | the log of Redis was cut | test_a_log_that_was_cut_keeps_a_prefix_of_whole_requests_and_what_is_gone_is_told |
| F25 | Redis answers too late | test_without_an_answer_in_time_the_fate_is_unknown_and_the_connection_is_not_used_again |
| F25 | the connection is cut after the write | test_a_connection_that_is_cut_after_the_write_leaves_it_unknown |
| F25 | a request comes when nobody waits for it any more | test_what_the_network_brings_after_its_client_was_refused_is_not_accepted |
| F25 | or when somebody looks for it | test_what_is_under_way_when_its_connection_is_cut_is_waited_for_by_who_looks_for_it |
| F26 | 10,000 callers are cancelled on one connection | test_ten_thousand_cancelled_callers_disturb_nobody |
| F27 | notes are deleted under us | test_lost_notes_are_put_again_after_two_looks_at_an_empty_queue |
| F27 | mails are deleted in Redis | test_letters_that_somebody_deleted_are_told_and_do_not_stand_in_the_way_of_others |
| F28 | the queue is flushed | test_the_clerk_puts_everything_again_when_the_queue_was_flushed |
| F28 | the ledger is flushed | test_a_database_that_was_emptied_is_told |
| F29 | PostgreSQL dies and comes back under load | test_a_server_killed_under_load_loses_no_letter_and_no_end |
| F29 | an operator ends its sessions | test_sessions_that_an_operator_ends_cost_no_letter |
| F29 | the answer to a commit is lost | test_a_commit_whose_answer_was_lost_may_have_happened_and_can_be_read_at_once |
| F29 | writers of several processes collide | test_one_key_in_two_ledgers_at_once_is_one_request |
| F29 | is told in the status | test_what_is_down_is_named_and_only_the_ledger_stops_the_way_in |
| F30 | a row is locked | test_a_row_that_somebody_locks_delays_nobody_elses_for_long |
| F30 | a table is locked | test_a_locked_table_makes_every_call_fail_within_a_bounded_time |
| F30 | PostgreSQL is silent | test_a_server_that_answers_no_more_is_not_waited_for_without_a_limit |
| F30 | threads hang elsewhere | test_threads_that_hang_elsewhere_stop_no_store |
| F30 | all workers hang at a provider | test_sixty_four_workers_that_hang_at_a_mail_server_keep_nobody_from_the_stores |
| F30 | a session keeps PostgreSQL from cleaning up | test_status_names_who_leaves_a_transaction_open_and_what_ends_it |
| F31 | fsync is off | test_a_server_that_may_lose_commits_is_refused_as_a_ledger_and_taken_as_a_queue |
| F31 | synchronous_commit is off | test_letters_are_flushed_though_the_servers_default_is_not_to_wait |
| F32 | another program has a lock on the SQLite file | test_a_lock_of_another_program_is_waited_for_once_and_not_by_each_operation |
| F32 | another program reads it without end | test_another_program_that_reads_without_end_is_told_by_ledger_and_queue |
| F32 | a second process | test_a_second_service_on_one_file_is_refused_with_the_other_s_pid |
| F32 | the disk is full, or read-only | test_while_the_disk_cannot_be_written_mails_are_refused_and_afterwards_taken |
| F32 | the file system has no room | test_a_disk_without_room_refuses_and_takes_again_when_there_is_room |
| F32 | pages are damaged | test_a_damaged_file_is_refused_with_the_cure_and_kept |
| F32 | bits are flipped | test_a_file_with_flipped_bits_opens_or_is_refused |
| F32 | a mail is damaged, Redis | test_a_damaged_letter_is_told_and_stops_no_other |
| F32 | PostgreSQL | test_damage_to_a_letter_is_told_and_the_others_go_on |
| F32 | the file is cut, moved, replaced or deleted | test_what_happens_to_the_file_is_said_and_nothing_is_promised |
| F32 | the log would grow | test_the_log_is_copied_into_the_file_long_before_it_is_at_its_longest |
| F32 | what cannot be read is at the head of the clerk's lists | what_a_newer_postman_wrote_hides_nothing_from_the_clerk |
| F33 | a sync fails | test_after_a_failed_sync_the_process_ends_and_a_restart_on_a_sound_disk_loses_nothing |
| F33 | of a queue in a file of its own | test_a_queue_whose_disk_failed_is_not_taken_for_one_that_works |
| F33 | a sync hangs | test_a_disk_that_hangs_is_told_by_those_who_ask |
| F34 | SQS shows a message twice | test_a_message_shown_twice_is_two_leases |
| F34 | refuses some of a batch | test_what_cannot_be_put_does_not_keep_the_others_back |
| F34 | throttles, is silent, answers nonsense | test_what_goes_wrong_is_told_with_its_cure_and_nothing_is_sent_twice |
| F34 | a receipt is over | test_a_receipt_that_is_over_is_a_lost_lease |
| F34 | has a redrive policy | test_a_redrive_policy_is_told |
| F34 | cuts connections at random | test_notes_come_though_connections_are_cut_at_random |
| F35 | one of several mails is wrong | test_every_bad_place_of_a_request_is_named_and_nothing_is_accepted |
| F35 | one of several mails cannot be written | letters_are_accepted_all_or_none |
| F35 | there is room for some of them | a_full_ledger_refuses_whole_requests_and_goes_on_sending |
| F36 | notes are doubled, for many workers at once | test_doubled_and_damaged_notes_cost_nothing_and_are_not_gone_before_they_are_buried |
| F36 | claims of one letter at once | one_of_20_concurrent_claims_wins |
| F36 | in several processes | test_of_claims_in_several_processes_at_once_one_wins_each_letter |
| F37 | notes are damaged, or name no mail, SQLite | test_doubled_and_damaged_notes_cost_nothing_and_are_not_gone_before_they_are_buried |
| F37 | Redis | test_what_is_no_note_is_taken_as_such_and_buried_with_its_bytes |
| F37 | anything is damaged | test_damage_in_the_ledger_or_the_queue_stops_no_sound_letter |
| F38 | a note cannot be buried, SQLite | test_doubled_and_damaged_notes_cost_nothing_and_are_not_gone_before_they_are_buried |
| F38 | SQS | test_what_is_buried_is_not_deleted_before_its_copy_is_kept |
| F39 | the ledger is down and the queue is not | test_what_is_down_is_named_and_only_the_ledger_stops_the_way_in |
| F39 | nothing is sent then | test_without_a_ledger_nothing_is_sent_and_the_note_is_left |
| F40 | the queue is down and the ledger is not | test_what_is_down_is_named_and_only_the_ledger_stops_the_way_in |
| F40 | one of several queues is down | test_while_a_queue_is_down_the_others_take_its_notes_and_it_is_named |
| F40 | one of several gives no notes, and counts them | test_one_that_counts_its_notes_and_gives_none_is_told_once_and_asked_ever_more_rarely |
| F40 | the queue takes no notes | test_why_notes_were_not_put_is_told_until_others_are_or_none_come |
| F40 | the queue hangs | test_a_queue_that_hangs_keeps_the_client_waiting_for_seconds_only |
| F41 | rows would go before the keys that name them | test_a_mistake_is_told_in_words |
| F41 | what is not at an end is never swept | ended_letters_are_swept_after_their_retention_and_others_never |
| F42 | a name is not found, or not in time | test_a_name_that_is_not_found_is_surely_not_accepted |
| F42 | the resolver is dead | test_a_dead_resolver_takes_none_of_trios_own_threads |
| F43 | a connection is refused | test_a_refused_connection_is_surely_not_accepted |
| F43 | a connection is never answered | test_a_host_that_does_not_answer_the_connect_is_given_up |
| F44 | each failure of TLS | test_a_tls_failure_is_surely_not_accepted_and_never_gone_round |
| F44 | with SMTP | test_a_certificate_that_does_not_fit_is_misconfigured |
| F45 | 429 with any Retry-After | test_retry_after_is_read_as_seconds_or_date_or_not_at_all |
| F45 | the wait is bounded | test_the_wait_that_a_throttling_provider_asks_for_is_clamped |
| F46 | 5xx, accepted or not | a_lost_answer_is_in_doubt |
| F47 | a provider hangs | a_call_cut_while_it_waits_is_in_doubt |
| F48 | answers without end, bombs | test_an_answer_that_cannot_be_read_is_in_doubt_and_spoils_no_later_call |
| F48 | answers a byte at a time | test_the_callers_deadline_ends_a_call_that_was_handed_over |
| F49 | the connection breaks after the request | a_lost_answer_is_in_doubt |
| F49 | an idle connection ends as we write on it | a_connection_closed_as_the_request_arrives_is_in_doubt |
| F50 | a success that cannot be read | a_success_that_cannot_be_read_is_in_doubt |
| F50 | anything at all is answered | test_whatever_a_provider_answers_the_call_ends_in_the_closed_list_and_never_as_unsent |
| F51 | a refusal of the mail | each_status_has_its_outcome |
| F51 | ends it, or asks the next | test_each_outcome_leads_where_the_table_says |
| F52 | the key is revoked | test_a_provider_whose_key_was_mended_is_asked_at_once_when_a_person_resumes_it |
| F53 | a redirect | no_redirect_is_followed |
| F54 | 409 | each_status_has_its_outcome |
| F55 | some recipients are refused | test_a_letter_that_some_recipients_may_not_have_is_sent_to_the_others |
| F55 | is told | test_recipients_that_a_provider_refused_are_named |
| F56 | an answer that belongs to nobody | test_an_answer_to_nobody_is_not_taken_for_the_answer_of_the_next_call |
| F57 | SMTP goes wrong at each command | test_a_fault_ends_the_call_as_the_table_says_and_the_next_letter_goes |
| F57 | in the message | test_what_happens_before_the_end_of_a_long_message_is_surely_not_accepted |
| F57 | SMTP stalls at each command | test_a_cut_call_closes_its_connection_and_the_next_letter_goes |
| F57 | replies out of step | test_a_server_that_is_out_of_step_is_not_believed_and_its_connection_not_kept |
| F57 | replies before TLS | test_a_failing_starttls_is_never_followed_by_clear_text |
| F42-F53 | what a provider suffers from is told in the status | test_whatever_a_provider_suffers_from_stands_in_the_status |
| F58 | all providers are down for an hour | test_while_all_providers_are_down_letters_stay_put_and_leave_when_one_is_back |
| F58 | one probe at a time | test_of_sixty_four_tasks_one_probes |
| F59 | a lease ends during the call | a_call_that_lapsed_is_in_doubt_and_a_third_is_the_end |
| F59 | its end comes late all the same | a_late_end_by_the_owner_counts_in_doubt_and_held |
| F59 | a lease ends before the call | nothing_is_sent_when_it_is_too_late |
| F62 | the wall clock jumps | test_calls_begin_when_they_would_have_begun_without_the_jump |
| F62 | under the clerk | test_no_jump_lets_the_clerk_take_a_call_for_dead |
| F62 | between two runs | test_a_jump_of_the_wall_clock_between_two_runs_hides_no_note |
| F63 | another boot, another machine | test_what_a_dead_process_was_sending_is_in_doubt_after_reopening |
| F63 | the server's clock decides | test_the_clock_of_the_server_decides_and_not_that_of_a_process |
| F64 | ids while the clock jumps | test_ids_rise_and_sort_as_text_while_the_clock_jumps_anywhere |
| F64 | more ids than a millisecond has | test_the_4097th_id_of_a_millisecond_borrows_from_the_next |
| F65 | two processes with one node number | test_two_instances_with_one_node_number_mint_new_ids_and_nobody_notices |
| F65 | ids that stay taken | test_ids_that_stay_taken_are_an_error_that_names_the_cure |
| F66 | ids beyond 2^53 are strings | test_the_ancestors_request_is_answered_to_the_letter |
| F66 | and work beyond 2^63 | an_id_above_2_to_the_63_works_and_sorts_last |
| F67 | a client leaves within its body | test_a_client_that_leaves_within_its_body_ends_the_handler |
| F67 | after it | test_a_handler_whose_client_left_after_the_body_runs_to_its_end |
| F68 | repeats at once | fifty_concurrent_requests_of_one_key_get_the_same_ids |
| F68 | a key with another body | a_key_with_another_body_is_refused_and_nothing_is_changed |
| F68 | a key that is over | a_sweep_takes_no_more_than_its_limit_and_frees_ids_labels_and_keys |
| F69 | slow clients | test_slow_clients_are_cut_while_others_are_served |
| F69 | bodies that are too much together | test_bodies_that_are_too_much_together_are_refused_before_they_are_read |
| F69 | more connections than are taken | test_connections_beyond_the_limit_are_told_so_and_the_next_is_served |
| F70 | there is no room | a_full_ledger_refuses_whole_requests_and_goes_on_sending |
| F70 | the disk is nearly full | test_before_the_disk_is_full_letters_are_refused_and_consuming_goes_on |
| F71 | poison in a request | test_poison_is_400 |
| F71 | a mail that kills the process | test_a_letter_that_kills_the_process_is_put_aside_and_the_rest_goes_on |
| F72 | many signals to reload | test_one_process_under_load_takes_every_change_and_survives_every_mistake |
| F72 | during start and drain | test_one_process_under_load_takes_every_change_and_survives_every_mistake |
| F73 | broken plugins | test_one_process_under_load_takes_every_change_and_survives_every_mistake |
| F73 | broken files | test_one_process_under_load_takes_every_change_and_survives_every_mistake |
| F74 | a thousand reloads | test_a_thousand_reloads_leave_tasks_descriptors_connections_and_memory_flat |
| F75 | breakers across a reload | test_the_breaker_of_an_unchanged_provider_stays_open_and_a_changed_one_gets_a_new_chance |
| F76 | a flood of one client | test_ten_mails_go_out_soon_though_another_client_has_twenty_thousand_waiting |
| F77 | no file can be opened | test_without_files_to_open_nothing_is_sent_no_attempt_is_burnt_and_status_says_so |
| F77 | no connection can be taken in | test_running_out_of_descriptors_neither_spins_nor_lasts |
| F77 | no thread can be started | test_a_look_up_or_a_connection_that_cannot_be_begun_is_surely_not_accepted_and_no_bug_of_the_plugin |
| F77 | no port is left | test_a_connection_for_which_no_port_is_left_is_surely_not_accepted_and_names_the_cure |
| F78 | nobody reads the log, or its disk is full | test_a_log_that_cannot_be_written_stops_no_mail_and_status_says_so |
| F79 | health is no status | test_a_draining_house_accepts_nothing_and_says_when_to_ask_again |
| F79 | and answers while the store hangs | test_a_disk_that_hangs_is_told_by_those_who_ask |
| F80 | a start with a long backlog | test_after_a_restart_with_a_long_backlog_the_first_letter_leaves_soon_and_memory_stays_flat |
| F81 | a plugin computes and yields nothing | test_a_plugin_that_holds_up_the_whole_process_costs_time_and_is_named |
| F81 | a plugin's nursery is cut | test_a_plugin_cut_in_its_own_nursery_has_no_bug |
| F81 | a plugin cleans up badly | test_an_exception_beside_a_cancellation_is_not_swallowed |

F14, an end for want of memory, is to the process what `kill -9` is. F11 asks for events and F60 for webhooks: there are
neither yet. F61 is about looking mails up at a provider, which no plugin can yet. F54: no vendor that there is a plugin
for takes an idempotency key, so its 409 is nothing that we could have caused, and in doubt. F56: a message id is kept as
the vendor said it and nothing is decided by it; two mails that were given one id raise no alarm. F58: after an outage
a breaker closes at the first answer; what leaves then is bounded by `rate`, `max-concurrent` and the workers alone. F66,
F69 and F79 ask for figures (other languages, 10,000 connections, milliseconds under load) that no test here could promise
on a busy machine. F70: whether there is room only the ledger knows, and a body has been read by then.
"""

# ruff: noqa: E501  # names of tests are sentences

from __future__ import annotations

import re
from collections.abc import Callable

FAULTS = range(1, 82)


def test_every_test_of_the_table_exists(not_there: Callable[[str], set[str]]) -> None:
    assert not_there(__doc__ or "") == set()


def test_every_fault_is_in_the_table_or_below_it_with_its_reason() -> None:
    told = {int(number) for number in re.findall(r"\bF(\d+)", __doc__ or "")}
    assert told == set(FAULTS)
