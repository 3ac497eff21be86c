//! How lives end: in good order, or with a device that fails or lies. Nothing is written after that.

use std::fmt::Display;

use super::super::model::declaration_of;
use super::super::openings::Openings;
use super::MetadataWorkload;

/// Writes and flushes of a checkpoint, and of the end of a pool of which all is in the table.
const EVENTS_OF_CHECKPOINT: usize = 16;
const EVENTS_OF_END: usize = 7;

impl MetadataWorkload<'_> {
    /// A few commits, and a checkpoint or the end, in which a flush fails.
    pub(super) fn be_lied_to(&mut self) -> Result<(), String> {
        let mut outcome = Ok(());
        for _ in 0..self.numbers.below(3) {
            outcome = outcome.and_then(|()| self.commit());
            self.settle();
        }
        let is_ended = self.numbers.below(3) == 0;
        if is_ended {
            outcome = outcome.and_then(|()| self.metadata.checkpoint());
        }
        if let Err(error) = outcome {
            return self.fail(&error);
        }
        let events = if is_ended {
            EVENTS_OF_END
        } else {
            EVENTS_OF_CHECKPOINT
        };
        self.disk.lie_after(self.numbers.below(events) as u64);
        match is_ended {
            true => self.end(),
            false => match self.metadata.checkpoint() {
                Ok(()) => Ok(()),
                Err(error) => self.fail(&error),
            },
        }
    }

    /// Ends the pool's use in good order.
    pub(super) fn end(&mut self) -> Result<(), String> {
        let position = self.disk.position();
        self.timeline.change_openings(position, Openings::ending);
        if let Err(error) = self.metadata.end() {
            return self.fail(&error);
        }
        let position = self.disk.position();
        self.timeline.change_openings(position, Openings::ended);
        self.see_that_nothing_is_written("the end")
    }

    /// After an error of the device nothing is written but the mark of the failure, which may have come too late.
    pub(super) fn fail(&mut self, error: &std::io::Error) -> Result<(), String> {
        self.see_that_nothing_is_written(error)?;
        if self.numbers.below(3) != 0 {
            return Ok(());
        }
        let position = self.disk.position();
        self.timeline.change_openings(position, Openings::marked);
        self.metadata.mark_failure("the simulated device failed", 1);
        let marks = self.metadata.geometry().marks();
        let recording = self.disk.recording();
        if recording
            .written_pages(position)
            .any(|page| !marks.contains(&page))
        {
            return Err(format!("more than a mark was written after: {error}"));
        }
        self.see_that_nothing_is_written("the mark")
    }

    /// After an error or the end nothing more is written, whatever is asked for.
    fn see_that_nothing_is_written(&mut self, last: impl Display) -> Result<(), String> {
        let position = self.disk.position();
        let change = self.change();
        let tried = [
            self.metadata.commit(&[]),
            self.metadata.commit(&[change]),
            self.metadata.advance_checkpoint(),
            self.metadata.checkpoint(),
            self.metadata.declare(declaration_of(7)),
            self.metadata.end(),
        ];
        if tried.iter().any(Result::is_ok) || self.disk.position() != position {
            return Err(format!("went on after: {last}"));
        }
        Ok(())
    }
}
