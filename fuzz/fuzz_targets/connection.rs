//! Whatever a peer sends and an owner does, a connection keeps its promises and ends.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| catena_fuzz::connection::run(data));
