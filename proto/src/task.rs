//! The descriptor of a task and its completion: one cache line each.
//!
//! ```text
//! descriptor, 8 words of 64 bits, little endian, bit 0 first
//! word 0   0..32 sequence   32..48 method   48..55 query mode   55 buffer is read-only
//!          56..64 buffer segment
//! word 1   0..32 pool major 32..64 pool minor
//! word 2   0..32 query a    32..64 query b
//! word 3   0..8 record      8..32 instance of the pool     32..64 buffer length in bytes
//! word 4   buffer offset in its segment, in bytes
//! word 5…7 arguments, by method
//!
//! completion, in a record
//! word 0   0..32 flag (sequence of the task that completed)   32..48 status   48..64 errno
//! word 1…7 values, by method
//! ```

use crate::ids::PoolId;
use crate::limits::{LANE_DEPTH, MAX_SEGMENTS};
use crate::query::{PoolQuery, UnknownQueryMode};
use crate::status::{Failure, result_from_word};

/// Words of a descriptor.
pub const DESCRIPTOR_WORDS: usize = 8;

/// Arguments that a descriptor carries besides its buffer.
pub const ARGUMENT_COUNT: usize = 3;

/// Values that a completion carries besides its status.
pub const VALUE_COUNT: usize = 7;

/// The largest number of a pool's instance: 24 bits travel.
pub const MAX_INSTANCE: u32 = (1 << 24) - 1;

/// The buffer segment of a task without a buffer.
pub const NO_SEGMENT: u8 = u8::MAX;

const _: () = assert!(
    MAX_SEGMENTS < NO_SEGMENT as usize,
    "a segment index fits its byte"
);

/// A range of a session's registered memory, as a client names it: not yet validated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BufferRange {
    /// Index of the segment in the session.
    pub segment: u8,
    /// Offset in the segment, in bytes.
    pub offset_bytes: u64,
    /// Length in bytes.
    pub len_bytes: u32,
    /// What the module may do with it.
    pub access: Access,
}

/// What a module may do with a task's buffer.
///
/// The host enforces it, whatever the module does: a client lends memory to which shared references may exist as
/// read-only, and cannot know which module a pool really belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Read it and write it.
    ReadWrite,
    /// Read it.
    ReadOnly,
}

/// The bit of the query mode's byte that stands for [`Access::ReadOnly`].
const READ_ONLY: u8 = 1 << 7;

/// A task as it travels from client to host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// What to do; the pool's module gives the number its meaning.
    pub method: u16,
    /// The pool that is to do it.
    pub pool: PoolId,
    /// Which pool of this id is meant ([`PoolInfo::instance`](crate::admin::PoolInfo::instance)), at most
    /// [`MAX_INSTANCE`]. 0: whichever the session is attached to.
    pub instance: u32,
    /// Which of the pool's containers.
    pub query: PoolQuery,
    /// Index of the completion record in the lane, below [`LANE_DEPTH`].
    pub record: u8,
    /// The buffer that goes along, if any.
    pub buffer: Option<BufferRange>,
    /// Arguments, by method.
    pub arguments: [u64; ARGUMENT_COUNT],
}

/// Why a descriptor's words are not a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DescriptorError {
    /// Nothing can be completed: the lane's protocol is broken.
    #[error("completion record {0} is out of range (a lane has {LANE_DEPTH})")]
    Record(u8),
    /// The task can be refused through its record.
    #[error("{error}")]
    Query {
        /// Where to complete the task.
        record: u8,
        /// What is wrong with the query.
        error: UnknownQueryMode,
    },
}

/// A descriptor's words before [`Descriptor::parse`]: whatever a client may have written there.
#[derive(Clone, Copy, Debug)]
pub struct Unvalidated<'a>(pub &'a [u64; DESCRIPTOR_WORDS]);

impl Unvalidated<'_> {
    /// The low half of the sequence, which is all that travels.
    #[inline]
    #[must_use]
    pub const fn sequence(self) -> u32 {
        self.0[0] as u32
    }

    /// The method.
    #[inline]
    #[must_use]
    pub const fn method(self) -> u16 {
        (self.0[0] >> 32) as u16
    }

    /// The index of the record, which may be out of range.
    #[inline]
    #[must_use]
    pub const fn record(self) -> u8 {
        self.0[3] as u8
    }

    /// The arguments.
    #[inline]
    #[must_use]
    pub const fn arguments(self) -> [u64; ARGUMENT_COUNT] {
        [self.0[5], self.0[6], self.0[7]]
    }
}

impl Descriptor {
    /// The descriptor's words, ready to be published as the task with this sequence.
    #[must_use]
    pub const fn to_words(&self, sequence: u32) -> [u64; DESCRIPTOR_WORDS] {
        let (mode, a, b) = self.query.to_parts();
        let (segment, offset, len, access) = match self.buffer {
            Some(buffer) => (
                buffer.segment,
                buffer.offset_bytes,
                buffer.len_bytes,
                buffer.access,
            ),
            None => (NO_SEGMENT, 0, 0, Access::ReadWrite),
        };
        let mode = match access {
            Access::ReadWrite => mode,
            Access::ReadOnly => mode | READ_ONLY,
        };
        [
            sequence as u64
                | (self.method as u64) << 32
                | (mode as u64) << 48
                | (segment as u64) << 56,
            self.pool.to_word(),
            a as u64 | (b as u64) << 32,
            (self.record as u32 | self.instance << 8) as u64 | (len as u64) << 32,
            offset,
            self.arguments[0],
            self.arguments[1],
            self.arguments[2],
        ]
    }

