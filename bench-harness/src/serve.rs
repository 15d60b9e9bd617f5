//! `serve`: an engine with methods that are good to measure.
//!
//! | method | payload | does |
//! |---|---|---|
//! | echo | anything | sends it back |
//! | sink | anything | answers with nothing |
//! | source | u32, little-endian: bytes | answers with so many |
//! | spin | u32, little-endian: µs | keeps its core busy for so long; the whole shard waits |
//! | sleep | u32, little-endian: µs | answers after so long; nobody else waits |
//! | work | anything | answers with nothing after a drawn time in one of some slots: [`crate::work`] |
//! | fault | four u32 | sets what is wrong with `work`, where `--faults` allows it |

use crate::Failure;
use crate::cli::ServeArgs;
use crate::method::{ECHO, FAULT, SINK, SLEEP, SOURCE, SPIN, WORK};
use crate::publish::print;
use crate::table::plural;
use crate::work::{Faults, Service, Worker};
use catena_cli::admin::{self, Admin, Pages};
use catena_engine::config::ConnectionConfig;
use catena_engine::metrics::{MetricsSnapshot, ShardMetrics};
use catena_engine::rpc::admission::AdmissionConfig;
use catena_engine::service::{Failure as Refusal, OwnedRequest};
use catena_engine::time::Duration;
use catena_engine::{Answered, Local, Reply, Request, Router, Server, Status};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::io::Read;
use std::net::SocketAddr;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, OnceLock};

/// The most bytes that `source` answers with: what fits into a frame of any client's defaults.
const SOURCE_BYTES_MAX: u32 = 16 << 20;
/// The longest time that `spin` keeps a core busy.
const SPIN_MAX: Duration = Duration::from_secs(1);

/// The line that tells where the server is, for programs that started it.
pub const LISTENING_ON: &str = "listening on ";

/// Counters of all shards.
type Shards = Vec<Arc<ShardMetrics>>;

/// Serves until it is told to end.
pub fn serve(args: &ServeArgs) -> Result<(), Failure> {
    let (end, ended) = channel();
    let shards = Arc::new(OnceLock::new());
    end_on_signal(end.clone(), shards.clone())?;
    if args.until_stdin_ends {
        end_with_stdin(end.clone());
    }
    let defaults = AdmissionConfig::default();
    let admission = AdmissionConfig {
        in_flight_max: args.max_requests,
        queue_delay_target: args.queue_delay_target.unwrap_or(defaults.queue_delay_target),
        ..defaults
    };
    let connection =
        ConnectionConfig { in_flight_max: args.max_in_flight, ..ConnectionConfig::default() };
    let admin = args.metrics.map(|at| Admin::listen(at, "--metrics")).transpose()?;
    let service = Service { time: args.service, slots: args.slots };
    let faults = Faults::new(args.faults);
    let mut server = Server::builder();
    if let Some(seed) = args.seed {
        server = server.seed(seed);
    }
    let server = server
        .listen(SocketAddr::new(args.host, args.port))
        .cores(args.cores.clone())
        .driver(args.driver)
        .poll(args.poll)
        .gather(args.gather)
        .connections_max(args.max_connections)
        .connection(connection)
        .admission(admission)
        .service(move |local| methods(local, service, &faults))
        .start()?;
    // What the start logs is in the notes, too, and once is enough: the log begins here.
    args.log.install();
    let shards = shards.get_or_init(|| server.shard_metrics());
    let mut lines = server.description().to_vec();
    for note in server.notes() {
        eprintln!("note: {note}");
        lines.iter_mut().for_each(|line| *line = line.replace(&format!("; {note}"), ""));
    }
    if let Some(admin) = admin {
        lines.push(format!("metrics on http://{}{}", admin.address(), admin::METRICS));
        let shards = shards.clone();
        admin.serve(Pages::default().and(admin::METRICS, move || Ok(page_of(&shards))))?;
    }
    let address = server.address().expect("it was told to listen");
    announce(&lines, address)?;
    end_with_a_shard(&server, end);
    // The senders live as long as their threads, which end with the process.
    let _told = ended.recv();
    Ok(server.drain()?)
}

/// Ends the wait when a shard has failed: the others drain then, and there is nothing left to serve.
fn end_with_a_shard(server: &Server, end: Sender<()>) {
    let watch = server.watch();
    std::thread::spawn(move || {
        if let Err(failure) = watch.wait() {
            eprintln!("{failure}; the other shards drain");
            let _gone = end.send(());
        }
    });
}

fn page_of(shards: &Shards) -> String {
    let mut text = String::new();
    MetricsSnapshot::of(shards)
        .write_prometheus(&mut text)
        .expect("writing to a string cannot fail");
    text
}

/// Prints what a starter waits for.
pub fn announce(lines: &[String], address: SocketAddr) -> Result<(), Failure> {
    let mut text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    text.push_str(&format!("{LISTENING_ON}{address}\n"));
    print(&text)
}

