//! The counter counts exactly what is known, and says so where it may not count.

use std::path::Path;
use std::process::Command;

use chimaera_instructions::{Known, NotPossible};
use chimaera_testing::{SystemCallFilter, skipped};

/// This crate's program.
const PROGRAM: &str = env!("CARGO_BIN_EXE_chimaera-instructions");

#[test]
fn code_of_known_length_is_counted_exactly_and_the_same_each_time() {
    let known = match Known::count(Path::new(PROGRAM)) {
        Err(error) if error.is::<NotPossible>() => {
            return skipped("exact counts", &error.to_string());
        }
        known => known.expect("counts"),
    };
    assert_eq!(known.a_loop - known.nothing, Known::LOOP_INSTRUCTIONS);
    // To fill and to copy few bytes takes as many instructions as many bytes do.
    assert_eq!(known.fills[0], known.fills[1]);
    assert_eq!(known.copies[0], known.copies[1]);
    assert_eq!(Known::count(Path::new(PROGRAM)).expect("counts"), known);
}

#[test]
fn where_tracing_is_forbidden_it_says_so() {
    let filter = SystemCallFilter::refusing(&[libc::SYS_ptrace], libc::EPERM);
    if let Err(error) = filter.apply_to_thread() {
        return skipped("counts where tracing is forbidden", &error.to_string());
    }
    let error = Known::count(Path::new(PROGRAM)).expect_err("is forbidden");
    assert!(error.is::<NotPossible>(), "{error}");
    if cfg!(target_arch = "x86_64") {
        assert!(error.to_string().contains("ptrace"), "{error}");
    }
}

#[test]
#[cfg(debug_assertions)]
fn a_debug_build_checks_no_limits_and_says_so_and_is_no_guard() {
    let run = |is_guard: bool| {
        let mut command = Command::new(PROGRAM);
        // Whoever runs the tests may have set it.
        command.env_remove("CI");
        if is_guard {
            command.env("CI", "1");
        }
        let output = command.output().expect("runs");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            text.contains("not checked") && text.contains("release"),
            "{text}"
        );
        output.status.success()
    };
    assert!(run(false));
    assert_eq!(run(true), cfg!(not(target_arch = "x86_64")));
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
