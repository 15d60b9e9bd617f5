//! What every driver owes to a shard: one set of checks, run against each driver.
//!
//! A check is a function over a [`harness::Harness`], which makes two drivers that can reach each
//! other and lets their world move on. [`kernel_suite!`] adds a driver of the kernel's,
//! [`simulated_suite!`] one whose world has to be pumped; each new driver is one line below.

mod close;
mod connect;
mod exhaustion;
mod file_tasks;
mod files;
mod harness;
mod kernel;
mod memory;
mod park;
mod receive;
mod send;
mod sim;

use catena_engine::reactor::epoll::{EpollConfig, EpollDriver};
use catena_engine::reactor::uring::{Features, UringConfig, UringDriver, UringError};

/// Runs the checks named, each as a test of its own, with one harness.
macro_rules! checks {
    ($harness:ty: $($module:ident::$check:ident)*) => {
        $(
            #[test]
            fn $check() {
                if let Some(why) = unavailable() {
                    println!("skipped: {why}");
                    return;
                }
                crate::$module::$check::<$harness>();
            }
        )*
    };
}

/// The checks that hold for every driver.
macro_rules! common_checks {
    ($harness:ty) => {
        checks! { $harness:
            connect::a_system_chosen_port_is_reported
            connect::both_sides_learn_of_a_connection
            connect::bytes_that_come_with_the_connection_are_read
            connect::a_refused_connection_voids_its_id
            connect::closing_before_the_outcome_leaves_only_closed
            connect::a_stopped_listener_refuses_and_spares_its_connections
            receive::bytes_go_both_ways
            receive::an_orderly_end_comes_after_the_bytes
            receive::an_ended_socket_can_still_be_closed_once
            receive::lent_bytes_outlive_their_chunk
            receive::several_chunks_can_be_held
            receive::pausing_stops_the_bytes
            receive::two_hundred_sockets_do_not_mix
            memory::bytes_go_where_they_are_wanted
            memory::a_pause_brings_memory_back
            memory::an_end_brings_memory_back_first
            memory::a_close_keeps_memory_that_is_received_into
            send::a_big_output_arrives_whole_at_a_slow_reader
            send::an_empty_output_is_done_at_once
            send::both_sides_can_send_more_than_fits_at_once
            close::a_send_in_flight_ends_before_its_socket
            close::a_socket_that_was_never_used_closes
            close::closed_comes_once
            close::a_side_that_has_ended_its_sends_still_receives
            close::ids_are_never_used_again
            close::nothing_is_reported_of_a_closed_socket
            files::what_was_written_is_read_back
            files::a_read_past_the_end_is_short
            files::a_closed_file_finishes_what_is_in_flight
            files::a_closed_file_is_void
            files::opening_a_missing_file_says_so
            file_tasks::directories_are_made_listed_and_removed
            file_tasks::a_rename_replaces_what_was_there
            file_tasks::a_removed_file_is_there_for_who_has_it_open
            file_tasks::a_directory_is_synced_and_nothing_else
            file_tasks::a_file_is_as_long_as_was_written_or_reserved
            file_tasks::a_file_of_zeros_is_new_and_of_zeros
            file_tasks::the_room_on_a_file_system_is_told
            file_tasks::a_lock_is_one_holders_until_it_is_dropped
            file_tasks::every_task_is_answered_under_its_own_id
        }
    };
}

/// `kernel_suite!(name, Type, how to make one, why there is none)`
macro_rules! kernel_suite {
    ($name:ident, $driver:ty, $make:expr) => {
        kernel_suite!($name, $driver, $make, None);
    };
    ($name:ident, $driver:ty, $make:expr, $unavailable:expr) => {
        mod $name {
            use super::*;

            struct Make;

            /// Why this host has no such driver, if it has none.
            fn unavailable() -> Option<String> {
                $unavailable
            }

            impl kernel::Make for Make {
                type D = $driver;
                const SUITE: &'static str = stringify!($name);

                fn make() -> $driver {
                    $make
                }
            }

            common_checks!(kernel::Kernel<Make>);
            checks! { Make:
                kernel::a_reset_is_told_from_an_orderly_end
                kernel::a_reset_under_a_send_is_told
                kernel::a_reset_that_a_send_met_is_still_told_to_the_reader
                kernel::a_half_closed_peer_can_still_be_answered
                kernel::bytes_and_end_that_arrive_together_are_both_told
                kernel::a_paused_socket_keeps_its_end_for_later
                kernel::addresses_in_use_are_refused_by_name
                memory::a_reset_brings_memory_back_first
                memory::a_greedy_peer_starves_nobody
                park::a_park_lasts_until_its_deadline
                park::a_park_with_work_queued_is_short
                park::bytes_end_a_park
                park::an_unpark_from_another_thread_ends_a_park
                park::an_unpark_before_the_sleep_is_not_lost
                park::a_file_operation_ends_a_park
                park::a_file_task_ends_a_park
                exhaustion::accepting_goes_on_after_file_descriptors_ran_out
            }
        }
    };
}

