//! Other permissions of a pool: what the registry says, what is recorded and what workers allow stays the same thing,
//! whatever happens while they are recorded.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};

use chimaera_chimod::{
    Activity, Container, CreateAgain, CreateContext, DeclaredMethod, ModuleError, Request, Right,
    Worker,
};
use chimaera_proto::admin::{
    DestroyPool, GetOrCreatePool, Method, PoolChoice, PoolInfo, SetPermissions,
};
use chimaera_proto::{Descriptor, Permissions, PoolId, Status};
use chimaera_runtime::{Config, Host};
use chimaera_testing::raw_client::{RawClient, ping, status};
use chimaera_testing::until;

/// Records other permissions when its test says so, and fails if the test says that.
struct Recording;

chimaera_chimod::export_chimod!(Recording, "recording");

type Verdict = Result<(), ModuleError>;

/// Told when recording begins; and where the verdict comes from. The tests take turns.
static STEPS: Mutex<Option<(Sender<()>, Receiver<Verdict>)>> = Mutex::new(None);

static TURN: Mutex<()> = Mutex::new(());

impl Container for Recording {
    const METHODS: &'static [DeclaredMethod] = &DeclaredMethod::first::<64>(Right::Read);

    fn create(_: CreateContext<'_>) -> Result<Self, ModuleError> {
        Ok(Self)
    }

    fn set_permissions(&self, _: Permissions) -> Verdict {
        let steps = STEPS.lock().expect("not poisoned").take();
        let (begun, verdict) = steps.expect("a test that expects it");
        begun.send(()).expect("listens");
        verdict.recv().expect("decides")
    }

    fn create_again(&self, _: CreateAgain<'_>) -> Result<(), ModuleError> {
        Ok(())
    }

    fn submit(&self, _: &mut Worker<'_>, request: Request) -> Activity {
        request.complete(&[]);
        Activity::IDLE
    }
}

const ID: PoolId = PoolId::new(8000, 7);
const HEIR: u32 = 1001;

/// A host with a pool of the test's own user.
struct Rig {
    host: Host,
    client: RawClient,
    _turn: MutexGuard<'static, ()>,
}

impl Rig {
    fn new() -> Self {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let config = Config {
            worker_count: 2,
            modules: vec![module()],
            ..Config::default()
        };
        let host = Host::start(&config).expect("the host starts");
        let mut client = RawClient::new(host.connect().expect("connects"));
        let made = create(&mut client, "pool", None).expect("is made");
        assert!(made.created);
        Self {
            host,
            client,
            _turn: turn,
        }
    }

    fn connect(&self) -> RawClient {
        RawClient::new(self.host.connect().expect("connects"))
    }

    /// Gives the pool to [`HEIR`]. While that is being recorded, `meanwhile` happens; then this is how recording ends.
    fn give_away(
        &self,
        verdict: Verdict,
        meanwhile: impl FnOnce(),
    ) -> Result<(), (Status, String)> {
        let (begun, begins) = channel();
        let (decide, decided) = channel();
        *STEPS.lock().expect("not poisoned") = Some((begun, decided));
        let mut client = self.connect();
        std::thread::scope(|scope| {
            let given = scope.spawn(move || {
                let request = SetPermissions {
                    pool: ID.into(),
                    new_owner: Some(HEIR),
                    new_group: None,
                    new_mode: None,
                };
                let completion = client.admin(Method::SetPermissions, &request);
                match status(&completion) {
                    None => Ok(()),
                    Some(status) => Err((status, client.reason(&completion))),
                }
            });
            begins.recv().expect("it is recorded");
            meanwhile();
            decide.send(verdict).expect("it waits");
            given.join().expect("joins")
        })
    }
}

fn create(
    client: &mut RawClient,
    name: &str,
    owner: Option<u32>,
) -> Result<PoolInfo, (Status, String)> {
    let request = GetOrCreatePool {
        owner,
        ..GetOrCreatePool::new("recording", name, ID, Vec::new())
    };
    client.get_or_create(&request)
}

fn owners(client: &mut RawClient) -> Vec<u32> {
    let pools = client.pools().into_iter();
    pools.map(|pool| pool.permissions.owner).collect()
}

fn own() -> u32 {
    nix::unistd::geteuid().as_raw()
}

fn call(client: &mut RawClient) -> Option<Status> {
    status(&client.call(&Descriptor {
        pool: ID,
        method: 0,
        ..ping()
    }))
}

fn failed() -> Verdict {
    Err(ModuleError::new(Status::IoError, "the device failed"))
}

#[test]
fn a_pool_whose_new_owner_cannot_be_recorded_stays_its_owners() {
    let rig = Rig::new();
    let mut other = rig.connect();
    let (refusal, text) = rig
        .give_away(failed(), || {
            // Nobody takes the place to which it may have to return.
            let found = create(&mut other, "pool", Some(own())).expect("it is there");
            assert!(!found.created);
            let another = create(&mut other, "another", Some(own()));
            assert_eq!(
                another.expect_err("it is taken").0,
                Status::ParameterMismatch
            );
        })
        .expect_err("it is not recorded");
    assert_eq!((refusal, &*text), (Status::IoError, "the device failed"));
    assert_eq!(owners(&mut other), [own()]);
    assert_eq!(call(&mut other), None);
    // The heir's place is free again.
    let mut heirs = rig.connect();
    let made = create(&mut heirs, "pool", Some(HEIR)).expect("it is free");
    assert!(made.created);
}

#[test]
fn nobody_takes_the_place_of_a_pool_that_is_being_given_away() {
    let mut rig = Rig::new();
    let mut heirs = rig.connect();
    std::thread::scope(|scope| {
        let mut created = None;
        let given = rig.give_away(Ok(()), || {
            created = Some(scope.spawn(|| create(&mut heirs, "pool", Some(HEIR))));
        });
        assert_eq!(given, Ok(()));
        let created = created.expect("it was begun").join().expect("joins");
        assert!(!created.expect("it is the heir's by now").created);
    });
    assert_eq!(owners(&mut rig.client), [HEIR]);
    assert_eq!(call(&mut rig.client), None, "an operator's");
    let made = create(&mut rig.connect(), "pool", Some(own())).expect("the place is free");
    assert!(made.created);
}

#[test]
fn a_pool_that_is_destroyed_while_it_is_given_away_leaves_nothing() {
    let mut rig = Rig::new();
    let mut destroyer = rig.connect();
    std::thread::scope(|scope| {
        let mut destroyed = None;
        let mut user = rig.connect();
        assert!(
            !create(&mut user, "pool", None)
                .expect("it is there")
                .created
        );
        let (refusal, text) = rig
            .give_away(Ok(()), || {
                destroyed = Some(scope.spawn(|| {
                    let choice = PoolChoice {
                        owner: Some(own()),
                        ..ID.into()
                    };
                    let request = DestroyPool { pool: choice };
                    status(&destroyer.admin(Method::DestroyPool, &request))
                }));
                until("the pool takes no task", || {
                    call(&mut user) == Some(Status::PoolNotFound)
                });
            })
            .expect_err("it is being destroyed");
        assert_eq!(refusal, Status::PoolNotFound, "{text}");
        assert!(text.contains("are recorded"), "{text}");
        let destroyed = destroyed.expect("it was begun").join().expect("joins");
        assert_eq!(destroyed, None);
    });
    assert_eq!(owners(&mut rig.client), [0; 0]);
    for owner in [own(), HEIR] {
        let made = create(&mut rig.connect(), "pool", Some(owner)).expect("it is free");
        assert!(made.created);
    }
}
