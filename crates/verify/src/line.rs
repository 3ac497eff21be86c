//! The lines of a journal: what they say, and how they are written.
//!
//! ```text
//! chimaera-verify-journal 1 <id>          the first line
//! pool <id> <name>                        the pool that the journal is kept for from here on
//! begin <threads> <seed>                  a run begins
//! intend …                                what is about to happen to flushed blocks:
//!     -<offset>=<allocation>                  a free
//!     *<offset>=<allocation>@<generation>     an overwriting
//! flushed <thread> <used> <reserved> …    what a flush of this thread's has made durable:
//!     +<offset>/<type>=<allocation>@<generation>  a new block with its contents
//!     *<offset>=<allocation>@<generation>         new contents
//!     -<offset>=<allocation>                      a free
//! ```
//!
//! Journals of older versions have no `pool`; a run that continues one appends it. In the name, each byte that is `%`
//! or neither a space nor a visible ASCII character stands as `%` and two hexadecimal digits.
//!
//! `<allocation>` and `<generation>` are operation ids, written as `<thread>.<number>`. Of a thread's numbers, those up
//! to `used` were issued before the flush, so that every block allocated under them is in the journal or free; those up
//! to `reserved` may be issued before the thread's next `flushed`.
//!
//! Every line ends with ` ~` and a checksum in hexadecimal that continues the one of the line before: so a line that
//! was changed, left out or moved is found.

use std::fmt::{self, Display, Write};
use std::str::FromStr;

use chimaera_bdev_client::{Block, BlockType};
use crc32c::crc32c_append;

use super::ids::{JournalId, OperationId};
use super::pool::PoolIdentity;

/// How the first line begins.
pub(super) const HEADER_START: &str = "chimaera-verify-journal 1 ";

/// How the line begins that names the pool.
const POOL_START: &str = "pool ";

/// A line of a journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum JournalLine {
    Header(JournalId),
    Pool(PoolIdentity),
    Begin { threads: u8, seed: u64 },
    Intend(Vec<BlockChange>),
    Flushed(FlushLine),
}

/// What a flush has made durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FlushLine {
    pub(super) thread: u8,
    /// The last number that the thread issued before the flush.
    pub(super) used: u32,
    /// The last number that it may issue before its next line of this kind.
    pub(super) reserved: u32,
    pub(super) changes: Vec<BlockChange>,
}

/// What happens to a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BlockChange {
    Allocated {
        block: Block,
        allocation: OperationId,
        generation: OperationId,
    },
    Overwritten {
        offset: u64,
        allocation: OperationId,
        generation: OperationId,
    },
    Freed {
        offset: u64,
        allocation: OperationId,
    },
}

impl JournalLine {
    /// Appends the line, and gives the checksum that the next line continues.
    pub(super) fn write(&self, chain: u32, text: &mut String) -> u32 {
        let start = text.len();
        // Writing to a string cannot fail.
        let _ = write!(text, "{self}");
        let sum = crc32c_append(chain, &text.as_bytes()[start..]);
        let _ = writeln!(text, " ~{sum:08x}");
        sum
    }

    /// Reads a line without its line feed, and gives the checksum that the next line continues. `None` if it is not a
    /// whole line whose checksum continues `chain`.
    pub(super) fn read(chain: u32, line: &[u8]) -> Option<(Self, u32)> {
        let line = str::from_utf8(line).ok()?;
        let (payload, sum) = line.rsplit_once(" ~")?;
        // In one spelling only: else a changed line could pass for the one that was written.
        let expected = crc32c_append(chain, payload.as_bytes());
        if sum != format!("{expected:08x}") {
            return None;
        }
        Some((payload.parse().ok()?, expected))
    }
}

impl Display for JournalLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header(id) => write!(f, "{HEADER_START}{id}"),
            Self::Pool(pool) => {
                f.write_str(POOL_START)?;
                write_pool(pool, f)
            }
            Self::Begin { threads, seed } => write!(f, "begin {threads} {seed}"),
            Self::Intend(changes) => {
                f.write_str("intend")?;
                changes.iter().try_for_each(|change| write!(f, " {change}"))
            }
            Self::Flushed(flushed) => {
                let FlushLine {
                    thread,
                    used,
                    reserved,
                    changes,
                } = flushed;
                write!(f, "flushed {thread} {used} {reserved}")?;
                changes.iter().try_for_each(|change| write!(f, " {change}"))
            }
        }
    }
}

