//! Finding the superblock that counts, among its copies.
//!
//! Laws:
//! - The copies at the beginning of the device decide which pool it holds. Of the sound copies of that pool, far ones
//!   included, the newest counts.
//! - Where none of them is sound, a far copy is named and not used: what was written over the beginning may be meant to
//!   be there. Only a repair that somebody asked for takes one.
//! - A far copy counts only where it says that it lies, wherever the device ends now.
//! - Nothing is written over a superblock that may be needed unless somebody has named the pool that is to go on: not
//!   over another pool's in the far place, nor over a newer one that this program cannot use.

use std::io;
use std::ops::Range;

use super::copies::{FarCopies, SuperblockCopy, TwoPools};
use super::{NoSuperblock, Superblock};
use crate::contents::{self, DeviceContents};
use crate::geometry::{JOURNAL_FIRST_PAGE, far_page};
use crate::limits::{
    FAR_SUPERBLOCKS, MAX_FAR_EXPONENT, MIN_FAR_EXPONENT, NEAR_SUPERBLOCKS, PAGE_BYTES,
    SUPERBLOCK_PAGES,
};
use crate::open_error::OpenError;
use crate::page::{Disk, Page};
use crate::{journal, table};

/// The superblock that counts.
#[derive(Debug)]
pub(crate) struct ChosenSuperblock {
    pub(crate) superblock: Superblock,
    /// First pages of copies that are damaged.
    pub(crate) damaged: Vec<u64>,
    /// First pages of copies to write again: damaged, older, or of another pool.
    pub(crate) stale: Vec<u64>,
    /// First pages of copies that are sound and that no crash has left so, with what is wrong with each.
    outdated: Vec<(u64, &'static str)>,
    /// First page of the copy at the beginning that says which pool it is, or of the far one that was taken instead.
    found_at: u64,
    /// Superblocks of other pools in this pool's far place.
    others: FarCopies,
    /// What became of those at the beginning, where it is a far copy's.
    lost_beginning: Option<&'static str>,
}

impl ChosenSuperblock {
    /// That of a far copy, where those at the beginning are gone, or are `other`: those of another pool.
    pub(crate) fn far(copy: &SuperblockCopy, other: bool) -> Self {
        Self {
            superblock: copy.superblock.clone(),
            damaged: NEAR_SUPERBLOCKS.to_vec(),
            stale: copy.superblock.geometry.superblocks(),
            outdated: Vec::new(),
            found_at: copy.first_page,
            others: FarCopies::default(),
            lost_beginning: Some(if other {
                "was another pool's"
            } else {
                "is gone"
            }),
        }
    }

    /// The two pools of which superblocks are there, if so. Then it is for somebody to say which one is to go on.
    pub(crate) fn two_pools(&self) -> Option<TwoPools> {
        (!self.others.is_empty()).then(|| TwoPools {
            near: SuperblockCopy {
                first_page: self.found_at,
                superblock: self.superblock.clone(),
            },
            far: self.others.clone(),
        })
    }

    /// What is damaged, copy by copy.
    pub(crate) fn describe_damage(&self) -> impl Iterator<Item = String> {
        self.damage_by_page().map(|(text, _)| text)
    }

