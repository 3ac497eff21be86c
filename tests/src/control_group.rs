//! Control groups that limit threads (`pids.max`).

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// A control group of a test's own. It goes with this, once its processes have ended.
#[derive(Debug)]
pub struct ControlGroup {
    folder: PathBuf,
}

impl ControlGroup {
    /// A group that limits threads.
    ///
    /// # Errors
    /// What is missing here.
    pub fn of_threads() -> Result<Self, String> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let parent = parent_of_threads()?;
        let folder = parent.join(format!("chimaera-test-{}-{number}", std::process::id()));
        fs::create_dir(&folder).map_err(|error| {
            format!(
                "no control group can be made in {}: {error}",
                parent.display()
            )
        })?;
        let group = Self { folder };
        if group.file("pids.max").exists() {
            Ok(group)
        } else {
            Err(format!(
                "groups in {} do not limit threads",
                parent.display()
            ))
        }
    }

    /// Takes a process with all of its threads into the group.
    ///
    /// # Panics
    /// If it is not taken.
    pub fn take(&self, process: u32) {
        self.write("cgroup.procs", &process.to_string());
    }

    /// From now on the group gets no further thread.
    ///
    /// # Panics
    /// If it cannot be denied.
    pub fn deny(&self) {
        let current = fs::read_to_string(self.file("pids.current")).expect("the group is there");
        self.write("pids.max", current.trim());
    }

    /// From now on it gets as many as it wants.
    ///
    /// # Panics
    /// If that cannot be allowed.
    pub fn allow(&self) {
        self.write("pids.max", "max");
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.file(name), text).expect("the group takes it");
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

impl Drop for ControlGroup {
    fn drop(&mut self) {
        // Where processes are left the system keeps it.
        let _ = fs::remove_dir(&self.folder);
    }
}

/// Where groups that limit threads can be made, with either version of control groups.
fn parent_of_threads() -> Result<PathBuf, String> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").map_err(|error| error.to_string())?;
    let found = mounts.lines().find_map(|line| {
        let (mount, file_system) = line.split_once(" - ")?;
        let folder = Path::new(mount.split(' ').nth(4)?);
        let mut file_system = file_system.split(' ');
        let has_threads = match file_system.next()? {
            "cgroup" => file_system.nth(1)?.split(',').any(|name| name == "pids"),
            "cgroup2" => fs::read_to_string(folder.join("cgroup.subtree_control"))
                .is_ok_and(|names| names.split_whitespace().any(|name| name == "pids")),
            _ => false,
        };
        has_threads.then(|| folder.to_path_buf())
    });
    found.ok_or_else(|| "no control groups that limit threads are mounted".to_owned())
}
