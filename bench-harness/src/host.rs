//! The machine: what it is, which cores and descriptors there are, what a process has spent.

use catena_engine::reactor::epoll::{EpollConfig, EpollDriver};
use catena_engine::reactor::uring::{UringConfig, UringDriver};
use catena_engine::server::DriverChoice;
use catena_engine::time::{Duration, Instant};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;
use std::fs;
use std::io;

/// What a reader of figures has to know about the machine.
#[derive(Clone, Serialize, Debug)]
pub struct HostFacts {
    /// Release of the kernel.
    pub kernel: String,
    /// Model of the CPU, as the kernel says it.
    pub cpu: String,
    /// Cores that this process may use.
    pub cores: Vec<usize>,
    /// It runs under a hypervisor: its cores may be taken away at any time.
    pub is_virtual_machine: bool,
    /// How the cores choose their clock, where there is a choice.
    pub governor: Option<String>,
    /// `None`: io_uring can be used. Otherwise why it cannot.
    pub io_uring_refused: Option<String>,
    /// Files, sockets included, that a process may open.
    pub open_files_max: u64,
}

impl HostFacts {
    /// Asks the kernel.
    pub fn gather() -> Self {
        let cpuinfo = read("/proc/cpuinfo");
        let line = |key: &str| {
            let mut lines = cpuinfo.lines().filter(|line| line.starts_with(key));
            lines.next().and_then(|line| line.split_once(':')).map(|(_, value)| value.trim())
        };
        let flags = line("flags").unwrap_or_default();
        let governor = read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor");
        HostFacts {
            kernel: read("/proc/sys/kernel/osrelease"),
            cpu: line("model name").unwrap_or(std::env::consts::ARCH).to_owned(),
            cores: available_cores(),
            is_virtual_machine: flags.split(' ').any(|flag| flag == "hypervisor"),
            governor: (!governor.is_empty()).then_some(governor),
            io_uring_refused: io_uring_refused(),
            open_files_max: open_files_max(),
        }
    }

    /// Two lines for people.
    pub fn lines(&self) -> Vec<String> {
        let kind = if self.is_virtual_machine { ", virtual machine" } else { "" };
        let governor = self.governor.as_ref().map(|name| format!(", governor {name}"));
        let cores = self.cores.len();
        let plural = if cores == 1 { "" } else { "s" };
        vec![
            format!("Linux {}, {}{kind}", self.kernel, self.cpu),
            format!("{cores} core{plural}{}", governor.unwrap_or_default()),
        ]
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

fn io_uring_refused() -> Option<String> {
    let config = UringConfig { sockets_max: 1, receive_buffers: 1, ..UringConfig::default() };
    UringDriver::new(&config).err().map(|error| error.to_string())
}

/// The cores that this process may use, in order.
pub fn available_cores() -> Vec<usize> {
    let allowed = sched_getaffinity(None).unwrap_or_default();
    (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core)).collect()
}

/// True if the two are one physical core: what one does slows the other down.
pub fn are_siblings(one: usize, other: usize) -> bool {
    let path = format!("/sys/devices/system/cpu/cpu{one}/topology/thread_siblings_list");
    let siblings = read(&path).parse::<catena_engine::Cores>();
    matches!(siblings, Ok(catena_engine::Cores::List(cores)) if cores.contains(&other))
}

/// Binds the calling thread to one core.
///
/// # Errors
/// If the process may not use that core.
pub fn pin(core: usize) -> io::Result<()> {
    let mut only = CpuSet::new();
    only.set(core);
    Ok(sched_setaffinity(None, &only)?)
}

/// Lets the calling thread be woken when it asked to be, not up to 50 µs later.
pub fn wake_on_time() {
    // It makes late sends fewer; where it is not possible they are counted.
    let _best_effort = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1));
}

/// Raises the limit on open files to what the system allows this process.
pub fn raise_open_files_max() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    // Who needs more than there is says so, with the number.
    let _best_effort = setrlimit(Resource::Nofile, raised);
}

/// Files, sockets included, that this process may open.
pub fn open_files_max() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// The clock of the drivers.
pub fn now() -> Instant {
    let stamp = clock_gettime(ClockId::Boottime);
    Instant::from_nanos(stamp.tv_sec as u64 * 1_000_000_000 + stamp.tv_nsec as u64)
}

/// What the kernel's scheduler has accounted for.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Spent {
    /// On a CPU, user and system.
    pub cpu: Duration,
    /// Ready to run, and another process had the CPU.
    pub waited: Duration,
}

