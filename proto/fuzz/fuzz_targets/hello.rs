//! Runs [`edgeway_proto_fuzz::hello`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| edgeway_proto_fuzz::hello(data));
