//! What depends on the kind of machine: registers, marks, and code of known length.
//!
//! A **mark** is a breakpoint that the subject runs into. The thread stops there for its tracer; a program
//! that is not traced ends at it.

#![allow(
    unsafe_code,
    reason = "instructions and addresses are what this is about"
)]

use std::ffi::CStr;

use nix::unistd::Pid;

use crate::Result;

/// Instructions of [`known_loop`].
pub(crate) const LOOP_INSTRUCTIONS: u64 = 1 + 2 * LOOP_TURNS;

const LOOP_TURNS: u64 = 1000;

/// Addresses of the C library's functions that copy and compare bytes, in this process. Which
/// instructions they use is chosen when a program starts, by the kind of processor.
pub(crate) fn copying_functions() -> Vec<u64> {
    let names: [&CStr; 5] = [c"memcpy", c"memmove", c"memset", c"memcmp", c"bcmp"];
    let address = |name: &CStr| {
        // SAFETY: the name is a C string, and only the address is looked at.
        unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) }
    };
    names
        .iter()
        .map(|name| address(name).addr() as u64)
        .filter(|&address| address != 0)
        .collect()
}

#[cfg(target_arch = "x86_64")]
mod imp {
    use std::arch::asm;
    use std::mem::offset_of;

    use nix::sys::ptrace;

    use super::{LOOP_TURNS, Pid, Result};

    /// Bytes of the instruction at which a mark stops: the thread stands behind it then.
    pub(crate) const MARK_BYTES: u64 = 1;

    /// Begins or ends what is counted. The compiler moves no access to memory across it.
    #[inline(never)]
    pub(crate) fn mark() {
        // SAFETY: a breakpoint changes nothing. The tracer lets the thread go on behind it.
        unsafe { asm!("int3") };
    }

    /// A loop whose instructions the compiler does not choose.
    #[inline(always)]
    pub(crate) fn known_loop() {
        // SAFETY: it changes a register that is given to it, and flags.
        unsafe {
            asm!(
                "mov {turns:e}, {count}",
                "2:",
                "dec {turns:e}",
                "jnz 2b",
                turns = out(reg) _,
                count = const LOOP_TURNS,
            );
        }
    }

    /// Fills bytes by one instruction that repeats itself.
    #[inline(never)]
    pub(crate) fn known_fill(bytes: &mut [u8]) {
        // SAFETY: it writes as many bytes as the slice has, and changes the registers named.
        unsafe {
            asm!(
                "rep stosb",
                inout("rcx") bytes.len() => _,
                inout("rdi") bytes.as_mut_ptr() => _,
                in("al") 0u8,
                options(nostack, preserves_flags),
            );
        }
    }

    /// Address of the instruction that a stopped thread comes to next.
    pub(crate) fn instruction_pointer(thread: Pid) -> Result<u64> {
        register(thread, offset_of!(libc::user, regs.rip))
    }

    /// The return address of a stopped thread that stands at a function's first instruction.
    pub(crate) fn return_address(thread: Pid) -> Result<u64> {
        let stack = register(thread, offset_of!(libc::user, regs.rsp))?;
        let address = std::ptr::without_provenance_mut(stack as usize);
        Ok(ptrace::read(thread, address)?.cast_unsigned())
    }

    /// Makes the thread stop before the instruction at this address, or nowhere. The breakpoint is the
    /// thread's own: other threads pass it, and the program is not changed.
    pub(crate) fn set_breakpoint(thread: Pid, address: Option<u64>) -> Result<()> {
        const CONTROL: usize = 7;
        // Bit 0 switches register 0 on; 0 in its other fields means an instruction.
        let on = i64::from(address.is_some());
        let place = |register: usize| {
            let offset = offset_of!(libc::user, u_debugreg) + register * size_of::<u64>();
            std::ptr::without_provenance_mut(offset)
        };
        ptrace::write_user(thread, place(CONTROL), 0)?;
        ptrace::write_user(thread, place(0), address.unwrap_or_default().cast_signed())?;
        Ok(ptrace::write_user(thread, place(CONTROL), on)?)
    }

    fn register(thread: Pid, offset: usize) -> Result<u64> {
        let place = std::ptr::without_provenance_mut(offset);
        Ok(ptrace::read_user(thread, place)?.cast_unsigned())
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod imp {
    use super::{Pid, Result};

    pub(crate) const MARK_BYTES: u64 = 0;

    pub(crate) fn mark() {}

    pub(crate) fn known_loop() {}

    pub(crate) fn known_fill(_: &mut [u8]) {}

    pub(crate) fn instruction_pointer(_: Pid) -> Result<u64> {
        Err("nothing is traced on this kind of machine".into())
    }

    pub(crate) fn return_address(thread: Pid) -> Result<u64> {
        instruction_pointer(thread)
    }

    pub(crate) fn set_breakpoint(thread: Pid, _: Option<u64>) -> Result<()> {
        instruction_pointer(thread).map(|_| ())
    }
}

pub(crate) use imp::{
    MARK_BYTES, instruction_pointer, known_fill, known_loop, mark, return_address, set_breakpoint,
};