/// Ends the wait with the first signal, the process with the second, which says what is lost by that.
fn end_on_signal(end: Sender<()>, shards: Arc<OnceLock<Shards>>) -> Result<(), Failure> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        let mut pending = signals.forever();
        if pending.next().is_some() {
            eprintln!("draining; once more ends at once");
            let _gone = end.send(());
        }
        if pending.next().is_some() {
            let shards = shards.get().map_or(&[][..], Vec::as_slice);
            eprintln!("{}", dropped(&MetricsSnapshot::of(shards)));
            std::process::exit(1);
        }
    })?;
    Ok(())
}

/// From counters, which are up to date; gauges may be some turns old. Requests whose connection broke
/// off are in no counter of their own, so that some of these may have been lost before.
fn dropped(counted: &MetricsSnapshot) -> String {
    let answered = counted.responses_ok
        + counted.responses_not_executed
        + counted.responses_may_have_executed
        + counted.responses_application;
    let in_flight = counted.requests.saturating_sub(answered + counted.cancelled);
    let requests = plural(in_flight, "request");
    let connections = plural(counted.accepted.saturating_sub(counted.closed), "connection");
    format!("ended at once: {connections} dropped, and {requests} in flight at most")
}

/// Ends the wait when whoever started this process closes its end of the pipe, or is gone.
fn end_with_stdin(end: Sender<()>) {
    std::thread::spawn(move || {
        wait_for_end_of_stdin();
        let _gone = end.send(());
    });
}

/// Returns when standard input has ended.
pub fn wait_for_end_of_stdin() {
    // What comes is of no interest, and an error is an end as well.
    let mut bytes = [0; 64];
    while matches!(std::io::stdin().read(&mut bytes), Ok(1..)) {}
}

fn methods(local: &Local, service: Service, faults: &Faults) -> Router {
    let worker = Worker::new(local, service, faults.clone());
    let faults = faults.clone();
    Router::new()
        .method(ECHO, |request, reply| reply.ok(request.payload()))
        .method(SINK, |_, reply| reply.ok(b""))
        .method(SOURCE, source)
        .method(SPIN, spin)
        .method_async(SLEEP, sleep)
        .method_async(WORK, move |request| worker.clone().work(request))
        .method(FAULT, move |request, reply| match faults.set(request.payload()) {
            Ok(()) => reply.ok(b""),
            Err((status, why)) => reply.fail(status, why),
        })
}

fn source(request: Request<'_>, reply: Reply<'_>) -> Answered {
    match word(request.payload()) {
        Some(count) if count <= SOURCE_BYTES_MAX => reply.write(|writer| {
            writer.fill(0, count as usize);
            Status::OK
        }),
        Some(_) => reply.fail(Status::MALFORMED, "source gives 16 MiB at most"),
        None => reply.fail(Status::MALFORMED, "source takes 4 bytes: how many to answer with"),
    }
}

fn spin(request: Request<'_>, reply: Reply<'_>) -> Answered {
    let length = word(request.payload()).map(|micros| Duration::from_micros(micros.into()));
    match length {
        Some(length) if length <= SPIN_MAX => {
            let began_at = std::time::Instant::now();
            while began_at.elapsed() < length {
                std::hint::spin_loop();
            }
            reply.ok(b"")
        }
        Some(_) => reply.fail(Status::MALFORMED, "spin takes a second at most"),
        None => reply.fail(Status::MALFORMED, "spin takes 4 bytes: microseconds"),
    }
}

async fn sleep(request: OwnedRequest) -> Result<&'static [u8; 0], Refusal> {
    let Some(micros) = word(&request.payload) else {
        return Err(Refusal::new(Status::MALFORMED, "sleep takes 4 bytes: microseconds"));
    };
    request.local.sleep(Duration::from_micros(micros.into())).await;
    Ok(b"")
}

fn word(payload: &[u8]) -> Option<u32> {
    Some(u32::from_le_bytes(payload.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use catena_engine::Cores;
    use catena_engine::shard_index::ShardIndex;
    use std::pin::pin;
    use std::sync::Arc;
    use std::task::{Context, Wake, Waker};

    struct Panicking;

    impl Wake for Panicking {
        fn wake(self: Arc<Self>) {
            panic!("as it was asked to");
        }
    }

    /// One shard calls a foreign waker, which panics: serving ends, with an error that names the shard.
    #[test]
    fn serving_ends_with_a_shard() {
        let server = Server::builder().cores(Cores::Unpinned(2)).start().expect("two threads");
        let (end, ended) = channel();
        end_with_a_shard(&server, end);
        let handle = server.handle();
        let kill = pin!(handle.run(ShardIndex(1), async |local| {
            let mut sleep = Box::pin(local.sleep(Duration::from_nanos(1)));
            let waker = Waker::from(Arc::new(Panicking));
            assert!(sleep.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
            std::future::pending::<()>().await;
        }));
        assert!(kill.poll(&mut Context::from_waker(Waker::noop())).is_pending());
        ended.recv().expect("whoever waits is told");
        let failure = server.drain().expect_err("a shard has failed");
        assert_eq!(failure.to_string(), "shard 1 panicked: as it was asked to");
    }
}
