//! Handlers that go wrong: their callers are told so, and nobody else notices.

use crate::lab::Lab;
use crate::service::{
    self, Came, ECHO, FORGET, PANIC, PANIC_AFTER_ANSWER, PANIC_LATER, PANIC_WITH_DUTY, Probe, call,
};
use catena_engine::{CallError, Client, ClientConfig, MethodId, Route, Status};
use futures_util::future::join;

fn fails_alone<L: Lab>(lab: &mut L, method: MethodId, text: &str) {
    let server = lab.start(service::spec(&Probe::new()).shards(2));
    let address = lab.shard_address(server, 0);
    // At home, and handed over to the other shard.
    for route in [Route::ANY, Route(2)] {
        let (failed, beside, after) = lab.run(move |local| async move {
            let client = Client::new(&local, address, ClientConfig::default());
            let failing = async { client.call(method, b"").route(route).await };
            let (failed, beside) = join(failing, call(client.call(ECHO, b"beside"))).await;
            (failed, beside, call(client.call(ECHO, b"after").route(route)).await)
        });
        let Err(CallError::Status { status, payload }) = failed else {
            panic!("{route:?}: {failed:?}");
        };
        assert_eq!(status, Status::INTERNAL, "{route:?}");
        assert_eq!(String::from_utf8_lossy(&payload), text, "{route:?}");
        assert_eq!(beside, Came::Ok(b"beside".to_vec()), "{route:?}");
        assert_eq!(after, Came::Ok(b"after".to_vec()), "{route:?}");
    }
    lab.drain(server);
    lab.wait_for_end(server);
}

const PANICKED: &str = "the handler panicked";
const UNANSWERED: &str = "the handler dropped the request unanswered";

pub fn a_panic_is_an_internal_error_of_one_request<L: Lab>(lab: &mut L) {
    fails_alone(lab, PANIC, PANICKED);
}

pub fn a_panic_in_a_future_is_an_internal_error_of_one_request<L: Lab>(lab: &mut L) {
    fails_alone(lab, PANIC_LATER, PANICKED);
}

pub fn a_panic_after_taking_the_duty_to_answer_is_answered_once<L: Lab>(lab: &mut L) {
    fails_alone(lab, PANIC_WITH_DUTY, UNANSWERED);
}

/// Nothing of the answer goes out, though it was shared and not copied.
pub fn a_panic_after_the_answer_takes_it_back<L: Lab>(lab: &mut L) {
    fails_alone(lab, PANIC_AFTER_ANSWER, PANICKED);
}

pub fn a_duty_that_is_dropped_is_answered<L: Lab>(lab: &mut L) {
    fails_alone(lab, FORGET, UNANSWERED);
}
