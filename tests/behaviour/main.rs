//! How the engine behaves, written once and tried out on every driver.

mod calls;
mod cancels;
mod counts;
mod deadlines;
mod drain;
mod failures;
mod files;
mod flow;
mod kernel;
mod lab;
mod large;
mod liveness;
mod mishaps;
mod outside;
mod overload;
mod peer;
mod probes;
mod routing;
mod service;
mod shard_failure;
mod simulated;
mod start;
mod strangers;

use catena_engine::DriverChoice;

/// Each behaviour becomes a test on each driver.
macro_rules! behaviours {
    ($($module:ident::$behaviour:ident)*) => {
        mod epoll {
            use super::*;
            $(#[test] fn $behaviour() { kernel::on(DriverChoice::Epoll, $module::$behaviour); })*
        }
        mod uring {
            use super::*;
            $(#[test] fn $behaviour() { kernel::on(DriverChoice::Uring, $module::$behaviour); })*
        }
        mod sim {
            use super::*;
            $(#[test] fn $behaviour() { simulated::each_world(|lab| $module::$behaviour(lab)); })*
        }
    };
}

behaviours! {
    calls::every_call_gets_its_own_answer
    calls::answers_come_as_they_are_ready
    calls::an_answer_tells_how_long_it_took
    calls::typed_methods_speak_in_values
    calls::a_payload_that_is_no_value_is_malformed
    calls::an_unknown_method_says_so
    calls::bodies_of_16_mib_go_both_ways
    calls::large_bodies_and_small_calls_share_a_connection
    calls::what_is_too_large_is_refused_on_either_side
    calls::what_comes_with_a_call_arrives
    calls::checksums_are_used_where_both_ask
    calls::a_damaged_body_is_noticed
    cancels::a_dropped_call_drops_its_handler
    cancels::a_cancel_goes_from_server_to_server
    cancels::a_lost_client_takes_its_work_along
    cancels::a_dropped_call_makes_room_in_the_window
    cancels::a_call_dropped_before_it_was_sent_is_never_executed
    cancels::an_answer_to_nobody_does_no_harm
    cancels::a_cancel_of_an_unknown_call_is_passed_over
    cancels::a_cancelled_call_is_not_answered
    cancels::a_duty_knows_when_nobody_waits
    deadlines::a_deadline_is_inherited_by_nested_calls
    deadlines::a_deadline_can_be_left_behind
    deadlines::a_deadline_in_the_past_is_not_even_sent
    deadlines::what_expires_in_the_queue_is_not_executed
    deadlines::what_expires_in_a_mailbox_is_not_executed
    deadlines::when_time_is_up_the_handler_is_dropped
    deadlines::when_time_is_up_nested_work_ends_too
    files::a_future_does_with_files_whatever_a_store_needs
    drain::everything_accepted_is_answered
    drain::what_comes_late_is_refused_and_not_executed
    drain::nobody_new_is_served
    drain::idle_clients_let_go_at_once
    drain::a_drain_ends_in_time_whatever_runs
    drain::work_that_was_handed_over_is_answered_too
    drain::a_client_finds_the_next_server
    drain::calls_go_on_while_the_server_is_restarted
    failures::a_client_that_dies_mid_frame_harms_nobody
    failures::a_server_that_dies_mid_answer_is_tried_again
    failures::a_server_killed_under_load_fails_what_was_in_flight
    failures::nobody_there_is_told_at_once_or_at_the_deadline
    failures::who_is_not_to_wait_for_a_connection_is_told_at_once
    failures::who_does_not_wait_for_a_server_finds_it_when_it_is_back
    failures::a_call_with_a_deadline_waits_for_the_server_to_come_back
    failures::a_client_outlives_its_servers
    failures::a_call_that_a_leaving_server_refuses_is_made_again
    failures::a_call_that_is_refused_by_a_server_that_stays_is_not_made_again
    failures::a_call_is_made_again_only_so_often
    failures::a_connection_that_ends_unused_is_tried_again
    failures::a_server_that_always_leaves_is_not_stormed
    flow::the_window_is_never_exceeded
    flow::a_client_lets_only_so_many_calls_wait
    flow::a_slow_reader_slows_down_nobody_else
    flow::a_reader_that_never_reads_is_given_up
    flow::a_reader_that_pauses_is_not_taken_for_dead
    flow::a_large_answer_may_take_its_time
    flow::requests_that_cannot_be_sent_wait_with_their_caller
    large::a_call_can_be_given_up_while_its_answer_comes
    large::a_body_under_way_waits_while_answers_are_not_read
    large::a_drain_does_not_wait_for_the_rest_of_a_body
    liveness::an_idle_connection_is_left
    liveness::a_client_that_was_left_idle_connects_again
    liveness::a_connection_at_work_is_not_idle
    liveness::a_silent_peer_is_asked_and_then_left
    liveness::who_answers_pings_is_kept
    liveness::two_engines_keep_a_quiet_connection_alive
    liveness::a_client_gives_up_a_silent_server
    liveness::a_peer_without_a_hello_is_left
    liveness::a_client_does_not_wait_for_a_hello_for_ever
    liveness::half_a_frame_for_ever_is_left
    liveness::half_a_hello_for_ever_is_left
    liveness::a_dribble_is_understood
    mishaps::a_panic_is_an_internal_error_of_one_request
    mishaps::a_panic_in_a_future_is_an_internal_error_of_one_request
    mishaps::a_panic_after_taking_the_duty_to_answer_is_answered_once
    mishaps::a_panic_after_the_answer_takes_it_back
    mishaps::a_duty_that_is_dropped_is_answered
    outside::work_runs_on_the_shard_that_was_named
    outside::calls_come_from_outside
    outside::a_dropped_call_from_outside_is_cancelled
    outside::a_full_inbox_says_so
    outside::a_shard_that_has_stopped_says_so
    outside::work_that_panics_harms_nobody
    overload::a_shard_takes_so_many_requests
    overload::a_shard_holds_so_many_bytes
    overload::one_connection_too_many_is_told_so
    overload::too_many_at_once_are_told_one_after_the_other
    overload::under_a_standing_queue_the_unimportant_goes_first
    probes::a_pong_tells_the_load_of_the_shard
    probes::a_probe_waits_for_nobody_who_is_not_there
    probes::one_probe_is_under_way_at_a_time
    probes::a_probe_ends_at_its_time_with_a_pong_or_with_the_connection
    routing::a_request_finds_the_shard_it_is_for
    routing::shards_say_where_they_are
    routing::large_bodies_are_handed_over
    routing::more_than_fits_into_a_mailbox_gets_through
    routing::what_was_handed_over_is_cancelled_there
    routing::what_was_handed_over_ends_at_its_deadline
    routing::a_busy_shard_holds_up_no_other
    routing::what_is_handed_over_takes_turns_with_what_comes_directly
    strangers::a_browser_is_sent_away
    strangers::noise_is_sent_away
    strangers::another_version_is_told_so
    strangers::a_request_before_the_hello_is_a_mistake
    strangers::a_second_hello_is_a_mistake
    strangers::a_damaged_header_is_a_mistake
    strangers::a_frame_that_is_too_long_is_a_mistake
    strangers::frames_that_a_server_is_not_sent_are_mistakes
    strangers::a_call_beyond_the_window_is_a_mistake
    strangers::two_calls_in_one_slot_are_a_mistake
    strangers::what_was_right_is_served_first
    strangers::who_is_sent_away_hears_the_end_at_once
    strangers::a_client_leaves_a_server_that_is_none
    strangers::a_client_leaves_a_server_that_asks_it
    strangers::a_client_passes_over_answers_to_nothing
}
