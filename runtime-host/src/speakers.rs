//! Who speaks in the log: a module, in the name of one of its pools.
//!
//! A container is given a number when it is made, and says its lines with it. A panic is told by a hook, which knows
//! no container: so each thread remembers in whose call it is. A module's own threads may say so themselves
//! ([`chimaera_chimod::Host::adopt_thread`]).
//!
//! Laws of this module:
//! - A number outlives the pool, since threads of the module's may. It still names the module then.
//! - What a worker does here for a task is two stores to memory of its own thread.
//! - A panic is told once, unless there were many of the same speaker's in the last seconds: then the next says how many, by whoever has the place: the hook of a library or of the daemon. Where there is none (in an
//!   application with a hook of its own), it is told where it is caught.

use std::cell::Cell;
use std::collections::HashMap;
use std::ffi::c_void;
use std::fmt::{self, Write};
use std::panic::PanicHookInfo;
use std::time::Instant;

use chimaera_chimod::abi::LentBytes;
use chimaera_fork::PerProcess;
use chimaera_proto::PoolId;
use parking_lot::Mutex;

use crate::log::{self, Level, Source};

/// Below these bits of a number stand the pool's own, above them the module's.
const POOL_BITS: u32 = 48;

/// In what a thread remembers: the panic that unwinds the call was told.
const TOLD: u64 = 1 << 63;

/// Nobody in particular: the host itself.
const NOBODY: u64 = 0;

thread_local! {
    /// In whose call the thread is.
    static CALL: Cell<u64> = const { Cell::new(NOBODY) };
}

/// From here on the thread is in a call of this speaker's.
#[inline]
pub(crate) fn enter(speaker: u64) {
    CALL.set(speaker);
}

#[inline]
pub(crate) fn leave() {
    CALL.set(NOBODY);
}

/// Everybody who speaks in this process, in whichever host.
static SPEAKERS: PerProcess<Mutex<Speakers>> = PerProcess::new(Mutex::default);

/// How often panics were told, by speaker: one may come again with each call.
static PANICS_TOLD: PerProcess<Mutex<log::Shares>> =
    PerProcess::new(|| Mutex::new(log::Shares::per("pool or module")));

#[derive(Default)]
struct Speakers {
    /// Names of modules that had a pool. There are no more than libraries and what is linked in.
    modules: Vec<String>,
    /// The pools that are there, by number. The id of one that is being made is not known yet.
    pools: HashMap<u64, (Option<PoolId>, String)>,
    last: u64,
}

/// A pool in whose name a module speaks, until this is dropped.
#[derive(Debug)]
pub(crate) struct Speaker(u64);

impl Speaker {
    /// A pool of this name that is being made. Until its id is known ([`Self::set_id`]) it has none: it may turn out to be
    /// another than was asked for or chosen, by what it stands on.
    pub(crate) fn new(module: &str, pool: &str) -> Self {
        let mut speakers = SPEAKERS.get().lock();
        let known = speakers.modules.iter().position(|name| name == module);
        let module = known.unwrap_or_else(|| {
            speakers.modules.push(module.to_owned());
            speakers.modules.len() - 1
        });
        speakers.last += 1;
        let number = speakers.last | (module as u64) << POOL_BITS;
        speakers.pools.insert(number, (None, pool.to_owned()));
        Self(number)
    }

    /// By which the container names itself.
    #[inline]
    pub(crate) fn number(&self) -> u64 {
        self.0
    }

    /// The pool has this id.
    pub(crate) fn set_id(&self, id: PoolId) {
        if let Some((known, _)) = SPEAKERS.get().lock().pools.get_mut(&self.0) {
            *known = Some(id);
        }
    }

    /// Makes a call in this name, which may block.
    pub(crate) fn during<T>(&self, call: impl FnOnce() -> T) -> T {
        let before = CALL.replace(self.0);
        let result = call();
        CALL.set(before);
        result
    }
}

impl Drop for Speaker {
    fn drop(&mut self) {
        SPEAKERS.get().lock().pools.remove(&self.0);
    }
}

/// What a module says, with who says it before it.
struct Said<T> {
    speaker: u64,
    text: T,
}

impl<T: fmt::Display> fmt::Display for Said<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pool_bits = (1 << POOL_BITS) - 1;
        let module = (self.speaker & !TOLD) >> POOL_BITS;
        let (module, pool) = {
            let speakers = SPEAKERS.get().lock();
            let module = speakers.modules.get(module as usize).cloned();
            (module, speakers.pools.get(&self.speaker).cloned())
        };
        let module = module.unwrap_or_else(|| "unknown".to_owned());
        write!(f, "module {module}")?;
        match pool {
            Some((Some(id), name)) => write!(f, ", pool {name} ({id})")?,
            Some((None, name)) => write!(f, ", pool {name}")?,
            None if self.speaker & pool_bits == 0 => {}
            None => f.write_str(", a pool that has ended")?,
        }
        write!(f, ": {}", self.text)
    }
}

/// The module of a speaker, for whom it may be one of many pools.
const fn module_of(speaker: u64) -> u64 {
    speaker >> POOL_BITS << POOL_BITS
}

