//! Catena's engine: RPC on one core, many times over. One pinned reactor per core, nothing shared,
//! frames parsed where the kernel put them.
//!
//! ```no_run
//! use catena_engine::{Router, Server};
//!
//! let server = Server::builder()
//!     .listen("127.0.0.1:7400".parse()?)
//!     .service(|_shard| Router::new().method("echo", |request, reply| reply.ok(request.payload())))
//!     .start()?;
//! server.join()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # The path of one request
//!
//! 1. The kernel receives into a buffer of the ring and says so: [`reactor::uring`] (or
//!    [`reactor::epoll`], or `sim`) reports [`driver::Completion::Received`].
//! 2. [`shard`] finds the connection and stamps the clock; [`wire::deframer`] finds the frames in
//!    place; [`rpc::connection`] says what each means.
//! 3. A request is admitted or shed ([`rpc::admission`]), routed to the shard that owns it
//!    ([`mailbox`]), and dispatched by its method id ([`dispatch`]).
//! 4. The [`handler`] sees a plain `&[u8]`, and answers into the connection's output, or later, from
//!    a future on the same shard ([`service`], [`local`]).
//! 5. [`wire::framer`] has put header and payload where they are sent from; at the end of the turn
//!    there is one send for each connection that has output ([`wire::output`]).
//!
//! # Threads
//!
//! ```text
//!        core 0                         core 1                        any thread
//! ┌──────────────────┐           ┌──────────────────┐           ┌──────────────────┐
//! │ driver ⇄ shard   │◄─ spsc ──►│ driver ⇄ shard   │◄─ inbox ──│ Handle           │
//! │ handlers, futures│  mailbox  │ handlers, futures│           │ RemoteClient     │
//! │ connections      │           │ connections      │           │ metrics' reader  │
//! └──────────────────┘           └──────────────────┘           └──────────────────┘
//! ```
//!
//! A shard is a value, not a global: it owns its connections, its handlers, its timers, its memory.
//! It takes no lock and shares no cache line with another one, except the rings between them. In the
//! simulator (feature `sim`) hundreds of shards run in one thread, from one seed, unchanged.
//!
//! # What is where
//!
//! | layer | modules | knows |
//! |---|---|---|
//! | pure | [`wire`], [`rpc`], [`timers`] | bytes and instants: no clock, socket, thread, file |
//! | core | [`shard`], [`handler`], [`dispatch`], [`local`], [`client`], [`service`] | the [`driver`] seam |
//! | proxy | [`relay`] | connections of the same shard |
//! | kernel | [`reactor`], `sys` (the only `unsafe`) | io_uring, epoll, files, cores |
//! | from outside | [`server`], [`watch`], [`handle`], `tokio` | how to start, end and call it |
//!
//! Errors say whose fault they are; statuses say in their number whether a request was executed
//! ([`wire::status`]). The bytes are in `docs/protocol.md`.

pub mod application;
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
pub mod relay;
pub mod rng;
pub mod rpc;
pub mod server;
pub mod service;
pub mod shard;
pub mod shard_index;
#[cfg(feature = "sim")]
pub mod sim;
pub mod stream;
mod sys;
pub mod time;
pub mod timers;
#[cfg(feature = "tokio")]
pub mod tokio;
pub mod watch;
pub mod wire;

pub use application::Application;
pub use client::{Answer, CallError, Client, ClientConfig};
pub use dispatch::Router;
pub use handle::{Handle, RemoteClient};
pub use handler::{Answered, Handler, Reply, Request, Responder};
pub use local::Local;
pub use server::{Cores, DriverChoice, Server, ServerBuilder};
pub use sys::allocator::give_free_memory_back;
pub use sys::prefetch::prefetch;
pub use watch::{ShardFailure, Watch};
pub use wire::frame::{MethodId, Priority, Route};
pub use wire::status::Status;
