//! A full fence on every thread of other processes, asked for by one side in place of one on each
//! busy path of the other: `membarrier(2)`, the global expedited kind.
//!
//! A lane's client publishes and then looks whether it must ring; its worker parks and then looks
//! whether something was published. One of the two must see the other, so both need a full fence
//! between their store and their look. The client's would cost it the most of a task's way: the
//! entry's line is with the worker, and a fence waits until it is here. Parking is rare, so the
//! worker can pay for both: its call returns after every running thread of a registered process
//! has passed through a full fence, and a thread that was not running has passed through one in
//! the scheduler.
//!
//! Of a client's publishing store and look, that fence falls before the look, and then the look
//! sees `need_wakeup`, which was set before the call; or it falls after the look, and so after the
//! store, which the worker then sees, since it looks after the call.

use std::io;

use libc::c_int;

// As `linux/membarrier.h` has them.
const MEMBARRIER_CMD_QUERY: c_int = 0;
const MEMBARRIER_CMD_GLOBAL_EXPEDITED: c_int = 1 << 1;
const MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED: c_int = 1 << 2;

/// Who sees to the order of publishing a task and looking whether to ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PublishOrder {
    /// The client, by a fence with every task.
    Fence,
    /// The host, by a [`barrier`] whenever it parks a lane. The client's process is registered
    /// ([`register`]), and the host has said that it does this.
    HostBarrier,
}

/// Whether this system has the barrier, so that a host can promise it to its clients. Some
/// sandboxes and old kernels (before 4.16) do not.
#[must_use]
pub fn is_available() -> bool {
    let needed = MEMBARRIER_CMD_GLOBAL_EXPEDITED | MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED;
    // Tried as well: a sandbox may let one command pass and refuse another.
    membarrier(MEMBARRIER_CMD_QUERY).is_ok_and(|commands| commands & needed == needed) && barrier()
}

/// Has this process take part in the barriers of others. Once is enough, more do no harm. Returns
/// whether it does; where it does not, its clients use [`PublishOrder::Fence`].
#[must_use]
pub fn register() -> bool {
    membarrier(MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED).is_ok()
}

/// Returns after every thread of every registered process has passed through a full fence. Takes
/// some microseconds, and interrupts those threads for as long as a fence takes.
///
/// Returns whether it was one. Where [`is_available`] said so it is, unless this process has closed
/// a sandbox around itself since then.
#[must_use]
pub fn barrier() -> bool {
    membarrier(MEMBARRIER_CMD_GLOBAL_EXPEDITED).is_ok()
}

fn membarrier(command: c_int) -> io::Result<c_int> {
    // SAFETY: the call takes three integers and touches no memory of this process.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result as c_int)
}
