//! Pools for which an id is recorded, as for a pool on a device.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};

use chimaera_chimod::{
    Activity, Container, CreateAgain, CreateContext, Creator, DeclaredMethod, ModuleError, Request,
    Right, Worker,
};
use chimaera_proto::admin::{GetOrCreatePool, PoolInfo};
use chimaera_proto::{Descriptor, PoolId, Status};
use chimaera_runtime::{Config, Host};
use chimaera_testing::raw_client::{RawClient, ping, status};

/// A container whose parameters are its recorded id: it has none if they are empty, and panics when it is asked if they
/// are anything else.
struct Recorded {
    name: String,
    params: String,
}

chimaera_chimod::export_chimod!(Recorded, "recorded");

/// What a container was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Told {
    pool: PoolId,
    id_is_chosen: bool,
    creator: Creator,
}

/// What the existing containers were told, by the names of their pools. Each test has names of its own.
static TOLD: Mutex<Option<HashMap<String, Told>>> = Mutex::new(None);

fn all_told() -> MutexGuard<'static, Option<HashMap<String, Told>>> {
    TOLD.lock().expect("not poisoned")
}

/// Who asked for an existing pool, by its name.
static TOLD_AGAIN: Mutex<Vec<(String, Creator)>> = Mutex::new(Vec::new());

fn told(name: &str) -> Option<Told> {
    all_told().as_ref()?.get(name).copied()
}

impl Container for Recorded {
    const METHODS: &'static [DeclaredMethod] = &DeclaredMethod::first::<64>(Right::Read);

    fn create(context: CreateContext<'_>) -> Result<Self, ModuleError> {
        let told = Told {
            pool: context.pool,
            id_is_chosen: context.id_is_chosen,
            creator: context.creator,
        };
        let name = context.name.to_owned();
        all_told().get_or_insert_default().insert(name, told);
        Ok(Self {
            name: context.name.to_owned(),
            params: String::from_utf8_lossy(context.params).into_owned(),
        })
    }

    fn pool_id(&self) -> Option<PoolId> {
        let is_there = !self.params.is_empty();
        is_there.then(|| self.params.parse().expect("as asked, about the id"))
    }

    fn create_again(&self, asked: CreateAgain<'_>) -> Result<(), ModuleError> {
        let told = (self.name.clone(), asked.creator);
        TOLD_AGAIN.lock().expect("not poisoned").push(told);
        Ok(())
    }

    fn submit(&self, _: &mut Worker<'_>, request: Request) -> Activity {
        request.complete(&[]);
        Activity::IDLE
    }
}

