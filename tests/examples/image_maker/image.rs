//! The file of a pool as text, which a repository can keep, with what the pool must hold.
//!
//! Lines of a word and its values come first, then the line `bytes`, then the pieces of the file that are not zero:
//!
//! ```text
//! block OFFSET SIZE TAG ROUND     a block, in bytes; ROUND says what was written to it, 0 for nothing
//! OFFSET DIGITS                   a piece: its offset in the file and its bytes, both hexadecimal
//! OFFSET*COUNT DIGITS             so many of these pieces, one behind the other
//! ```

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Bytes of a piece.
const PIECE_BYTES: usize = 32;

/// Bytes of a page, the smallest block.
pub(crate) const PAGE_BYTES: usize = 4096;

type Piece = [u8; PIECE_BYTES];

/// A block that a pool must hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StoredBlock {
    /// Where it lies in the pool, in bytes.
    pub(crate) offset: u64,
    /// Its size in bytes.
    pub(crate) size: u64,
    /// The owner tag that it was allocated with.
    pub(crate) tag: u64,
    /// What was written last to its first and to its last page, a digit; 0 if nothing was.
    pub(crate) round: u8,
}

impl StoredBlock {
    /// Where in the pool the pages lie to which something was written.
    pub(crate) fn pages(&self) -> impl Iterator<Item = u64> {
        let last = self.offset + self.size - PAGE_BYTES as u64;
        let mut pages = vec![self.offset, last];
        pages.dedup();
        pages.retain(|_| self.round != 0);
        pages.into_iter()
    }

    /// What was written to the page that lies at `offset` in the pool.
    pub(crate) fn page(&self, offset: u64) -> Vec<u8> {
        let line = format!("{offset:08x} for {:016x} {}\n", self.tag, self.round);
        assert_eq!(line.len(), PIECE_BYTES);
        line.repeat(PAGE_BYTES / PIECE_BYTES).into_bytes()
    }
}

/// The file of a pool, and what the pool must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PoolImage {
    /// The commit whose program has written the file.
    pub(crate) made_by: String,
    /// The pool's name.
    pub(crate) name: String,
    /// The pool's id, as commands show it.
    pub(crate) id: String,
    /// Bytes that are free in the pool.
    pub(crate) remaining: u64,
    /// The pool's blocks, in order.
    pub(crate) blocks: Vec<StoredBlock>,
    /// Bytes of the file.
    pub(crate) len: u64,
    /// The pieces of the file that are not zero, by their offset.
    pieces: BTreeMap<u64, Piece>,
}

impl PoolImage {
    /// An image without bytes.
    pub(crate) fn new(made_by: &str, name: &str, id: &str) -> Self {
        Self {
            made_by: made_by.to_owned(),
            name: name.to_owned(),
            id: id.to_owned(),
            remaining: 0,
            blocks: Vec::new(),
            len: 0,
            pieces: BTreeMap::new(),
        }
    }

    /// Takes the bytes of a file. Blocks.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(crate) fn take(&mut self, path: &Path) -> io::Result<()> {
        let bytes = std::fs::read(path)?;
        self.len = bytes.len() as u64;
        let (pieces, rest) = bytes.as_chunks();
        assert!(rest.is_empty(), "a file of whole pages");
        let pieces = (0..).step_by(PIECE_BYTES).zip(pieces.iter().copied());
        self.pieces = pieces.filter(|(_, piece)| *piece != [0; _]).collect();
        Ok(())
    }

    /// Writes the file anew, with holes where it is zero. Blocks.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(crate) fn restore(&self, path: &Path) -> io::Result<()> {
        let file = File::create_new(path)?;
        file.set_len(self.len)?;
        let pieces: Vec<_> = self.pieces.iter().collect();
        let follows =
            |one: &(&u64, &Piece), next: &(&u64, &Piece)| one.0 + PIECE_BYTES as u64 == *next.0;
        for run in pieces.chunk_by(follows) {
            let bytes: Vec<u8> = run
                .iter()
                .flat_map(|(_, piece)| piece.iter().copied())
                .collect();
            file.write_all_at(&bytes, *run[0].0)?;
        }
        Ok(())
    }

    /// The image as text.
    pub(crate) fn to_text(&self) -> String {
        let mut lines = vec![
            format!("made_by {}", self.made_by),
            format!("name {}", self.name),
            format!("id {}", self.id),
            format!("len {}", self.len),
            format!("remaining {}", self.remaining),
        ];
        lines.extend(self.blocks.iter().map(|block| {
            let StoredBlock {
                offset,
                size,
                tag,
                round,
            } = block;
            format!("block {offset} {size} {tag} {round}")
        }));
        lines.push("bytes".to_owned());
        let mut pieces = self.pieces.iter().peekable();
        while let Some((&offset, piece)) = pieces.next() {
            let mut count = 1;
            let follows = |count: u64| (offset + count * PIECE_BYTES as u64, piece);
            while pieces.peek() == Some(&(&follows(count).0, piece)) {
                pieces.next();
                count += 1;
            }
            let digits: String = piece.iter().map(|byte| format!("{byte:02x}")).collect();
            lines.push(match count {
                1 => format!("{offset:x} {digits}"),
                count => format!("{offset:x}*{count} {digits}"),
            });
        }
        lines.join("\n") + "\n"
    }

    /// Reads what [`Self::to_text`] wrote, or `None` if it is something else.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (head, body) = text.split_once("\nbytes\n")?;
        let mut image = Self::new("", "", "");
        for line in head.lines() {
            let (word, value) = line.split_once(' ')?;
            match word {
                "made_by" => image.made_by = value.to_owned(),
                "name" => image.name = value.to_owned(),
                "id" => image.id = value.to_owned(),
                "len" => image.len = value.parse().ok()?,
                "remaining" => image.remaining = value.parse().ok()?,
                "block" => image.blocks.push(parse_block(value)?),
                _ => return None,
            }
        }
        for line in body.lines() {
            let (place, digits) = line.split_once(' ')?;
            let (offset, count) = place.split_once('*').unwrap_or((place, "1"));
            let offset = u64::from_str_radix(offset, 16).ok()?;
            let piece = parse_piece(digits)?;
            let pieces = 0..count.parse().ok()?;
            let places = pieces.map(|piece: u64| offset + piece * PIECE_BYTES as u64);
            image.pieces.extend(places.map(|at| (at, piece)));
        }
        Some(image)
    }
}

fn parse_block(text: &str) -> Option<StoredBlock> {
    let numbers: Option<Vec<u64>> = text.split(' ').map(|word| word.parse().ok()).collect();
    let [offset, size, tag, round] = numbers?[..] else {
        return None;
    };
    Some(StoredBlock {
        offset,
        size,
        tag,
        round: u8::try_from(round).ok()?,
    })
}

fn parse_piece(digits: &str) -> Option<Piece> {
    let mut piece = [0; PIECE_BYTES];
    if digits.len() != 2 * PIECE_BYTES {
        return None;
    }
    for (at, byte) in piece.iter_mut().enumerate() {
        *byte = u8::from_str_radix(digits.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    Some(piece)
}
