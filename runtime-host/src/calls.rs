//! In whose call each thread is, and in which: a word per thread.
//!
//! The thread stores it before and after each call. Two others read it: the hook that logs a panic, on the same thread,
//! and the watchdog ([`crate::watchdog`]), on its own.
//!
//! Laws of this module:
//! - A worker does two stores for a task here, to memory of its own thread, and nothing else.
//! - The watchdog must tell a call from the next one of the same pool, and no count is kept for that: it marks the word
//!   that it finds ([`Word::look`]). Whatever the thread stores next takes the mark away, so a word that is marked
//!   still belongs to the same call.
//! - A thread's word is read by others only as long as its [`Watched`] lives, which ends on that thread.

use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering};

use chimaera_proto::hangs::ModuleCall;

/// The low bits of a speaker's number, which identify the pool; the bits above identify the module.
pub(crate) const POOL_BITS: u32 = 40;

/// The bits of a speaker's number. Above them a word says which call the thread is in.
pub(crate) const SPEAKER_BITS: u32 = 57;

const SPEAKER: u64 = (1 << SPEAKER_BITS) - 1;

/// Set when the panic that unwinds the call has been logged.
const LOGGED: u64 = 1 << 63;

/// Set by the watchdog.
const MARKED: u64 = 1 << 62;

/// Stands for the host itself.
const NOBODY: u64 = 0;

/// Stands for a worker that sleeps, in the place of a call.
const ASLEEP: u64 = 31 << SPEAKER_BITS;

thread_local! {
    static WORD: AtomicU64 = const { AtomicU64::new(NOBODY) };
}

/// What stands for this call in the name of a speaker.
pub(crate) const fn word(speaker: u64, call: ModuleCall) -> u64 {
    speaker | (call as u64) << SPEAKER_BITS
}

/// Notes that the thread is in this call from now on.
#[inline]
pub(crate) fn enter(word: u64) {
    // Relaxed, here and below: the word stands for itself.
    WORD.with(|own| own.store(word, Ordering::Relaxed));
}

/// Notes that the thread is in no call.
#[inline]
pub(crate) fn leave() {
    enter(NOBODY);
}

/// Notes that the thread, a worker, sleeps until there is something to do.
pub(crate) fn fall_asleep() {
    enter(ASLEEP);
}

/// Makes a call, which may block, and is in the call that it was in before when that has returned.
pub(crate) fn during<T>(word: u64, call: impl FnOnce() -> T) -> T {
    let before = WORD.with(|own| own.swap(word, Ordering::Relaxed));
    let result = call();
    enter(before);
    result
}

/// Notes that the thread, a module's own, works for a speaker from now on. In a call of that speaker's it does already.
pub(crate) fn adopt(speaker: u64) {
    WORD.with(|own| {
        if own.load(Ordering::Relaxed) & SPEAKER != speaker {
            own.store(speaker, Ordering::Relaxed);
        }
    });
}

/// The speaker in whose call this thread is, if it is in one. The call's panic counts as logged from now on.
pub(crate) fn mark_logged() -> Option<u64> {
    WORD.with(|own| {
        let speaker = own.load(Ordering::Relaxed) & SPEAKER;
        (speaker != NOBODY).then(|| {
            own.fetch_or(LOGGED, Ordering::Relaxed);
            speaker
        })
    })
}

/// Whether the panic that unwinds this thread's call was logged. It does not count as logged any more.
pub(crate) fn take_logged() -> bool {
    WORD.with(|own| own.fetch_and(!LOGGED, Ordering::Relaxed) & LOGGED != 0)
}

/// What a thread was found in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FoundIn(u64);

impl FoundIn {
    pub(crate) fn speaker(self) -> Option<u64> {
        Some(self.0 & SPEAKER).filter(|&speaker| speaker != NOBODY)
    }

    pub(crate) fn call(self) -> Option<ModuleCall> {
        let number = (self.0 >> SPEAKER_BITS) as usize;
        ModuleCall::ALL.get(number.checked_sub(1)?).copied()
    }

    pub(crate) fn is_asleep(self) -> bool {
        self.0 == ASLEEP
    }

    /// Whether it is in no module's call, and does not sleep as a worker does.
    pub(crate) fn is_in_no_call(self) -> bool {
        self.0 == NOBODY
    }
}

/// A thread's word, for others.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Word(&'static AtomicU64);

impl Word {
    /// Gives what the thread is in, and whether it is the same as at the last look: not the same call alone, but the
    /// same stay there.
    pub(crate) fn look(self) -> (FoundIn, bool) {
        let word = self.0.load(Ordering::Relaxed);
        let found = FoundIn(word & !(MARKED | LOGGED));
        if word & MARKED != 0 {
            return (found, true);
        }
        // Fails if the thread goes on at this moment.
        let _ = self
            .0
            .compare_exchange(word, word | MARKED, Ordering::Relaxed, Ordering::Relaxed);
        (found, false)
    }

    #[cfg(test)]
    pub(crate) fn of_a_test() -> (Self, impl Fn(u64)) {
        let word: &'static AtomicU64 = Box::leak(Box::default());
        (Self(word), |value| word.store(value, Ordering::Relaxed))
    }
}

/// Lets others read this thread's word. Whoever has it drops it on this thread, before the thread ends and after the
/// last of the others has forgotten the word.
pub(crate) struct Watched {
    word: Word,
    _this_thread: PhantomData<*const ()>,
}

impl Watched {
    /// # Safety
    /// Nobody uses the [`Self::word`] after this was dropped or the thread has ended.
    pub(crate) unsafe fn this_thread() -> Self {
        let address = WORD.with(|own| &raw const *own);
        // SAFETY: the word has no destructor and lives as long as its thread, which is long enough by this function's
        // contract.
        let word = Word(unsafe { &*address });
        Self {
            word,
            _this_thread: PhantomData,
        }
    }

    pub(crate) fn word(&self) -> Word {
        self.word
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_told_once_in_the_name_of_the_call_that_it_ends() {
        assert_eq!(mark_logged(), None, "no call");
        during(word(17, ModuleCall::Flush), || {
            assert_eq!(mark_logged(), Some(17));
            assert!(take_logged(), "whoever catches it has nothing to tell");
            assert!(!take_logged());
        });
        assert_eq!(mark_logged(), None, "the call is over");
    }

    #[test]
    fn a_call_is_told_from_the_next_one_that_is_the_same() {
        // SAFETY: it is used on this thread alone.
        let watched = unsafe { Watched::this_thread() };
        let call = word(17, ModuleCall::Poll);
        let look = || {
            let (found, is_same) = watched.word().look();
            (found.speaker(), found.call(), is_same)
        };
        enter(call);
        assert_eq!(look(), (Some(17), Some(ModuleCall::Poll), false));
        assert_eq!(mark_logged(), Some(17));
        assert_eq!(look(), (Some(17), Some(ModuleCall::Poll), true));
        leave();
        enter(call);
        assert_eq!(look(), (Some(17), Some(ModuleCall::Poll), false));
        during(word(18, ModuleCall::Flush), || {
            assert_eq!(look(), (Some(18), Some(ModuleCall::Flush), false));
        });
        assert_eq!(look(), (Some(17), Some(ModuleCall::Poll), true));
        leave();
        assert_eq!(look(), (None, None, false));
        fall_asleep();
        assert!(watched.word().look().0.is_asleep());
        leave();
    }
}
