//! Who speaks in the log: a module, in the name of one of its pools.
//!
//! A container gets a number when it is made, and logs its lines with it. A panic is logged by a hook, which does not
//! know the container: so each thread remembers in whose call it is ([`crate::calls`]). A module's own threads may say
//! that themselves ([`chimaera_chimod::Host::adopt_thread`]).
//!
//! Laws of this module:
//! - A number may be used after its pool has ended, since the module's threads may outlive the pool. It still names the
//!   module then.
//! - A panic is logged once: by the hook of a library or of the daemon, which knows its place, or where it is caught if
//!   there is no such hook (in an application with a hook of its own). If the same speaker has logged many panics in
//!   the last seconds, the panic is counted instead, and the next one that is logged says how many there were.

use std::collections::HashMap;
use std::ffi::c_void;
use std::fmt::{self, Write};
use std::panic::PanicHookInfo;
use std::time::Instant;

use chimaera_chimod::HostResource;
use chimaera_chimod::abi::{LentBytes, TextSink};
use chimaera_chimod::host::report;
use chimaera_fork::PerProcess;
use chimaera_proto::PoolId;
use chimaera_proto::hangs::ModuleCall;
use chimaera_proto::shown::quoted;
use parking_lot::Mutex;

use crate::accounts::{Exceeded, PoolAccount, Resource};
use crate::calls::{self, POOL_BITS, SPEAKER_BITS};
use crate::log::{self, Level, Source};

/// All speakers of this process, in whichever host.
static SPEAKERS: PerProcess<Mutex<Speakers>> = PerProcess::new(Mutex::default);

/// Each speaker's share of the log for panics: a panic may come with each call.
static PANIC_SHARES: PerProcess<Mutex<log::Shares>> =
    PerProcess::new(|| Mutex::new(log::Shares::per("pool or module")));

#[derive(Default)]
struct Speakers {
    /// Names of modules that had a pool. There are no more of them than libraries and linked modules.
    modules: Vec<String>,
    /// The existing pools by number. The id of a pool that is being made is not known yet.
    pools: HashMap<u64, SpeakingPool>,
    last: u64,
}

/// A pool in whose name a module speaks, and takes what others share.
struct SpeakingPool {
    id: Option<PoolId>,
    name: String,
    account: PoolAccount,
}

/// A pool in whose name a module speaks, until this is dropped.
#[derive(Debug)]
pub(crate) struct Speaker(u64);

impl Speaker {
    /// A pool of this name that is being made. It has no id before [`Self::set_id`]: another one than was asked for or
    /// chosen may be recorded for it. What it takes is counted in this account until this is dropped.
    pub(crate) fn new(module: &str, pool: &str, account: PoolAccount) -> Self {
        let mut speakers = SPEAKERS.get().lock();
        let known = speakers.modules.iter().position(|name| name == module);
        let module = known.unwrap_or_else(|| {
            speakers.modules.push(module.to_owned());
            speakers.modules.len() - 1
        });
        speakers.last += 1;
        debug_assert!(module < 1 << (SPEAKER_BITS - POOL_BITS) && speakers.last < 1 << POOL_BITS);
        let number = speakers.last | (module as u64) << POOL_BITS;
        let pool = SpeakingPool {
            id: None,
            name: pool.to_owned(),
            account,
        };
        speakers.pools.insert(number, pool);
        Self(number)
    }

    /// The number by which the container identifies itself.
    #[inline]
    pub(crate) fn number(&self) -> u64 {
        self.0
    }

    /// Notes that the pool has this id.
    pub(crate) fn set_id(&self, id: PoolId) {
        if let Some(pool) = SPEAKERS.get().lock().pools.get_mut(&self.0) {
            pool.id = Some(id);
        }
    }

    /// Counts what the pool takes in another user's name from now on.
    pub(crate) fn give_account_to(&self, user: u32) {
        if let Some(pool) = SPEAKERS.get().lock().pools.get_mut(&self.0) {
            pool.account.give_to(user);
        }
    }

    /// Makes a call in the pool's name. The call may block.
    pub(crate) fn during<T>(&self, what: ModuleCall, call: impl FnOnce() -> T) -> T {
        calls::during(calls::word(self.0, what), call)
    }
}

impl Drop for Speaker {
    fn drop(&mut self) {
        SPEAKERS.get().lock().pools.remove(&self.0);
    }
}

/// The names of module and pool, as the log has them.
pub(crate) struct Named(pub(crate) u64);

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (module, pool) = names(self.0);
        write!(f, "module {module}")?;
        match pool {
            Some((Some(id), name)) => write!(f, ", pool {} ({id})", quoted(&name)),
            Some((None, name)) => write!(f, ", pool {}", quoted(&name)),
            None if module_of(self.0) == self.0 => Ok(()),
            None => f.write_str(", a pool that has ended"),
        }
    }
}

/// The name of a speaker's module, and id and name of its pool, if that exists.
pub(crate) fn names(speaker: u64) -> (String, Option<(Option<PoolId>, String)>) {
    let module = (speaker >> POOL_BITS) as usize;
    let speakers = SPEAKERS.get().lock();
    let module = speakers.modules.get(module).map_or("unknown", |name| name);
    let pool = speakers.pools.get(&speaker);
    (
        module.to_owned(),
        pool.map(|pool| (pool.id, pool.name.clone())),
    )
}

