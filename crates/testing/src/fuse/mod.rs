//! A file system that a user serves (FUSE), with one file: its server does not have to answer.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::memfd::{MFdFlags, memfd_create};
use tempfile::TempDir;

use crate::time_limit::until;
use guard::UnmountGuard;
use wire::{FILE, FOLDER, Fields, FuseRequest, MAX_REQUEST_BYTES};

pub use wire::FuseCall;

mod guard;
mod wire;

/// The name of the file.
const NAME: &str = "file";

/// A mounted file system of one folder with one file, served by a thread of this process. On drop it is unmounted, and
/// whoever waits for it gets an error.
///
/// Whoever waits for an answer to a request that the server has *taken* (read from `/dev/fuse`) cannot be killed. A
/// request that it has not taken yet is given up by a kill.
#[derive(Debug)]
pub struct FuseServer {
    folder: TempDir,
    served: Arc<Served>,
    thread: Option<JoinHandle<()>>,
}

impl FuseServer {
    /// Mounts a file system of root's with a file of this size, or says why this machine does not allow it.
    ///
    /// # Errors
    /// The reason, to be printed by a test that is skipped for it.
    pub fn mount(len_bytes: u64) -> Result<Self, String> {
        Self::mount_for(0, len_bytes)
    }

    /// As [`Self::mount`], a file system that belongs to this user, as the file does. Everybody can reach it.
    ///
    /// # Errors
    /// As [`Self::mount`].
    pub fn mount_for(owner: u32, len_bytes: u64) -> Result<Self, String> {
        let failed = |what: &str, error: io::Error| format!("cannot {what}: {error}");
        let mut options = File::options();
        options
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK);
        let device = options.open("/dev/fuse");
        let device = device.map_err(|error| failed("open /dev/fuse", error))?;
        let content = memfd_create("file", MFdFlags::MFD_CLOEXEC).map(File::from);
        let content = content.map_err(|errno| failed("make a memfd", errno.into()))?;
        let sized = content.set_len(len_bytes);
        sized.map_err(|error| failed("give the file its size", error))?;
        let wake = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK);
        let wake = wake.map_err(|errno| failed("make an eventfd", errno.into()))?;
        let folder = TempDir::new().map_err(|error| failed("make a folder", error))?;
        // Others have to get through to what is mounted there.
        let opened = fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755));
        opened.map_err(|error| failed("open the folder", error))?;
        let options = format!(
            "fd={},rootmode=40000,user_id={owner},group_id={owner},allow_other",
            device.as_raw_fd()
        );
        let (source, kind) = (Some("chimaera-tests"), Some("fuse"));
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        mount(source, folder.path(), kind, flags, Some(options.as_str()))
            .map_err(|errno| failed("mount a file system of FUSE", errno.into()))?;
        let state = Mutex::default();
        let served = Served {
            device,
            content,
            wake,
            owner,
            state,
        };
        Ok(Self::start(folder, served))
    }

    fn start(folder: TempDir, served: Served) -> Self {
        let served = Arc::new(served);
        let (guarded, is_guarded) = channel();
        let (shared, path) = (Arc::clone(&served), folder.path().to_owned());
        let thread = thread::spawn(move || shared.serve(&path, &guarded));
        let this = Self {
            folder,
            served,
            thread: Some(thread),
        };
        let guarded = is_guarded.recv().expect("the server's thread runs");
        guarded.expect("a process that unmounts");
        this
    }

    /// Where it is mounted.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The file.
    #[must_use]
    pub fn file(&self) -> PathBuf {
        self.folder().join(NAME)
    }

    /// What the file holds, past the file system: for whoever wants to see what was written.
    #[must_use]
    pub fn content(&self) -> &File {
        &self.served.content
    }

    /// From now on takes these requests and does not answer them. One of [`FuseCall::Forget`] and the like never is.
    pub fn withhold(&self, calls: &[FuseCall]) {
        let calls = calls.iter().map(|&call| call as u32);
        self.served.state().withheld.extend(calls);
    }

    /// From now on answers these requests with this error of the system's.
    pub fn fail(&self, call: FuseCall, errno: i32) {
        self.served.state().failing.insert(call as u32, errno);
    }

    /// From now on does not even take any request.
    pub fn stop_taking(&self) {
        self.served.state().takes_none = true;
        self.served.wake();
    }

    /// From now on takes and answers all requests; and answers those that were taken.
    pub fn answer_all(&self) {
        let mut state = self.served.state();
        state.takes_none = false;
        state.withheld.clear();
        state.failing.clear();
        for request in std::mem::take(&mut state.taken) {
            self.served.answer(&state, &request);
        }
        drop(state);
        self.served.wake();
    }

    /// How many of these requests were taken so far, whether or not they were answered.
    #[must_use]
    pub fn count(&self, call: FuseCall) -> usize {
        let state = self.served.state();
        state.counts.get(&(call as u32)).copied().unwrap_or(0)
    }

    /// How many requests were taken and are not answered.
    #[must_use]
    pub fn unanswered(&self) -> usize {
        self.served.state().taken.len()
    }

    /// Waits until so many requests are taken that are not answered.
    ///
    /// # Panics
    /// If they are not.
    pub fn wait_for_unanswered(&self, count: usize) {
        until("requests are taken", || self.unanswered() >= count);
    }
}