    /// What is damaged, each with the first page of that copy.
    pub(crate) fn damage_by_page(&self) -> impl Iterator<Item = (String, u64)> {
        let damaged = self.damaged.iter().map(|&page| {
            let text = match self.lost_beginning {
                Some(fate) => format!("the superblock in page {page} {fate}"),
                None => format!("{} is damaged, another is sound", name_of(page)),
            };
            (text, page)
        });
        let outdated = self.outdated.iter().map(|&(page, problem)| {
            let text = format!("{} {problem}", name_of(page));
            (text, page)
        });
        damaged.chain(outdated)
    }
}

/// What a copy is called, by its first page.
fn name_of(page: u64) -> String {
    match NEAR_SUPERBLOCKS.iter().position(|near| *near == page) {
        Some(0) => "the first superblock".to_owned(),
        Some(_) => "the second superblock".to_owned(),
        None => format!("the far superblock in page {page}"),
    }
}

/// What was read of a copy.
type Copy = Result<Superblock, NoSuperblock>;

/// Chooses the superblock of the pool that a device holds. Blocks.
///
/// # Errors
/// See [`OpenError`].
pub(crate) fn choose<D: Disk>(disk: &D) -> Result<ChosenSuperblock, OpenError> {
    let mut failure = None;
    let near = NEAR_SUPERBLOCKS.map(|page| read_copy(disk, page, &mut failure));
    let unsupported = near.iter().find_map(|copy| match copy {
        Err(NoSuperblock::Unsupported(unsupported)) => Some(unsupported.reason.clone()),
        _ => None,
    });
    if let Some(reason) = unsupported {
        return Err(OpenError::Unsupported(reason));
    }
    let Some(newest) = newest(near.iter()) else {
        return Err(why_none(disk, &near, failure)?);
    };
    // Also where a copy is damaged: a signature may stand behind its first bytes. What was written there may be meant
    // to be there, so that nothing is repaired.
    if near.contains(&Err(NoSuperblock::Absent)) || near.contains(&Err(NoSuperblock::Damaged)) {
        let contents = probe_start(disk);
        if matches!(contents, DeviceContents::Known(_)) {
            return Err(OpenError::Overwritten(contents));
        }
    }
    if near.iter().flatten().any(|copy| !copy.is_of_pool(newest)) {
        return Err(OpenError::Damaged(
            "its two superblocks are of different pools".to_owned(),
        ));
    }
    // The far place never changes, so that any sound copy knows it.
    let far = newest.geometry.far.into_iter().flat_map(|far| {
        FAR_SUPERBLOCKS.map(|page| (far + page, read_far_copy(disk, far, page, &mut failure)))
    });
    let copies: Vec<(u64, Copy)> = NEAR_SUPERBLOCKS
        .into_iter()
        .zip(near.clone())
        .chain(far)
        .collect();
    among(&copies, newest)
}

/// The superblock of the pool of this one, which is at the beginning, among all copies that the pool has.
fn among(copies: &[(u64, Copy)], near: &Superblock) -> Result<ChosenSuperblock, OpenError> {
    let sound = copies.iter().filter_map(|(_, copy)| copy.as_ref().ok());
    let newest = sound
        .filter(|copy| copy.is_of_pool(near))
        .max_by_key(|copy| copy.generation)
        .unwrap_or(near);
    let mut others = FarCopies::default();
    for (page, copy) in copies {
        let is_older =
            |generation: Option<u64>| generation.is_some_and(|it| it <= newest.generation);
        match copy {
            Err(NoSuperblock::Unsupported(it))
                if it.uuid != newest.uuid || !is_older(it.generation) =>
            {
                others.add(*page, copy);
            }
            Ok(superblock) if !superblock.is_of_pool(newest) => others.add(*page, copy),
            _ => {}
        }
    }
    others.see_that_none_is_of(newest)?;
    let places = |is: &dyn Fn(&Copy) -> bool| {
        let found = copies.iter().filter(|(_, copy)| is(copy));
        found.map(|(page, _)| *page).collect::<Vec<_>>()
    };
    let of_pool = copies.iter().filter_map(|(page, copy)| {
        let copy = copy.as_ref().ok()?;
        copy.is_of_pool(near).then_some((*page, copy))
    });
    let outdated = super::age::outdated(of_pool, newest);
    let found_at = copies
        .iter()
        .find(|(_, copy)| copy.as_ref().is_ok_and(|copy| copy.is_same(near)));
    let mut damaged = places(&Result::is_err);
    damaged.retain(|page| !others.has_page(*page));
    Ok(ChosenSuperblock {
        damaged,
        stale: places(&|copy| !copy.as_ref().is_ok_and(|copy| copy.is_same(newest))),
        found_at: found_at.map_or(NEAR_SUPERBLOCKS[0], |(page, _)| *page),
        outdated,
        others,
        lost_beginning: None,
        superblock: newest.clone(),
    })
}

fn newest<'a>(copies: impl Iterator<Item = &'a Copy>) -> Option<&'a Superblock> {
    let sound = copies.filter_map(|copy| copy.as_ref().ok());
    sound.max_by_key(|superblock| superblock.generation)
}

/// Reads one copy. One that the device cannot read is as good as damaged, and its error is kept.
fn read_copy<D: Disk>(disk: &D, page: u64, failure: &mut Option<io::Error>) -> Copy {
    let mut pages = Page::zeroes(SUPERBLOCK_PAGES as usize);
    match disk.read(page, &mut pages) {
        Ok(()) => Superblock::read(&pages, page),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(NoSuperblock::Absent),
        Err(error) => {
            failure.get_or_insert(error);
            Err(NoSuperblock::Unreadable)
        }
    }
}

