//! Runs [`edgeway_proto_fuzz::close_reason`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| edgeway_proto_fuzz::close_reason(data));
