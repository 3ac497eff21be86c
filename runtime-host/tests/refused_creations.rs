//! A creation that fails leaves no pool: neither one that was made for it, nor one that was opened.

use std::sync::Mutex;

use chimaera_chimod::{
    Activity, Container, CreateAgain, CreateContext, DeclaredMethod, Incarnation, ModuleError,
    Request, Right, Worker,
};
use chimaera_proto::admin::{DestroyPool, GetOrCreatePool, Method, PoolChoice};
use chimaera_proto::{PoolId, Status};
use chimaera_runtime::{Config, Host};
use chimaera_testing::raw_client::{RawClient, status};

/// A container whose parameters say which id and incarnation are recorded for it; with empty ones it is new.
struct Remembered {
    name: String,
    recorded: Option<(PoolId, Incarnation)>,
}

chimaera_chimod::export_chimod!(Remembered, "remembered");

/// The names of the pools whose containers were made, and of those that were dropped. Each test has names of its own.
static MADE: Mutex<Vec<String>> = Mutex::new(Vec::new());
static DROPPED: Mutex<Vec<String>> = Mutex::new(Vec::new());

fn count(list: &Mutex<Vec<String>>, name: &str) -> usize {
    let list = list.lock().expect("not poisoned");
    list.iter().filter(|listed| *listed == name).count()
}

/// Asserts how many containers there were for a pool, none of which is left.
#[track_caller]
fn assert_gone(name: &str, made: usize) {
    assert_eq!((count(&MADE, name), count(&DROPPED, name)), (made, made));
}

impl Container for Remembered {
    const METHODS: &'static [DeclaredMethod] = &DeclaredMethod::first::<64>(Right::Read);

    fn create(context: CreateContext<'_>) -> Result<Self, ModuleError> {
        let name = context.name.to_owned();
        MADE.lock().expect("not poisoned").push(name.clone());
        let params = String::from_utf8_lossy(context.params);
        let recorded = params.split_once(' ').map(|(id, current)| {
            let incarnation = Incarnation {
                current: current.parse().expect("a number"),
                predecessor: None,
            };
            (id.parse().expect("an id"), incarnation)
        });
        Ok(Self { name, recorded })
    }

    fn pool_id(&self) -> Option<PoolId> {
        self.recorded.map(|(id, _)| id)
    }

    fn was_opened(&self) -> bool {
        self.recorded.is_some()
    }

    fn incarnation(&self) -> Option<Incarnation> {
        self.recorded.map(|(_, incarnation)| incarnation)
    }

    fn create_again(&self, _: CreateAgain<'_>) -> Result<(), ModuleError> {
        Ok(())
    }

    fn submit(&self, _: &mut Worker<'_>, request: Request) -> Activity {
        request.complete(&[]);
        Activity::IDLE
    }
}

impl Drop for Remembered {
    fn drop(&mut self) {
        let name = self.name.clone();
        DROPPED.lock().expect("not poisoned").push(name);
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

/// What is recorded on what the pool is made of, if it is not new.
fn asked(name: &str, id: PoolId, recorded: &str) -> GetOrCreatePool {
    GetOrCreatePool::new("remembered", name, id, recorded.as_bytes().to_vec())
}

fn names(client: &mut RawClient) -> Vec<String> {
    client.pools().into_iter().map(|pool| pool.name).collect()
}

#[test]
fn a_pool_is_neither_made_nor_opened_for_who_knows_another_one() {
    let host = host();
    let mut client = RawClient::new(host.connect().expect("connects"));
    // New in memory; opened as another one than it was.
    for (name, recorded) in [("known: new", ""), ("known: opened", "8000.7 5")] {
        let known = GetOrCreatePool {
            incarnation: Some(4),
            ..asked(name, PoolId::NULL, recorded)
        };
        for made in 1..=2 {
            let (status, text) = client.get_or_create(&known).expect_err("is refused");
            assert_eq!(status, Status::PoolChanged, "{text}");
            assert_eq!(names(&mut client), [""; 0]);
            assert_gone(name, made);
        }
        let unknown = GetOrCreatePool {
            incarnation: None,
            ..known
        };
        let made = client
            .get_or_create(&unknown)
            .expect("id and name are free");
        assert!(made.created);
        assert_eq!(client.destroy_pool(made.id), None);
    }
    let right = GetOrCreatePool {
        incarnation: Some(5),
        ..asked("known: right", PoolId::NULL, "8000.7 5")
    };
    client
        .get_or_create(&right)
        .expect("it is the one that is known");
}

#[test]
fn a_pool_whose_id_means_another_one_to_its_creator_is_not_made() {
    const OTHER: u32 = 1001;
    let host = host();
    let mut client = RawClient::new(host.connect().expect("connects"));
    let id = PoolId::new(8000, 7);
    client
        .get_or_create(&asked("meant", id, ""))
        .expect("is made");
    let for_other = |name: &str, id, recorded: &str| GetOrCreatePool {
        owner: Some(OTHER),
        ..asked(name, id, recorded)
    };
    for (name, request, made) in [
        // What is known before is said before anything is made.
        ("not meant: asked", for_other("not meant: asked", id, ""), 0),
        (
            "not meant: recorded",
            for_other("not meant: recorded", PoolId::NULL, "8000.7 5"),
            1,
        ),
    ] {
        let (refusal, text) = client.get_or_create(&request).expect_err("is refused");
        assert_eq!(refusal, Status::Busy, "{text}");
        assert!(text.contains("use another connection"), "{text}");
        assert_eq!(names(&mut client), ["meant"]);
        assert_gone(name, made);
        let mut elsewhere = RawClient::new(host.connect().expect("connects"));
        let made = elsewhere
            .get_or_create(&request)
            .expect("another connection may");
        assert_eq!((made.id, made.permissions.owner), (id, OTHER));
        let choice = PoolChoice {
            owner: Some(OTHER),
            ..id.into()
        };
        let destroyed = elsewhere.admin(Method::DestroyPool, &DestroyPool { pool: choice });
        assert_eq!(status(&destroyed), None);
    }
}
