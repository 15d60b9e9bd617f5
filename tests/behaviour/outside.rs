//! Handles: shards and their clients from any thread.

use crate::lab::{Lab, begin};
use crate::service::{self, ECHO, HOLD, Probe};
use catena_engine::handle::{CallOptions, HandleError, RemoteCallError};
use catena_engine::shard_index::ShardIndex;
use catena_engine::{ClientConfig, Handle, Status};
use std::time::Duration;

const FIRST: ShardIndex = ShardIndex(0);

pub fn work_runs_on_the_shard_that_was_named<L: Lab>(lab: &mut L) {
    let server = lab.start(service::spec(&Probe::new()).shards(3));
    let handle = lab.handle(server);
    assert_eq!(handle.shard_count(), 3);
    for shard in 0..3 {
        let ran_on = handle.run(ShardIndex(shard), async |local| local.shard());
        assert_eq!(lab.wait(ran_on), Ok(ShardIndex(shard)));
    }
}

pub fn calls_come_from_outside<L: Lab>(lab: &mut L) {
    let server = lab.start(service::spec(&Probe::new()));
    let address = lab.address(server);
    let client = lab.client().client(FIRST, address, ClientConfig::default());
    let client = client.expect("the shard takes it");
    for n in 0..20u8 {
        let answer = lab.wait(client.call(ECHO, vec![n], CallOptions::default()));
        assert_eq!(answer.expect("the server is there").payload[..], [n]);
    }
    let options = CallOptions { timeout: Some(Duration::from_millis(20)), ..Default::default() };
    let late = lab.wait(client.call(HOLD, b"".as_slice(), options));
    assert!(matches!(late, Err(RemoteCallError::Call(_))), "{late:?}");
}

pub fn a_dropped_call_from_outside_is_cancelled<L: Lab>(lab: &mut L) {
    let probe = Probe::new();
    let server = lab.start(service::spec(&probe));
    let address = lab.address(server);
    let client = lab.client().client(FIRST, address, ClientConfig::default());
    let client = client.expect("the shard takes it");
    {
        let mut held = Box::pin(client.call(HOLD, b"".as_slice(), CallOptions::default()));
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(held.as_mut().poll(&mut context).is_pending());
        lab.wait_until("it runs", |_| probe.running() == 1);
    }
    lab.wait_until("it is gone", |_| probe.running() == 0);
}

/// A shard that is busy takes only so many messages, and says when there are too many.
pub fn a_full_inbox_says_so<L: Lab>(lab: &mut L) {
    let server = lab.start(service::spec(&Probe::new()));
    let (handle, address) = (lab.handle(server), lab.address(server));
    let mut peer = crate::peer::Peer::greet(lab, address);
    let busy = service::micros_of(Duration::from_secs(2));
    peer.send(lab, &crate::peer::request(0, service::BLOCK, Duration::ZERO, &busy));
    let mut full = None;
    for _ in 0..20 {
        lab.pause(Duration::from_millis(5));
        let pushed = (0..20_000).map(|_| handle.client(FIRST, address, ClientConfig::default()));
        full = full.or(pushed.filter_map(Result::err).next());
    }
    assert_eq!(full, Some(HandleError::Full));
    assert_eq!(peer.response(lab).0.status, Status::OK);
    assert_eq!(lab.wait(retried(&handle)), FIRST, "there is room again");
}

async fn retried(handle: &Handle) -> ShardIndex {
    loop {
        match handle.run(FIRST, async |local| local.shard()).await {
            Ok(shard) => return shard,
            Err(error) => assert_eq!(error, HandleError::Full),
        }
    }
}

pub fn a_shard_that_has_stopped_says_so<L: Lab>(lab: &mut L) {
    let server = lab.start(service::spec(&Probe::new()));
    let (handle, address) = (lab.handle(server), lab.address(server));
    let client = handle.client(FIRST, address, ClientConfig::default()).expect("it runs");
    let asleep = begin(handle.clone(), FIRST, async |local| {
        local.sleep(Duration::from_secs(100_000)).await;
    });
    let answer = lab.wait(client.call(ECHO, b"".as_slice(), CallOptions::default()));
    answer.expect("it serves itself");
    lab.kill(server);
    assert_eq!(lab.wait(asleep.into_result()), Err(HandleError::Stopped), "what it was at");
    assert_eq!(lab.wait(handle.run(FIRST, async |_| ())), Err(HandleError::Stopped));
    let called = lab.wait(client.call(ECHO, b"".as_slice(), CallOptions::default()));
    assert_eq!(called.map(drop), Err(RemoteCallError::Handle(HandleError::Stopped)));
}

/// What a shard is asked to run may panic; the shard goes on.
pub fn work_that_panics_harms_nobody<L: Lab>(lab: &mut L) {
    let server = lab.start(service::spec(&Probe::new()));
    let handle = lab.handle(server);
    let at_once = handle.run(FIRST, |_| -> std::future::Ready<()> { panic!("as it was asked to") });
    assert!(lab.wait(at_once).is_err());
    let later = handle.run(FIRST, async |_| -> () { panic!("as it was asked to") });
    assert!(lab.wait(later).is_err());
    assert_eq!(lab.wait(handle.run(FIRST, async |local| local.shard())), Ok(FIRST));
}
