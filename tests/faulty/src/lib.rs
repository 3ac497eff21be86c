//! A module that does on demand whatever a module can do wrong, to show that the host withstands it. It is for tests
//! only.

#![forbid(unsafe_code)]

mod contract;

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use chimaera_chimod::{
    Activity, Container, CreateAgain, CreateContext, DeclaredMethod, Host, Level, ModuleError,
    Request, Right, Worker,
};
use chimaera_proto::{PoolId, Status};

pub use contract::{METHOD_COUNT, MODULE_NAME, Method, RELEASED, params};

struct FaultyContainer {
    host: Host,
    params: Vec<u8>,
    /// Requests for `poll` to panic with.
    doomed: Mutex<Vec<Request>>,
    /// A request that `poll` keeps while it panics.
    stuck: Mutex<Option<Request>>,
    /// A request that `poll` keeps until a file exists.
    waiting: Mutex<Option<Request>>,
    panics: AtomicU64,
    handed: AtomicU64,
    polls_well: AtomicBool,
    /// A file that `wake_fd` gives, though it wakes nobody.
    wake_file: Option<File>,
}

chimaera_chimod::export_chimod!(FaultyContainer, "chimaera_faulty");

/// Held requests of every pool, so that another pool can ask for their release.
static HELD: Mutex<Vec<Request>> = Mutex::new(Vec::new());

/// A payload whose own drop panics: the nastiest thing to throw.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("the payload of a panic panics as it is dropped");
    }
}

impl Container for FaultyContainer {
    const METHODS: &'static [DeclaredMethod] =
        &DeclaredMethod::first::<{ METHOD_COUNT as usize }>(Right::Read);

    fn create(context: CreateContext<'_>) -> Result<Self, ModuleError> {
        let params = std::str::from_utf8(context.params).unwrap_or_default();
        if let Some(path) = params.strip_prefix(params::CREATE_WAITS) {
            wait_for(path);
        }
        match params {
            params::CREATE_PANIC => panic!("as asked, while creating {}", context.name),
            params::CREATE_BOMB => std::panic::panic_any(Bomb),
            params::CREATE_ERROR => Err(ModuleError::new(Status::NoSpace, "as asked: no space")),
            params::CREATE_OK_AS_ERROR => Err(ModuleError::new(
                Status::Ok,
                "as asked: an error that is none",
            )),
            params::CREATE_NO_RUNTIME => Err(ModuleError::new(Status::NoRuntime, "as asked")),
            params::CREATE_SILENT => Err(ModuleError::new(Status::NoSpace, "")),
            params::CREATE_CONTROLS => {
                Err(ModuleError::new(Status::NoSpace, "as asked\n\u{1b}[2J\0"))
            }
            params => Ok(Self {
                host: context.host,
                params: params.as_bytes().to_vec(),
                doomed: Mutex::default(),
                stuck: Mutex::default(),
                waiting: Mutex::default(),
                panics: AtomicU64::new(0),
                handed: AtomicU64::new(0),
                polls_well: AtomicBool::new(false),
                wake_file: match params {
                    params::WAKE_FILE => File::open("/proc/self/exe").ok(),
                    _ => None,
                },
            }),
        }
    }

    fn pool_id(&self) -> Option<PoolId> {
        assert!(!self.is(params::ID_PANIC), "as asked, about the id");
        if self.is(params::ID_ADMIN) {
            return Some(PoolId::ADMIN);
        }
        self.is(params::ID_NULL).then_some(PoolId::NULL)
    }

    fn create_again(&self, asked: CreateAgain<'_>) -> Result<(), ModuleError> {
        assert!(
            asked.params == self.params,
            "other parameters make this module panic"
        );
        Ok(())
    }

    fn submit(&self, _: &mut Worker<'_>, request: Request) -> Activity {
        let handed = self.handed.fetch_add(1, Ordering::Relaxed);
        let Some(method) = Method::from_number(request.method()) else {
            request.fail(Status::UnknownMethod);
            return Activity::IDLE;
        };
        let [argument, ..] = request.arguments();
        match method {
            Method::Complete => request.complete(&[]),
            Method::Panic => panic!("as asked, with the request in hand"),
            Method::Drop => drop(request),
            Method::PanicWithBomb => std::panic::panic_any(Bomb),
            Method::CompleteElsewhere => {
                thread::spawn(move || request.complete(&[argument]));
            }
            Method::Hold => {
                let pool = request.pool();
                held().push(request);
                self.release_at_file(pool);
            }
            Method::Release => {
                let taken = take_held(named_pool(&request));
                let count = taken.len() as u64;
                taken.into_iter().for_each(release);
                request.complete(&[count]);
            }
            Method::TooManyValues => request.complete(&[0; 8]),
            Method::PanicElsewhere => panic_elsewhere(request),
            Method::PanicOnAdoptedThread => panic_on_adopted_thread(self.host, request),
            Method::CountHeld => {
                let pool = named_pool(&request);
                let count = held().iter().filter(|held| held.pool() == pool).count();
                request.complete(&[count as u64]);
            }
            Method::DropHeld => {
                let taken = take_held(named_pool(&request));
                let count = taken.len() as u64;
                thread::spawn(move || drop(taken));
                request.complete(&[count]);
            }
            Method::LogElsewhere => log_elsewhere(self.host, argument, request),
            Method::PanicInEveryPoll => {
                *lock(&self.stuck) = Some(request);
                self.polls_well.store(false, Ordering::Relaxed);
                return Activity::PENDING;
            }
            Method::WaitInSubmit => {
                self.wait();
                request.complete(&[]);
            }
            Method::WaitInPoll => {
                *lock(&self.waiting) = Some(request);
                return Activity::PENDING;
            }
            Method::FailWith => {
                let status = Status::from_code(argument as u16);
                request.fail(status.unwrap_or(Status::InvalidArgument));
            }
            Method::CountHanded => request.complete(&[handed]),
            Method::PollWell => {
                self.polls_well.store(true, Ordering::Relaxed);
                request.complete(&[self.panics.load(Ordering::Relaxed)]);
            }
            Method::PanicInPoll => {
                lock(&self.doomed).push(request);
                return Activity::PENDING;
            }
        }
        Activity::IDLE
    }

