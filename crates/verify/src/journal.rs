//! A journal's file. A line ([`JournalLine`]) that announces an operation is durable before the operation begins; a
//! line that reports one is written after it.
//!
//! Laws of this module:
//! - An append returns when the line is durable. One append writes one line, so a crash can tear the last line and no
//!   other.
//! - A torn last line says nothing: what it was to announce has not begun, and nobody relies on what it was to report.
//!   It is cut off when the journal is continued.
//! - Any other line that does not read as it was written is damage, and an error.
//! - One run at a time continues a journal: the file is locked as long as it is open.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;

use super::error::VerifyError;
use super::ids::JournalId;
use super::line::{HEADER_START, JournalLine};
use super::model::PoolModel;
use super::pool::PoolIdentity;

/// A journal that a run continues. Other processes can neither continue nor read it meanwhile.
#[derive(Debug)]
pub struct WorkloadJournal {
    path: PathBuf,
    file: File,
    chain: u32,
    model: PoolModel,
}

/// What the bytes of a journal say.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ParsedJournal {
    /// What the whole lines promise. `None` if not even the first line is whole.
    pub(super) model: Option<PoolModel>,
    /// Bytes of whole lines.
    pub(super) whole_bytes: usize,
    /// The checksum that the next line continues.
    chain: u32,
}

impl WorkloadJournal {
    /// Opens a journal to continue it. Where there is no file or an empty one, begins a journal with this id. Blocks
    /// until what is new is durable.
    ///
    /// # Errors
    /// The file holds something else, is damaged, or is in use by another process; or the system refuses something.
    pub fn open(path: &Path, new_id: JournalId) -> Result<Self, VerifyError> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let mut file = open(&mut options, path)?;
        file.try_lock().map_err(|error| locked(path, error))?;
        let parsed = read_all(&mut file, path)?;
        let whole_bytes = parsed.whole_bytes as u64;
        file.set_len(whole_bytes)
            .and_then(|()| file.seek(SeekFrom::Start(whole_bytes)))
            .and_then(|_| file.sync_all())
            .map_err(failed("cut", path))?;
        let mut journal = Self {
            path: path.to_path_buf(),
            file,
            chain: parsed.chain,
            model: parsed.model.clone().unwrap_or(PoolModel::new(new_id)),
        };
        if parsed.model.is_none() {
            journal.write(&JournalLine::Header(new_id))?;
            sync_folder(path)?;
        }
        Ok(journal)
    }

    /// Notes which pool the journal is kept for, where it does not say so yet. Blocks until that is durable.
    ///
    /// # Errors
    /// The journal was kept for another pool, or cannot be written.
    pub fn keep_for(&mut self, pool: PoolIdentity) -> Result<(), VerifyError> {
        check_kept_for(&self.model, &pool, &self.path)?;
        match self.model.pool.as_ref() == Some(&pool) {
            true => Ok(()),
            false => self.append(&JournalLine::Pool(pool)),
        }
    }

    /// What the journal promises up to now.
    pub const fn model(&self) -> &PoolModel {
        &self.model
    }

    /// Appends a line and waits until it is durable.
    pub(super) fn append(&mut self, line: &JournalLine) -> Result<(), VerifyError> {
        self.model
            .apply(line)
            .map_err(|contradiction| VerifyError::ContradictsJournal {
                path: self.path.clone(),
                contradiction,
            })?;
        self.write(line)
    }

    fn write(&mut self, line: &JournalLine) -> Result<(), VerifyError> {
        let mut text = String::new();
        self.chain = line.write(self.chain, &mut text);
        self.file
            .write_all(text.as_bytes())
            .and_then(|()| self.file.sync_data())
            .map_err(failed("write", &self.path))
    }
}

/// Refuses a journal that was kept for another pool: everything that it promises would be missing in this one.
fn check_kept_for(model: &PoolModel, pool: &PoolIdentity, path: &Path) -> Result<(), VerifyError> {
    match &model.pool {
        Some(kept_for) if !kept_for.may_be(pool) => Err(VerifyError::JournalOfAnotherPool {
            path: path.to_path_buf(),
            kept_for: kept_for.clone(),
            pool: pool.clone(),
        }),
        _ => Ok(()),
    }
}

