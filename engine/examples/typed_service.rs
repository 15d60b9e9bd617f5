//! A typed service with its state on the shard, and a typed client that calls it.
//!
//!     cargo run --release --example typed_service
//!
//! Each shard has a ledger of its own; nothing is shared and nothing is locked. (A service whose data
//! must be found from every shard gives its requests a route, and the engine hands them over.)

use catena_engine::client::{CallError, ClientConfig};
use catena_engine::service::{Failure, Postcard, TypedCallError, TypedMethod};
use catena_engine::shard_index::ShardIndex;
use catena_engine::time::Duration;
use catena_engine::{Client, Cores, Local, Router, Server, Status};
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;

#[derive(Serialize, Deserialize, Debug)]
struct Deposit {
    account: String,
    cents: i64,
}

#[derive(Serialize, Deserialize, Debug, PartialEq)]
struct Balance {
    cents: i64,
}

/// Said once, used by the server's router and by every client.
const DEPOSIT: TypedMethod<Postcard, Deposit, Balance> = TypedMethod::new("ledger.deposit");

/// A status of this service's own.
const NEGATIVE: Status = Status::application(1);

fn ledger(_shard: &Local) -> Router {
    let balances: Rc<RefCell<HashMap<String, i64>>> = Rc::default();
    Router::new().method_typed::<Postcard, Deposit, Balance, _>(
        "ledger.deposit",
        move |deposit, _| {
            let balances = balances.clone();
            async move {
                if deposit.cents < 0 {
                    return Err(Failure::new(NEGATIVE, "a deposit cannot be negative"));
                }
                let mut balances = balances.borrow_mut();
                let cents = balances.entry(deposit.account).or_default();
                *cents += deposit.cents;
                Ok(Balance { cents: *cents })
            }
        },
    )
}

async fn deposit_twice(local: Local, address: SocketAddr) -> Result<(), TypedCallError> {
    let client = Client::new(&local, address, ClientConfig::default());
    for cents in [250, 50] {
        let deposit = Deposit { account: "ada".to_owned(), cents };
        let soon = |call: catena_engine::client::CallBuilder| call.timeout(Duration::from_secs(1));
        let balance = DEPOSIT.call(&client, &deposit, soon).await?;
        println!("deposited {cents}, balance {}", balance.cents);
    }
    let refused = Deposit { account: "ada".to_owned(), cents: -1 };
    match DEPOSIT.call(&client, &refused, |call| call).await {
        Err(TypedCallError::Call(CallError::Status { status, payload })) => {
            println!("refused with {status}: {}", String::from_utf8_lossy(&payload));
            Ok(())
        }
        other => other.map(|balance| println!("unexpected: {balance:?}")),
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let server = Server::builder()
        .listen("127.0.0.1:0".parse()?)
        .cores(Cores::Count(1))
        .service(ledger)
        .start()?;
    let address = server.address().expect("it was told to listen");
    let talk = server.handle();
    let done = talk.run(ShardIndex(0), move |local| deposit_twice(local, address));
    futures_executor::block_on(done)??;
    Ok(server.drain()?)
}
