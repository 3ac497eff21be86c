//! The peer `qemu-storage-daemon`, if it is installed: it serves a file over vhost-user-blk and
//! over NBD, past the page cache.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::error::Result;
use crate::process::ChildProcess;

const PROGRAM: &str = "qemu-storage-daemon";

/// How it may access a file. Which is better depends on kernel and device, so both are tried.
const ENGINES: [&str; 2] = ["native", "io_uring"];

/// Nanoseconds that its I/O thread may poll for work before it sleeps: QEMU's default.
pub(crate) const POLL_NS: u32 = 32_768;

/// The same where one transfer is in flight. The second is as long as a fast device may take.
pub(crate) const POLL_ONE_NS: [u32; 2] = [POLL_NS, 200_000];

/// The same where many are in flight: then polling may keep it from its work.
pub(crate) const POLL_MANY_NS: [u32; 2] = [0, POLL_NS];

/// The name under which its NBD server has the file.
const NBD_NAME: &str = "disk";

/// The program.
#[derive(Clone, Debug)]
pub(crate) struct Qemu {
    pub(crate) has_vhost_user: bool,
}

impl Qemu {
    /// Looks for the program.
    ///
    /// # Errors
    /// Why not, and what to do.
    pub(crate) fn find() -> std::result::Result<Self, String> {
        let mut command = Command::new(PROGRAM);
        command.arg("--help").stdin(Stdio::null());
        let output = command
            .output()
            .map_err(|error| super::absent::cannot_run(PROGRAM, &error))?;
        Ok(Self {
            has_vhost_user: String::from_utf8_lossy(&output.stdout).contains("vhost-user-blk"),
        })
    }

    /// # Errors
    /// This build of it has no vhost-user-blk.
    pub(crate) fn with_vhost_user(self) -> std::result::Result<Self, String> {
        if self.has_vhost_user {
            return Ok(self);
        }
        Err(format!(
            "this {PROGRAM} has no export vhost-user-blk; install one that was built with it"
        ))
    }

    /// Starts daemons for a file on one processor, one for each way to access it and each time to poll for
    /// work. They sleep while they have no requests. Blocks until they serve.
    ///
    /// # Errors
    /// None of them starts. A kernel or a sandbox may forbid some ways: these are left out.
    pub(crate) fn serve(
        &self,
        file: &Path,
        polls_ns: &[u32],
        processor: usize,
    ) -> Result<Vec<QemuServer>> {
        let mut servers = Vec::new();
        let mut failure = None;
        for engine in ENGINES {
            for &poll_ns in polls_ns {
                let options = ServeOptions {
                    file,
                    engine,
                    poll_ns,
                    has_vhost_user: self.has_vhost_user,
                };
                match QemuServer::start(&options, processor) {
                    Ok(server) => servers.push(server),
                    Err(error) => failure = Some(error),
                }
            }
        }
        match failure {
            Some(error) if servers.is_empty() => Err(error),
            _ => Ok(servers),
        }
    }
}

/// How a daemon serves a file.
struct ServeOptions<'a> {
    file: &'a Path,
    engine: &'static str,
    poll_ns: u32,
    has_vhost_user: bool,
}

/// A daemon that serves a file.
pub(crate) struct QemuServer {
    engine: &'static str,
    // The process ends before its folder is removed.
    _process: ChildProcess,
    folder: TempDir,
}

impl QemuServer {
    fn start(options: &ServeOptions<'_>, processor: usize) -> Result<Self> {
        // A socket's path is short, so it does not lie where the file does.
        let folder = tempfile::Builder::new()
            .prefix("chimaera-bench-")
            .tempdir()?;
        let log = folder.path().join("log");
        let mut command = Command::new(PROGRAM);
        command
            .args(arguments(options, folder.path())?)
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&log)?);
        let mut process = ChildProcess::start(&mut command, Some(processor))?;
        // The daemon writes this file when it serves everything.
        let is_ready = || ready_file(folder.path()).exists();
        process.wait_until(is_ready).map_err(|error| {
            let said = std::fs::read_to_string(&log).unwrap_or_default();
            let (file, engine, said) = (options.file.display(), options.engine, said.trim());
            format!("{PROGRAM} does not serve {file} with aio={engine}: {error}: {said}")
        })?;
        Ok(Self {
            engine: options.engine,
            _process: process,
            folder,
        })
    }

    /// The name for its way to access the file: `native` or `io_uring`.
    pub(crate) fn name(&self, native: &'static str, io_uring: &'static str) -> &'static str {
        if self.engine == "native" {
            native
        } else {
            io_uring
        }
    }

    /// Where it speaks vhost-user-blk.
    pub(crate) fn vhost_socket(&self) -> PathBuf {
        vhost_socket(self.folder.path())
    }

    /// Where it speaks NBD, as a URI.
    pub(crate) fn nbd_uri(&self) -> String {
        let socket = nbd_socket(self.folder.path());
        format!("nbd+unix:///{NBD_NAME}?socket={}", socket.display())
    }
}

