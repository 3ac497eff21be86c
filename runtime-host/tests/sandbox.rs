//! A process that closes a sandbox around itself after its host began. Alone in its process, whose
//! threads all are in the sandbox then.

use std::thread;
use std::time::Duration;

use chimaera_runtime::{Config, Host};

mod support;

use support::{Client, ping, status};

/// Has the system refuse all threads barriers.
fn refuse_barriers() {
    const EXPEDITED: u32 = 1 << 1;
    let step = |code: u32, k: u32, jt: u8, jf: u8| libc::sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    };
    let (load, equal) = (
        libc::BPF_LD | libc::BPF_W | libc::BPF_ABS,
        libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
    );
    let give = libc::BPF_RET | libc::BPF_K;
    // The call's number is at 0, its first argument at 16.
    let mut steps = [
        step(load, 0, 0, 0),
        step(equal, libc::SYS_membarrier as u32, 0, 3),
        step(load, 16, 0, 0),
        step(equal, EXPEDITED, 0, 1),
        step(give, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32, 0, 0),
        step(give, libc::SECCOMP_RET_ALLOW, 0, 0),
    ];
    let program = libc::sock_fprog {
        len: steps.len() as u16,
        filter: steps.as_mut_ptr(),
    };
    // SAFETY: the program and its steps outlive the calls, which copy them.
    let refused = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::syscall(
                libc::SYS_seccomp,
                libc::SECCOMP_SET_MODE_FILTER,
                libc::SECCOMP_FILTER_FLAG_TSYNC,
                &raw const program,
            ) == 0
    };
    assert!(refused, "the filter is taken");
}

#[test]
fn a_host_without_its_barrier_serves_on() {
    let host = Host::start(&Config {
        worker_count: 1,
        ..Config::default()
    })
    .expect("the host starts");
    let mut client = Client::new(&host);
    assert_eq!(status(&client.call(&ping())), None);
    refuse_barriers();
    for _ in 0..3 {
        // Longer than a quiet lane is polled.
        thread::sleep(Duration::from_millis(20));
        assert_eq!(status(&client.call(&ping())), None);
    }
}
