//! A server with one method, on every core.
//!
//!     cargo run --release --example echo_server -- 127.0.0.1:7400
//!
//! Load it with `catena-bench run catena://127.0.0.1:7400 --method echo`.

use catena_engine::{Router, Server};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:7400".to_owned()).parse()?;
    let server = Server::builder()
        .listen(address)
        .service(|_shard| {
            // The payload is read where the kernel put it and copied once, behind its answer's header.
            Router::new().method("echo", |request, reply| reply.ok(request.payload()))
        })
        .start()?;
    for line in server.notes().iter().chain(server.description()) {
        println!("{line}");
    }
    println!("listening on {address}");
    Ok(server.join()?)
}
