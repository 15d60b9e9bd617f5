//! Any bytes, cut anywhere, are the same commands or the same error.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| catena_fuzz::resp::run(data));
