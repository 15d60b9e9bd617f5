//! One client over four servers, of which one is slow and one is killed halfway.
//!
//!     cargo run --release -p catena-balancer --example balanced_client
//!
//! Shows what a program sees of it: nothing but a few late answers. The table at the end says where
//! the calls went, and why.

use catena_balancer::client::{Balanced, BalancedConfig};
use catena_balancer::discovery::Endpoints;
use catena_balancer::evidence::SharedEvidence;
use catena_balancer::policy;
use catena_engine::shard_index::ShardIndex;
use catena_engine::time::Duration;
use catena_engine::{Cores, Local, MethodId, Router, Server};
use std::cell::Cell;
use std::rc::Rc;

const CALLERS: usize = 16;
const CALLS_OF_EACH: usize = 1_000;

/// A server that echoes, `delay` later.
fn replica(delay: Duration) -> Result<Server, Box<dyn std::error::Error>> {
    let service = move |_: &Local| {
        Router::new().method("echo", move |request, reply| {
            let (answered, responder) = reply.later();
            let (local, payload) = (request.local().clone(), request.to_payload_bytes());
            let timer = local.clone();
            let answer = async move {
                timer.sleep(delay).await;
                responder.ok(payload);
            };
            local.spawn(answer).detach();
            answered
        })
    };
    let server = Server::builder().listen("127.0.0.1:0".parse()?).cores(Cores::Count(1));
    Ok(server.service(service).start()?)
}

/// Calls from several places at once; returns how many had no answer.
async fn load(client: Balanced, local: Local) -> usize {
    let failed = Rc::new(Cell::new(0));
    let callers: Vec<_> = (0..CALLERS)
        .map(|_| {
            let (client, failed) = (client.clone(), failed.clone());
            local.spawn(async move {
                for _ in 0..CALLS_OF_EACH {
                    let call = client.call(MethodId::of("echo"), &b"hello"[..]).idempotent();
                    if let Err(error) = call.timeout(Duration::from_secs(1)).await {
                        println!("no answer: {error}");
                        failed.set(failed.get() + 1);
                    }
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await;
    }
    failed.get()
}

/// Who was called how often lately, and how it stands.
fn table(client: &Balanced) -> String {
    let balancer = client.balancer();
    let mut lines = String::from("endpoint           calls lately   p50 ms   p99 ms  stands\n");
    for (slot, endpoint) in balancer.endpoints() {
        let digest = endpoint.digest;
        let millis = |quantile: Duration| quantile.as_secs_f64() * 1e3;
        lines += &format!(
            "{:<18} {:>12} {:>8.2} {:>8.2}  {:?}\n",
            endpoint.name,
            digest.count,
            millis(digest.p50),
            millis(digest.p99),
            balancer.standing(slot).expect("it has not left"),
        );
    }
    lines
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let delays = [1, 1, 1, 20].map(Duration::from_millis);
    let mut replicas = Vec::new();
    for delay in delays {
        replicas.push(replica(delay)?);
    }
    let addresses = replicas.iter().map(|server| server.address().expect("it listens").into());
    let endpoints = Endpoints::fixed(addresses)?;

    // A server that listens nowhere is a place for clients to live on.
    let home = Server::builder().cores(Cores::Count(1)).service(|_| Router::new()).start()?;
    let work = home.handle();
    let calls = work.run(ShardIndex(0), move |local| async move {
        let evidence = SharedEvidence::new(usize::from(local.shard_count()));
        let policy = policy::by_name("hist").expect("it is ours");
        let config = BalancedConfig::default();
        let client = Balanced::new(&local, config, policy, endpoints, evidence);
        let failed = load(client.clone(), local).await;
        (failed, table(&client))
    });
    let killed = replicas.remove(0);
    let killer = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(500));
        println!("killing {}", killed.address().expect("it listens"));
        killed.stop()
    });
    let (failed, table) = futures_executor::block_on(calls)?;
    killer.join().expect("it does not panic")?;
    println!("{} calls, {failed} without an answer\n\n{table}", CALLERS * CALLS_OF_EACH);
    home.drain()?;
    for server in replicas {
        server.drain()?;
    }
    Ok(())
}
