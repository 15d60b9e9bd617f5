//! One suite of behaviour for every driver.

use catena_engine::handle::CallOptions;
use catena_engine::shard_index::ShardIndex;
use catena_engine::time::Duration;
use catena_engine::{ClientConfig, Cores, MethodId, Router, Server};
use futures_executor::block_on;

#[test]
fn echo() {
    let server = Server::builder()
        .listen("127.0.0.1:0".parse().unwrap())
        .cores(Cores::Count(2))
        .service(|_| {
            Router::new().method("echo", |request, reply| reply.ok(request.payload())).method_async(
                "slow",
                |request| async move {
                    request.local.sleep(Duration::from_millis(20)).await;
                    Ok(request.payload)
                },
            )
        })
        .start()
        .unwrap();
    println!("{:?} {:?}", server.description(), server.notes());
    let handle = server.handle();
    let client =
        handle.client(ShardIndex(0), server.address().unwrap(), ClientConfig::default()).unwrap();
    for n in 0..100u32 {
        let answer = block_on(client.call(
            MethodId::of("echo"),
            n.to_le_bytes().to_vec(),
            CallOptions::default(),
        ))
        .unwrap();
        assert_eq!(answer.payload[..], n.to_le_bytes());
    }
    let answer =
        block_on(client.call(MethodId::of("slow"), vec![7u8; 3000], CallOptions::default()))
            .unwrap();
    assert_eq!(answer.payload.len(), 3000);
    println!("{:?}", answer.head);
    let route = CallOptions { route: catena_engine::Route(1), ..Default::default() };
    for route_to in [1, 2] {
        let route = CallOptions { route: catena_engine::Route(route_to), ..route };
        let answer = block_on(client.call(MethodId::of("slow"), vec![7u8; 30], route)).unwrap();
        println!("{:?}", answer.head);
    }
    let big = vec![9u8; 16 << 20];
    let answer =
        block_on(client.call(MethodId::of("echo"), big.clone(), CallOptions::default())).unwrap();
    assert!(answer.payload == big);
    drop(client);
    server.drain().unwrap();
}