impl Drop for FuseServer {
    fn drop(&mut self) {
        // By force: all requests fail at once, whoever else has the device open.
        let flags = MntFlags::MNT_FORCE | MntFlags::MNT_DETACH;
        let _ = umount2(self.folder.path(), flags);
        self.served.state().has_ended = true;
        self.served.wake();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What the server's thread and the test share.
#[derive(Debug)]
struct Served {
    device: File,
    content: File,
    wake: EventFd,
    owner: u32,
    state: Mutex<ServerState>,
}

#[derive(Debug, Default)]
struct ServerState {
    withheld: HashSet<u32>,
    failing: HashMap<u32, i32>,
    counts: HashMap<u32, usize>,
    taken: Vec<FuseRequest>,
    takes_none: bool,
    has_ended: bool,
}

impl Served {
    fn state(&self) -> MutexGuard<'_, ServerState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        let _ = self.wake.write(1);
    }

    /// The server's thread.
    fn serve(&self, folder: &Path, guarded: &Sender<io::Result<()>>) {
        let _guard = match UnmountGuard::new(folder) {
            Ok(guard) => {
                let _ = guarded.send(Ok(()));
                guard
            }
            Err(error) => {
                let _ = guarded.send(Err(error));
                return;
            }
        };
        let mut buffer = vec![0; MAX_REQUEST_BYTES];
        loop {
            let _ = self.wake.read();
            let (has_ended, takes_none) = {
                let state = self.state();
                (state.has_ended, state.takes_none)
            };
            if has_ended {
                return;
            }
            if !takes_none {
                match (&self.device).read(&mut buffer) {
                    Ok(len) => {
                        self.take(&buffer[..len]);
                        continue;
                    }
                    // The file system is unmounted.
                    Err(error) if error.raw_os_error() == Some(libc::ENODEV) => return,
                    Err(error) if error.raw_os_error() == Some(libc::ECONNABORTED) => return,
                    // Nothing is asked; or what was asked was given up meanwhile.
                    Err(_) => {}
                }
            }
            self.sleep(takes_none);
        }
    }

    fn sleep(&self, takes_none: bool) {
        let wake = PollFd::new(self.wake.as_fd(), PollFlags::POLLIN);
        let device = PollFd::new(self.device.as_fd(), PollFlags::POLLIN);
        let mut files = [wake, device];
        let awaited = if takes_none { 1 } else { 2 };
        let _ = poll(&mut files[..awaited], PollTimeout::NONE);
    }

    fn take(&self, bytes: &[u8]) {
        let Some(request) = FuseRequest::new(bytes) else {
            return;
        };
        let mut state = self.state();
        *state.counts.entry(request.call()).or_default() += 1;
        if !request.is_answered() {
            return;
        }
        if state.withheld.contains(&request.call()) {
            state.taken.push(request);
        } else {
            self.answer(&state, &request);
        }
    }

    fn answer(&self, state: &ServerState, request: &FuseRequest) {
        let failing = state.failing.get(&request.call());
        let result = match failing {
            Some(&errno) => Err(errno),
            None => self.carry_out(request),
        };
        let answer = match result {
            Ok(body) => request.answer(0, body),
            Err(errno) => request.answer(errno, Fields::default()),
        };
        // Whoever asked may have given up.
        let _ = (&self.device).write(&answer);
    }

    /// The answer, or an error of the system's.
    fn carry_out(&self, request: &FuseRequest) -> Result<Fields, i32> {
        let system = |error: io::Error| error.raw_os_error().unwrap_or(libc::EIO);
        let size = self.content.metadata().map_err(system)?.len();
        if request.is(FuseCall::Init) {
            Ok(Fields::init())
        } else if request.is(FuseCall::Lookup) {
            let is_known = request.node() == FOLDER && request.name() == NAME;
            let entry = is_known.then(|| Fields::entry(FILE, size, self.owner));
            entry.ok_or(libc::ENOENT)
        } else if request.is(FuseCall::GetAttributes) {
            Ok(Fields::attributes(request.node(), size, self.owner))
        } else if request.is(FuseCall::SetAttributes) {
            let new_size = request.new_size().unwrap_or(size);
            self.content.set_len(new_size).map_err(system)?;
            Ok(Fields::attributes(request.node(), new_size, self.owner))
        } else if request.is(FuseCall::Open) || request.is(FuseCall::OpenFolder) {
            Ok(Fields::opened())
        } else if request.is(FuseCall::Read) {
            let mut data = vec![0; request.len()];
            let len = self.content.read_at(&mut data, request.offset());
            data.truncate(len.map_err(system)?);
            Ok(Fields::data(data))
        } else if request.is(FuseCall::Write) {
            let written = self.content.write_at(request.written(), request.offset());
            Ok(Fields::written(written.map_err(system)?))
        } else if request.is(FuseCall::Statfs) {
            Ok(Fields::statfs())
        } else if is_agreed_to(request) {
            Ok(Fields::default())
        } else {
            Err(libc::ENOSYS)
        }
    }
}

/// Whether the answer to a request is only that all is well. The folder seems empty to whoever lists it.
fn is_agreed_to(request: &FuseRequest) -> bool {
    let agreed = [
        FuseCall::Release,
        FuseCall::ReleaseFolder,
        FuseCall::ListFolder,
        FuseCall::Sync,
        FuseCall::Flush,
        FuseCall::Access,
    ];
    agreed.into_iter().any(|call| request.is(call))
}

#[cfg(test)]
mod tests;
