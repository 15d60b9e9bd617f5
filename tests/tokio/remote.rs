//! Shards of an engine, called from tokio by way of a handle.

use crate::{ECHO, Started, options, run, serve};
use catena_engine::handle::{HandleError, RemoteCallError};
use catena_engine::shard_index::ShardIndex;
use catena_engine::time::Duration;
use catena_engine::{CallError, ClientConfig};
use std::sync::mpsc;

const FIRST: ShardIndex = ShardIndex(0);

/// The shard looks at the call only after its timeout, which began when the call was made.
#[test]
fn time_that_a_call_waits_for_a_busy_shard_is_time_of_its_timeout() {
    let server = serve("127.0.0.1:0", &Started::default());
    let (handle, address) = (server.handle(), server.address().expect("it listens"));
    run(async {
        let client = handle.client(FIRST, address, ClientConfig::default()).expect("it runs");
        let (occupied, is_occupied) = mpsc::channel();
        let (release, released) = mpsc::channel::<()>();
        let busy = tokio::spawn(async move {
            handle
                .run(FIRST, move |_| {
                    occupied.send(()).expect("the test waits for it");
                    // Ends with the test, if that fails.
                    std::future::ready(released.recv().is_ok())
                })
                .await
        });
        let occupied = tokio::task::spawn_blocking(move || is_occupied.recv()).await;
        occupied.expect("no panic").expect("the shard is there");

        let timeout = Duration::from_millis(20);
        let call = client.call(ECHO, "", options(timeout));
        let busy_for_longer = async {
            tokio::time::sleep(timeout * 2).await;
            release.send(()).expect("the shard waits for it");
        };
        let (ended, ()) = tokio::join!(biased; call, busy_for_longer);
        let ended = ended.expect_err("it is too late");
        assert_eq!(ended, RemoteCallError::Call(CallError::ExpiredUnsent));
        assert!(ended.is_not_executed());
        assert_eq!(busy.await.expect("no panic"), Ok(true));
    });
    server.stop().expect("it ends in order");
}

#[test]
fn work_that_panics_is_told_from_a_shard_that_has_stopped() {
    let server = serve("127.0.0.1:0", &Started::default());
    let handle = server.handle();
    run(async {
        let making =
            handle.run(FIRST, |_| -> std::future::Ready<()> { panic!("as it was asked to") });
        assert_eq!(making.await, Err(HandleError::Panicked));
        let running = handle.run(FIRST, async |local| -> () {
            local.sleep(Duration::from_millis(1)).await;
            panic!("as it was asked to")
        });
        assert_eq!(running.await, Err(HandleError::Panicked));
        assert_eq!(handle.run(FIRST, async |local| local.shard()).await, Ok(FIRST));
    });
    server.stop().expect("it ends in order");
    let stopped = run(handle.run(FIRST, async |_| ()));
    assert_eq!(stopped, Err(HandleError::Stopped));
}
