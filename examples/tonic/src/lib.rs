//! One tonic client over three servers, of which one is slow and one fails from the middle on: round robin,
//! tower's own power of two choices fed with our cost, and our balancing service.
//!
//! The service that is called is gRPC's health check, whose messages `tonic-health` brings along: nothing
//! has to be generated.

use catena_balancer::balancer::BalancerConfig;
use catena_balancer::health::HealthConfig;
use catena_balancer::policy;
use catena_balancer::tower::{Balance, BalanceConfig, Class, HistogramDiscover};
use futures_util::Stream;
use futures_util::future::join_all;
use futures_util::stream;
use std::convert::Infallible;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::body::Body;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status};
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use tower::balance::p2c;
use tower::buffer::Buffer;
use tower::discover::Change;
use tower::{BoxError, Service};

/// How many callers there are, each with one call at a time.
const CALLERS: usize = 8;
/// How long the servers take.
const LATENCIES: [Duration; 3] =
    [Duration::from_millis(2), Duration::from_millis(40), Duration::from_millis(2)];
/// The one that fails from the middle on.
const FAILING: usize = 2;

/// Who chooses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Contender {
    /// Each in its turn, and nobody is ejected.
    RoundRobin,
    /// The cheaper of two, by `tower::balance::p2c` and our cost.
    PowerOfTwo,
    /// Our policy, with ejection and trials.
    Ours,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Report {
    /// Who chose.
    pub contender: Contender,
    /// Calls that each server got.
    pub calls: [usize; 3],
    /// Calls that failed.
    pub failed: usize,
    /// From the call to its answer, in order.
    pub latencies: Vec<Duration>,
}

impl Report {
    /// The latency that a share of all calls did not exceed.
    pub fn quantile(&self, share: f64) -> Duration {
        let rank = (share * self.latencies.len() as f64).ceil() as usize;
        self.latencies[rank.clamp(1, self.latencies.len()) - 1]
    }

    /// The share of all calls that a server got.
    pub fn share(&self, server: usize) -> f64 {
        self.calls[server] as f64 / self.calls.iter().sum::<usize>() as f64
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = |server| self.share(server) * 100.0;
        let millis = |share| self.quantile(share).as_secs_f64() * 1e3;
        write!(
            f,
            "{:<12} {:>6.1} ms {:>6.1} ms",
            format!("{:?}", self.contender),
            millis(0.5),
            millis(0.99)
        )?;
        write!(f, " {:>8}", self.failed)?;
        write!(f, " {:>8.1} % {:>8.1} % {:>8.1} %", percent(0), percent(1), percent(2))
    }
}

/// The head of a table of reports.
pub fn table_head() -> String {
    format!(
        "{:<12} {:>9} {:>9} {:>8} {:>10} {:>10} {:>10}",
        "", "p50", "p99", "failed", "steady", "slow", "failing"
    )
}

/// `calls` calls by each contender, to three servers of its own.
///
/// # Errors
/// If a server cannot be started.
pub async fn compare(calls: usize) -> Result<Vec<Report>, BoxError> {
    let mut reports = Vec::new();
    for contender in [Contender::RoundRobin, Contender::PowerOfTwo, Contender::Ours] {
        reports.push(run(contender, calls).await?);
    }
    Ok(reports)
}

async fn run(contender: Contender, calls: usize) -> Result<Report, BoxError> {
    let (mut replicas, mut channels) = (Vec::new(), Vec::new());
    for latency in LATENCIES {
        let (replica, address) = replica(latency).await?;
        let endpoint = Endpoint::from_shared(format!("http://{address}"))?;
        channels.push((address, endpoint.timeout(Duration::from_secs(5)).connect_lazy()));
        replicas.push(replica);
    }
    let will_fail = replicas[FAILING].clone();
    let discover = discovered(channels);
    let (failed, latencies) = match contender {
        Contender::RoundRobin => {
            load(Balance::new(discover, choose("rr"), nobody_ejected(), class_of), calls, will_fail)
                .await
        }
        Contender::PowerOfTwo => {
            let discover = HistogramDiscover::new(discover, BalanceConfig::default(), class_of);
            load(p2c::Balance::new(discover), calls, will_fail).await
        }
        Contender::Ours => {
            load(
                Balance::new(discover, choose("hist"), BalanceConfig::default(), class_of),
                calls,
                will_fail,
            )
            .await
        }
    };
    let served = |n: usize| replicas[n].calls.load(Ordering::Relaxed);
    Ok(Report { contender, calls: [0, 1, 2].map(served), failed, latencies })
}

