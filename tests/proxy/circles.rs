//! Proxies that are each other's upstreams: a request ends there, and is not passed around for ever.

use crate::scene::{Scene, client, each_world, of, told};
use catena_balancer::client::{Balanced, BalancedConfig, BalancedError};
use catena_balancer::discovery::Endpoints;
use catena_balancer::evidence::SharedEvidence;
use catena_balancer::policy::by_name;
use catena_balancer::proxy::ProxyConfig;
use catena_engine::limits::HOPS_MAX;
use catena_engine::shard::Shard;
use catena_engine::shard_index::ShardIndex;
use catena_engine::sim::{Engine, EngineConfig};
use catena_engine::time::Duration;
use catena_engine::{CallError, MethodId, Router, Status};
use std::cell::Cell;
use std::rc::Rc;

const WORK: MethodId = MethodId::of("work");

/// A server that counts, and tells how many proxies a request has come through.
fn server(scene: &mut Scene<'_>) -> (Engine, Rc<Cell<u32>>) {
    let asked = Rc::<Cell<u32>>::default();
    let counted = asked.clone();
    let server = scene.server(move |_| {
        let counted = counted.clone();
        Router::new().fallback(move |request, reply| {
            counted.set(counted.get() + 1);
            reply.ok(&[request.head().hops])
        })
    });
    (server, asked)
}

/// Two proxies, each before the other.
fn circle(scene: &mut Scene<'_>) -> [Engine; 2] {
    let (placeholder, _) = server(scene);
    scene.world.run_for(Duration::from_millis(1));
    let endpoints = Endpoints::fixed(of(&[&placeholder])).expect("there is one");
    let config = ProxyConfig::default;
    let first = scene.proxy_over(EngineConfig::default(), endpoints.clone(), config());
    let second = scene.proxy(&[&first], config());
    endpoints.replace(of(&[&second])).expect("there is one");
    scene.world.run_for(Duration::from_secs(1));
    [first, second]
}

fn of_each<T>(proxies: &[Engine], look: impl Fn(&Shard) -> T) -> Vec<T> {
    proxies.iter().map(|proxy| proxy.inspect(ShardIndex(0), &look).expect("it runs")).collect()
}

fn in_flight(proxies: &[Engine]) -> Vec<u32> {
    of_each(proxies, Shard::in_flight)
}

fn requests(proxies: &[Engine]) -> u64 {
    of_each(proxies, |shard| shard.metrics().requests.value()).iter().sum()
}

#[test]
fn a_request_in_a_circle_is_refused() {
    each_world(8, |scene| {
        let proxies = circle(scene);
        let address = proxies[0].address().expect("it listens");
        let came_before = requests(&proxies);
        let (status, text) = scene.run(move |local| async move {
            told(client(&local, address).call(WORK, &b"round"[..]).await).expect("answered")
        });
        assert_eq!(status, Status::TOO_MANY_HOPS, "{text:?}");
        assert!(!text.is_empty(), "it does not say why");
        assert_eq!(requests(&proxies) - came_before, 1 + u64::from(HOPS_MAX));
        assert_eq!(in_flight(&proxies), [0, 0]);
    });
}

/// Not by a client that may send it again, and has two proxies to choose from, either.
#[test]
fn nobody_sends_again_what_went_in_a_circle() {
    each_world(8, |scene| {
        let proxies = circle(scene);
        let endpoints = Endpoints::fixed(of(&proxies.each_ref())).expect("there are two");
        let came_before = requests(&proxies);
        let error = scene.run(move |local| async move {
            let policy = by_name("hist").expect("there is such a policy");
            let evidence = SharedEvidence::new(1);
            let config = BalancedConfig::default();
            let client = Balanced::new(&local, config, policy, endpoints, evidence);
            local.sleep(Duration::from_millis(50)).await;
            client.call(WORK, &b"round"[..]).idempotent().send().await.expect_err("it goes round")
        });
        let BalancedError::Call { error: CallError::Status { status, .. }, attempts, .. } = error
        else {
            panic!("{error}")
        };
        assert_eq!((status, attempts), (Status::TOO_MANY_HOPS, 1));
        assert_eq!(requests(&proxies) - came_before, 1 + u64::from(HOPS_MAX));
    });
}

/// Whoever does not wait leaves nothing behind.
#[test]
fn a_circle_ends_without_its_caller() {
    each_world(8, |scene| {
        let proxies = circle(scene);
        let address = proxies[0].address().expect("it listens");
        let calls = scene.start(move |local| async move {
            let client = client(&local, address);
            drop(client.call(WORK, &b"first"[..]).await);
            let calls: Vec<_> = (0..100)
                .map(|_| {
                    let call = client.call(WORK, &b"round"[..]);
                    local.spawn(async move { drop(call.await) })
                })
                .collect();
            local.sleep(Duration::from_micros(200)).await;
            drop(calls);
        });
        scene.wait(calls);
        scene.world.run_for(Duration::from_millis(100));
        let came = requests(&proxies);
        assert_eq!(in_flight(&proxies), [0, 0]);
        scene.world.run_for(Duration::from_secs(1));
        assert_eq!(requests(&proxies), came, "they go round yet");
    });
}

/// A proxy that finds itself among its servers serves nevertheless.
#[test]
fn a_proxy_that_is_one_of_its_own_upstreams_serves() {
    each_world(8, |scene| {
        let (server, asked) = server(scene);
        scene.world.run_for(Duration::from_millis(1));
        let endpoints = Endpoints::fixed(of(&[&server])).expect("there is one");
        let proxy =
            scene.proxy_over(EngineConfig::default(), endpoints.clone(), ProxyConfig::default());
        scene.world.run_for(Duration::from_millis(50));
        endpoints.replace(of(&[&server, &proxy])).expect("there are two");
        let address = proxy.address().expect("it listens");
        let statuses = scene.run(move |local| async move {
            let client = client(&local, address);
            let mut statuses = Vec::new();
            for _ in 0..300 {
                statuses.push(told(client.call(WORK, &b"x"[..]).await).expect("answered").0);
                local.sleep(Duration::from_millis(1)).await;
            }
            statuses
        });
        let refused = statuses.iter().filter(|status| **status != Status::OK).count();
        assert!(refused <= 3, "{refused} of 300 were refused");
        assert_eq!(asked.get() as usize, 300 - refused);
    });
}

#[test]
fn as_many_proxies_in_a_row_as_the_header_counts() {
    each_world(2, |scene| {
        let (server, _) = server(scene);
        let mut row = vec![server];
        for hops in 1..=HOPS_MAX + 1 {
            let behind = row.last().expect("it begins with a server");
            let proxy = scene.proxy(&[behind], ProxyConfig::default());
            let address = proxy.address().expect("it listens");
            row.push(proxy);
            let (status, came_through) = scene.run(move |local| async move {
                told(client(&local, address).call(WORK, &b"x"[..]).await).expect("answered")
            });
            if hops <= HOPS_MAX {
                assert_eq!((status, &came_through[..]), (Status::OK, &[hops][..]));
            } else {
                assert_eq!(status, Status::TOO_MANY_HOPS);
            }
        }
    });
}
