//! Catena's engine.

pub mod client;
pub mod config;
pub mod dispatch;
pub mod driver;
pub mod handle;
pub mod handler;
pub mod limits;
pub mod local;
pub mod mailbox;
pub mod metrics;
mod primitive;
pub mod reactor;
pub mod rng;
pub mod rpc;
pub mod server;
pub mod service;
pub mod shard;
pub mod shard_index;
mod sys;
pub mod time;
pub mod timers;
#[cfg(feature = "tokio")]
pub mod tokio;
pub mod wire;

pub use client::{Answer, CallError, Client, ClientConfig};
pub use dispatch::Router;
pub use handle::{Handle, RemoteClient};
pub use handler::{Answered, Handler, Reply, Request, Responder};
pub use local::Local;
pub use server::{Cores, DriverChoice, Server, ServerBuilder};
pub use wire::frame::{MethodId, Priority, Route};
pub use wire::status::Status;
