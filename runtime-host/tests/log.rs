//! A host embedded in an application whose subscriber panics or blocks: no pool, task or client is affected.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::Instant;

use chimaera_chimod::{
    Activity, Container, CreateAgain, CreateContext, DeclaredMethod, Level, ModuleError, Request,
    Right, Worker,
};
use chimaera_proto::admin::Severity;
use chimaera_proto::{Descriptor, PoolId};
use chimaera_runtime::{Config, Host};
use chimaera_testing::raw_client::{RawClient, ping, status};
use chimaera_testing::{PATIENCE, until};
use tracing::span;

/// Logs on the worker, and on a thread of its own, and then completes.
struct Talking {
    host: chimaera_chimod::Host,
}

chimaera_chimod::export_chimod!(Talking, "talking");

impl Container for Talking {
    const METHODS: &'static [DeclaredMethod] = &DeclaredMethod::first::<64>(Right::Read);

    fn create(context: CreateContext<'_>) -> Result<Self, ModuleError> {
        Ok(Self { host: context.host })
    }

    fn create_again(&self, _: CreateAgain<'_>) -> Result<(), ModuleError> {
        Ok(())
    }

    fn submit(&self, _: &mut Worker<'_>, request: Request) -> Activity {
        let host = self.host;
        host.log(Level::Warning, "said on a worker");
        std::thread::spawn(move || {
            host.log(Level::Error, "said on a thread of the module's");
            request.complete(&[]);
        });
        Activity::IDLE
    }
}

const WORKS: u8 = 0;
const PANICS: u8 = 1;
const STANDS_STILL: u8 = 2;

static MOOD: AtomicU8 = AtomicU8::new(WORKS);
static EVENTS: AtomicU64 = AtomicU64::new(0);
static STUCK: Mutex<bool> = Mutex::new(false);
static CHANGED: Condvar = Condvar::new();

/// An application's subscriber.
struct Moody;

impl tracing::Subscriber for Moody {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        assert_ne!(MOOD.load(Ordering::Acquire), PANICS, "as asked");
        true
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, _: &tracing::Event<'_>) {
        EVENTS.fetch_add(1, Ordering::Release);
        match MOOD.load(Ordering::Acquire) {
            PANICS => panic!("as asked"),
            STANDS_STILL => {
                *STUCK.lock().expect("not poisoned") = true;
                CHANGED.notify_all();
                loop {
                    std::thread::park();
                }
            }
            _ => {}
        }
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

/// A life of a pool, on every kind of the host's threads.
fn live(client: &mut RawClient, minor: u32) {
    let pool = PoolId::new(8000, minor);
    let name = format!("pool {minor}");
    assert_eq!(client.create_pool("talking", &name, pool), None);
    let talk = Descriptor { pool, ..ping() };
    assert_eq!(status(&client.call(&talk)), None);
    assert_eq!(client.destroy_pool(pool), None);
}

#[test]
fn a_subscriber_that_panics_or_stands_still_fails_no_task_and_delays_no_end() {
    tracing::subscriber::set_global_default(Moody).expect("the only one");
    let start = || {
        Host::start(&Config {
            worker_count: 2,
            modules: vec![module()],
            ..Config::default()
        })
        .expect("the host starts")
    };
    let host = start();
    let mut client = RawClient::new(host.connect().expect("connects"));
    live(&mut client, 1);
    until("it hears what is said", || {
        EVENTS.load(Ordering::Acquire) >= 4
    });

    MOOD.store(PANICS, Ordering::Release);
    (2..20).for_each(|minor| live(&mut client, minor));

    MOOD.store(STANDS_STILL, Ordering::Release);
    live(&mut client, 20);
    let stuck = STUCK.lock().expect("not poisoned");
    let (stuck, _) = CHANGED
        .wait_timeout_while(stuck, PATIENCE, |stuck| !*stuck)
        .expect("not poisoned");
    assert!(*stuck, "it stands still");
    drop(stuck);
    (21..2000).for_each(|minor| live(&mut client, minor));
    let log = client.runtime_status().log;
    let last = log.recent.last().expect("there are complaints");
    let expected =
        "module talking, pool \"pool 1999\" (8000.1999): said on a thread of the module's";
    assert_eq!(last.text, expected);
    assert!(
        log.recent
            .iter()
            .any(|line| line.severity == Severity::Warning)
    );
    assert!(log.lost_lines > 0, "the queue has limits: {log:?}");

    // Another host finds the log as it is, and each ends all the same.
    let another = start();
    live(&mut RawClient::new(another.connect().expect("connects")), 1);
    let begin = Instant::now();
    another.end().expect("nothing is lost");
    host.end().expect("nothing is lost");
    assert!(begin.elapsed() < PATIENCE, "{:?}", begin.elapsed());
}
