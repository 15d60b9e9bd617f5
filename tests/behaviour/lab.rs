//! Where a behaviour is tried out: servers and clients on some driver, and hands to meddle with them.
//!
//! A behaviour is written once, against [`Lab`]. [`crate::kernel`] runs it on threads and real
//! sockets, [`crate::simulated`] in one thread from one seed.

use catena_engine::config::ConnectionConfig;
use catena_engine::handle::HandleError;
use catena_engine::rpc::admission::AdmissionConfig;
use catena_engine::shard_index::ShardIndex;
use catena_engine::{Handle, Local, Router};
use futures_util::future::{FutureExt, LocalBoxFuture, MaybeDone, maybe_done};
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

/// One of the servers of a lab.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ServerId(pub usize);

/// Keeps the core that runs it busy for so long.
#[derive(Clone)]
pub struct Block(pub Rc<dyn Fn(Duration)>);

impl Block {
    pub fn block(&self, time: Duration) {
        (self.0)(time);
    }
}

/// A server to be started.
#[derive(Clone)]
pub struct Spec {
    pub shards: u16,
    pub connection: ConnectionConfig,
    pub admission: AdmissionConfig,
    pub connections_max: u32,
    pub service: Service,
}

/// Makes the handlers of one shard.
pub type Service = Arc<dyn Fn(&Local, &Block) -> Router + Send + Sync>;

impl Spec {
    pub fn new(service: impl Fn(&Local, &Block) -> Router + Send + Sync + 'static) -> Self {
        Spec {
            shards: 1,
            connection: ConnectionConfig::default(),
            admission: AdmissionConfig::default(),
            connections_max: 4_000,
            service: Arc::new(service),
        }
    }

    pub fn shards(self, shards: u16) -> Self {
        Spec { shards, ..self }
    }

    pub fn connections_max(self, connections_max: u32) -> Self {
        Spec { connections_max, ..self }
    }

    pub fn connection(self, change: impl FnOnce(&mut ConnectionConfig)) -> Self {
        let mut connection = self.connection;
        change(&mut connection);
        Spec { connection, ..self }
    }

    pub fn admission(self, change: impl FnOnce(&mut AdmissionConfig)) -> Self {
        let mut admission = self.admission;
        change(&mut admission);
        Spec { admission, ..self }
    }
}

/// What a socket of the lab's own was given.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Received {
    Bytes(Vec<u8>),
    /// The peer ended its stream in order.
    Ended,
    /// The connection is broken.
    Reset,
}

/// What a behaviour may do. Waiting is always bounded, by so much time that a lab which has not got
/// there by then never will.
pub trait Lab: Sized {
    /// A plain connected socket. It reads only in [`Lab::receive`]; dropping it closes it.
    type Socket;
    /// A plain listening socket.
    type Listener;
    /// A small send arrives as it was sent.
    const SENDS_IN_ONE_PIECE: bool;
    /// Its time is its own: what is measured tells of the engine, whatever else the machine does.
    const TIME_IS_SIMULATED: bool;
    /// Longer than anything takes that works.
    const A_WHILE: Duration;

    /// What the sockets of both ends hold together, at most, for who sends and for who does not read.
    fn socket_bytes_max() -> usize;
    /// Starts a server on a port of its own.
    fn start(&mut self, spec: Spec) -> ServerId;
    /// The address that its shards share.
    fn address(&self, server: ServerId) -> SocketAddr;
    /// The address of one of its shards.
    fn shard_address(&self, server: ServerId, shard: u16) -> SocketAddr;
    /// Its shards, from outside.
    fn handle(&self, server: ServerId) -> Handle;
    /// Lets it begin to end in order.
    fn drain(&mut self, server: ServerId);
    /// True once it has ended.
    fn has_ended(&mut self, server: ServerId) -> bool;
    /// Ends it at once; what it held is dropped.
    fn kill(&mut self, server: ServerId);
    /// Starts it again, on the same address, after it has ended.
    fn restart(&mut self, server: ServerId);
    /// An engine of one shard that serves nobody: where clients run.
    fn client(&self) -> Handle;