impl Display for BlockChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Allocated {
                block,
                allocation,
                generation,
            } => {
                let (offset, kind) = (block.offset, block.block_type as u32);
                write!(f, "+{offset}/{kind}={allocation}@{generation}")
            }
            Self::Overwritten {
                offset,
                allocation,
                generation,
            } => write!(f, "*{offset}={allocation}@{generation}"),
            Self::Freed { offset, allocation } => write!(f, "-{offset}={allocation}"),
        }
    }
}

/// A line that this version does not understand.
#[derive(Debug)]
pub(super) struct UnknownLine;

impl FromStr for JournalLine {
    type Err = UnknownLine;

    fn from_str(text: &str) -> Result<Self, UnknownLine> {
        if let Some(id) = text.strip_prefix(HEADER_START) {
            let id = u128::from_str_radix(id, 16).map_err(|_| UnknownLine)?;
            return Ok(Self::Header(JournalId(id)));
        }
        if let Some(pool) = text.strip_prefix(POOL_START) {
            return read_pool(pool).map(Self::Pool);
        }
        let mut words = text.split(' ');
        let line = match words.next() {
            Some("begin") => Self::Begin {
                threads: number(words.next())?,
                seed: number(words.next())?,
            },
            Some("intend") => {
                Self::Intend(words.by_ref().map(str::parse).collect::<Result<_, _>>()?)
            }
            Some("flushed") => Self::Flushed(FlushLine {
                thread: number(words.next())?,
                used: number(words.next())?,
                reserved: number(words.next())?,
                changes: words.by_ref().map(str::parse).collect::<Result<_, _>>()?,
            }),
            _ => return Err(UnknownLine),
        };
        match words.next() {
            None => Ok(line),
            Some(_) => Err(UnknownLine),
        }
    }
}

impl FromStr for BlockChange {
    type Err = UnknownLine;

    fn from_str(text: &str) -> Result<Self, UnknownLine> {
        let (kind, rest) = text.split_at_checked(1).ok_or(UnknownLine)?;
        let (place, ids) = rest.split_once('=').ok_or(UnknownLine)?;
        let both = || {
            let (allocation, generation) = ids.split_once('@').ok_or(UnknownLine)?;
            Ok((operation_id(allocation)?, operation_id(generation)?))
        };
        match kind {
            "+" => {
                let (offset, block_type) = place.split_once('/').ok_or(UnknownLine)?;
                let block_type = BlockType::ALL
                    .get(number::<usize>(Some(block_type))?)
                    .ok_or(UnknownLine)?;
                let (allocation, generation) = both()?;
                Ok(Self::Allocated {
                    block: Block::new(number(Some(offset))?, *block_type),
                    allocation,
                    generation,
                })
            }
            "*" => {
                let (allocation, generation) = both()?;
                Ok(Self::Overwritten {
                    offset: number(Some(place))?,
                    allocation,
                    generation,
                })
            }
            "-" => Ok(Self::Freed {
                offset: number(Some(place))?,
                allocation: operation_id(ids)?,
            }),
            _ => Err(UnknownLine),
        }
    }
}

fn number<T: FromStr>(word: Option<&str>) -> Result<T, UnknownLine> {
    word.and_then(|word| word.parse().ok()).ok_or(UnknownLine)
}

fn operation_id(text: &str) -> Result<OperationId, UnknownLine> {
    let (thread, in_thread) = text.split_once('.').ok_or(UnknownLine)?;
    Ok(OperationId::new(
        number(Some(thread))?,
        number(Some(in_thread))?,
    ))
}

