//! Which system calls are refused.
//!
//! The list is of what is refused, and not of what is permitted: what modules, the C library of this and later systems,
//! and the allocator call is not known here, and a daemon that stops working after an update of its system would be
//! started with `--no-seccomp` from then on. Calls that later kernels add are refused all the same, by their numbers.

use std::io;

use libc::{EAFNOSUPPORT, ENOSYS, EPERM, c_long};

use crate::SandboxMeasure;
use crate::filter::{Rule, When, install};

pub(crate) const NAME: &str = "system calls";
const RINGS: &str = "io_uring";

/// What nothing in a daemon ever does.
const NEVER: &[c_long] = &[
    // Other programs and processes.
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_move_pages,
    libc::SYS_migrate_pages,
    // Other users.
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setfsuid,
    libc::SYS_setfsgid,
    libc::SYS_setgroups,
    // Namespaces and mounts.
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_mount_setattr,
    OPEN_TREE_ATTR,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    // Files by number, past their folders; nodes; attributes, among which are access control lists.
    libc::SYS_open_by_handle_at,
    libc::SYS_mknodat,
    libc::SYS_setxattr,
    libc::SYS_lsetxattr,
    libc::SYS_fsetxattr,
    SETXATTRAT,
    libc::SYS_removexattr,
    libc::SYS_lremovexattr,
    libc::SYS_fremovexattr,
    REMOVEXATTRAT,
    FILE_SETATTR,
    libc::SYS_fanotify_init,
    // The kernel and the machine.
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_kexec_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_reboot,
    libc::SYS_acct,
    libc::SYS_syslog,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_vhangup,
];

/// As [`NEVER`], on this architecture alone.
#[cfg(target_arch = "x86_64")]
const NEVER_HERE: &[c_long] = &[
    libc::SYS_mknod,
    libc::SYS_kexec_file_load,
    libc::SYS_iopl,
    libc::SYS_ioperm,
    libc::SYS_modify_ldt,
    libc::SYS_uselib,
];
#[cfg(not(target_arch = "x86_64"))]
const NEVER_HERE: &[c_long] = &[];

/// What only the start of a daemon does: it asks whether another one serves, listens, and makes its sockets its users'.
const AT_THE_START: &[c_long] = &[
    libc::SYS_socket,
    libc::SYS_connect,
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    FCHMODAT2,
    libc::SYS_fchown,
    libc::SYS_fchownat,
];

/// As [`AT_THE_START`], on this architecture alone.
#[cfg(target_arch = "x86_64")]
const AT_THE_START_HERE: &[c_long] = &[
    libc::SYS_fork,
    libc::SYS_vfork,
    libc::SYS_chmod,
    libc::SYS_chown,
    libc::SYS_lchown,
];
#[cfg(not(target_arch = "x86_64"))]
const AT_THE_START_HERE: &[c_long] = &[];

// Calls of later kernels, whose numbers are the same on all architectures.
const FCHMODAT2: c_long = 452;
const SETXATTRAT: c_long = 463;
const REMOVEXATTRAT: c_long = 466;
const OPEN_TREE_ATTR: c_long = 467;
const FILE_SETATTR: c_long = 469;

/// Flags of `clone` that make namespaces.
const NAMESPACES: i32 = libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET;

/// The bits of a socket's type that are no flags.
const SOCKET_TYPE: u32 = 0xf;

/// What `personality` is asked to ask what there is.
const ASK: u32 = u32::MAX;

/// What is permitted with some arguments only.
fn with_arguments() -> Vec<Rule> {
    let refused = |call, when| Rule {
        call,
        when,
        errno: EPERM,
    };
    let datagrams = |of: i32| When::Bits {
        argument: 1,
        mask: SOCKET_TYPE,
        value: of.cast_unsigned(),
    };
    let command = |value| When::Bits {
        argument: 1,
        mask: u32::MAX,
        value,
    };
    vec![
        Rule {
            call: libc::SYS_socket,
            when: When::Not {
                argument: 0,
                value: libc::AF_UNIX.cast_unsigned(),
            },
            errno: EAFNOSUPPORT,
        },
        // Such a socket reaches any other by its path, without a connection.
        refused(libc::SYS_socket, datagrams(libc::SOCK_DGRAM)),
        refused(libc::SYS_socket, datagrams(libc::SOCK_RAW)),
        refused(libc::SYS_socketpair, datagrams(libc::SOCK_DGRAM)),
        refused(libc::SYS_socketpair, datagrams(libc::SOCK_RAW)),
        refused(libc::SYS_sendto, When::Address { argument: 4 }),
        refused(
            libc::SYS_clone,
            When::Any {
                argument: 0,
                mask: NAMESPACES.cast_unsigned(),
            },
        ),
        // Its flags lie in memory. The C library calls `clone` where there is no `clone3`.
        Rule {
            call: libc::SYS_clone3,
            when: When::Always,
            errno: ENOSYS,
        },
        refused(
            libc::SYS_personality,
            When::Not {
                argument: 0,
                value: ASK,
            },
        ),
        // Limits of other processes.
        refused(
            libc::SYS_prlimit64,
            When::Not {
                argument: 0,
                value: 0,
            },
        ),
        refused(libc::SYS_ioctl, command(libc::TIOCSTI as u32)),
        refused(libc::SYS_ioctl, command(libc::TIOCLINUX as u32)),
    ]
}

