//! The simulated device: it logs writes and flushes, and draws at random what a crash leaves of the writes that were
//! not flushed.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::rc::Rc;

use super::Numbers;
use super::disk_image::PageBytes;
use crate::{Disk, PAGE_BYTES, Page};

pub use super::disk_image::DiskImage;
pub(super) use super::disk_image::SECTOR_BYTES;

const SECTORS_PER_PAGE: usize = PAGE_BYTES / SECTOR_BYTES;

/// A write that the device was given.
#[derive(Clone)]
pub(super) struct Write {
    first_page: u64,
    pages: Vec<Rc<PageBytes>>,
}

impl Write {
    /// The same as writes of one page each.
    fn by_page(&self) -> impl Iterator<Item = Self> + '_ {
        (self.first_page..)
            .zip(&self.pages)
            .map(|(page, bytes)| Self {
                first_page: page,
                pages: vec![Rc::clone(bytes)],
            })
    }

    /// The pages that it writes.
    pub(super) fn range(&self) -> Range<u64> {
        self.first_page..self.first_page + self.pages.len() as u64
    }

    /// Whether it replaces all of another write.
    fn covers(&self, other: &Self) -> bool {
        let (mine, others) = (self.range(), other.range());
        mine.start <= others.start && others.end <= mine.end
    }

    /// Applies the part of the write that is before a random sector, or behind it.
    fn apply_part(&self, loss: Loss, image: &mut DiskImage, numbers: &mut Numbers) {
        let cut = numbers.below(self.pages.len() * SECTORS_PER_PAGE + 1);
        for (page, bytes) in self.pages.iter().enumerate() {
            let in_page = cut.saturating_sub(page * SECTORS_PER_PAGE);
            let cut = in_page.min(SECTORS_PER_PAGE) * SECTOR_BYTES;
            let kept = match loss {
                Loss::Ends => 0..cut,
                _ => cut..PAGE_BYTES,
            };
            image.change(self.first_page + page as u64, |to| {
                to[kept.clone()].copy_from_slice(&bytes[kept]);
            });
        }
    }
}

#[derive(Clone)]
enum Event {
    Write(Write),
    Flush,
    /// A flush that failed, of a drive that lies afterwards.
    FailedFlush,
}

/// A device. Clones are the same device.
#[derive(Clone)]
pub struct SimulatedDisk(Rc<RefCell<Inner>>);

struct Inner {
    /// What was durable at the beginning of the log.
    base: DiskImage,
    /// What a read sees.
    seen: DiskImage,
    log: Vec<Event>,
    /// Writes and flushes that succeed before the device fails.
    until_failure: Option<u64>,
    /// Writes and flushes before the flush that fails while all else goes on to succeed.
    until_lie: Option<u64>,
}

impl SimulatedDisk {
    /// A disk with these contents.
    pub fn new(image: DiskImage) -> Self {
        Self::with_unflushed(Leftover::durable(image))
    }

    /// The device after its process was killed: all writes can be read, and no more of them are durable.
    pub(super) fn with_unflushed(left: Leftover) -> Self {
        let mut seen = left.durable.clone();
        left.in_flight()
            .for_each(|write| seen.apply(write.first_page, &write.pages));
        let mut log: Vec<Event> = left.doubtful.into_iter().map(Event::Write).collect();
        if !log.is_empty() {
            log.push(Event::FailedFlush);
        }
        log.extend(left.unflushed.into_iter().map(Event::Write));
        Self(Rc::new(RefCell::new(Inner {
            base: left.durable,
            seen,
            log,
            until_failure: None,
            until_lie: None,
        })))
    }

    /// The number of writes and flushes in the log.
    pub fn position(&self) -> usize {
        self.0.borrow().log.len()
    }

    /// Pages of the device.
    pub fn total_pages(&self) -> u64 {
        self.0.borrow().seen.total_pages()
    }

    /// Makes the device longer, which no crash undoes.
    pub fn resize(&self, total_pages: u64) {
        let mut inner = self.0.borrow_mut();
        inner.base.resize(total_pages);
        inner.seen.resize(total_pages);
    }

    /// Lets the next `events` writes and flushes succeed, and all after them fail.
    pub fn fail_after(&self, events: u64) {
        self.0.borrow_mut().until_failure = Some(events);
    }

    /// Lets a flush fail, the first one behind the next `events` writes and flushes. The device goes on, and reports
    /// later flushes as successful: they do not make durable what this one should have.
    pub fn lie_after(&self, events: u64) {
        self.0.borrow_mut().until_lie = Some(events);
    }

