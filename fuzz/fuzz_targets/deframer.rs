//! Any bytes, cut anywhere, are the same frames or the same error.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| catena_fuzz::deframer::run(data));