fn choose(policy: &str) -> Box<dyn policy::Policy> {
    policy::by_name(policy).expect("there is such a policy")
}

/// The balancer's policy alone, as most round robins are.
fn nobody_ejected() -> BalanceConfig {
    let health = HealthConfig {
        failures_in_row: 1_000_000,
        failure_share_above_peers: 1.0,
        slow_in_row: 1_000_000,
        slow_factor: 1e6,
        ..HealthConfig::default()
    };
    let balancer = BalancerConfig { health, ..BalancerConfig::default() };
    BalanceConfig { balancer, ..BalanceConfig::default() }
}

/// The endpoints as tower wants to be told of them. These never change; those of a resolver would.
fn discovered(
    channels: Vec<(SocketAddr, Channel)>,
) -> impl Stream<Item = Result<Change<SocketAddr, Channel>, Infallible>> + Unpin + Send {
    stream::iter(
        channels.into_iter().map(|(address, channel)| Ok(Change::Insert(address, channel))),
    )
}

/// How an answer counts. tonic sends the status of a call that failed in the head of its answer.
fn class_of(result: Result<&http::Response<Body>, &tonic::transport::Error>) -> Class {
    let Ok(response) = result else { return Class::NotExecuted };
    let status = response.headers().get("grpc-status").and_then(|status| status.to_str().ok());
    status.and_then(|status| status.parse().ok()).map_or(Class::Answered, Class::of_grpc)
}

/// Calls from several places at once; one server fails from the middle on.
async fn load<S>(balance: S, calls: usize, will_fail: Arc<Replica>) -> (usize, Vec<Duration>)
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = BoxError>
        + Send
        + 'static,
    S::Future: Send,
{
    let client = HealthClient::new(Buffer::new(balance, CALLERS));
    let begun = Arc::new(AtomicUsize::new(0));
    let callers = (0..CALLERS).map(|_| {
        let (mut client, begun, will_fail) = (client.clone(), begun.clone(), will_fail.clone());
        tokio::spawn(async move {
            let (mut failed, mut latencies) = (0, Vec::new());
            loop {
                let number = begun.fetch_add(1, Ordering::Relaxed);
                if number >= calls {
                    return (failed, latencies);
                }
                if number == calls / 2 {
                    will_fail.fails.store(true, Ordering::Relaxed);
                }
                let began = Instant::now();
                let answer = client.check(HealthCheckRequest { service: String::new() }).await;
                latencies.push(began.elapsed());
                failed += usize::from(answer.is_err());
            }
        })
    });
    let (mut failed, mut latencies) = (0, Vec::new());
    for caller in join_all(callers).await {
        let (failed_here, latencies_here) = caller.expect("a caller does not panic");
        failed += failed_here;
        latencies.extend(latencies_here);
    }
    latencies.sort_unstable();
    (failed, latencies)
}

/// A server's state.
struct Replica {
    latency: Duration,
    fails: AtomicBool,
    calls: AtomicUsize,
}

/// Starts one on a port of the system's choice. It ends with the runtime.
async fn replica(latency: Duration) -> Result<(Arc<Replica>, SocketAddr), BoxError> {
    let replica =
        Arc::new(Replica { latency, fails: AtomicBool::new(false), calls: AtomicUsize::new(0) });
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let service = HealthServer::from_arc(Arc::new(Answering(replica.clone())));
    let server = Server::builder().add_service(service);
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    Ok((replica, address))
}

struct Answering(Arc<Replica>);

#[tonic::async_trait]
impl Health for Answering {
    async fn check(
        &self,
        _: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        self.0.calls.fetch_add(1, Ordering::Relaxed);
        // Failing is fast, as it often is: what makes it attractive to whoever looks at latency alone.
        if self.0.fails.load(Ordering::Relaxed) {
            return Err(Status::internal("it fails from the middle on"));
        }
        tokio::time::sleep(self.0.latency).await;
        Ok(Response::new(HealthCheckResponse::default()))
    }

    type WatchStream = stream::Empty<Result<HealthCheckResponse, Status>>;

    async fn watch(
        &self,
        _: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented("only checks are answered here"))
    }
}