    /// Reads a private copy of a descriptor's words. The sequence is ignored, as the lane has checked it; whether pool,
    /// method, buffer and arguments are valid is checked elsewhere.
    ///
    /// # Errors
    /// See [`DescriptorError`].
    pub const fn parse(words: &[u64; DESCRIPTOR_WORDS]) -> Result<Self, DescriptorError> {
        let unvalidated = Unvalidated(words);
        let record = unvalidated.record();
        if record as usize >= LANE_DEPTH {
            return Err(DescriptorError::Record(record));
        }
        let mode = (words[0] >> 48) as u8;
        let query = match PoolQuery::from_parts(
            mode & !READ_ONLY,
            words[2] as u32,
            (words[2] >> 32) as u32,
        ) {
            Ok(query) => query,
            Err(error) => return Err(DescriptorError::Query { record, error }),
        };
        let segment = (words[0] >> 56) as u8;
        let buffer = if segment == NO_SEGMENT {
            None
        } else {
            Some(BufferRange {
                segment,
                offset_bytes: words[4],
                len_bytes: (words[3] >> 32) as u32,
                access: if mode & READ_ONLY == 0 {
                    Access::ReadWrite
                } else {
                    Access::ReadOnly
                },
            })
        };
        Ok(Self {
            method: unvalidated.method(),
            pool: PoolId::from_word(words[1]),
            instance: words[3] as u32 >> 8,
            query,
            record,
            buffer,
            arguments: unvalidated.arguments(),
        })
    }
}

/// How a task ended, as it travels from host to client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completion {
    /// Status code and errno; see [`crate::status`].
    pub status_word: u32,
    /// Values, by method. Those that a method does not give are zero if the task failed, and
    /// not specified if it succeeded.
    pub values: [u64; VALUE_COUNT],
}

impl Completion {
    /// A success with the first of the values.
    ///
    /// # Panics
    /// If more than [`VALUE_COUNT`] values are given: a mistake in the module.
    #[must_use]
    pub fn success(first_values: &[u64]) -> Self {
        let mut values = [0; VALUE_COUNT];
        values[..first_values.len()].copy_from_slice(first_values);
        Self {
            status_word: 0,
            values,
        }
    }

    /// A failure.
    #[must_use]
    pub fn failure(failure: impl Into<Failure>) -> Self {
        Self {
            status_word: failure.into().to_word(),
            values: [0; VALUE_COUNT],
        }
    }

    /// The values of a success.
    ///
    /// # Errors
    /// The failure that the status word stands for.
    pub const fn result(&self) -> Result<&[u64; VALUE_COUNT], Failure> {
        match result_from_word(self.status_word) {
            Ok(()) => Ok(&self.values),
            Err(failure) => Err(failure),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{ContainerId, NodeId};

    fn sample() -> Descriptor {
        Descriptor {
            method: 0xabcd,
            pool: PoolId::new(8000, 3),
            instance: MAX_INSTANCE,
            query: PoolQuery::Range {
                offset: 7,
                count: u32::MAX,
            },
            record: 63,
            buffer: Some(BufferRange {
                segment: 5,
                offset_bytes: u64::MAX,
                len_bytes: u32::MAX,
                access: Access::ReadOnly,
            }),
            arguments: [1, u64::MAX, 3],
        }
    }

    #[test]
    fn descriptors_read_as_they_are_written() {
        let queries = [
            PoolQuery::Local,
            PoolQuery::DirectId(ContainerId(9)),
            PoolQuery::DirectHash(77),
            PoolQuery::Range {
                offset: 1,
                count: 2,
            },
            PoolQuery::Broadcast,
            PoolQuery::Physical(NodeId(4)),
            PoolQuery::Dynamic,
        ];
        for query in queries {
            let writable = sample().buffer.map(|range| BufferRange {
                access: Access::ReadWrite,
                ..range
            });
            for buffer in [None, sample().buffer, writable] {
                let task = Descriptor {
                    query,
                    buffer,
                    ..sample()
                };
                let words = task.to_words(0xdead_beef);
                assert_eq!(Unvalidated(&words).sequence(), 0xdead_beef);
                assert_eq!(Descriptor::parse(&words), Ok(task));
            }
        }
    }

    #[test]
    fn a_record_out_of_range_and_an_unknown_query_are_told_apart() {
        let mut words = sample().to_words(1);
        words[3] = 64;
        assert_eq!(Descriptor::parse(&words), Err(DescriptorError::Record(64)));
        let mut words = sample().to_words(1);
        words[0] |= 0xff << 48;
        assert_eq!(
            Descriptor::parse(&words),
            Err(DescriptorError::Query {
                record: 63,
                error: UnknownQueryMode(0x7f)
            })
        );
    }
}
