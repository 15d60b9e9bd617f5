//! The client for tokio programs: against a real server, and against peers that misbehave.

mod peer;
mod reconnect;
mod remote;

use catena_engine::handle::CallOptions;
use catena_engine::time::Duration;
use catena_engine::tokio::TokioClient;
use catena_engine::{CallError, ClientConfig, Cores, MethodId, Router, Server, Status};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

const ECHO: MethodId = MethodId::of("echo");
const FOREVER: MethodId = MethodId::of("forever");

/// Longer than any of these tests may take.
const LONG: Duration = Duration::from_secs(30);

/// Counts the handlers of [`FOREVER`].
#[derive(Clone, Default)]
struct Started(Arc<Counts>);

#[derive(Default)]
struct Counts {
    begun: AtomicU32,
    dropped: AtomicU32,
}

impl Started {
    fn begun(&self) -> u32 {
        self.0.begun.load(Ordering::Relaxed)
    }

    fn dropped(&self) -> u32 {
        self.0.dropped.load(Ordering::Relaxed)
    }
}

/// One of them; it never ends but by being dropped.
struct Running(Started);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.0.dropped.fetch_add(1, Ordering::Relaxed);
    }
}

fn serve(address: &str, started: &Started) -> Server {
    let started = started.clone();
    Server::builder()
        .listen(address.parse().expect("an address"))
        .cores(Cores::Unpinned(1))
        .service(move |_| {
            let started = started.clone();
            Router::new().method("echo", |request, reply| reply.ok(request.payload())).method_async(
                "forever",
                move |request| {
                    started.0.begun.fetch_add(1, Ordering::Relaxed);
                    let running = Running(started.clone());
                    async move {
                        request.local.sleep(LONG * 100).await;
                        drop(running);
                        Ok(request.payload)
                    }
                },
            )
        })
        .start()
        .expect("a server on loopback")
}

fn run<F: Future>(work: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async { tokio::time::timeout(LONG, work).await.expect("it ends") })
}

async fn wait_until(is_so: impl Fn() -> bool) {
    while !is_so() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn options(timeout: Duration) -> CallOptions {
    CallOptions { timeout: Some(timeout), ..CallOptions::default() }
}

#[test]
fn many_tasks_share_a_connection_and_large_bodies_pass() {
    let server = serve("127.0.0.1:0", &Started::default());
    let address = server.address().expect("it listens");
    run(async {
        let client = TokioClient::new(address, ClientConfig::default());
        let calls = (0..500u32).map(|number| {
            let client = client.clone();
            tokio::spawn(async move {
                let payload = number.to_le_bytes().repeat(1 + number as usize);
                let answer = client.call(ECHO, payload.clone(), options(LONG)).await;
                assert_eq!(answer.expect("an echo").payload, payload);
            })
        });
        for call in calls.collect::<Vec<_>>() {
            call.await.expect("no task panics");
        }
        let large = vec![7u8; 16 << 20];
        let answer = client.call(ECHO, large.clone(), options(LONG)).await.expect("an echo");
        assert!(answer.payload == large);
        let unknown = client.call(MethodId::of("nobody"), "", options(LONG)).await;
        let Err(CallError::Status { status, .. }) = unknown else { panic!("{unknown:?}") };
        assert_eq!(status, Status::UNKNOWN_METHOD);
    });
    server.stop().expect("it ends in order");
}

#[test]
fn a_call_that_times_out_or_is_dropped_is_dropped_at_the_server() {
    let started = Started::default();
    let server = serve("127.0.0.1:0", &started);
    let address = server.address().expect("it listens");
    run(async {
        let client = TokioClient::new(address, ClientConfig::default());
        // A busy machine may not get the first of them to its handler in time.
        while started.begun() == 0 {
            let timed_out = client.call(FOREVER, "", options(Duration::from_millis(20))).await;
            let timed_out = timed_out.expect_err("it sleeps for ever");
            let is_expected = [CallError::DeadlinePassed, CallError::ExpiredUnsent];
            assert!(is_expected.contains(&timed_out), "{timed_out}");
        }
        // Others may still begin, of those that were sent; each of them ends.
        wait_until(|| started.dropped() == started.begun()).await;
        let begun = started.begun();
        let call = client.call(FOREVER, "", CallOptions::default());
        tokio::select! {
            ended = call => panic!("it sleeps for ever: {ended:?}"),
            () = wait_until(|| started.begun() > begun) => {}
        }
        wait_until(|| started.dropped() == started.begun()).await;
    });
    server.stop().expect("it ends in order");
}

#[test]
fn without_a_server_calls_fail_at_once_or_at_their_deadline_and_then_recover() {
    // A port that was free a moment ago.
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr();
    let address: SocketAddr = free.expect("it is bound");
    run(async {
        let client = TokioClient::new(address, ClientConfig::default());
        let refused = client.call(ECHO, "", CallOptions::default()).await;
        assert!(matches!(refused, Err(CallError::Unreachable { .. })), "{refused:?}");
        let expired = client.call(ECHO, "", options(Duration::from_millis(30))).await;
        assert_eq!(expired.expect_err("nobody serves"), CallError::ExpiredUnsent);
        let waiting = tokio::spawn({
            let client = client.clone();
            async move { client.call(ECHO, "at last", options(LONG)).await }
        });
        let server = serve(&address.to_string(), &Started::default());
        let answer = waiting.await.expect("no panic").expect("the server came");
        assert_eq!(answer.payload, "at last");
        server.stop().expect("it ends in order");
        let server = serve(&address.to_string(), &Started::default());
        let again = client.call(ECHO, "again", options(LONG)).await;
        // The loss of the old connection may be noticed only by this call.
        assert!(matches!(&again, Ok(_) | Err(CallError::ConnectionLost)), "{again:?}");
        let again = client.call(ECHO, "again", options(LONG)).await.expect("a new connection");
        assert_eq!(again.payload, "again");
        server.stop().expect("it ends in order");
    });
}
