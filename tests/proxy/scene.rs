//! Callers, a proxy, servers: each an engine on a host of its own.

use bytes::Bytes;
use catena_balancer::discovery::{Endpoints, Resolved};
use catena_balancer::metrics::{MetricsSnapshot, Tally};
use catena_balancer::policy::by_name;
use catena_balancer::proxy::{ProxyConfig, Shared, router};
use catena_engine::client::CallError;
use catena_engine::config::ConnectionConfig;
use catena_engine::shard_index::ShardIndex;
use catena_engine::sim::{Engine, EngineConfig, HostId, World, WorldConfig, each_seed};
use catena_engine::time::Duration;
use catena_engine::{Client, ClientConfig, Local, Router, Status};
use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

const PORT: u16 = 7_000;
/// How much virtual time one wait may take.
const PATIENCE: Duration = Duration::from_secs(600);

pub fn each_world(seeds: u64, test: impl Fn(&mut Scene<'_>)) {
    each_seed("cargo test --test proxy", 0..seeds, &WorldConfig::default(), |world| {
        let caller = world.start_engine(EngineConfig::default());
        test(&mut Scene { world, caller });
    });
}

pub struct Scene<'w> {
    pub world: &'w mut World,
    caller: Engine,
}

impl Scene<'_> {
    pub fn caller_host(&self) -> HostId {
        self.caller.host()
    }

    pub fn server(&mut self, service: impl Fn(&Local) -> Router + 'static) -> Engine {
        self.server_with(ConnectionConfig::default(), service)
    }

    pub fn server_with(
        &mut self,
        connection: ConnectionConfig,
        service: impl Fn(&Local) -> Router + 'static,
    ) -> Engine {
        self.world.start_engine(EngineConfig {
            port: Some(PORT),
            connection,
            service: Rc::new(move |local, _| service(local)),
            ..EngineConfig::default()
        })
    }

    /// A proxy before `servers`, connected to those that are there.
    pub fn proxy(&mut self, servers: &[&Engine], config: ProxyConfig) -> Engine {
        let proxy = self.proxy_with(servers, ConnectionConfig::default(), config);
        self.world.run_for(Duration::from_millis(50));
        proxy
    }

    pub fn proxy_with(
        &mut self,
        servers: &[&Engine],
        connection: ConnectionConfig,
        config: ProxyConfig,
    ) -> Engine {
        self.proxy_on(EngineConfig { connection, ..EngineConfig::default() }, servers, config)
    }

    /// A proxy before `servers` on an engine that is configured so.
    pub fn proxy_on(
        &mut self,
        engine: EngineConfig,
        servers: &[&Engine],
        config: ProxyConfig,
    ) -> Engine {
        self.world.run_for(Duration::from_millis(1));
        let endpoints = Endpoints::fixed(of(servers)).expect("there are some");
        self.proxy_over(engine, endpoints, config)
    }

    /// A proxy before `servers` that chooses by `policy`.
    pub fn proxy_by(
        &mut self,
        policy: &'static str,
        servers: &[&Engine],
        config: ProxyConfig,
    ) -> Engine {
        self.world.run_for(Duration::from_millis(1));
        let endpoints = Endpoints::fixed(of(servers)).expect("there are some");
        let shared = move || Shared::new(endpoints.clone(), 1);
        let proxy = self.start_proxy(EngineConfig::default(), policy, config, shared);
        self.world.run_for(Duration::from_millis(50));
        proxy
    }

    /// A proxy before whatever `endpoints` are.
    pub fn proxy_over(
        &mut self,
        engine: EngineConfig,
        endpoints: Endpoints,
        config: ProxyConfig,
    ) -> Engine {
        self.start_proxy(engine, "hist", config, move || Shared::new(endpoints.clone(), 1))
    }

    /// A proxy before `servers`, connected to those that are there, and what it counts.
    pub fn proxy_counted(&mut self, servers: &[&Engine], config: ProxyConfig) -> (Engine, Counted) {
        self.world.run_for(Duration::from_millis(1));
        let shared = Shared::new(Endpoints::fixed(of(servers)).expect("there are some"), 1);
        let counted = Counted(shared.clone());
        let proxy =
            self.start_proxy(EngineConfig::default(), "hist", config, move || shared.clone());
        self.world.run_for(Duration::from_millis(50));
        (proxy, counted)
    }

    fn start_proxy(
        &mut self,
        engine: EngineConfig,
        policy: &'static str,
        config: ProxyConfig,
        shared: impl Fn() -> Shared + 'static,
    ) -> Engine {
        self.world.start_engine(EngineConfig {
            port: Some(PORT),
            service: Rc::new(move |local, _| {
                router(local, config.clone(), by_name(policy).expect("known"), shared())
            }),
            ..engine
        })
    }

    /// Starts work on the callers' host, which goes on while the world does.
    pub fn start<T: Send + 'static, F: Future<Output = T> + 'static, W>(
        &mut self,
        work: W,
    ) -> impl Future<Output = T> + use<T, F, W>
    where
        W: FnOnce(Local) -> F + Send + 'static,
    {
        let caller = self.caller.clone();
        self.start_on(&caller, work)
    }

    /// As [`Scene::start`], on another host.
    pub fn start_on<T: Send + 'static, F: Future<Output = T> + 'static, W>(
        &mut self,
        caller: &Engine,
        work: W,
    ) -> impl Future<Output = T> + use<T, F, W>
    where
        W: FnOnce(Local) -> F + Send + 'static,
    {
        let handle = caller.handle();
        let mut work = Box::pin(async move {
            handle.run(ShardIndex(0), work).await.expect("the callers' shard lives")
        });
        let begun = work.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert!(begun.is_pending(), "the world has not gone on yet");
        work
    }

    /// Lets the world go on until `work` has ended.
    pub fn wait<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        let until = self.world.now() + PATIENCE;
        loop {
            if let Poll::Ready(outcome) =
                work.as_mut().poll(&mut Context::from_waker(Waker::noop()))
            {
                return outcome;
            }
            let goes_on = self.world.step() && self.world.now() < until;
            assert!(goes_on, "waited for something that never happens");
        }
    }

    /// Work on the callers' host, to its end.
    pub fn run<T: Send + 'static, F: Future<Output = T> + 'static>(
        &mut self,
        work: impl FnOnce(Local) -> F + Send + 'static,
    ) -> T {
        let work = self.start(work);
        self.wait(work)
    }
}

