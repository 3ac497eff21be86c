//! Creating pools: in memory, on a file that this process opens and passes, or on one that the daemon opens.
//!
//! A pool that is there is asked for as it is. Only where there is none does this process open the file, so that it is
//! opened, and made, with the rights of the calling user: the daemon needs no right to the folder.

use std::fmt;
use std::os::fd::AsFd;
use std::path::Path;

use chimaera_bdev_file::{HowToOpen, MadeFile, OpenedPath, Reach, check_not_planted};
use chimaera_bdev_proto::{BdevType, MODULE_NAME};
use chimaera_client::{
    Error, GetOrCreatePool, OfferedFile, PoolChoice, PoolHandle, PoolInfo, PoolQuery, Runtime,
    Status, Task, TaskError,
};
use chimaera_proto::limits::MAX_POOL_NAME_BYTES;
use chimaera_proto::shown::brief;
use chimaera_proto::{ModuleError, codec};

use crate::client::Client;
use crate::options::CreateOptions;
use crate::paths::absolute;

impl Client {
    /// Creates the pool, or finds it if it is there with the same parameters;
    /// [`PoolInfo::created`] says which. The name is the path of a file or device, or any name for
    /// memory. A path that is relative is so to the working folder of this process, and the pool's name is
    /// the absolute one.
    ///
    /// This process opens the file, with the rights of the calling user, and passes it to the daemon. A regular file
    /// that is not there is made if the options give a size, for the calling user alone (0600, less what the umask
    /// takes away); it is removed if the creation fails and nobody else has made a pool of it meanwhile, and stays,
    /// maybe empty, if the connection is lost meanwhile. One that is there, in a folder like `/tmp`, is opened for
    /// writing only if it is the calling user's or root's. See [`CreateOptions::opened_by_daemon`] for the other way.
    ///
    /// A client that was made with [`PoolId::NULL`](crate::PoolId::NULL), or by [`Self::open`], takes the id that the
    /// pool has, and so do its clones: whoever uses one of them has to forget the blocks of the pool before. If it
    /// creates a memory pool again that was destroyed, the new pool has another id, and clients of the old one that are
    /// no clones of this one get [`Status::PoolNotFound`]. With an id that the caller chose, the new pool has the old
    /// one's id; clients of the old one get [`Status::PoolChanged`] ([`Self::has_changed`]), but not this one and its
    /// clones, whose caller knows that it is new and empty.
    ///
    /// The pool belongs to the calling user, and others may not use it, unless the options say otherwise
    /// ([`CreateOptions::mode`]).
    ///
    /// # Errors
    /// [`Status::ParameterMismatch`] if it is there with other parameters; [`Status::NotBlank`] if the file or device
    /// holds something else that is not a pool; [`Status::NotFound`], [`Status::PermissionDenied`],
    /// [`Status::Alignment`], [`Status::CorruptedMetadata`], [`Status::InvalidArgument`], [`Status::NoSpace`],
    /// [`Status::IoError`] as the file, device or parameters have it; [`Status::Busy`] if it is in use, or if eight
    /// files were passed over this connection whose pools are still being asked for.
    pub fn create(
        &self,
        query: PoolQuery,
        name: &str,
        options: &CreateOptions,
    ) -> Result<PoolInfo, Error> {
        Ok(self.async_create(query, name, options).wait()?)
    }

    /// As [`Self::create`]. The thread that polls the task opens the file and passes it, which blocks as long as its
    /// file system takes. If the task is dropped before its end, a file that was made may stay.
    pub fn async_create(
        &self,
        query: PoolQuery,
        name: &str,
        options: &CreateOptions,
    ) -> Task<PoolInfo> {
        let request = match self.creation(name, options) {
            Ok(request) => request,
            Err(error) => return Task::failed(error.during(describe(name))),
        };
        match opens_here(&request, options) {
            None => self.pool().async_create(query, &request),
            Some(how) => create_on_file(self.pool().clone(), query, request, how),
        }
    }

    fn creation(&self, name: &str, options: &CreateOptions) -> Result<GetOrCreatePool, Error> {
        let refused = |detail: &dyn fmt::Display| {
            Error::new(Status::InvalidArgument, "creating a pool").with_detail(detail)
        };
        let name = match options.params().bdev_type {
            BdevType::File => absolute(name).map_err(|error| refused(&error))?,
            BdevType::Ram => name.into(),
        };
        let params = codec::encode(options.params()).map_err(|error| refused(&error))?;
        Ok(options.request(GetOrCreatePool::new(
            MODULE_NAME,
            &name,
            self.chosen,
            params,
        )))
    }
}

