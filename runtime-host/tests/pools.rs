//! Pools that come and go while clients use them, rightly or not.

use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Instant;

use chimaera_chimod::{
    Activity, Container, CreateAgain, CreateContext, ModuleError, Request, Worker,
};
use chimaera_proto::admin::{DestroyPool, GetOrCreatePool, Method};
use chimaera_proto::{Completion, Descriptor, PoolId, Status, codec};
use chimaera_runtime::{Config, Host};

mod support;

use support::{BUFFER, Client, PATIENCE, ping, status};

/// Completes a task at once, or keeps it in [`HELD`].
struct Holding;

chimaera_chimod::export_chimod!(Holding, "holding");

const HOLD: u16 = 1;

/// Tests that hold tasks use arguments of their own to tell them apart.
static HELD: Mutex<Vec<Request>> = Mutex::new(Vec::new());

impl Container for Holding {
    fn create(_: CreateContext<'_>) -> Result<Self, ModuleError> {
        Ok(Self)
    }

    fn create_again(&self, _: CreateAgain<'_>) -> Result<(), ModuleError> {
        Ok(())
    }

    fn submit(&self, _: &mut Worker<'_>, request: Request) -> Activity {
        match request.method() {
            HOLD => HELD.lock().expect("not poisoned").push(request),
            _ => request.complete(&[]),
        }
        Activity::IDLE
    }
}

fn host() -> Host {
    Host::start(&Config {
        worker_count: 2,
        modules: vec![module()],
        ..Config::default()
    })
    .expect("the host starts")
}

fn create(client: &mut Client, name: &str, id: PoolId) -> Completion {
    let request = GetOrCreatePool {
        module: "holding".to_owned(),
        name: name.to_owned(),
        id,
        params: Vec::new(),
    };
    client.admin(
        Method::GetOrCreatePool,
        &codec::encode(&request).expect("encodes"),
    )
}

fn destroy_request(id: PoolId) -> Vec<u8> {
    codec::encode(&DestroyPool { id }).expect("encodes")
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::yield_now();
    }
}

#[test]
fn a_pool_that_is_being_destroyed_takes_no_task_whatever_id_it_names() {
    const POOL: PoolId = PoolId::new(8000, 0);
    let host = host();
    let (mut user, mut destroyer) = (Client::new(&host), Client::new(&host));
    assert_eq!(status(&create(&mut user, "drained", POOL)), None);
    let to = |pool, method| Descriptor {
        pool,
        method,
        ..ping()
    };
    assert_eq!(status(&user.call(&to(POOL, 0))), None);
    user.publish(&Descriptor {
        record: 1,
        ..to(POOL, HOLD)
    });
    until("the task arrives", || {
        !HELD.lock().expect("not poisoned").is_empty()
    });

    std::thread::scope(|scope| {
        let destroyed =
            scope.spawn(|| destroyer.admin(Method::DestroyPool, &destroy_request(POOL)));
        until("the pool is withdrawn", || {
            status(&user.call(&to(POOL, 0))) == Some(Status::PoolNotFound)
        });
        let through_null = status(&user.call(&to(PoolId::NULL, 0)));
        for request in HELD.lock().expect("not poisoned").drain(..) {
            request.complete(&[]);
        }
        assert_eq!(status(&destroyed.join().expect("joins")), None);
        assert_eq!(through_null, Some(Status::PoolNotFound));
    });
}

/// Stops whoever logs that the pool with this name was created, until the test lets go.
struct SlowLog {
    name: &'static str,
    reached: Mutex<Sender<()>>,
    go_on: Mutex<Receiver<()>>,
}

struct Text(String);

impl tracing::field::Visit for Text {
    fn record_debug(&mut self, _: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        self.0 += &format!("{value:?} ");
    }
}

impl tracing::Subscriber for SlowLog {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let mut text = Text(String::new());
        event.record(&mut text);
        if text.0.contains("pool created") && text.0.contains(self.name) {
            self.reached
                .lock()
                .expect("not poisoned")
                .send(())
                .expect("the test listens");
            let _ = self
                .go_on
                .lock()
                .expect("not poisoned")
                .recv_timeout(PATIENCE);
        }
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

#[test]
fn a_pool_can_be_destroyed_while_its_creator_has_not_answered_yet() {
    const POOL: PoolId = PoolId::new(8001, 0);
    let ((reached, is_reached), (let_go, go_on)) = (channel(), channel());
    tracing::subscriber::set_global_default(SlowLog {
        name: "short-lived",
        reached: Mutex::new(reached),
        go_on: Mutex::new(go_on),
    })
    .expect("the only one");
    let host = host();
    let (mut creator, mut destroyer) = (Client::new(&host), Client::new(&host));
    std::thread::scope(|scope| {
        let created = scope.spawn(|| create(&mut creator, "short-lived", POOL));
        is_reached.recv_timeout(PATIENCE).expect("the pool is made");
        // It is known, so it can be destroyed; nothing may depend on what its creator does.
        let request = destroy_request(POOL);
        let target = destroyer.buffer(request.len());
        // SAFETY: the range is mapped, and the host does not look at it before the task.
        unsafe { std::ptr::copy_nonoverlapping(request.as_ptr(), target, request.len()) };
        destroyer.publish(&Descriptor {
            method: Method::DestroyPool as u16,
            buffer: Some(BUFFER),
            arguments: [request.len() as u64, 0, 0],
            ..ping()
        });
        until("the pool is destroyed", || {
            destroyer.lane.is_complete(0, destroyer.sequence)
        });
        let_go.send(()).expect("the log listens");
        assert_eq!(status(&created.join().expect("joins")), None);
        assert_eq!(status(&destroyer.lane.completion(0)), None);
    });
}