fn always(calls: &[c_long]) -> impl Iterator<Item = Rule> {
    calls.iter().map(|&call| Rule {
        call,
        when: When::Always,
        errno: EPERM,
    })
}

/// What is refused from before the first thread on.
fn from_the_start(makes_rings: bool) -> Vec<Rule> {
    let mut rules = with_arguments();
    rules.extend(always(NEVER));
    rules.extend(always(NEVER_HERE));
    if !makes_rings {
        rules.extend(always(&[libc::SYS_io_uring_setup]));
    }
    rules
}

/// What is refused once a daemon serves. A process that was made before, as one that receives files is, makes others.
fn from_serving_on() -> Vec<Rule> {
    let mut rules: Vec<_> = always(AT_THE_START).collect();
    rules.extend(always(AT_THE_START_HERE));
    rules.push(Rule {
        call: libc::SYS_clone,
        when: When::None {
            argument: 0,
            mask: libc::CLONE_THREAD.cast_unsigned(),
        },
        errno: EPERM,
    });
    rules
}

/// Refuses what nothing in a daemon needs, in this thread and what it starts.
pub(crate) fn refuse_from_the_start(makes_rings: bool) -> Vec<SandboxMeasure> {
    if let Err(error) = install(&from_the_start(makes_rings), false) {
        return vec![SandboxMeasure::missing(
            NAME,
            format!("not restricted: seccomp was refused: {error}"),
        )];
    }
    let rings = match makes_rings {
        false => SandboxMeasure::in_force(RINGS, "no ring is made after the start"),
        true => SandboxMeasure::missing(
            RINGS,
            "rings are made after the start, and what is done through a ring is no system call",
        ),
    };
    vec![
        SandboxMeasure::in_force(
            NAME,
            "none that starts programs or processes, begins connections, changes owners or modes, or is for \
             administration",
        ),
        rings,
    ]
}

/// Refuses, in all threads, what only the start needed.
///
/// # Errors
/// The kernel's; nothing more is refused then.
pub(crate) fn refuse_from_now_on() -> io::Result<()> {
    install(&from_serving_on(), true)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a call without memory comes to.
    fn errno(call: c_long, arguments: [c_long; 3]) -> i32 {
        let [first, second, third] = arguments;
        // SAFETY: the tests name calls that touch no memory, or whose addresses are null.
        let result = unsafe { libc::syscall(call, first, second, third, 0, 0, 0) };
        match result {
            0.. => 0,
            _ => io::Error::last_os_error().raw_os_error().unwrap_or(0),
        }
    }

    /// Runs what a thread does under filters, which end with it.
    fn under(rules: &[Vec<Rule>], act: impl FnOnce() + Send) {
        std::thread::scope(|scope| {
            let filtered = scope.spawn(|| {
                nix::sys::prctl::set_no_new_privs().expect("the kernel has it");
                for rules in rules {
                    install(rules, false).expect("a filter");
                }
                act();
            });
            filtered.join().expect("the thread goes on");
        });
    }

    #[test]
    fn calls_are_refused_by_number_and_by_argument() {
        const AF_UNIX: c_long = libc::AF_UNIX as c_long;
        const AF_INET: c_long = libc::AF_INET as c_long;
        const STREAM: c_long = libc::SOCK_STREAM as c_long;
        const DATAGRAM: c_long = (libc::SOCK_DGRAM | libc::SOCK_CLOEXEC) as c_long;
        under(&[from_the_start(false)], || {
            assert_eq!(errno(libc::SYS_execve, [0; 3]), EPERM);
            assert_eq!(errno(libc::SYS_clone3, [0; 3]), ENOSYS);
            assert_eq!(errno(libc::SYS_io_uring_setup, [8, 0, 0]), EPERM);
            assert_eq!(errno(libc::SYS_socket, [AF_INET, STREAM, 0]), EAFNOSUPPORT);
            assert_eq!(errno(libc::SYS_socket, [AF_UNIX, STREAM, 0]), 0);
            assert_eq!(errno(libc::SYS_socket, [AF_UNIX, DATAGRAM, 0]), EPERM);
            assert_eq!(errno(libc::SYS_personality, [0xffff_ffff, 0, 0]), 0);
            assert_eq!(errno(libc::SYS_personality, [0x0040_0000, 0, 0]), EPERM);
            assert_eq!(errno(libc::SYS_prlimit64, [0, 0, 0]), 0);
            assert_eq!(errno(libc::SYS_prlimit64, [1, 0, 0]), EPERM);
            assert_eq!(errno(500, [0; 3]), ENOSYS);
            let namespace = c_long::from(libc::CLONE_NEWUSER);
            assert_eq!(errno(libc::SYS_clone, [namespace, 0, 0]), EPERM);
            std::thread::spawn(|| ()).join().expect("threads start");
        });
    }

    #[test]
    fn once_it_serves_a_daemon_makes_threads_and_no_processes() {
        under(&[from_the_start(true), from_serving_on()], || {
            let child = c_long::from(libc::SIGCHLD);
            assert_eq!(errno(libc::SYS_clone, [child, 0, 0]), EPERM);
            assert_eq!(errno(libc::SYS_fchmod, [-1, 0, 0]), EPERM);
            let unix = c_long::from(libc::AF_UNIX);
            assert_eq!(errno(libc::SYS_socket, [unix, 1, 0]), EPERM);
            assert_eq!(errno(libc::SYS_io_uring_setup, [8, 0, 0]), libc::EFAULT);
            std::thread::spawn(|| ()).join().expect("threads start");
        });
    }
}
