//! Takes from a daemon what it does not need.
//!
//! Whoever gets a daemon to run code of theirs has what the process has. So it gives up, before its first thread, what
//! nothing of it needs: capabilities ([`capabilities`]), files and network (`paths`, by Landlock), system calls
//! (`calls`, by seccomp). Later threads and processes inherit that. What only the start needs is given up by
//! [`Confinement::settle`], in all threads.
//!
//! Laws of this crate:
//! - It knows nothing of hosts and modules: it is told what is needed.
//! - Nothing is claimed that is not in force. What the kernel does not have is a [`SandboxMeasure`] that says so, and
//!   no error: an older kernel has a daemon that can do more.
//! - No refused system call ends the process.

mod calls;
pub mod capabilities;
mod filter;
mod paths;

use std::io;
use std::path::PathBuf;

use capabilities::Capability;

/// What a daemon needs.
#[derive(Clone, Debug, Default)]
pub struct Needs {
    /// The files that it opens.
    pub files: Files,
    /// The capabilities that it needs.
    pub capabilities: Vec<Capability>,
    /// Of those, what it needs only if the files that it opens are restricted, and else has to do without.
    pub capabilities_beneath: Vec<Capability>,
    /// Whether it makes io_uring's rings after its start.
    pub makes_rings: bool,
}

/// The files that a daemon opens.
#[derive(Clone, Debug, Default)]
pub struct Files {
    /// Why it opens any path, if it does. Then only what no path needs is taken away.
    pub any: Option<String>,
    /// Files that it reads, and folders beneath which it does.
    pub read: Vec<PathBuf>,
    /// Files that it writes, and folders beneath which it makes, changes and removes files, and uses devices.
    pub change: Vec<PathBuf>,
}

/// Which means are used.
#[derive(Clone, Copy, Debug)]
pub struct Means {
    /// Whether capabilities are given up.
    pub capabilities: bool,
    /// Whether files and network are restricted by Landlock.
    pub landlock: bool,
    /// Whether system calls are restricted by seccomp.
    pub seccomp: bool,
}

/// One thing that a daemon has given up, or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SandboxMeasure {
    /// What it is about.
    pub name: &'static str,
    /// Whether all of it is in force.
    pub in_force: bool,
    /// What is given up, or why it is not.
    pub text: String,
}

impl SandboxMeasure {
    fn in_force(name: &'static str, text: impl Into<String>) -> Self {
        Self {
            name,
            in_force: true,
            text: text.into(),
        }
    }

    fn missing(name: &'static str, text: impl Into<String>) -> Self {
        Self {
            name,
            in_force: false,
            text: text.into(),
        }
    }
}

/// Said of a means that was switched off.
const SWITCHED_OFF: &str = "switched off by";

/// What a process has given up.
#[derive(Debug)]
pub struct Confinement {
    measures: Vec<SandboxMeasure>,
    /// Whether system calls are refused, so that more of them can be.
    filters: bool,
}

impl Confinement {
    /// Takes from this thread, and from those that it starts, what is not needed. The first thread of a process calls
    /// this before any other is there.
    ///
    /// # Errors
    /// The kernel has what is needed, and refused it: for lack of descriptors or memory, for example.
    pub fn enter(needs: &Needs, means: Means) -> io::Result<Self> {
        let mut measures = Vec::new();
        let gains_nothing = capabilities::gain_no_privileges();
        let beneath = match means.landlock && gains_nothing.in_force {
            true => paths::restrict(&needs.files)?,
            false => paths::unrestricted(if means.landlock {
                "it needs no_new_privs".to_owned()
            } else {
                format!("{SWITCHED_OFF} --no-landlock")
            }),
        };
        let files_are_restricted = beneath
            .iter()
            .any(|measure| measure.name == paths::FILES && measure.in_force);
        measures.push(gains_nothing);
        measures.push(match means.capabilities {
            true => {
                let mut kept = needs.capabilities.clone();
                if files_are_restricted {
                    kept.extend_from_slice(&needs.capabilities_beneath);
                }
                capabilities::keep_only(&kept)
            }
            false => SandboxMeasure::missing(
                capabilities::NAME,
                format!("{SWITCHED_OFF} --keep-capabilities"),
            ),
        });
        measures.extend(beneath);
        let calls = match means.seccomp {
            true => calls::refuse_from_the_start(needs.makes_rings),
            false => vec![SandboxMeasure::missing(
                calls::NAME,
                format!("{SWITCHED_OFF} --no-seccomp"),
            )],
        };
        let filters = calls.iter().any(|measure| measure.in_force);
        measures.extend(calls);
        Ok(Self { measures, filters })
    }

    /// Gives up, in all threads, what only the start needs: to begin connections, to make processes, and to change whom
    /// files belong to.
    pub fn settle(&mut self) {
        if !self.filters {
            return;
        }
        if let Err(error) = calls::refuse_from_now_on() {
            let begun = self
                .measures
                .iter_mut()
                .find(|measure| measure.name == calls::NAME);
            if let Some(measure) = begun {
                measure.in_force = false;
                measure.text = format!("only in part: {error}");
            }
        }
    }

    /// What was given up, and what was not.
    #[must_use]
    pub fn measures(&self) -> &[SandboxMeasure] {
        &self.measures
    }
}