/// [`chimaera_chimod::abi::HostVTable::log`].
pub(crate) unsafe extern "C" fn log_from_container(
    _: *const c_void,
    speaker: u64,
    level: u32,
    text: LentBytes,
) {
    let level = match level {
        1 => Level::Error,
        2 => Level::Warning,
        3 => Level::Info,
        _ => Level::Debug,
    };
    // SAFETY: the module lends the text for the time of the call.
    let text = Utf8Lossy(unsafe { text.as_slice() });
    // Neither blocks nor panics, by the laws of the log.
    log::say(level, Source::Module, Said { speaker, text });
}

/// [`chimaera_chimod::abi::HostVTable::panicked`].
pub(crate) unsafe extern "C" fn panic_from_container(
    _: *const c_void,
    speaker: u64,
    place: LentBytes,
    thread: LentBytes,
    text: LentBytes,
) {
    // SAFETY: the module lends all of them for the time of the call.
    let [place, thread, text] =
        [place, thread, text].map(|text| Utf8Lossy(unsafe { text.as_slice() }));
    if place.0.is_empty() {
        let call = CALL.get();
        if call & TOLD != 0 {
            CALL.set(call & !TOLD);
            return;
        }
        say_of_panic(speaker, format_args!("panicked: {text}"));
        return;
    }
    let speaker = tell().unwrap_or(module_of(speaker));
    let thread: &dyn fmt::Display = match thread.0.is_empty() {
        true => &thread_name(),
        false => &thread,
    };
    say_of_panic(
        speaker,
        format_args!("panicked at {place} on thread {thread}: {text}"),
    );
}

/// Logs a panic, if the speaker has not had the log say such things often in the last time.
fn say_of_panic(speaker: u64, text: fmt::Arguments<'_>) {
    let skipped = PANICS_TOLD.get().lock().admit(speaker, Instant::now());
    if let Some(skipped) = skipped {
        let text = format_args!("{text}{skipped}");
        log::say(Level::Error, Source::Module, Said { speaker, text });
    }
}

/// [`chimaera_chimod::abi::HostVTable::adopt_thread`].
pub(crate) unsafe extern "C" fn adopt_thread(_: *const c_void, speaker: u64) {
    enter(speaker);
}

/// Logs a panic, from a program's hook: in the name of the module that it happened in, if it was one that is
/// linked into the program.
pub fn log_panic(panic: &PanicHookInfo<'_>) {
    let thread = thread_name();
    let place = panic.location().map(ToString::to_string);
    let place = place.unwrap_or_else(|| "an unknown place".to_owned());
    let text = panic.payload_as_str().unwrap_or("no message");
    match tell() {
        Some(speaker) => {
            say_of_panic(
                speaker,
                format_args!("panicked at {place} on thread {thread}: {text}"),
            );
        }
        None => log::error(format_args!("thread {thread} panicked at {place}: {text}")),
    }
}

/// The whole name of the calling thread, in a sentence that speaks of a thread.
fn thread_name() -> String {
    chimaera_shm::thread::name().unwrap_or_else(|| "without a name".to_owned())
}

/// In whose call this thread is, if in any; its panic counts as told from here on.
fn tell() -> Option<u64> {
    let call = CALL.get();
    (call != NOBODY).then(|| {
        CALL.set(call | TOLD);
        call & !TOLD
    })
}

/// Bytes that should be UTF-8, with a replacement character where they are not.
struct Utf8Lossy<'a>(&'a [u8]);

impl fmt::Display for Utf8Lossy<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            f.write_str(chunk.valid())?;
            if !chunk.invalid().is_empty() {
                f.write_char(char::REPLACEMENT_CHARACTER)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(speaker: u64) -> String {
        let text = "said";
        Said { speaker, text }.to_string()
    }

    #[test]
    fn a_speaker_is_named_by_module_and_pool_and_still_by_module_when_the_pool_is_gone() {
        let speaker = Speaker::new("first", "a pool");
        let other = Speaker::new("second", "another");
        other.set_id(PoolId::new(3, 4));
        let again = Speaker::new("first", "a third");
        again.set_id(PoolId::new(5, 6));
        let number = speaker.number();
        assert_eq!(shown(number), "module first, pool a pool: said");
        assert_eq!(
            shown(again.number()),
            "module first, pool a third (5.6): said"
        );
        speaker.set_id(PoolId::new(7, 8));
        assert_eq!(shown(number), "module first, pool a pool (7.8): said");
        assert_eq!(shown(module_of(other.number())), "module second: said");
        drop(speaker);
        assert_eq!(shown(number), "module first, a pool that has ended: said");
        assert_eq!(
            shown(other.number()),
            "module second, pool another (3.4): said"
        );
    }

    #[test]
    fn a_panic_is_told_once_in_the_name_of_the_call_that_it_ends() {
        let speaker = Speaker::new("told", "a pool");
        assert_eq!(tell(), None, "no call");
        speaker.during(|| {
            assert_eq!(tell(), Some(speaker.number()));
            assert_ne!(
                CALL.get() & TOLD,
                0,
                "whoever catches it has nothing to tell"
            );
        });
        assert_eq!(CALL.get(), NOBODY);
    }
}
