//! How the engine behaves, written once and tried out on every driver.

mod calls;
mod kernel;
mod lab;
mod peer;
mod service;
mod simulated;

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
}