/// What a module logs, after the names of module and pool.
struct Said<T> {
    speaker: u64,
    text: T,
}

impl<T: fmt::Display> fmt::Display for Said<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", Named(self.speaker), self.text)
    }
}

/// The number that stands for a speaker's module, without any of its pools.
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
    let causer = limited_user(speaker);
    // Neither blocks nor panics, by the laws of the log.
    log::say_for(causer, level, Source::Module, Said { speaker, text });
}

/// The user who has the pool in whose name a module speaks, if it is one whose lines are limited.
fn limited_user(speaker: u64) -> Option<u32> {
    let speakers = SPEAKERS.get().lock();
    speakers.pools.get(&speaker)?.account.limited_user()
}

/// [`chimaera_chimod::abi::HostVTable::charge`].
pub(crate) unsafe extern "C" fn charge(
    _: *const c_void,
    speaker: u64,
    resource: u32,
    amount: u64,
    error: *const TextSink,
) -> u32 {
    let charged = match HostResource::from_number(resource).map(resource_of) {
        Some(resource) => charge_pool(speaker, resource, amount),
        // Of a later version, in which it is counted.
        None => Ok(()),
    };
    match charged {
        Ok(()) => 0,
        // SAFETY: the module passes a sink that is valid during the call.
        Err(exceeded) => unsafe { report(&exceeded.into(), error) },
    }
}

const fn resource_of(charged: HostResource) -> Resource {
    match charged {
        HostResource::MemoryBytes => Resource::MemoryBytes,
        HostResource::IoDepth => Resource::IoDepth,
        HostResource::Descriptors => Resource::Descriptors,
        HostResource::AddressBytes => Resource::AddressBytes,
        HostResource::Rings => Resource::Rings,
    }
}

fn charge_pool(speaker: u64, resource: Resource, amount: u64) -> Result<(), Exceeded> {
    match SPEAKERS.get().lock().pools.get_mut(&speaker) {
        Some(pool) => pool.account.charge(resource, amount),
        None => Ok(()),
    }
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
        if calls::take_logged() {
            return;
        }
        log_panic_line(speaker, format_args!("panicked: {text}"));
        return;
    }
    let speaker = calls::mark_logged().unwrap_or(module_of(speaker));
    let thread: &dyn fmt::Display = match thread.0.is_empty() {
        true => &thread_name(),
        false => &thread,
    };
    log_panic_line(
        speaker,
        format_args!("panicked at {place} on thread {thread}: {text}"),
    );
}

/// Logs a panic, within the speaker's share of the log.
fn log_panic_line(speaker: u64, text: fmt::Arguments<'_>) {
    let skipped = PANIC_SHARES.get().lock().admit(speaker, Instant::now());
    if let Some(skipped) = skipped {
        let text = format_args!("{text}{skipped}");
        log::say(Level::Error, Source::Module, Said { speaker, text });
    }
}

/// [`chimaera_chimod::abi::HostVTable::adopt_thread`].
pub(crate) unsafe extern "C" fn adopt_thread(_: *const c_void, speaker: u64) {
    calls::adopt(speaker);
}

/// Logs a panic, from a program's hook: in the name of the linked module in which it happened, if it did in one.
pub fn log_panic(panic: &PanicHookInfo<'_>) {
    let thread = thread_name();
    let place = panic.location().map(ToString::to_string);
    let place = place.unwrap_or_else(|| "an unknown place".to_owned());
    let text = panic.payload_as_str().unwrap_or("no message");
    match calls::mark_logged() {
        Some(speaker) => {
            log_panic_line(
                speaker,
                format_args!("panicked at {place} on thread {thread}: {text}"),
            );
        }
        None => log::error(format_args!("thread {thread} panicked at {place}: {text}")),
    }
}

/// The whole name of the calling thread, in words that follow "thread".
fn thread_name() -> String {
    chimaera_thread::name().unwrap_or_else(|| "without a name".to_owned())
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
        let speaker = Speaker::new("first", "a pool", PoolAccount::of_nobody_else());
        let other = Speaker::new("second", "another", PoolAccount::of_nobody_else());
        other.set_id(PoolId::new(3, 4));
        let again = Speaker::new("first", "a third", PoolAccount::of_nobody_else());
        again.set_id(PoolId::new(5, 6));
        let number = speaker.number();
        assert_eq!(shown(number), "module first, pool \"a pool\": said");
        assert_eq!(
            shown(again.number()),
            "module first, pool \"a third\" (5.6): said"
        );
        speaker.set_id(PoolId::new(7, 8));
        assert_eq!(shown(number), "module first, pool \"a pool\" (7.8): said");
        assert_eq!(shown(module_of(other.number())), "module second: said");
        drop(speaker);
        assert_eq!(shown(number), "module first, a pool that has ended: said");
        assert_eq!(
            shown(other.number()),
            "module second, pool another (3.4): said"
        );
    }
}