    /// What is read from the device now.
    pub fn seen(&self) -> DiskImage {
        self.0.borrow().seen.clone()
    }

    pub(super) fn recording(&self) -> Recording {
        let inner = self.0.borrow();
        Recording {
            base: inner.base.clone(),
            events: inner.log.clone(),
        }
    }
}

impl Inner {
    fn may_go_on(&mut self) -> io::Result<()> {
        self.until_lie = self.until_lie.map(|left| left.saturating_sub(1));
        match &mut self.until_failure {
            Some(0) => Err(io::Error::other("the simulated device failed")),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }
}

impl Disk for SimulatedDisk {
    fn read(&self, first_page: u64, pages: &mut [Page]) -> io::Result<()> {
        let inner = self.0.borrow();
        if first_page + pages.len() as u64 > inner.seen.total_pages() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if !inner
            .seen
            .can_read(first_page..first_page + pages.len() as u64)
        {
            return Err(io::Error::other(
                "a page of the simulated device cannot be read",
            ));
        }
        for (number, page) in (first_page..).zip(pages) {
            page.0 = inner.seen.page(number);
        }
        Ok(())
    }

    fn write(&self, first_page: u64, pages: &[Page]) -> io::Result<()> {
        let mut inner = self.0.borrow_mut();
        assert!(
            first_page + pages.len() as u64 <= inner.seen.total_pages(),
            "a write behind the end of the device"
        );
        let write = Write {
            first_page,
            pages: pages.iter().map(|page| Rc::new(page.0)).collect(),
        };
        // A write that fails may have reached the medium in part, as any other.
        let result = inner.may_go_on();
        inner.seen.apply(write.first_page, &write.pages);
        inner.log.push(Event::Write(write));
        result
    }

    fn flush(&self) -> io::Result<()> {
        let mut inner = self.0.borrow_mut();
        let lies = inner.until_lie == Some(0);
        inner.may_go_on()?;
        if lies {
            inner.until_lie = None;
            inner.log.push(Event::FailedFlush);
            return Err(io::Error::other("a flush of the simulated device failed"));
        }
        inner.log.push(Event::Flush);
        Ok(())
    }
}

/// A device's log.
pub(super) struct Recording {
    base: DiskImage,
    events: Vec<Event>,
}

impl Recording {
    pub(super) fn len(&self) -> usize {
        self.events.len()
    }

    /// The pages of the write that each position comes behind; 0 behind a flush.
    pub(super) fn lengths(&self) -> impl Iterator<Item = usize> + '_ {
        let length = |event: &Event| match event {
            Event::Write(write) => write.pages.len(),
            Event::Flush | Event::FailedFlush => 0,
        };
        std::iter::once(0).chain(self.events.iter().map(length))
    }

    /// Whether a flush failed, from which on the drive lies, behind the first `position` writes and flushes.
    pub(super) fn has_lies(&self, position: usize) -> bool {
        let mut events = self.events[position..].iter();
        events.any(|event| matches!(event, Event::FailedFlush))
    }

    pub(super) fn has_writes(&self) -> bool {
        self.written().next().is_some()
    }

    /// The pages of each write.
    pub(super) fn written(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.events.iter().filter_map(|event| match event {
            Event::Write(write) => Some(write.range()),
            Event::Flush | Event::FailedFlush => None,
        })
    }

    /// The pages that were written behind the first `position` writes and flushes.
    pub(super) fn written_pages(&self, position: usize) -> impl Iterator<Item = u64> {
        let events = self.events[position..].iter();
        events.flat_map(|event| match event {
            Event::Write(write) => write.range(),
            Event::Flush | Event::FailedFlush => 0..0,
        })
    }

    /// The device after the first `position` writes and flushes.
    pub(super) fn at(&self, position: usize) -> Leftover {
        let mut walk = self.walk();
        (0..position).for_each(|_| walk.step());
        walk.left
    }

    pub(super) fn walk(&self) -> Walk<'_> {
        Walk {
            left: Leftover::durable(self.base.clone()),
            events: self.events.iter(),
        }
    }
}

/// Goes through a recording, step by step.
pub(super) struct Walk<'a> {
    pub(super) left: Leftover,
    events: std::slice::Iter<'a, Event>,
}

impl Walk<'_> {
    /// Goes on by one write or flush.
    pub(super) fn step(&mut self) {
        match self.events.next() {
            Some(Event::Write(write)) => self.left.unflushed.push(write.clone()),
            Some(Event::Flush) => self.left.flush(),
            Some(Event::FailedFlush) => {
                let unflushed = std::mem::take(&mut self.left.unflushed);
                self.left
                    .doubtful
                    .extend(unflushed.iter().flat_map(Write::by_page));
            }
            None => {}
        }
    }
}