/// Reads what a journal promises of this pool, and leaves the journal as it is. A torn last line is passed over.
///
/// # Errors
/// The file is not a journal, is empty, damaged, in use by a run, or was kept for another pool; or it cannot be read.
pub fn read_journal(path: &Path, pool: &PoolIdentity) -> Result<PoolModel, VerifyError> {
    let model = read(path)?;
    check_kept_for(&model, pool, path)?;
    Ok(model)
}

/// Reads a journal, whichever pool it is kept for, and leaves it as it is.
pub(super) fn read(path: &Path) -> Result<PoolModel, VerifyError> {
    let mut file = open(OpenOptions::new().read(true), path)?;
    file.try_lock_shared()
        .map_err(|error| locked(path, error))?;
    let parsed = read_all(&mut file, path)?;
    parsed
        .model
        .ok_or_else(|| VerifyError::EmptyJournal(path.to_path_buf()))
}

fn open(options: &mut OpenOptions, path: &Path) -> Result<File, VerifyError> {
    // A file of another kind may have no end, or wait for ever for a writer.
    let without_waiting = options.custom_flags(OFlag::O_NONBLOCK.bits());
    let file = without_waiting.open(path).map_err(failed("open", path))?;
    let metadata = file.metadata().map_err(failed("open", path))?;
    match metadata.is_file() {
        true => Ok(file),
        false => Err(VerifyError::NotARegularFile(path.to_path_buf())),
    }
}

/// Reads all of a journal, but of another file only as much as shows that it is none.
fn read_all(file: &mut File, path: &Path) -> Result<ParsedJournal, VerifyError> {
    let mut bytes = Vec::new();
    Read::by_ref(file)
        .take(HEADER_START.len() as u64)
        .read_to_end(&mut bytes)
        .map_err(failed("read", path))?;
    if is_part_of_a_header(&bytes) {
        file.read_to_end(&mut bytes).map_err(failed("read", path))?;
    }
    if !is_part_of_a_header(&bytes) {
        return Err(VerifyError::NotAJournal(path.to_path_buf()));
    }
    parse(&bytes).map_err(|damage| VerifyError::DamagedJournal {
        path: path.to_path_buf(),
        damage,
    })
}

/// Reads a journal's bytes. An error says what is wrong with them.
pub(super) fn parse(bytes: &[u8]) -> Result<ParsedJournal, String> {
    let mut parsed = ParsedJournal {
        model: None,
        whole_bytes: 0,
        chain: 0,
    };
    let mut texts = bytes.split_inclusive(|&byte| byte == b'\n');
    for number in 1.. {
        let Some(text) = texts.next() else { break };
        let whole = text.strip_suffix(b"\n");
        let Some((line, chain)) = whole.and_then(|text| JournalLine::read(parsed.chain, text))
        else {
            if number == 1 && !is_part_of_a_header(text) {
                return Err("this is not a journal of `chimaera verify`".to_owned());
            }
            return match texts.next() {
                None => Ok(parsed),
                Some(_) => Err(format!("line {number} is damaged, and is not the last")),
            };
        };
        match (&mut parsed.model, line) {
            (None, JournalLine::Header(id)) => parsed.model = Some(PoolModel::new(id)),
            (None, _) => return Err("the journal has no beginning".to_owned()),
            (Some(model), line) => model
                .apply(&line)
                .map_err(|contradiction| format!("line {number}: {contradiction}"))?,
        }
        parsed.whole_bytes += text.len();
        parsed.chain = chain;
    }
    Ok(parsed)
}

/// Whether this may be the beginning of a journal. Any other file is left alone: a wrong argument must not destroy it.
fn is_part_of_a_header(line: &[u8]) -> bool {
    let start = HEADER_START.as_bytes();
    line.starts_with(start) || start.starts_with(line)
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> VerifyError {
    move |error| VerifyError::JournalFile {
        action,
        path: path.to_path_buf(),
        error,
    }
}

fn locked(path: &Path, error: TryLockError) -> VerifyError {
    match error {
        TryLockError::WouldBlock => VerifyError::JournalInUse(path.to_path_buf()),
        TryLockError::Error(error) => failed("lock", path)(error),
    }
}

/// Makes a new file's entry in its folder durable: without it, the file may be gone after a power cut.
fn sync_folder(path: &Path) -> Result<(), VerifyError> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(failed("make durable", path))
}

