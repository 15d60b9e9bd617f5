//! A tokio program that calls a Catena server: a hundred tasks, one connection, a timeout each.
//!
//!     cargo run --release --example tokio_client --features tokio
//!
//! The server runs in the same process here to make the example whole.

use catena_engine::handle::CallOptions;
use catena_engine::time::Duration;
use catena_engine::tokio::TokioClient;
use catena_engine::{ClientConfig, Cores, MethodId, Router, Server};

const GREET: MethodId = MethodId::of("greet");

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let server = Server::builder()
        .listen("127.0.0.1:0".parse()?)
        .cores(Cores::Count(1))
        .service(|_shard| {
            Router::new().method("greet", |request, reply| {
                let name = String::from_utf8_lossy(request.payload());
                reply.ok(format!("hello, {name}").as_bytes())
            })
        })
        .start()?;
    let address = server.address().expect("it was told to listen");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let client = TokioClient::new(address, ClientConfig::default());
        let options = CallOptions { timeout: Some(Duration::from_secs(1)), ..Default::default() };
        let calls = (0..100).map(|number| {
            let client = client.clone();
            tokio::spawn(async move { client.call(GREET, format!("task {number}"), options).await })
        });
        let mut last = None;
        for call in calls.collect::<Vec<_>>() {
            last = Some(call.await??);
        }
        let last = last.expect("a hundred calls were made");
        println!("{}", String::from_utf8_lossy(&last.payload));
        println!("the server took {} µs for it", last.head.service_us);
        Ok::<(), Box<dyn std::error::Error>>(())
    })?;
    Ok(server.drain()?)
}
