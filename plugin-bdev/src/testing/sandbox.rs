//! System calls that fail.

/// Runs `test` on a thread whose system calls with these numbers fail, as in a sandbox.
pub(crate) fn forbidding(calls: &[libc::c_long], errno: i32, test: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let sandbox = scope.spawn(|| {
            forbid(calls, errno);
            test();
        });
        sandbox.join().expect("the thread's assertions hold");
    });
}

/// Makes system calls of this thread fail, for the rest of its life.
fn forbid(calls: &[libc::c_long], errno: i32) {
    let step = |code: u32, k: u32| libc::sock_filter {
        code: code as u16,
        jt: 0,
        jf: 0,
        k,
    };
    let answer = |answer| step(libc::BPF_RET | libc::BPF_K, answer);
    // The call's number is the first field of what the filter is shown.
    let mut filter = vec![step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0)];
    for &call in calls {
        filter.push(libc::sock_filter {
            jf: 1,
            ..step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, call as u32)
        });
        filter.push(answer(libc::SECCOMP_RET_ERRNO | errno.cast_unsigned()));
    }
    filter.push(answer(libc::SECCOMP_RET_ALLOW));
    let program = libc::sock_fprog {
        len: filter.len() as u16,
        filter: filter.as_mut_ptr(),
    };
    // SAFETY: the first call takes numbers only. The second reads the program and its filter,
    // both alive during the call. Both concern this thread alone.
    let result = unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        libc::prctl(
            libc::PR_SET_SECCOMP,
            libc::SECCOMP_MODE_FILTER,
            &raw const program,
        )
    };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}