/// A device at some moment: what is durable, and the writes that may be lost.
#[derive(Clone)]
pub(super) struct Leftover {
    pub(super) durable: DiskImage,
    /// What flushes that failed should have made durable, page by page. No later flush does.
    pub(super) doubtful: Vec<Write>,
    pub(super) unflushed: Vec<Write>,
}

/// What a crash loses of the writes that were not flushed.
#[derive(Clone, Copy, Debug)]
pub(super) enum Loss {
    All,
    None,
    /// All but the last write.
    AllButLast,
    /// The last write.
    Last,
    /// Some of the writes.
    Writes,
    /// The end of each write, from some sector on.
    Ends,
    /// The beginning of each write, up to some sector.
    Beginnings,
    /// Each sector on its own, with this many chances in four.
    Sectors(usize),
    /// Each page on its own.
    Pages,
}

impl Loss {
    /// The losses to try, the extreme ones first.
    pub(super) const EACH: [Self; 11] = [
        Self::All,
        Self::None,
        Self::Sectors(2),
        Self::AllButLast,
        Self::Ends,
        Self::Pages,
        Self::Sectors(1),
        Self::Last,
        Self::Beginnings,
        Self::Sectors(3),
        Self::Writes,
    ];
}

impl Leftover {
    /// A device on which all is durable.
    pub(super) fn durable(image: DiskImage) -> Self {
        Self {
            durable: image,
            doubtful: Vec::new(),
            unflushed: Vec::new(),
        }
    }

    /// The writes that a power cut may lose, in the order in which a read sees them.
    pub(super) fn in_flight(&self) -> impl Iterator<Item = &Write> {
        self.doubtful.iter().chain(&self.unflushed)
    }

    /// Whether a power cut may change what is durable in these pages.
    pub(super) fn is_in_doubt(&self, pages: &Range<u64>) -> bool {
        self.in_flight().any(|write| {
            let of_write = (write.first_page..).zip(&write.pages);
            of_write
                .filter(|(page, _)| pages.contains(page))
                .any(|(page, bytes)| **bytes != self.durable.page(page))
        })
    }

    /// Makes durable what was written since the last flush, and nothing that an earlier flush has failed on, unless it
    /// was written again.
    fn flush(&mut self) {
        for write in self.unflushed.drain(..) {
            self.doubtful.retain(|lost| !write.covers(lost));
            self.durable.apply(write.first_page, &write.pages);
        }
    }

    /// What the medium holds after a crash.
    pub(super) fn crash(&self, loss: Loss, numbers: &mut Numbers) -> DiskImage {
        let mut image = self.durable.clone();
        let count = self.in_flight().count();
        for (at, write) in self.in_flight().enumerate() {
            let is_last = at + 1 == count;
            let is_kept = match loss {
                Loss::All | Loss::Sectors(_) | Loss::Pages => false,
                Loss::Ends | Loss::Beginnings => {
                    write.apply_part(loss, &mut image, numbers);
                    false
                }
                Loss::None => true,
                Loss::AllButLast => is_last,
                Loss::Last => !is_last,
                Loss::Writes => numbers.below(2) == 0,
            };
            if is_kept {
                image.apply(write.first_page, &write.pages);
            }
        }
        match loss {
            Loss::Sectors(quarters) => self.tear(&mut image, quarters, 1, numbers),
            Loss::Pages => self.tear(&mut image, 2, SECTORS_PER_PAGE, numbers),
            _ => {}
        }
        image
    }

    /// Loses runs of `sectors` sectors, each on its own, with this many chances in four.
    fn tear(&self, image: &mut DiskImage, quarters: usize, sectors: usize, numbers: &mut Numbers) {
        let mut versions: BTreeMap<u64, Vec<&PageBytes>> = BTreeMap::new();
        for write in self.in_flight() {
            for (page, bytes) in (write.first_page..).zip(&write.pages) {
                versions.entry(page).or_default().push(bytes);
            }
        }
        for (page, versions) in versions {
            image.change(page, |bytes| {
                for run in bytes.chunks_mut(sectors * SECTOR_BYTES).enumerate() {
                    if numbers.below(4) < quarters {
                        continue;
                    }
                    // Writes may be reordered, so any version may have come last.
                    let (at, bytes) = (run.0 * sectors * SECTOR_BYTES, run.1);
                    let version = versions[numbers.below(versions.len())];
                    bytes.copy_from_slice(&version[at..at + bytes.len()]);
                }
            });
        }
    }
}