    fn poll(&self, _: &mut Worker<'_>) -> Activity {
        if lock(&self.stuck).is_some() && !self.polls_well.load(Ordering::Relaxed) {
            self.panics.fetch_add(1, Ordering::Relaxed);
            panic!("as asked, in every poll");
        }
        if let Some(request) = lock(&self.stuck).take() {
            request.complete(&[]);
        }
        if let Some(request) = lock(&self.waiting).take() {
            self.wait();
            request.complete(&[]);
        }
        let doomed = lock(&self.doomed).pop();
        match doomed {
            Some(_request) => panic!("as asked, while polling"),
            None => Activity::IDLE,
        }
    }

    fn wake_fd(&self, _: usize) -> Option<BorrowedFd<'_>> {
        assert!(!self.is(params::WAKE_PANIC), "as asked, about waking");
        self.wake_file.as_ref().map(File::as_fd)
    }

    fn flush(&self) -> Result<(), ModuleError> {
        assert!(!self.is(params::FLUSH_PANIC), "as asked, while flushing");
        let params = std::str::from_utf8(&self.params).unwrap_or_default();
        if let Some(path) = params.strip_prefix(params::FLUSH_WAITS) {
            self.host.log(Level::Info, "as asked: a flush waits");
            wait_for(path);
        }
        if self.is(params::FLUSH_ERROR) {
            return Err(ModuleError::new(Status::IoError, "as asked: cannot flush"));
        }
        Ok(())
    }
}

impl FaultyContainer {
    /// Releases what the pool holds as soon as the file exists that its parameters name, if they name one.
    fn release_at_file(&self, pool: PoolId) {
        let params = std::str::from_utf8(&self.params).unwrap_or_default();
        if let Some(path) = params.strip_prefix(params::RELEASES_AT) {
            let path = path.to_owned();
            thread::spawn(move || {
                wait_for(&path);
                take_held(pool).into_iter().for_each(release);
            });
        }
    }

    /// Hangs until the file exists that the parameters name, if they name one.
    fn wait(&self) {
        let params = std::str::from_utf8(&self.params).unwrap_or_default();
        if let Some(path) = params.strip_prefix(params::CALLS_WAIT) {
            wait_for(path);
        }
    }

    fn is(&self, params: &str) -> bool {
        self.params == params.as_bytes()
    }
}

impl Drop for FaultyContainer {
    fn drop(&mut self) {
        assert!(!self.is(params::DROP_PANIC), "as asked, while going");
        let params = std::str::from_utf8(&self.params).unwrap_or_default();
        if let Some(path) = params.strip_prefix(params::DROP_WAITS) {
            wait_for(path);
        }
    }
}

/// Hangs until this file exists.
fn wait_for(path: &str) {
    while !std::path::Path::new(path).exists() {
        thread::sleep(std::time::Duration::from_millis(2));
    }
}

fn panic_elsewhere(request: Request) {
    thread::spawn(move || {
        let _request = request;
        panic!("as asked, on a thread of the module's");
    });
}

fn panic_on_adopted_thread(host: Host, request: Request) {
    thread::spawn(move || {
        host.adopt_thread();
        let _request = request;
        panic!("as asked, on a thread that has a pool");
    });
}

fn log_elsewhere(host: Host, argument: u64, request: Request) {
    thread::spawn(move || {
        for level in [Level::Error, Level::Warning, Level::Info, Level::Debug] {
            host.log(level, format_args!("as asked, line {argument}"));
        }
        request.complete(&[]);
    });
}

fn held() -> MutexGuard<'static, Vec<Request>> {
    lock(&HELD)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The pool that a request's arguments name.
fn named_pool(request: &Request) -> PoolId {
    let [major, minor, _] = request.arguments();
    PoolId::new(major as u32, minor as u32)
}

fn take_held(pool: PoolId) -> Vec<Request> {
    held().extract_if(.., |held| held.pool() == pool).collect()
}

fn release(request: Request) {
    if let Some(buffer) = request.writable_buffer() {
        buffer.copy_from(0, &vec![RELEASED; buffer.len()]);
    }
    request.complete(&[u64::from(RELEASED)]);
}
