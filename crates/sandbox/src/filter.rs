//! Filters of system calls: a list of rules becomes a program of the kernel's packet filter.
//!
//! The crate `seccompiler` is not used for this: its filters kill a process for a call of another architecture, do not
//! tell the numbers of x32 from those of x86-64, and cannot refuse numbers that nobody knows yet.

use std::io;

/// A call that is refused.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rule {
    pub(crate) call: libc::c_long,
    pub(crate) when: When,
    /// What the caller gets.
    pub(crate) errno: i32,
}

/// When a call is refused. Arguments are looked at as numbers of 32 bits, which is all that the kernel takes of those
/// that rules name.
#[derive(Clone, Copy, Debug)]
pub(crate) enum When {
    Always,
    /// An argument is not this.
    Not {
        argument: u32,
        value: u32,
    },
    /// These bits of an argument are this.
    Bits {
        argument: u32,
        mask: u32,
        value: u32,
    },
    /// One of these bits of an argument is set.
    Any {
        argument: u32,
        mask: u32,
    },
    /// None of these bits of an argument is set.
    None {
        argument: u32,
        mask: u32,
    },
    /// An argument that is an address is not zero.
    Address {
        argument: u32,
    },
}

/// Places in `struct seccomp_data` of `linux/seccomp.h`.
const NUMBER_AT: u32 = 0;
const ARCHITECTURE_AT: u32 = 4;
const ARGUMENTS_AT: u32 = 16;

#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: Option<u32> = Some(0xc000_003e);
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: Option<u32> = Some(0xc000_00b7);
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const ARCHITECTURE: Option<u32> = None;

/// The last call of Linux 6.18. What later kernels add is not there for a filtered process; x32's calls have larger
/// numbers, too.
const LAST_KNOWN_CALL: u32 = 469;

const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
const AND: u32 = libc::BPF_ALU | libc::BPF_AND | libc::BPF_K;
const IF_EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
const IF_LARGER: u32 = libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K;
const IF_ANY: u32 = libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K;
const RETURN: u32 = libc::BPF_RET | libc::BPF_K;

type Program = Vec<libc::sock_filter>;

fn step(code: u32, k: u32) -> libc::sock_filter {
    jump(code, k, 0, 0)
}

/// Goes on `jt` steps further if it holds, and else `jf`.
fn jump(code: u32, k: u32, jt: u8, jf: u8) -> libc::sock_filter {
    libc::sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    }
}

fn refuse(errno: i32) -> libc::sock_filter {
    step(RETURN, libc::SECCOMP_RET_ERRNO | errno.cast_unsigned())
}

/// Where the lower half of an argument lies, on machines that store it first.
const fn low(argument: u32) -> u32 {
    ARGUMENTS_AT + 8 * argument
}

/// The program of these rules. `None` on an architecture whose calls are not known here.
pub(crate) fn program(rules: &[Rule]) -> Option<Program> {
    let mut program = vec![
        step(LOAD, ARCHITECTURE_AT),
        jump(IF_EQUAL, ARCHITECTURE?, 1, 0),
        refuse(libc::EPERM),
        step(LOAD, NUMBER_AT),
        jump(IF_LARGER, LAST_KNOWN_CALL, 0, 1),
        refuse(libc::ENOSYS),
    ];
    let (always, at_times): (Vec<&Rule>, Vec<&Rule>) = rules
        .iter()
        .partition(|rule| matches!(rule.when, When::Always));
    for rule in always {
        program.push(jump(IF_EQUAL, rule.call as u32, 0, 1));
        program.push(refuse(rule.errno));
    }
    for rule in at_times {
        let test = test(rule);
        program.push(step(LOAD, NUMBER_AT));
        program.push(jump(IF_EQUAL, rule.call as u32, 0, test.len() as u8));
        program.extend(test);
    }
    program.push(step(RETURN, libc::SECCOMP_RET_ALLOW));
    Some(program)
}

/// The steps that look at a call's argument, the refusal last.
fn test(rule: &Rule) -> Program {
    let refusal = refuse(rule.errno);
    match rule.when {
        When::Always => vec![refusal],
        When::Not { argument, value } => vec![
            step(LOAD, low(argument)),
            jump(IF_EQUAL, value, 1, 0),
            refusal,
        ],
        When::Bits {
            argument,
            mask,
            value,
        } => vec![
            step(LOAD, low(argument)),
            step(AND, mask),
            jump(IF_EQUAL, value, 0, 1),
            refusal,
        ],
        When::Any { argument, mask } => {
            vec![step(LOAD, low(argument)), jump(IF_ANY, mask, 0, 1), refusal]
        }
        When::None { argument, mask } => {
            vec![step(LOAD, low(argument)), jump(IF_ANY, mask, 1, 0), refusal]
        }
        When::Address { argument } => vec![
            step(LOAD, low(argument)),
            jump(IF_EQUAL, 0, 0, 2),
            step(LOAD, low(argument) + 4),
            jump(IF_EQUAL, 0, 1, 0),
            refusal,
        ],
    }
}

/// Has the kernel refuse calls from now on: those of this thread and of threads and processes that it starts, or, if
/// asked for, of every thread.
///
/// # Errors
/// The kernel's, or that this architecture is not known here.
pub(crate) fn install(rules: &[Rule], all_threads: bool) -> io::Result<()> {
    let mut program = program(rules).ok_or_else(|| {
        io::Error::other("the system calls of this architecture are not known here")
    })?;
    let filter = libc::sock_fprog {
        len: program.len() as u16,
        filter: program.as_mut_ptr(),
    };
    let flags = match all_threads {
        true => libc::SECCOMP_FILTER_FLAG_TSYNC,
        false => 0,
    };
    // SAFETY: the call copies the program, which is valid meanwhile, and has the length that is said.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            &raw const filter,
        )
    };
    match result {
        0 => Ok(()),
        1.. => Err(io::Error::other(format!(
            "thread {result} has a filter of its own"
        ))),
        _ => Err(io::Error::last_os_error()),
    }
}