/// How this process opens the file, if it does. Names that no pool can have are left to the daemon to refuse.
/// Whoever knows blocks of a pool has no use for a new one.
fn opens_here(request: &GetOrCreatePool, options: &CreateOptions) -> Option<HowToOpen> {
    let (name, params) = (request.name.as_str(), options.params());
    let is_path = !name.is_empty() && !name.contains('\0') && name.len() <= MAX_POOL_NAME_BYTES;
    let opens = params.bdev_type == BdevType::File && !params.opened_by_daemon && is_path;
    opens.then_some(HowToOpen {
        read_only: params.read_only,
        makes: params.total_size > 0 && request.incarnation.is_none(),
    })
}

/// Asks for the pool if it is there; else opens its file, and has the daemon make it on that.
fn create_on_file(
    pool: PoolHandle,
    query: PoolQuery,
    mut request: GetOrCreatePool,
    how: HowToOpen,
) -> Task<PoolInfo> {
    let choice = PoolChoice {
        owner: request.owner,
        ..request.name.as_str().into()
    };
    let found = pool.runtime().admin().async_find_pool(choice);
    Task::of_steps(async move {
        let is_absent = |error: &TaskError| {
            // Another user's pool of this name is none of one's own.
            matches!(
                error.status(),
                Status::PoolNotFound | Status::PermissionDenied
            )
        };
        match found.await {
            Ok(_) => return pool.async_create(query, &request).await,
            Err(error) if is_absent(&error) => {}
            Err(error) => return Err(error.error.during(describe(&request.name)).into()),
        }
        let opened = open_and_offer(pool.runtime(), Path::new(&request.name), how);
        let (offered, made) = opened.map_err(|error| absent_or(error, &request))?;
        let created = pool.async_create_on(query, &mut request, offered).await;
        let is_answered = match &created {
            Ok(_) => true,
            // A forked child has no part in what its parent has asked for.
            Err(error) => !matches!(error.status(), Status::ConnectionLost | Status::Forked),
        };
        match (created, made) {
            (Err(error), Some(made)) if is_answered => Err(removed_after(error, &made)),
            (Ok(info), Some(made)) if !info.created => {
                // Somebody else has made the pool meanwhile: mostly on this file, rarely on another one, as where its
                // path leads elsewhere for them.
                let _ = made.remove_unused();
                Ok(info)
            }
            (created, _) => created,
        }
    })
}

/// Opens the file, or makes it, and hands it over. The runtime alone has it open then.
fn open_and_offer(
    runtime: &Runtime,
    path: &Path,
    how: HowToOpen,
) -> Result<(OfferedFile, Option<MadeFile>), Error> {
    let opened = chimaera_bdev_file::open(path, &Reach::All, how).map_err(of_module)?;
    let OpenedPath { file, made, .. } = opened;
    if made.is_none() && !how.read_only {
        check_not_planted(path, &file).map_err(of_module)?;
    }
    let synced = match &made {
        Some(made) => made.sync_folder(&file).map_err(of_module),
        None => Ok(()),
    };
    match synced.and_then(|()| runtime.offer_file(file.as_fd())) {
        Ok(offered) => Ok((offered, made)),
        Err(error) => {
            if let Some(made) = &made {
                return Err(removed_after(error.into(), made).error);
            }
            Err(error)
        }
    }
}

/// The error of opening the file: that the pool has changed, where it is not there and its blocks are known.
fn absent_or(error: Error, request: &GetOrCreatePool) -> Error {
    let operation = describe(&request.name);
    if error.status() != Status::NotFound || request.incarnation.is_none() {
        return error.during(operation);
    }
    Error::new(Status::PoolChanged, operation).with_account(
        "nothing is at its path any more: what is known of it does not hold; create it without its incarnation to \
         have a new one",
    )
}

/// Removes a file that was made for a pool which is not, unless somebody else has made one of it. The error says so if
/// that fails.
fn removed_after(mut failed: TaskError, made: &MadeFile) -> TaskError {
    if let Err(kept) = made.remove_unused() {
        failed.error = failed.error.with_detail(format_args!(
            "the file {}, which was made for the pool, was not removed ({kept}): remove it if nobody needs it",
            made.path().display()
        ));
    }
    failed
}

fn describe(name: &str) -> String {
    format!("creating the pool \"{}\"", brief(name))
}

/// An error of opening, as the daemon's errors of creating are shown.
fn of_module(error: ModuleError) -> Error {
    Error::new(error.failure, "creating a pool").with_account(error.message)
}