impl Drop for Recorded {
    fn drop(&mut self) {
        all_told().get_or_insert_default().remove(&self.name);
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

/// Asks for a pool whose own id is in the parameters.
fn create(
    client: &mut RawClient,
    name: &str,
    id: PoolId,
    params: &str,
) -> Result<PoolInfo, (Status, String)> {
    let request = GetOrCreatePool::new("recorded", name, id, params.as_bytes().to_vec());
    client.get_or_create(&request)
}

fn list(client: &mut RawClient) -> Vec<PoolId> {
    client.pools().iter().map(|pool| pool.id).collect()
}

fn call(client: &mut RawClient, pool: PoolId) -> Option<Status> {
    status(&client.call(&Descriptor {
        pool,
        method: 0,
        ..ping()
    }))
}

/// The test's own process: it is the client of its host.
fn own() -> Creator {
    Creator {
        uid: nix::unistd::geteuid().as_raw(),
        gid: nix::unistd::getegid().as_raw(),
        is_operator: true,
    }
}

#[test]
fn a_container_is_told_who_asks_and_whether_the_id_is_the_hosts_choice() {
    let host = host();
    let mut client = RawClient::new(host.connect().expect("connects"));
    let asked = PoolId::new(8000, 0);
    create(&mut client, "told: asked", asked, "").expect("is made");
    let chosen = create(&mut client, "told: chosen", PoolId::NULL, "").expect("is made");
    let expected = |pool, id_is_chosen| {
        Some(Told {
            pool,
            id_is_chosen,
            creator: own(),
        })
    };
    assert_eq!(told("told: asked"), expected(asked, false));
    assert_eq!(told("told: chosen"), expected(chosen.id, true));
    let again = create(&mut client, "told: asked", asked, "").expect("is there");
    assert!(!again.created);
    let told_again = TOLD_AGAIN.lock().expect("not poisoned");
    assert!(told_again.contains(&("told: asked".to_owned(), own())));
}

#[test]
fn a_pool_for_which_the_host_chooses_gets_the_id_that_it_has_of_its_own() {
    let host = host();
    let mut client = RawClient::new(host.connect().expect("connects"));
    let own = PoolId::new(8000, 7);
    let made = create(&mut client, "own", PoolId::NULL, "8000.7").expect("is made");
    assert_eq!((made.id, made.created), (own, true));
    assert_eq!(list(&mut client), [own]);
    assert_eq!(call(&mut client, own), None);
    let chosen = told("own").expect("is there").pool;
    assert_ne!(chosen, own);
    assert_eq!(call(&mut client, chosen), Some(Status::PoolNotFound));
    // The id that it does not have is free.
    let other = create(&mut client, "own: other", chosen, "").expect("is made");
    assert_eq!(other.id, chosen);
    for asked in [PoolId::NULL, own] {
        let found = create(&mut client, "own", asked, "8000.7").expect("is there");
        assert_eq!((found.id, found.created), (own, false));
    }
    assert_eq!(client.destroy_pool(own), None);
    let again = create(&mut client, "own", own, "8000.7").expect("is made again");
    assert_eq!((again.id, again.created), (own, true));
}

#[test]
fn a_pool_whose_own_id_cannot_be_its_id_is_not_made_and_leaves_nothing() {
    let host = host();
    let mut client = RawClient::new(host.connect().expect("connects"));
    let (taken, asked) = (PoolId::new(8000, 7), PoolId::new(9000, 0));
    create(&mut client, "not: holder", taken, "").expect("is made");
    let cases = [
        (
            PoolId::NULL,
            "8000.7",
            Status::Busy,
            "its file or device records the id 8000.7, which pool not: holder has",
        ),
        (
            PoolId::NULL,
            "1.0",
            Status::Busy,
            "which is the admin pool's in every runtime",
        ),
        (
            asked,
            "8000.8",
            Status::ParameterMismatch,
            "its file or device records the id 8000.8, asked for 9000.0",
        ),
        (
            asked,
            "panic",
            Status::ModulePanicked,
            "panicked while telling the pool's id: as asked, about the id",
        ),
    ];
    for (id, params, expected, words) in cases {
        let (status, text) = create(&mut client, "not", id, params).expect_err("is refused");
        assert_eq!(status, expected, "{text}");
        assert!(text.contains(words), "{text}");
        assert_eq!(told("not"), None, "its container is gone");
        assert_eq!(list(&mut client), [taken]);
        for id in [asked, PoolId::new(8000, 8)] {
            assert_eq!(call(&mut client, id), Some(Status::PoolNotFound));
        }
    }
    assert_eq!(client.destroy_pool(taken), None);
    for (name, id, params) in [
        ("not", PoolId::NULL, "8000.7"),
        ("not: asked", asked, "9000.0"),
        ("not: eight", PoolId::new(8000, 8), ""),
    ] {
        let made = create(&mut client, name, id, params).expect("name and id are free");
        assert!(made.created);
    }
}

#[test]
fn of_pools_that_have_one_id_and_are_made_at_once_one_is_made() {
    const ROUNDS: usize = 50;
    let host = host();
    let own = PoolId::new(8000, 7);
    let mut clients: Vec<_> = (0..4)
        .map(|_| RawClient::new(host.connect().expect("connects")))
        .collect();
    for _ in 0..ROUNDS {
        let results: Vec<_> = std::thread::scope(|scope| {
            let creators: Vec<_> = (0..)
                .zip(&mut clients)
                .map(|(number, client)| {
                    // The last one asks for the id itself, and for a pool that takes any.
                    let (id, params) = match number {
                        3 => (own, ""),
                        _ => (PoolId::NULL, "8000.7"),
                    };
                    let name = format!("at once: {number}");
                    scope.spawn(move || create(client, &name, id, params))
                })
                .collect();
            let joined = creators.into_iter().map(|one| one.join().expect("joins"));
            joined.collect()
        });
        for result in &results {
            match result {
                Ok(made) => assert_eq!((made.id, made.created), (own, true)),
                Err((Status::Busy | Status::ParameterMismatch, _)) => {}
                Err(other) => panic!("{other:?}"),
            }
        }
        let made = results.iter().filter(|result| result.is_ok()).count();
        assert_eq!(made, 1, "{results:?}");
        assert_eq!(list(&mut clients[0]), [own]);
        assert_eq!(clients[0].destroy_pool(own), None);
        assert_eq!(list(&mut clients[0]), []);
    }
}