fn ready_file(folder: &Path) -> PathBuf {
    folder.join("ready")
}

fn vhost_socket(folder: &Path) -> PathBuf {
    folder.join("vhost")
}

fn nbd_socket(folder: &Path) -> PathBuf {
    folder.join("nbd")
}

/// What the program is started with. The file is not locked, since several daemons serve it; they
/// are never busy together.
fn arguments(options: &ServeOptions<'_>, folder: &Path) -> Result<Vec<String>> {
    let name = |path: &Path| match path.to_str() {
        // A comma ends a value unless it is doubled.
        Some(name) => Ok(name.replace(',', ",,")),
        None => Err(format!("{} is not UTF-8", path.display())),
    };
    let (vhost, nbd) = (name(&vhost_socket(folder))?, name(&nbd_socket(folder))?);
    let ready = ready_file(folder);
    let (file, engine, poll_ns) = (name(options.file)?, options.engine, options.poll_ns);
    let export = "node-name=file,writable=on,iothread=io";
    let mut all = vec![
        "--pidfile".to_owned(),
        ready.display().to_string(),
        "--object".to_owned(),
        format!("iothread,id=io,poll-max-ns={poll_ns}"),
        "--blockdev".to_owned(),
        format!(
            "driver=file,node-name=file,filename={file},cache.direct=on,aio={engine},locking=off"
        ),
        "--nbd-server".to_owned(),
        format!("addr.type=unix,addr.path={nbd}"),
        "--export".to_owned(),
        format!("type=nbd,id=nbd,name={NBD_NAME},{export}"),
    ];
    if options.has_vhost_user {
        all.extend([
            "--export".to_owned(),
            format!("type=vhost-user-blk,id=vhost,addr.type=unix,addr.path={vhost},{export}"),
        ]);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_serves_past_the_page_cache() -> Result<()> {
        let mut options = ServeOptions {
            file: Path::new("/a,b/file"),
            engine: "io_uring",
            poll_ns: 500,
            has_vhost_user: true,
        };
        let folder = Path::new("/tmp/x");
        let all = arguments(&options, folder)?.join(" ");
        for text in [
            "filename=/a,,b/file,cache.direct=on,aio=io_uring",
            "type=vhost-user-blk,id=vhost,addr.type=unix,addr.path=/tmp/x/vhost",
            "addr.path=/tmp/x/nbd",
            "iothread,id=io,poll-max-ns=500",
        ] {
            assert!(all.contains(text), "{text} in {all}");
        }
        options.has_vhost_user = false;
        let all = arguments(&options, folder)?.join(" ");
        assert!(all.contains("nbd") && !all.contains("vhost"));
        Ok(())
    }

    #[test]
    fn one_without_the_export_says_so() {
        let qemu = |has_vhost_user| Qemu { has_vhost_user };
        assert!(qemu(true).with_vhost_user().is_ok());
        let reason = qemu(false).with_vhost_user().expect_err("it lacks it");
        assert!(reason.contains("vhost-user-blk"));
    }

    #[test]
    #[expect(clippy::print_stderr, reason = "a skipped test says so")]
    fn a_file_that_is_not_there_is_an_error_with_its_name() {
        let Ok(qemu) = Qemu::find().inspect_err(|reason| eprintln!("skipped: {reason}")) else {
            return;
        };
        let error = qemu.serve(Path::new("/no/such/file"), &[0], 0).err();
        let error = error.expect("there is nothing to serve").to_string();
        assert!(error.contains("/no/such/file"), "{error}");
    }
}
