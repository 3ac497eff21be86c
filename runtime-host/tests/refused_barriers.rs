//! A process that enters a sandbox after its host has started. The test is alone in its process, all of whose threads
//! are in the sandbox then.

use std::thread;
use std::time::Duration;

use chimaera_runtime::{Config, Host};
use chimaera_testing::SystemCallFilter;
use chimaera_testing::raw_client::{RawClient, ping, status};

#[test]
fn a_host_without_its_barrier_serves_on() {
    let host = Host::start(&Config {
        worker_count: 1,
        ..Config::default()
    })
    .expect("the host starts");
    let mut client = RawClient::new(host.connect().expect("connects"));
    assert_eq!(status(&client.call(&ping())), None);
    let filtered = SystemCallFilter::refusing_barriers().apply_to_process();
    filtered.expect("the system takes the filter");
    for _ in 0..3 {
        // Longer than a quiet lane is polled.
        thread::sleep(Duration::from_millis(20));
        assert_eq!(status(&client.call(&ping())), None);
    }
}
