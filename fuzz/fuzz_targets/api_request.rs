//! Bodies of `POST /v1/networks/create` and `POST /v1/endpoints`.
#![no_main]

libfuzzer_sys::fuzz_target!(|body: &[u8]| netd::fuzz::api_request(body));
