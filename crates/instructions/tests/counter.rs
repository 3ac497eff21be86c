//! The counter counts exactly what is known, and says so where it may not count.

use std::path::Path;
use std::process::Command;

use chimaera_instructions::{Known, NotPossible};

/// This crate's program.
const PROGRAM: &str = env!("CARGO_BIN_EXE_chimaera-instructions");

#[test]
fn code_of_known_length_is_counted_exactly_and_the_same_each_time() {
    let known = match Known::count(Path::new(PROGRAM)) {
        Err(error) if error.is::<NotPossible>() => return skip(&error.to_string()),
        known => known.expect("counts"),
    };
    assert_eq!(known.a_loop - known.nothing, Known::LOOP_INSTRUCTIONS);
    // What repeats itself, and what copies, takes as many for few bytes as for many.
    assert_eq!(known.fills[0], known.fills[1]);
    assert_eq!(known.copies[0], known.copies[1]);
    assert_eq!(Known::count(Path::new(PROGRAM)).expect("counts"), known);
}

#[test]
fn where_tracing_is_forbidden_it_says_so() {
    if !forbid_tracing() {
        return skip("the system has no seccomp");
    }
    let error = Known::count(Path::new(PROGRAM)).expect_err("is forbidden");
    assert!(error.is::<NotPossible>(), "{error}");
    if cfg!(target_arch = "x86_64") {
        assert!(error.to_string().contains("ptrace"), "{error}");
    }
}

#[test]
#[cfg(debug_assertions)]
fn a_debug_build_checks_no_limits_and_says_so() {
    let output = Command::new(PROGRAM).output().expect("runs");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(
        text.contains("not checked") && text.contains("release"),
        "{text}"
    );
    assert!(output.status.success());
}

#[test]
fn a_subject_that_nobody_traces_does_nothing() {
    let output = Command::new(PROGRAM)
        .args(["subject", "known"])
        .stdin(std::process::Stdio::null())
        .output()
        .expect("runs");
    assert_eq!(output.status.code(), Some(1));
}

#[expect(clippy::print_stderr, reason = "whoever reads should know")]
fn skip(reason: &str) {
    eprintln!("skipped: {reason}");
}

/// From now on the system refuses `ptrace` to this thread and the processes that it starts, as a
/// container's profile does. False if it cannot be made to.
fn forbid_tracing() -> bool {
    let statement = |code, k, if_not| libc::sock_filter {
        code,
        jt: 0,
        jf: if_not,
        k,
    };
    let refused = libc::SECCOMP_RET_ERRNO | libc::EPERM.cast_unsigned();
    let mut program = [
        // The number of the system call stands first.
        statement((libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16, 0, 0),
        statement(
            (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16,
            libc::SYS_ptrace as u32,
            1,
        ),
        statement((libc::BPF_RET | libc::BPF_K) as u16, refused, 0),
        statement(
            (libc::BPF_RET | libc::BPF_K) as u16,
            libc::SECCOMP_RET_ALLOW,
            0,
        ),
    ];
    let filter = libc::sock_fprog {
        len: program.len() as u16,
        filter: program.as_mut_ptr(),
    };
    // SAFETY: the filter lives during the call, which copies it, and has as many statements as it
    // says. Both calls concern this thread only.
    unsafe {
        let mode = libc::SECCOMP_MODE_FILTER;
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const filter) == 0
    }
}
