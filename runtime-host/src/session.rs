//! A connected client: its socket, its memory, its identity.

use std::fmt;
use std::os::fd::OwnedFd;
use std::ptr::NonNull;
use std::sync::{Arc, OnceLock};

use chimaera_proto::BufferRange;
use chimaera_proto::limits::{DATA_OFFSET_BYTES, MAX_SEGMENTS};
use chimaera_shm::Segment;

use crate::caller::Caller;

/// A client that was welcomed. Workers share it with the control side, which is the last to
/// release it: it unmaps the client's memory, and then closes the socket, from which the client
/// learns that nobody touches its memory any more.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) id: u64,
    pub(crate) name: String,
    pub(crate) caller: Arc<Caller>,
    first: Arc<Segment>,
    further: [OnceLock<Segment>; MAX_SEGMENTS - 1],
}

impl fmt::Display for Session {
    /// For the log. The name is whatever the client likes, so it stands last.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "session {} ({}, \"{}\")",
            self.id, self.caller, self.name
        )
    }
}

impl Session {
    pub(crate) fn new(name: String, caller: Caller, first: Segment) -> Self {
        let further = [const { OnceLock::new() }; MAX_SEGMENTS - 1];
        Self {
            id: caller.session,
            name,
            caller: Arc::new(caller),
            first: Arc::new(first),
            further,
        }
    }

    pub(crate) fn first_segment(&self) -> &Arc<Segment> {
        &self.first
    }

    /// Whether the memory in this file is registered under this index already.
    pub(crate) fn has_segment(&self, index: u32, file: &OwnedFd) -> bool {
        let further = (index as usize).checked_sub(1);
        further
            .and_then(|place| self.further.get(place)?.get())
            .is_some_and(|segment| segment.is_memory_of(file))
    }

    /// Registers a segment under the next index, which must be `index`.
    pub(crate) fn add_segment(&self, index: u32, segment: Segment) -> Result<(), String> {
        let taken = self
            .further
            .iter()
            .take_while(|slot| slot.get().is_some())
            .count();
        let next = taken + 1;
        if index as usize != next {
            return Err(format!("the next segment is number {next}, not {index}"));
        }
        let slot = self.further.get(taken).ok_or_else(|| {
            format!("a session has at most {MAX_SEGMENTS} segments, and this one has them")
        })?;
        slot.set(segment)
            .map_err(|_| format!("segment {index} is registered already"))
    }

    /// The first byte of a range that a client names, if it lies among the buffers of a
    /// registered segment. It stays mapped as long as the session.
    #[inline]
    pub(crate) fn buffer(&self, range: BufferRange) -> Option<NonNull<u8>> {
        let len = u64::from(range.len_bytes);
        if range.segment == 0 {
            if range.offset_bytes < DATA_OFFSET_BYTES as u64 {
                return None;
            }
            return self.first.range(range.offset_bytes, len);
        }
        let segment = self.further.get(usize::from(range.segment) - 1)?.get()?;
        segment.range(range.offset_bytes, len)
    }
}
