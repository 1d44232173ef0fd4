//! Runs [`edgeway_proto_fuzz::drain`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| edgeway_proto_fuzz::drain(data));
