//! A client process for tests: does one thing against a daemon and says how it went.
fn main() {}
