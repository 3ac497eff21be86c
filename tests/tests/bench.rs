//! What `chimaera bench` leaves when it is interrupted: its results, and nothing else.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};

use chimaera_tests::exit::FAILED;
use chimaera_tests::{disk_folder, json, program, skipped, text, until, within};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A run of which one case is done.
struct Run {
    child: Child,
    said: BufReader<std::process::ChildStderr>,
}

impl Run {
    fn start(arguments: &[&str]) -> Option<Self> {
        if std::thread::available_parallelism().is_ok_and(|count| count.get() < 2) {
            skipped("an interrupted run of bench", "it needs two processors");
            return None;
        }
        let mut child = Command::new(program("chimaera"))
            .args(["bench", "--quick"])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        let stderr = child.stderr.take().expect("piped");
        let said = within("the first case", move || {
            let mut said = BufReader::new(stderr);
            let mut line = String::new();
            let _ = said.read_line(&mut line).expect("it says how it goes");
            assert!(line.starts_with("1/"), "{line}");
            said
        });
        Some(Self { child, said })
    }

    fn id(&self) -> Pid {
        Pid::from_raw(self.child.id() as i32)
    }

    /// Processes that it has started and that run.
    fn children(&self) -> Vec<Pid> {
        let path = format!("/proc/{0}/task/{0}/children", self.child.id());
        let ids = fs::read_to_string(path).expect("its children");
        let ids = ids.split_whitespace();
        ids.map(|id| Pid::from_raw(id.parse().expect("a number")))
            .collect()
    }
}

fn is_running(process: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    let state = stat
        .rsplit_once(')')
        .map_or("", |(_, rest)| rest.trim_start());
    !state.is_empty() && !state.starts_with(['Z', 'X'])
}

#[test]
fn a_run_that_is_told_to_end_gives_what_it_has_and_takes_away_what_it_made() {
    let folder = disk_folder();
    let pools = folder.path().join("pools");
    fs::create_dir(&pools).expect("a folder");
    let figures = folder.path().join("figures.json");
    let arguments = [
        "--case",
        "empty-task-depth-1",
        "file-read",
        "ram-",
        "--folder",
        text(&pools),
        "--figures",
        text(&figures),
    ];
    let Some(mut run) = Run::start(&arguments) else {
        return;
    };
    let children = run.children();
    assert!(!children.is_empty());
    kill(run.id(), Signal::SIGTERM).expect("it runs");
    let (shown, code, rest) = within("the end of the run", move || {
        let (mut shown, mut rest) = (String::new(), String::new());
        let stdout = run.child.stdout.as_mut().expect("piped");
        stdout.read_to_string(&mut shown).expect("the table");
        run.said.read_to_string(&mut rest).expect("its last words");
        let code = run.child.wait().expect("it ends").code();
        (shown, code, rest)
    });
    assert_eq!(code, Some(FAILED), "{rest}");
    assert!(
        rest.contains("interrupted: ending after this round"),
        "{rest}"
    );
    assert!(rest.contains("cases were not run"), "{rest}");
    assert!(shown.contains("empty-task-depth-1 "), "{shown}");
    let figures = json(&fs::read_to_string(&figures).expect("figures"));
    assert_eq!(figures["cases"][0]["name"], "empty-task-depth-1");
    assert!(figures["cases"][0]["value"].is_number());
    let left = figures["conditions"]["interrupted_before"].as_u64();
    assert!(left.is_some_and(|left| left > 0), "{figures}");
    assert_eq!(fs::read_dir(&pools).expect("a folder").count(), 0);
    assert!(!children.into_iter().any(is_running));
}

#[test]
fn a_run_that_is_killed_takes_its_daemon_along() {
    let Some(mut run) = Run::start(&["--case", "empty-task-depth-1", "ram-"]) else {
        return;
    };
    let children = run.children();
    assert!(!children.is_empty());
    kill(run.id(), Signal::SIGKILL).expect("it runs");
    run.child.wait().expect("it was started here");
    until("the end of all that it started", || {
        !children.iter().copied().any(is_running)
    });
}
