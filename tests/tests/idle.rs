//! Waiting costs nothing, and nobody who waits is forgotten.

use std::hint;
use std::time::{Duration, Instant};

use chimaera_bdev_client::Runtime;
use chimaera_client::ConnectOptions;
use chimaera_faulty_runtime::Method;
use chimaera_tests::{ClientProcess, Daemon, Faulty, is_in_state, threads, until, within, workers};

/// Processor time that a process has used.
fn processor_time(process: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).expect("it runs");
    // Fields are counted after the name, which may contain anything: utime and stime are 14 and
    // 15 of the line, the name is the second.
    let (_, fields) = stat.rsplit_once(") ").expect("a name");
    let ticks: u64 = fields
        .split(' ')
        .skip(11)
        .take(2)
        .map(|field| field.parse::<u64>().expect("a number"))
        .sum();
    let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)
        .ok()
        .flatten()
        .expect("the system says how long a tick is");
    Duration::from_millis(ticks * 1000 / per_second as u64)
}

/// How often the threads of a process have gone to sleep.
fn sleeps(process: u32) -> u64 {
    threads(process)
        .iter()
        .filter_map(|thread| std::fs::read_to_string(format!("{thread}/status")).ok())
        .filter_map(|status| {
            let line = status
                .lines()
                .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?;
            line.trim().parse::<u64>().ok()
        })
        .sum()
}

fn all_sleep(threads: &[String]) -> bool {
    threads.iter().all(|thread| is_in_state(thread, 'S'))
}

#[test]
fn a_daemon_and_its_clients_that_wait_use_no_processor() {
    const CLIENTS: u32 = 20;
    let daemon = Daemon::start_with(&["--workers", "2", "--polling", "performance"]);
    let own_threads = threads(daemon.process_id()).len();
    let clients: Vec<Runtime> = (0..CLIENTS).map(|_| daemon.connect()).collect();
    let faulty = Faulty::created(&clients[0], 0);
    for client in &clients {
        client.admin().ping().expect("it serves");
        let client = Faulty::new(client, 0);
        client.call(Method::Complete).expect("it serves");
    }
    assert_eq!(daemon.sessions(), u64::from(CLIENTS));
    // Every client waits for something that does not come: as idle as a busy system gets.
    let mut held: Vec<_> = clients
        .iter()
        .map(|client| Faulty::new(client, 0).start(Method::Hold, None))
        .collect();
    let mut process = ClientProcess::start(&daemon.socket(), &["wait", "0"]);
    process.expect("waiting");
    until("the requests are held", || {
        let count = faulty.about_held(Method::CountHeld, faulty.pool_id());
        count == u64::from(CLIENTS) + 1
    });
    let workers = workers(&daemon, 2);
    until("the workers sleep", || all_sleep(&workers));
    // Threads for admin tasks stay for a second; their end is no work of the daemon's.
    until("only the daemon's own threads are left", || {
        threads(daemon.process_id()).len() <= own_threads
    });

    let both = [daemon.process_id(), process.process_id()];
    let (used, slept) = (both.map(processor_time), both.map(sleeps));
    let nothing = held[0].wait_timeout(Duration::from_secs(1));
    assert!(nothing.is_none(), "nobody has released it");
    for (index, who) in ["the daemon", "a client"].into_iter().enumerate() {
        let used = processor_time(both[index]) - used[index];
        assert!(used < Duration::from_millis(50), "{who} used {used:?}");
        let woken = sleeps(both[index]) - slept[index];
        assert!(woken < 20, "{who} woke {woken} times for nothing");
    }

    assert_eq!(
        faulty.about_held(Method::Release, faulty.pool_id()),
        u64::from(CLIENTS) + 1
    );
    for task in held {
        task.wait().expect("released");
    }
    process.expect("released");
    process.succeed();
}

#[test]
fn a_task_reaches_a_worker_that_sleeps() {
    for polling in ["powersave", "balanced"] {
        let daemon = Daemon::start_with(&["--workers", "2", "--polling", polling]);
        let workers = workers(&daemon, 2);
        let clients: Vec<_> = (0..4).map(|_| daemon.connect()).collect();
        within("waking sleeping workers", move || {
            for round in 0..200 {
                let end = Instant::now() + Duration::from_secs(10);
                while !all_sleep(&workers) {
                    assert!(Instant::now() < end, "a worker without work does not sleep");
                    std::thread::yield_now();
                }
                let client = &clients[round % clients.len()];
                client.admin().ping().expect("it is woken");
            }
        });
        drop(daemon);
    }
}

/// The moment to lose a wake-up in is that between a last look for tasks and the sleep. Pauses of
/// every length around the time after which a worker parks a lane go through it.
#[test]
fn no_task_is_lost_between_a_workers_last_look_and_its_sleep() {
    const POLLING: Duration = Duration::from_micros(5);
    const STEP: Duration = Duration::from_nanos(50);
    let daemon = Daemon::start_with(&["--workers", "1", "--polling", "powersave"]);
    let runtime = daemon.connect();
    within("tasks with pauses in between", move || {
        let admin = runtime.admin();
        for round in 0..20_000 {
            let pause = STEP * (round % (8 * POLLING.as_nanos() / STEP.as_nanos()) as u32);
            let start = Instant::now();
            while start.elapsed() < pause {
                hint::spin_loop();
            }
            admin.ping().expect("it is seen");
        }
    });
    drop(daemon);
}

/// The same on the way back: clients that sleep at once, and completions of other threads.
#[test]
fn no_completion_is_lost_between_a_clients_last_look_and_its_sleep() {
    let daemon = Daemon::start_with(&["--workers", "1", "--polling", "powersave"]);
    let sleepy = ConnectOptions::new().spin(Duration::ZERO);
    let runtime = sleepy.connect_to(daemon.socket()).expect("connects");
    let faulty = Faulty::created(&runtime, 0);
    within("waiting for completions", move || {
        for _ in 0..5_000 {
            runtime.admin().ping().expect("completes");
            let elsewhere = faulty.call(Method::CompleteElsewhere);
            assert_eq!(elsewhere.expect("completes")[0], 7);
        }
    });
    drop(daemon);
}