    /// Waits for the outcome of `work`.
    fn wait<T>(&mut self, work: impl Future<Output = T>) -> T;
    /// Lets so much time pass.
    fn pause(&mut self, time: Duration);

    /// What the clock of this lab shows, where nothing but what happens in it makes time pass.
    fn virtual_now(&self) -> Option<Duration>;

    /// An address on which nobody listens.
    fn nobody(&mut self) -> SocketAddr;
    fn connect(&mut self, address: SocketAddr) -> Self::Socket;
    fn listen(&mut self) -> (Self::Listener, SocketAddr);
    fn accept(&mut self, listener: &mut Self::Listener) -> Self::Socket;
    /// As [`Lab::accept`], but does not wait.
    fn try_accept(&mut self, listener: &mut Self::Listener) -> Option<Self::Socket>;
    /// Hands bytes over to be sent as fast as the peer takes them, and does not wait for that.
    fn send(&mut self, socket: &mut Self::Socket, bytes: &[u8]);
    /// Waits for bytes, or for the end.
    fn receive(&mut self, socket: &mut Self::Socket) -> Received;

    /// Runs a client on a shard of `on`'s, to its end.
    fn run_on<T, F>(&mut self, on: &Handle, make: impl FnOnce(Local) -> F + Send + 'static) -> T
    where
        T: Send + 'static,
        F: Future<Output = T> + 'static,
    {
        let pending = begin(on.clone(), ShardIndex(0), make);
        self.join(pending)
    }

    /// Runs a client to its end.
    fn run<T, F>(&mut self, make: impl FnOnce(Local) -> F + Send + 'static) -> T
    where
        T: Send + 'static,
        F: Future<Output = T> + 'static,
    {
        self.run_on(&self.client(), make)
    }

    /// Lets a client run on beside what follows. See [`Lab::join`].
    fn spawn<T, F>(&mut self, make: impl FnOnce(Local) -> F + Send + 'static) -> Pending<T>
    where
        T: Send + 'static,
        F: Future<Output = T> + 'static,
    {
        begin(self.client(), ShardIndex(0), make)
    }

    /// Waits for a client's end.
    fn join<T>(&mut self, pending: Pending<T>) -> T {
        self.wait(pending.into_result()).expect("a shard of clients lives as long as its lab")
    }

    /// Waits until something is so.
    fn wait_until(&mut self, what: &str, mut is_so: impl FnMut(&mut Self) -> bool) {
        for _ in 0..60_000 {
            if is_so(self) {
                return;
            }
            self.pause(Duration::from_millis(1));
        }
        panic!("waited in vain until {what}");
    }

    fn wait_for_end(&mut self, server: ServerId) {
        self.wait_until("the server has ended", |lab| lab.has_ended(server));
    }
}

/// A client that runs beside the test.
pub struct Pending<T>(MaybeDone<LocalBoxFuture<'static, Result<T, HandleError>>>);

impl<T> Pending<T> {
    /// True once it has come to an end.
    pub fn is_over(&mut self) -> bool {
        self.0.poll_unpin(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    /// Its outcome, where the shard may end first.
    pub async fn into_result(mut self) -> Result<T, HandleError> {
        (&mut self.0).await;
        Pin::new(&mut self.0).take_output().expect("it is done")
    }
}

/// Hands work to a shard at once; the future of [`Handle::run`] would do so when first polled.
pub fn begin<T, F>(
    on: Handle,
    shard: ShardIndex,
    make: impl FnOnce(Local) -> F + Send + 'static,
) -> Pending<T>
where
    T: Send + 'static,
    F: Future<Output = T> + 'static,
{
    let run = async move { on.run(shard, make).await }.boxed_local();
    let mut pending = Pending(maybe_done(run));
    pending.is_over();
    pending
}