/// Reads the copy at a page of the far place that begins at `far`. One that does not name both is damaged: it may be
/// data, as an image of another pool of version 1 is, which does not say where it lies.
fn read_far_copy<D: Disk>(disk: &D, far: u64, page: u64, failure: &mut Option<io::Error>) -> Copy {
    let copy = read_copy(disk, far + page, failure);
    let is_there = match &copy {
        Ok(superblock) => superblock.geometry.far == Some(far),
        Err(NoSuperblock::Unsupported(copy)) => copy.places == Some([far, far + page]),
        Err(_) => return copy,
    };
    if is_there {
        copy
    } else {
        Err(NoSuperblock::Damaged)
    }
}

/// Why a device whose beginning has no sound superblock cannot be opened.
fn why_none<D: Disk>(
    disk: &D,
    near: &[Copy; 2],
    failure: Option<io::Error>,
) -> Result<OpenError, OpenError> {
    let far = far_copies(disk)?;
    if !far.is_empty() {
        return Ok(match probe_start(disk) {
            contents @ DeviceContents::Known(_) => OpenError::Overwritten(contents),
            // The only pool may be one that cannot be used.
            _ => match far.pick(None) {
                Ok(_) => OpenError::OnlyFarCopies(far),
                Err(refusal) => refusal.into(),
            },
        });
    }
    if let Some(error) = failure {
        return Ok(OpenError::Device(error));
    }
    if near.contains(&Err(NoSuperblock::Damaged)) {
        return Ok(OpenError::Damaged(
            "both copies of the superblock are damaged".to_owned(),
        ));
    }
    Ok(match has_traces(disk)? {
        true => OpenError::Damaged(
            "both copies of the superblock are gone, and a journal or a table is there".to_owned(),
        ),
        false => OpenError::NoPool,
    })
}

/// The copies of superblocks that lie far from the beginning. Blocks.
///
/// # Errors
/// The device's, unless only some of the places cannot be read.
fn far_copies<D: Disk>(disk: &D) -> io::Result<FarCopies> {
    let mut found = FarCopies::default();
    let (mut failure, mut was_read) = (None, false);
    for far in (MIN_FAR_EXPONENT..=MAX_FAR_EXPONENT).map(far_page) {
        for page in FAR_SUPERBLOCKS {
            let copy = read_far_copy(disk, far, page, &mut failure);
            was_read |= copy != Err(NoSuperblock::Unreadable);
            found.add(far + page, &copy);
        }
    }
    match failure {
        Some(error) if !was_read => Err(error),
        _ => Ok(found),
    }
}

/// Pages at the beginning that are searched for a journal or a table, which show that there was a pool.
const TRACED_PAGES: u64 = 256;

/// Whether parts of a pool are there whose superblocks are not.
fn has_traces<D: Disk>(disk: &D) -> io::Result<bool> {
    let mut pages = Page::zeroes(1);
    for page in SUPERBLOCK_PAGES..TRACED_PAGES {
        match disk.read(page, &mut pages) {
            Ok(()) if journal::has_magic(&pages[0]) || table::has_magic(&pages[0]) => {
                return Ok(true);
            }
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break,
            Err(error) => return Err(error),
        }
    }
    Ok(false)
}

/// Finds out what is there instead, in the pages of the superblocks and between them.
fn probe_start<D: Disk>(disk: &D) -> DeviceContents {
    contents::probe_readable(disk, JOURNAL_FIRST_PAGE * PAGE_BYTES as u64)
}

/// The pages at the beginning in which something else may have been written over a pool, and nothing of the pool lies
/// that is still needed: all but a superblock that is sound. Blocks.
pub(crate) fn overwritten_pages<D: Disk>(disk: &D) -> Range<u64> {
    let is_sound = NEAR_SUPERBLOCKS.map(|page| read_copy(disk, page, &mut None).is_ok());
    match is_sound {
        [true, _] => SUPERBLOCK_PAGES..JOURNAL_FIRST_PAGE,
        [false, true] => 0..NEAR_SUPERBLOCKS[1],
        [false, false] => 0..JOURNAL_FIRST_PAGE,
    }
}
