//! What opening a pool has at hand, whether the device holds it already or it is made there.

#![forbid(unsafe_code)]

use std::fmt;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use chimaera_bdev_allocator::Allocator;
use chimaera_bdev_format::contents::DeviceContents;
use chimaera_bdev_format::image::FileDisk;
use chimaera_bdev_format::{Geometry, OpenError};
use chimaera_bdev_proto::UNIT_BYTES;
use chimaera_chimod::{CreateContext, Level, ModuleError};
use chimaera_proto::{Status, shell};

use super::allocator::{PendingFree, allocator_of};
use crate::backend::file::{FileDevice, not_blank};
use crate::params::Parameters;

/// What was asked for, and the device that is to have it.
pub(super) struct OpeningContext<'a> {
    pub(super) context: &'a CreateContext<'a>,
    pub(super) parameters: &'a Parameters,
    pub(super) device: &'a FileDevice,
    pub(super) disk: FileDisk,
}

impl<'a> OpeningContext<'a> {
    pub(super) fn new(
        context: &'a CreateContext<'a>,
        parameters: &'a Parameters,
        device: &'a FileDevice,
    ) -> Self {
        Self {
            context,
            parameters,
            device,
            disk: device.disk(),
        }
    }

    /// Whether what has the pool is a device, and no regular file.
    pub(super) fn is_on_device(&self) -> Result<bool, ModuleError> {
        let metadata = self.device.named_file().metadata();
        let metadata = metadata.map_err(|error| self.device_failed("look at", &error))?;
        Ok(metadata.file_type().is_block_device())
    }

    /// The allocator of a pool of this shape, with nothing allocated yet.
    pub(super) fn allocator(
        &self,
        geometry: &Geometry,
    ) -> Result<Allocator<PendingFree>, ModuleError> {
        let total_size = geometry.total_pages() * UNIT_BYTES;
        let allocator = allocator_of(total_size, self.context.worker_count, true)?;
        for units in geometry.reserved() {
            allocator.withhold(units);
        }
        Ok(allocator)
    }

    /// Reserves space for metadata in the file, before anything is written.
    pub(super) fn set_aside(&self, geometry: &Geometry) -> Result<(), ModuleError> {
        for pages in geometry.set_aside() {
            let set_aside = self.disk.set_aside(pages);
            set_aside.map_err(|error| self.device_failed("set space aside in", &error))?;
        }
        Ok(())
    }

    /// Why the pool cannot be opened, and what to do. `may_be_readable` says that opening it for reading only may help.
    pub(super) fn explain(&self, error: OpenError, may_be_readable: bool) -> ModuleError {
        match error {
            OpenError::Device(error) => self.disk_failed(&error),
            OpenError::NoPool => self.error(Status::NotFound, format_args!("it holds no pool")),
            OpenError::Overwritten(_)
            | OpenError::OnlyFarCopies(_)
            | OpenError::ConflictingCopies(_)
            | OpenError::TwoPools(_) => self.explain_overwritten(&error),
            // A repair alone asks for a UUID.
            OpenError::AnotherUuid(_) => self.error(Status::ParameterMismatch, format_args!("{error}")),
            OpenError::Marked(_) => self.error(
                Status::CorruptedMetadata,
                format_args!(
                    "{error}; set read_only to read it, or let `chimaera pool check --repair {}` look at all of it, \
                     which clears that if nothing is lost",
                    shell::word(self.context.name)
                ),
            ),
            OpenError::Damaged(text) => {
                let advice = match may_be_readable {
                    true => format!(
                        "; set read_only to read what can be read, or see what `chimaera pool check {}` \
                         says",
                        shell::word(self.context.name)
                    ),
                    false if self.parameters.read_only => "; put back a copy of it".to_owned(),
                    false => {
                        "; put back a copy of it, or set overwrite to lose what it holds".to_owned()
                    }
                };
                self.error(
                    Status::CorruptedMetadata,
                    format_args!("corrupted block metadata: {text}; nothing was written{advice}"),
                )
            }
            OpenError::NotAdmitted(_) => self.explain(OpenError::Damaged(error.to_string()), may_be_readable),
            OpenError::Unsupported(text) => self.error(
                Status::Unsupported,
                format_args!("it holds a pool that cannot be used: {text}; use a newer release"),
            ),
            OpenError::OnlyReadable(text) => self.error(
                Status::Unsupported,
                format_args!("{text}; set read_only to do that, or use a newer release"),
            ),
        }
    }

    /// Why a pool cannot be opened over which something was written, or that was written over another one.
    fn explain_overwritten(&self, error: &OpenError) -> ModuleError {
        let name = shell::word(self.context.name);
        match error {
            OpenError::Overwritten(contents) => self.error(
                Status::NotBlank,
                format_args!(
                    "it held a pool, over which {contents} was written, and nothing was changed: use another file \
                     or device, or set overwrite to lose both; if the pool is wanted back, `chimaera pool inspect \
                     {name}` says what can be done"
                ),
            ),
            OpenError::TwoPools(_) => self.error(
                Status::CorruptedMetadata,
                format_args!(
                    "{error}; nothing was written; see which pool should be here, and `chimaera pool check --repair \
                     --uuid UUID {name}` lets that one go on; set read_only to read the one at the beginning, or \
                     overwrite to lose both"
                ),
            ),
            _ => {
                let help = match error {
                    OpenError::OnlyFarCopies(copies) if copies.uuids().len() == 1 => {
                        format!("`chimaera pool check --repair {name}` writes the beginning again")
                    }
                    OpenError::OnlyFarCopies(_) => format!(
                        "see which pool should be here, and `chimaera pool check --repair --uuid UUID {name}` writes \
                         its beginning again"
                    ),
                    _ => format!("`chimaera pool inspect {name}` says what can be done"),
                };
                self.error(
                    Status::CorruptedMetadata,
                    format_args!(
                        "corrupted block metadata: {error}; nothing was written; {help}, or set overwrite to lose \
                         what it holds"
                    ),
                )
            }
        }
    }

    pub(super) fn not_blank(&self, contents: DeviceContents) -> ModuleError {
        not_blank(&self.context.name, contents)
    }

    /// The error of an operation on the disk, with what was to be done, and where.
    pub(super) fn disk_failed(&self, error: &io::Error) -> ModuleError {
        self.disk.explain(Path::new(self.context.name), error)
    }

    pub(super) fn device_failed(&self, action: &str, error: &io::Error) -> ModuleError {
        ModuleError::system(format_args!("cannot {action} {}", self.context.name), error)
    }

    pub(super) fn error(&self, status: Status, text: fmt::Arguments<'_>) -> ModuleError {
        ModuleError::new(status, format!("{}: {text}", self.context.name))
    }

    pub(super) fn log(&self, level: Level, text: &str) {
        self.context.host.log(level, text);
    }
}