/// What a proxy counts. It publishes every 20 ms: let the world go on before a look.
pub struct Counted(Shared);

impl Counted {
    /// What the balancer counted of one server.
    pub fn tally(&self, server: &Engine) -> Tally {
        let name = server.address().expect("it listens").to_string();
        MetricsSnapshot::of(&self.0.evidence).endpoint(&name).expect("it is known").tally
    }

    /// How many attempts at one server ended so, by the page of metrics.
    pub fn attempts(&self, server: &Engine, end: &str) -> u64 {
        let mut page = String::new();
        self.0.metrics.write_prometheus(&mut page).expect("a string takes it all");
        let address = server.address().expect("it listens");
        let series = format!(r#"catena_proxy_attempts_total{{endpoint="{address}",end="{end}"}} "#);
        let figure = page.lines().find_map(|line| line.strip_prefix(&series));
        figure.expect("there is such a series").parse().expect("a number")
    }
}

/// Where they listen.
pub fn of(servers: &[&Engine]) -> impl Iterator<Item = Resolved> {
    servers.iter().map(|server| server.address().expect("it listens").into())
}

pub fn client(local: &Local, address: SocketAddr) -> Client {
    Client::new(local, address, ClientConfig::default())
}

/// Status and payload, whatever they are; other ends by name.
pub fn told(result: Result<catena_engine::Answer, CallError>) -> Result<(Status, Bytes), String> {
    match result {
        Ok(answer) => Ok((Status::OK, answer.payload)),
        Err(CallError::Status { status, payload }) => Ok((status, payload)),
        Err(error) => Err(format!("{error:?}")),
    }
}
