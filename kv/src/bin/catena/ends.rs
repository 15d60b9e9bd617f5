//! What ends a server: SIGTERM and ^C, of which the first asks for an end in order and the second ends; and
//! a shard that has failed.

use crate::Failure;
use catena_engine::Server;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::sync::mpsc::Sender;

/// Ends the wait with the first signal, the process with the second.
///
/// # Errors
/// If signals cannot be caught.
pub fn end_on_signal(end: Sender<()>) -> Result<(), Failure> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        let mut pending = signals.forever();
        if pending.next().is_some() {
            eprintln!("draining; once more ends at once");
            let _gone = end.send(());
        }
        if pending.next().is_some() {
            eprintln!("ended at once: what was under way is lost");
            std::process::exit(1);
        }
    })?;
    Ok(())
}

/// Ends the wait when a shard has failed: the others drain then, and there is nothing left to serve.
pub fn end_with_a_shard(server: &Server, end: Sender<()>) {
    let watch = server.watch();
    std::thread::spawn(move || {
        if let Err(failure) = watch.wait() {
            eprintln!("{failure}; the other shards drain");
            let _gone = end.send(());
        }
    });
}