/// `simulated_suite!(name, a Harness)`
macro_rules! simulated_suite {
    ($name:ident, $harness:ty) => {
        mod $name {
            use super::*;

            fn unavailable() -> Option<String> {
                None
            }

            common_checks!($harness);
        }
    };
}

kernel_suite!(
    epoll,
    EpollDriver,
    EpollDriver::new(&EpollConfig::default()).expect("epoll is there")
);

// The smallest of everything: whatever is carried over to another round is.
kernel_suite!(epoll_cramped, EpollDriver, {
    let cramped = EpollConfig {
        sockets_max: 300,
        receive_chunk_bytes: 100,
        chunks_max: 3,
        events_max: 2,
        backlog: 300,
    };
    EpollDriver::new(&cramped).expect("epoll is there")
});

// Few buffers, so that pausing shows: a resumed socket may fill all there are before it is paused.
kernel_suite!(
    uring,
    UringDriver,
    make_uring(UringConfig { receive_buffers: 32, ..UringConfig::default() }),
    uring_is_refused()
);

// As on the oldest kernel that will do.
kernel_suite!(
    uring_plain,
    UringDriver,
    make_uring(UringConfig { disable: Features::ALL, ..UringConfig::default() }),
    uring_is_refused()
);

// Queues that overflow and buffers that run out at every turn.
kernel_suite!(
    uring_cramped,
    UringDriver,
    make_uring(UringConfig {
        sockets_max: 300,
        receive_buffers: 4,
        receive_buffer_bytes: 4_096,
        submission_entries: 2,
        completion_entries: 4,
        ..UringConfig::default()
    }),
    uring_is_refused()
);

fn make_uring(config: UringConfig) -> UringDriver {
    UringDriver::new(&config).expect("io_uring is there")
}

fn uring_is_refused() -> Option<String> {
    match UringDriver::new(&UringConfig::default()) {
        Err(error @ UringError::Refused { .. }) => Some(error.to_string()),
        _ => None,
    }
}

simulated_suite!(sim_one_host, sim::OneHost);
simulated_suite!(sim_two_hosts, sim::TwoHosts);

mod sim_alone {
    use super::*;

    fn unavailable() -> Option<String> {
        None
    }

    checks! { sim::Alone:
        park::a_park_lasts_until_its_deadline
        park::an_unpark_before_the_sleep_is_not_lost
    }
}

/// `few_sockets!(name, Type, how to make one with few sockets, why there is none)`
macro_rules! few_sockets {
    ($name:ident, $driver:ty, $make:expr, $unavailable:expr) => {
        mod $name {
            use super::*;

            struct Make;

            fn unavailable() -> Option<String> {
                $unavailable
            }

            impl kernel::Make for Make {
                type D = $driver;
                const SUITE: &'static str = stringify!($name);

                fn make() -> $driver {
                    $make
                }
            }

            checks! { Make: exhaustion::who_finds_no_socket_waits }
        }
    };
}

few_sockets!(
    epoll_few_sockets,
    EpollDriver,
    EpollDriver::new(&EpollConfig {
        sockets_max: exhaustion::FEW_SOCKETS,
        ..EpollConfig::default()
    })
    .expect("epoll is there"),
    None
);

few_sockets!(
    uring_few_sockets,
    UringDriver,
    make_uring(UringConfig { sockets_max: exhaustion::FEW_SOCKETS, ..UringConfig::default() }),
    uring_is_refused()
);
