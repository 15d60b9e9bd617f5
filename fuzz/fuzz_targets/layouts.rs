//! Bytes that can be read as a layout of the store's are the same when they are written again.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| catena_fuzz::layouts::run(data));
