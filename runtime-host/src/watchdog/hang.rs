//! What a thread stays in, and what the log says of it when that is too long.

use std::time::Duration;

use chimaera_proto::admin::MAX_CHANGING_NAME_BYTES;
use chimaera_proto::hangs::HangPlace;

use crate::calls::FoundIn;
use crate::log;
use crate::speakers::{self, Named};

/// What a thread was found in, at one look or more.
pub(super) struct Stay {
    pub(super) found: FoundIn,
    /// For how long, at least: since the first of these looks.
    pub(super) lasted: Duration,
    /// Since it has lasted too long.
    pub(super) begun: Option<Begun>,
}

/// A hang, with the words for it as it began: what it hangs in may have ended by the time that it is over.
#[derive(Clone)]
pub(super) struct Begun {
    pub(super) place: HangPlace,
    pub(super) lasted: Duration,
    /// In the log's words.
    what: String,
    thread: String,
    is_worker: bool,
}

impl Begun {
    pub(super) fn new(
        found: FoundIn,
        lasted: Duration,
        thread_id: i32,
        thread: &str,
        is_worker: bool,
    ) -> Self {
        let (place, what) = match (found.speaker(), found.call()) {
            (Some(speaker), Some(call)) => {
                let (module, pool) = speakers::names(speaker);
                let (id, name) = pool.unwrap_or((None, "a pool that has ended".to_owned()));
                let end = name.floor_char_boundary(MAX_CHANGING_NAME_BYTES);
                let what = format!("{}: {call}", Named(speaker));
                let pool = name[..end].to_owned();
                let place = HangPlace::Module {
                    module,
                    pool,
                    id,
                    call,
                };
                (place, what)
            }
            _ => {
                let what = "a worker that is in no module's call";
                (HangPlace::Runtime, what.to_owned())
            }
        };
        Self {
            place,
            lasted,
            what,
            thread: format!("{thread} (thread {thread_id})"),
            is_worker,
        }
    }

    pub(super) fn tell_of_beginning(&self) {
        let Self { what, thread, .. } = self;
        let lasted = self.lasted.as_secs();
        let consequence = match (&self.place, self.is_worker) {
            (HangPlace::Runtime, _) => {
                ": it serves nobody meanwhile; this is a mistake in the runtime"
            }
            (_, true) => ": that worker serves nobody meanwhile",
            (_, false) => "",
        };
        let text = format_args!(
            "{what} has not come to an end for {lasted} seconds, on {thread}{consequence}"
        );
        match self.is_worker {
            true => log::error(text),
            false => log::warning(text),
        }
    }

    pub(super) fn tell_of_end(&self) {
        let Self { what, thread, .. } = self;
        let lasted = self.lasted.as_secs();
        log::info(format_args!(
            "{what} has come to an end after {lasted} seconds, on {thread}"
        ));
    }
}