#[cfg(test)]
mod tests {
    use super::super::line::samples;
    use super::*;

    /// The bytes of the sample lines, and at which of them each line ends, beginning with 0.
    fn sample() -> (Vec<u8>, Vec<usize>) {
        let (mut text, mut chain, mut ends) = (String::new(), 0, vec![0]);
        for line in samples() {
            chain = line.write(chain, &mut text);
            ends.push(text.len());
        }
        (text.into_bytes(), ends)
    }

    #[test]
    fn a_journal_that_was_cut_anywhere_says_what_its_whole_lines_say() {
        let (bytes, ends) = sample();
        for len in 0..=bytes.len() {
            let cut = parse(&bytes[..len]).unwrap_or_else(|error| panic!("{len}: {error}"));
            let whole = ends.iter().copied().filter(|&end| end <= len).max();
            assert_eq!(Some(cut.whole_bytes), whole, "{len}");
            assert_eq!(Ok(cut), parse(&bytes[..whole.unwrap_or(0)]), "{len}");
        }
    }

    #[test]
    fn a_torn_last_line_may_hold_anything() {
        let (bytes, ends) = sample();
        let last = ends[ends.len() - 2];
        for at in last..bytes.len() {
            for value in [0, b'x', 0xff, bytes[at] ^ 1] {
                let mut torn = bytes.clone();
                torn[at] = value;
                if torn != bytes {
                    assert_eq!(parse(&torn).expect("torn").whole_bytes, last, "{at}");
                }
            }
            let mut torn = bytes[..at].to_vec();
            torn.resize(bytes.len() + 1000, 0);
            assert_eq!(parse(&torn).expect("torn").whole_bytes, last, "{at}");
        }
    }

    #[test]
    fn damage_before_the_last_line_is_found() {
        let (bytes, ends) = sample();
        // The line feed of the last line but one is left alone: without it, both are one torn last line.
        for at in 0..ends[ends.len() - 2] - 1 {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x20;
            assert!(parse(&damaged).is_err(), "{at}");
        }
        let without_second = [&bytes[..ends[1]], &bytes[ends[2]..]].concat();
        assert!(parse(&without_second).is_err());
        let without_first = &bytes[ends[1]..];
        assert!(parse(without_first).is_err());
        assert!(parse(&[&bytes[..], &bytes[..]].concat()).is_err());
    }

    #[test]
    fn somebodys_file_is_no_journal() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("notes");
        for text in ["notes", "a\nb\n", "\0\0\0", "\n"] {
            std::fs::write(&path, text).expect("writes");
            let failure = WorkloadJournal::open(&path, JournalId(1)).expect_err("not a journal");
            assert!(failure.to_string().contains("not a journal"), "{failure}");
            assert_eq!(std::fs::read(&path).expect("reads"), text.as_bytes());
        }
    }

    #[test]
    fn a_journal_is_continued_where_it_was_torn() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("journal");
        let lines = samples();
        let mut journal = WorkloadJournal::open(&path, JournalId(0xfeed << 64)).expect("opens");
        let failure = WorkloadJournal::open(&path, JournalId(2)).expect_err("in use");
        assert!(failure.to_string().contains("in use"), "{failure}");
        for line in &lines[1..3] {
            journal.append(line).expect("appends");
        }
        let model = journal.model().clone();
        drop(journal);
        let mut bytes = std::fs::read(&path).expect("reads");
        bytes.extend(b"intend *52428");
        std::fs::write(&path, &bytes).expect("writes");
        assert_eq!(read(&path).expect("reads"), model);
        assert_eq!(std::fs::read(&path).expect("reads"), bytes, "left as it is");
        let mut journal = WorkloadJournal::open(&path, JournalId(3)).expect("opens");
        assert_eq!(*journal.model(), model);
        for line in &lines[3..] {
            journal.append(line).expect("appends");
        }
        drop(journal);
        assert_eq!(std::fs::read(&path).expect("reads"), sample().0);
    }
}
