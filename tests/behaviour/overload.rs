//! Overload: what is too much is refused before it begins, the least important first.

use crate::lab::Lab;
use crate::peer::{Next, Peer, hello_of_client, request};
use crate::service::{self, BLOCK, Came, ECHO, HOLD, Probe, call, micros_of};
use catena_engine::limits::GOODBYES_MAX;
use catena_engine::wire::frame::GoAwayReason;
use catena_engine::wire::header::Kind;
use catena_engine::{Client, ClientConfig, Local, Priority, Status};
use futures_util::future::{join, join_all};
use std::future::IntoFuture;
use std::sync::Arc;
use std::time::Duration;

const LONG: Duration = Duration::from_secs(30);
const SHED: Came = Came::Status(Status::SHED);

async fn until_running(local: &Local, probe: &Arc<Probe>, count: u64) {
    while probe.running() != count {
        local.sleep(Duration::from_millis(1)).await;
    }
}

pub fn a_shard_takes_so_many_requests<L: Lab>(lab: &mut L) {
    let probe = Probe::new();
    let server = lab.start(service::spec(&probe).admission(|limits| limits.in_flight_max = 4));
    let (address, watched) = (lab.address(server), probe.clone());
    let (held, refused, after) = lab.run(move |local| async move {
        // Two connections: the limit is the shard's.
        let clients = [(); 2].map(|()| Client::new(&local, address, ClientConfig::default()));
        let held = (0..4).map(|n| clients[n % 2].call(HOLD, b"").into_future());
        let held: Vec<_> = held.collect();
        until_running(&local, &watched, 4).await;
        let refused = call(clients[0].call(ECHO, b"")).await;
        watched.release();
        let held = join_all(held).await.into_iter().map(service::came).collect::<Vec<_>>();
        (held, refused, call(clients[1].call(ECHO, b"after")).await)
    });
    assert_eq!(held, [const { Came::Ok(Vec::new()) }; 4]);
    assert_eq!((refused, after), (SHED, Came::Ok(b"after".to_vec())));
}

pub fn one_connection_too_many_is_told_so<L: Lab>(lab: &mut L) {
    let server = lab.start(service::spec(&Probe::new()).connections_max(2));
    let address = lab.address(server);
    let mut first = Peer::greet(lab, address);
    let second = Peer::greet(lab, address);
    for _ in 0..5 {
        let mut surplus = Peer::new(lab.connect(address));
        surplus.send(lab, &hello_of_client());
        let Next::Frame(told) = surplus.next(lab) else { panic!("it was to be told something") };
        assert_eq!(told.header.kind, Kind::GoAway, "before any hello, so that nothing is started");
        assert_eq!(GoAwayReason(told.header.code), GoAwayReason::OVERLOADED);
        assert!(String::from_utf8_lossy(&told.payload).contains("limit on connections"));
        assert_eq!(surplus.next(lab), Next::Ended, "in order");
    }
    let refused = lab.run(move |local| async move {
        call(Client::new(&local, address, ClientConfig::default()).call(ECHO, b"")).await
    });
    assert!(refused.is_not_executed(), "an engine understands it: {refused:?}");
    // Who is served notices nothing, and whoever leaves makes room.
    first.send(lab, &request(0, ECHO, LONG, b"on"));
    assert_eq!(first.response(lab).1, b"on");
    drop(second);
    let mut third = Peer::greet_at_last(lab, address);
    third.send(lab, &request(0, ECHO, LONG, b"in"));
    assert_eq!(third.response(lab).1, b"in");
}

/// Those whose turn to be told has not come wait, and are not met by a bare end.
pub fn too_many_at_once_are_told_one_after_the_other<L: Lab>(lab: &mut L) {
    const MANY: usize = GOODBYES_MAX as usize + 10;
    let server = lab.start(service::spec(&Probe::new()).connections_max(1));
    let address = lab.address(server);
    let mut served = Peer::greet(lab, address);
    // They stay when they were told, as long as they are let.
    let mut surplus: Vec<Peer<L>> = (0..MANY).map(|_| Peer::new(lab.connect(address))).collect();
    for one in &mut surplus {
        assert_eq!(one.go_away(lab).0, GoAwayReason::OVERLOADED);
    }
    served.send(lab, &request(0, ECHO, LONG, b"on"));
    assert_eq!(served.response(lab).1, b"on");
}

pub fn a_shard_holds_so_many_bytes<L: Lab>(lab: &mut L) {
    let probe = Probe::new();
    let server = lab.start(service::spec(&probe).admission(|limits| limits.bytes_max = 10_000));
    let (address, watched) = (lab.address(server), probe.clone());
    let (held, refused, small, after) = lab.run(move |local| async move {
        let client = Client::new(&local, address, ClientConfig::default());
        let held = client.call(HOLD, vec![1; 6_000]).into_future();
        until_running(&local, &watched, 1).await;
        let refused = call(client.call(ECHO, vec![2; 6_000])).await;
        let small = call(client.call(ECHO, vec![3; 3_000])).await;
        watched.release();
        let held = service::came(held.await);
        (held, refused, small, call(client.call(ECHO, vec![4; 6_000])).await)
    });
    assert_eq!((held, refused), (Came::Ok(vec![1; 6_000]), SHED));
    assert_eq!((small, after), (Came::Ok(vec![3; 3_000]), Came::Ok(vec![4; 6_000])));
}

/// Forty callers of work that nobody waits for keep the core busy; two callers of what matters hardly
/// notice.
pub fn under_a_standing_queue_the_unimportant_goes_first<L: Lab>(lab: &mut L) {
    let server = lab.start(service::spec(&Probe::new()).admission(|limits| {
        limits.queue_delay_target = Duration::from_millis(1);
        limits.interval = Duration::from_millis(10);
    }));
    let address = lab.address(server);
    let (background, critical) = lab.run(move |local| async move {
        let client = Client::new(&local, address, ClientConfig::default());
        let calls = async |priority, count: u32| {
            let mut shed = 0;
            for _ in 0..count {
                let work = micros_of(Duration::from_micros(500));
                match call(client.call(BLOCK, work).priority(priority)).await {
                    Came::Ok(_) => {}
                    came => {
                        assert_eq!(came, SHED);
                        shed += 1;
                        local.sleep(Duration::from_millis(1)).await;
                    }
                }
            }
            shed
        };
        let background = join_all((0..40).map(|_| calls(Priority::BACKGROUND, 40)));
        let critical = join_all((0..2).map(|_| calls(Priority::CRITICAL, 40)));
        join(background, critical).await
    });
    let (background, critical) = (background.iter().sum::<u32>(), critical.iter().sum::<u32>());
    assert!(background > 0, "a queue that stands is shortened");
    // How long it stands for whom is the kernel's choice, too, when others want its cores.
    if L::TIME_IS_SIMULATED {
        assert!(background > 160, "a tenth is shed at least: {background} of 1600");
        assert_eq!(critical, 0, "while {background} of 1600 in the background were");
    }
}