impl Spent {
    /// From `earlier` to `self`.
    pub fn since(self, earlier: Spent) -> Spent {
        Spent {
            cpu: self.cpu.saturating_sub(earlier.cpu),
            waited: self.waited.saturating_sub(earlier.waited),
        }
    }

    /// Of another process since it began, all threads together. A thread that runs at this moment is
    /// up to date to the last tick of its CPU (some ms), one that sleeps to the nanosecond.
    ///
    /// # Errors
    /// If there is no such process, or the kernel keeps no such account.
    pub fn of_process(pid: u32) -> io::Result<Spent> {
        let mut total = Spent::default();
        for task in fs::read_dir(format!("/proc/{pid}/task"))? {
            let spent = Spent::parse(&fs::read_to_string(task?.path().join("schedstat"))?)?;
            total.cpu += spent.cpu;
            total.waited += spent.waited;
        }
        Ok(total)
    }

    /// Of the calling thread, up to date.
    pub fn of_this_thread() -> Spent {
        // Where the kernel keeps no account of waits, none are told.
        let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
        let waited = Spent::parse(&text).unwrap_or_default().waited;
        let cpu = clock_gettime(ClockId::ThreadCPUTime);
        Spent { cpu: Duration::new(cpu.tv_sec as u64, cpu.tv_nsec as u32), waited }
    }

    /// `schedstat`: nanoseconds run, nanoseconds waited, number of slices.
    fn parse(text: &str) -> io::Result<Spent> {
        let mut numbers = text.split(' ').map_while(|word| word.parse::<u64>().ok());
        match (numbers.next(), numbers.next()) {
            (Some(cpu), Some(waited)) => {
                Ok(Spent { cpu: Duration::from_nanos(cpu), waited: Duration::from_nanos(waited) })
            }
            _ => Err(io::Error::other("schedstat does not begin with two numbers")),
        }
    }
}

/// Memory of another process that is really there, in bytes.
///
/// # Errors
/// If there is no such process.
pub fn process_memory_bytes(pid: u32) -> io::Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/statm"))?;
    let pages = text.split(' ').nth(1).and_then(|word| word.parse::<u64>().ok());
    let pages = pages.ok_or_else(|| io::Error::other("statm has no second number"))?;
    Ok(pages * rustix::param::page_size() as u64)
}

/// A driver of either kind.
#[derive(Debug)]
pub enum AnyDriver {
    /// io_uring.
    Uring(Box<UringDriver>),
    /// epoll.
    Epoll(Box<EpollDriver>),
}

impl AnyDriver {
    /// The driver that was asked for, on the calling thread, for so many sockets.
    ///
    /// # Errors
    /// Why it cannot be had.
    pub fn open(choice: DriverChoice, sockets: u32) -> Result<Self, String> {
        if choice != DriverChoice::Epoll {
            let config = UringConfig { sockets_max: sockets, ..UringConfig::default() };
            match UringDriver::new(&config) {
                Ok(driver) => return Ok(AnyDriver::Uring(Box::new(driver))),
                Err(error) if choice == DriverChoice::Uring => return Err(error.to_string()),
                Err(_refused) => {}
            }
        }
        let config = EpollConfig { sockets_max: sockets, ..EpollConfig::default() };
        let driver = EpollDriver::new(&config).map_err(|error| error.to_string())?;
        Ok(AnyDriver::Epoll(Box::new(driver)))
    }

    /// What it is, in a word.
    pub fn name(&self) -> &'static str {
        match self {
            AnyDriver::Uring(_) => "io_uring",
            AnyDriver::Epoll(_) => "epoll",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_tells_what_was_spent() {
        let pid = std::process::id();
        let before = Spent::of_process(pid).expect("this process is there");
        let thread_before = Spent::of_this_thread();
        let mut number = 1u64;
        let until = now() + Duration::from_millis(50);
        while now() < until {
            number = std::hint::black_box(number.wrapping_mul(3));
        }
        let spent = Spent::of_process(pid).expect("it is still there").since(before);
        assert!(spent.cpu > Duration::ZERO);
        assert!(Spent::of_this_thread().since(thread_before).cpu > Duration::ZERO);
        assert!(process_memory_bytes(pid).expect("it is there") > 100_000);
        assert!(Spent::of_process(u32::MAX).is_err());
        assert!(Spent::parse("12").is_err());
    }

    #[test]
    fn facts_are_found() {
        let facts = HostFacts::gather();
        assert!(!facts.kernel.is_empty() && !facts.cpu.is_empty() && !facts.cores.is_empty());
        let core = facts.cores[0];
        let topology = format!("/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list");
        assert_eq!(are_siblings(core, core), fs::exists(topology).is_ok_and(|exists| exists));
    }
}