/// Writes the pool that a journal is kept for, as it stands behind [`POOL_START`].
fn write_pool(pool: &PoolIdentity, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    write!(f, "{} ", pool.id)?;
    pool.name.bytes().try_for_each(|byte| match byte {
        b'%' => f.write_str("%25"),
        b' '..=b'~' => f.write_char(char::from(byte)),
        _ => write!(f, "%{byte:02x}"),
    })
}

/// Reads what [`write_pool`] has written.
fn read_pool(text: &str) -> Result<PoolIdentity, UnknownLine> {
    let (id, mut rest) = text.split_once(' ').ok_or(UnknownLine)?;
    let mut name = Vec::new();
    while let Some((before, after)) = rest.split_once('%') {
        name.extend(before.bytes());
        let (digits, after) = after.split_at_checked(2).ok_or(UnknownLine)?;
        name.push(u8::from_str_radix(digits, 16).map_err(|_| UnknownLine)?);
        rest = after;
    }
    name.extend(rest.bytes());
    Ok(PoolIdentity {
        id: id.parse().map_err(|_| UnknownLine)?,
        name: String::from_utf8(name).map_err(|_| UnknownLine)?,
    })
}

#[cfg(test)]
pub(super) fn samples() -> Vec<JournalLine> {
    let (a, b, c) = (
        OperationId::new(0, 1),
        OperationId::new(0, 2),
        OperationId::new(0, 300),
    );
    vec![
        JournalLine::Header(JournalId(0xfeed << 64)),
        JournalLine::Pool(PoolIdentity {
            id: chimaera_bdev_client::PoolId::new(7, 1),
            name: "/a pool/of 100 %\n\u{e9}".to_owned(),
        }),
        JournalLine::Begin {
            threads: 2,
            seed: u64::MAX,
        },
        JournalLine::Flushed(FlushLine {
            thread: 0,
            used: 2,
            reserved: 302,
            changes: vec![BlockChange::Allocated {
                block: Block::new(5 << 20, BlockType::Kib256),
                allocation: a,
                generation: b,
            }],
        }),
        JournalLine::Intend(vec![
            BlockChange::Overwritten {
                offset: 5 << 20,
                allocation: a,
                generation: c,
            },
            BlockChange::Freed {
                offset: 5 << 20,
                allocation: a,
            },
        ]),
        JournalLine::Flushed(FlushLine {
            thread: 0,
            used: 300,
            reserved: u32::MAX,
            changes: vec![BlockChange::Freed {
                offset: 5 << 20,
                allocation: a,
            }],
        }),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_reads_as_it_is_written_and_only_after_its_predecessor() {
        let mut chain = 0;
        for sample in samples() {
            let mut text = String::new();
            let next = sample.write(chain, &mut text);
            let line = text.strip_suffix('\n').expect("a line").as_bytes();
            assert_eq!(JournalLine::read(chain, line), Some((sample, next)));
            assert_eq!(JournalLine::read(chain ^ 1, line), None);
            for at in 0..line.len() {
                let mut changed = line.to_vec();
                changed[at] ^= 1;
                assert_eq!(JournalLine::read(chain, &changed), None, "{text} at {at}");
                assert_eq!(
                    JournalLine::read(chain, &line[..at]),
                    None,
                    "{text} to {at}"
                );
            }
            chain = next;
        }
    }

    #[test]
    fn garbage_is_no_line() {
        for text in [
            "",
            " ",
            "flushed",
            "flushed 1 2",
            "flushed 256 1 1",
            "flushed 0 1 1 ",
            "begin 1",
            "begin 1 2 3",
            "intend +",
            "intend -1",
            "intend -1=1",
            "intend -1=1.x",
            "intend ?1=1.1",
            "flushed 0 1 1 +4096/4=0.1@0.2",
            "flushed 0 1 1 +4096=0.1@0.2",
            "intend é",
            "end",
            "pool",
            "pool 1.2",
            "pool x a",
            "pool 1.2 %",
            "pool 1.2 %é",
            "pool 1.2 %ff",
            "chimaera-verify-journal 1 xyz",
            "chimaera-verify-journal 2 00",
        ] {
            assert!(text.parse::<JournalLine>().is_err(), "{text:?}");
        }
    }
}
