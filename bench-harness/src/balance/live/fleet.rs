//! Servers in processes of their own, and what faults do to them: signals, and what a `serve --faults`
//! can be told.

use super::Home;
use crate::Failure;
use crate::balance::faults::Condition;
use crate::child::Child;
use crate::method::FAULT;
use crate::work::Setting;
use catena_engine::MethodId;
use catena_engine::client::{Client, ClientConfig};
use catena_engine::time::Duration;
use rustix::process::Signal;
use std::net::SocketAddr;
use std::thread;
use std::time::Instant;

/// How long a server that was told to end may take to answer what it was working on.
const DRAIN_PATIENCE: Duration = Duration::from_secs(10);
/// How long it may take to hear of a fault, once. A server that runs answers within a turn.
const TELL_TIMEOUT: Duration = Duration::from_secs(2);
/// How often it is told before that is given up.
const TELL_ATTEMPTS: u32 = 3;

/// The servers of one run. Those that run are killed when it is dropped.
#[derive(Debug)]
pub struct Fleet {
    replicas: Vec<Replica>,
}

#[derive(Debug)]
struct Replica {
    /// Its command line, without the port.
    args: Vec<String>,
    address: SocketAddr,
    state: State,
    /// What it was told last.
    told: Setting,
}

#[derive(Debug)]
enum State {
    Running(Child),
    Stopped(Child),
    Draining(Child),
    Gone,
}

impl Fleet {
    /// Starts a server for each of the command lines, on ports of the system's choice.
    ///
    /// # Errors
    /// If one of them cannot be started.
    pub fn start(command_lines: &[Vec<String>]) -> Result<Fleet, Failure> {
        let mut fleet = Fleet { replicas: Vec::new() };
        for args in command_lines {
            let child = start(args, 0)?;
            let address = child.address();
            let (state, told) = (State::Running(child), Setting::WELL);
            fleet.replicas.push(Replica { args: args.clone(), address, state, told });
        }
        Ok(fleet)
    }

    /// Where they listen, also while they do not.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.replicas.iter().map(|replica| replica.address).collect()
    }

    /// Makes of a server what the faults say. `home` is where it is told from.
    ///
    /// # Errors
    /// If it does not end, does not start again, or does not listen to what it is told.
    pub fn apply(
        &mut self,
        server: u32,
        condition: &Condition,
        home: &Home,
    ) -> Result<(), Failure> {
        let replica = &mut self.replicas[server as usize];
        replica
            .apply(condition, home)
            .map_err(|error| format!("server {server} at {}: {error}", replica.address).into())
    }

    /// A server that has ended though nobody told it to.
    pub fn lost(&mut self) -> Option<u32> {
        let is_lost = |replica: &mut Replica| match &mut replica.state {
            State::Running(child) | State::Stopped(child) => child.has_ended(),
            State::Draining(_) | State::Gone => false,
        };
        self.replicas.iter_mut().position(is_lost).map(|index| index as u32)
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        // All at once: nothing of what they still hold is of any interest.
        for replica in &mut self.replicas {
            if let State::Running(child) | State::Stopped(child) | State::Draining(child) =
                &mut replica.state
            {
                child.kill();
            }
        }
    }
}

impl Replica {
    fn apply(&mut self, condition: &Condition, home: &Home) -> Result<(), Failure> {
        self.state = match std::mem::replace(&mut self.state, State::Gone) {
            State::Running(mut child) | State::Stopped(mut child) if condition.down => {
                child.kill();
                State::Gone
            }
            State::Running(child) if condition.drain => {
                child.signal(Signal::TERM);
                State::Draining(child)
            }
            State::Running(child) if condition.speed == 0.0 => {
                child.signal(Signal::STOP);
                State::Stopped(child)
            }
            State::Stopped(child) if condition.speed > 0.0 => {
                child.signal(Signal::CONT);
                State::Running(child)
            }
            State::Draining(child) if !condition.drain && !condition.down => {
                wait_for_end(child)?;
                self.start_again()?
            }
            State::Gone if !condition.drain && !condition.down => self.start_again()?,
            state => state,
        };
        let setting = setting_of(condition);
        if matches!(self.state, State::Running(_)) && setting != self.told {
            tell(home, self.address, setting)?;
            self.told = setting;
        }
        Ok(())
    }

    /// On the same port.
    fn start_again(&mut self) -> Result<State, Failure> {
        self.told = Setting::WELL;
        Ok(State::Running(start(&self.args, self.address.port())?))
    }
}

fn start(args: &[String], port: u16) -> Result<Child, Failure> {
    let place = ["serve".to_owned(), "--port".to_owned(), port.to_string()];
    Child::start(&[&place, args].concat())
}

fn wait_for_end(mut child: Child) -> Result<(), Failure> {
    let give_up = Instant::now() + DRAIN_PATIENCE;
    while !child.has_ended() {
        if Instant::now() >= give_up {
            let seconds = DRAIN_PATIENCE.as_secs();
            return Err(format!("was told to end, and has not within {seconds} s").into());
        }
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// What a server is to be told of its condition; it cannot be told to stand still.
fn setting_of(condition: &Condition) -> Setting {
    let micros = |time: Duration| u32::try_from(time.as_micros()).unwrap_or(Setting::NOT - 1);
    let or_not = |time: Option<Duration>| time.map_or(Setting::NOT, micros);
    let slow = if condition.speed > 0.0 { 1.0 / condition.speed } else { 1.0 };
    Setting {
        slow_thousandths: (slow * 1e3).round() as u32,
        add_us: micros(condition.add),
        latency_us: or_not(condition.latency),
        fail_us: or_not(condition.fail),
    }
}

/// Each time on a connection of its own: the one before may have died with a former process.
fn tell(home: &Home, address: SocketAddr, setting: Setting) -> Result<(), Failure> {
    let mut attempt = 1;
    loop {
        let told = home.run(move |local| async move {
            let client = Client::new(&local, address, ClientConfig::default());
            let call = client.call(MethodId::of(FAULT), setting.encode());
            call.timeout(TELL_TIMEOUT).await
        })?;
        match told {
            Ok(_) => return Ok(()),
            Err(error) if attempt == TELL_ATTEMPTS => {
                return Err(format!("cannot be told of a fault: {error}").into());
            }
            Err(_) => attempt += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_is_told_in_the_units_of_the_server() {
        let ms = Duration::from_millis;
        assert_eq!(setting_of(&Condition::WELL), Setting::WELL);
        let slow = Condition { speed: 0.1, add: ms(5), ..Condition::WELL };
        let expected = Setting { slow_thousandths: 10_000, add_us: 5_000, ..Setting::WELL };
        assert_eq!(setting_of(&slow), expected);
        let stuck = Condition { latency: Some(ms(2_000)), fail: Some(ms(0)), ..Condition::WELL };
        let expected = Setting { latency_us: 2_000_000, fail_us: 0, ..Setting::WELL };
        assert_eq!(setting_of(&stuck), expected);
        // To stand still is what a signal is for.
        let paused = Condition { speed: 0.0, ..Condition::WELL };
        assert_eq!(setting_of(&paused), Setting::WELL);
    }
}
