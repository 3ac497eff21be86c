//! Threads started by the system's own call, and waited for.
//!
//! The standard library gives each thread that it starts a stack for signals, which it maps in the new thread. Where
//! there is no address space for that (`ulimit -v`), it panics in the new thread, before any code of the caller runs;
//! nothing can catch that panic, and the process aborts. A thread that the standard library did not start has no such
//! stack, so whatever can fail fails in the thread that starts it.

use std::any::Any;
use std::ffi::{CString, c_void};
use std::io;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::ptr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::Result;
use std::time::{Duration, Instant};

use crate::{NAME, NoThread, with_foreign_signals_blocked};

/// As large as the standard library's. The system's default is `ulimit -s`, often four times that.
const STACK_BYTES: usize = 2 << 20;

/// A started thread. When this is dropped the thread goes on alone.
#[derive(Debug)]
pub struct JoinHandle<T> {
    name: Arc<str>,
    /// `None` once it is joined. Whatever takes it joins or detaches the thread, so that happens once.
    native: Option<libc::pthread_t>,
    outcome: Arc<Outcome<T>>,
}

/// What a thread came to, once it has.
#[derive(Debug)]
struct Outcome<T> {
    result: Mutex<Option<Result<T>>>,
    came: Condvar,
}

impl<T> JoinHandle<T> {
    /// The whole name, of any length.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether this is the calling thread, which cannot wait for itself.
    #[must_use]
    pub fn is_current(&self) -> bool {
        // SAFETY: the call has no preconditions.
        self.native == Some(unsafe { libc::pthread_self() })
    }

    /// Waits until the thread has ended and dropped its thread-locals, and gives its result.
    ///
    /// # Errors
    /// What it panicked with.
    ///
    /// # Panics
    /// The thread waits for itself.
    pub fn join(mut self) -> Result<T> {
        if let Some(native) = self.native.take() {
            // SAFETY: the thread was started joinable and is neither joined nor detached: whatever does either takes
            // `native` first. The call stores no return value.
            let code = unsafe { libc::pthread_join(native, ptr::null_mut()) };
            assert_eq!(code, 0, "{} is waited for by itself", self.name);
        }
        let outcome = lock(&self.outcome.result).take();
        outcome.expect("a thread leaves what it came to before it ends")
    }

    /// As [`Self::join`], if the thread comes to its end within this time.
    ///
    /// # Errors
    /// The handle, of a thread that does not: it may hang for ever.
    ///
    /// # Panics
    /// The thread waits for itself.
    pub fn join_within(self, patience: Duration) -> std::result::Result<Result<T>, Self> {
        let end = Instant::now() + patience;
        let mut result = lock(&self.outcome.result);
        while result.is_none() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                drop(result);
                return Err(self);
            }
            let waited = self.outcome.came.wait_timeout(result, left);
            result = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        drop(result);
        Ok(self.join())
    }
}

impl<T> Drop for JoinHandle<T> {
    fn drop(&mut self) {
        if let Some(native) = self.native.take() {
            // SAFETY: as in `join`.
            unsafe { libc::pthread_detach(native) };
        }
    }
}

/// Starts a thread with this name, of which the system shows the first 15 bytes.
///
/// It differs from a thread of `std::thread` in two ways: if its stack overflows, the process ends by SIGSEGV without
/// the standard library's message; and `std::thread::current` has no name for it, so a panic's message has none either,
/// unless the hook asks [`name`](crate::name).
///
/// # Errors
/// [`NoThread`]; `body` is dropped then.
pub fn spawn<T: Send + 'static>(
    name: impl Into<String>,
    body: impl FnOnce() -> T + Send + 'static,
) -> std::result::Result<JoinHandle<T>, NoThread> {
    let name: Arc<str> = name.into().into();
    let outcome = Arc::new(Outcome {
        result: Mutex::new(None),
        came: Condvar::new(),
    });
    let (own_name, own_outcome) = (Arc::clone(&name), Arc::clone(&outcome));
    let run = Box::new(move || {
        take_name(own_name);
        let result = catch_unwind(AssertUnwindSafe(body));
        *lock(&own_outcome.result) = Some(result);
        own_outcome.came.notify_all();
    });
    match with_foreign_signals_blocked(|| start(run)) {
        Ok(native) => Ok(JoinHandle {
            name,
            native: Some(native),
            outcome,
        }),
        Err(error) => Err(NoThread::new(&*name, error)),
    }
}

type ThreadBody = Box<dyn FnOnce() + Send>;

/// Starts a thread that can be joined. `run` does not panic.
fn start(run: ThreadBody) -> io::Result<libc::pthread_t> {
    let result_of = |code| match code {
        0 => Ok(()),
        code => Err(io::Error::from_raw_os_error(code)),
    };
    let mut attributes = MaybeUninit::<libc::pthread_attr_t>::uninit();
    // SAFETY: the place is valid during the call, which fills it.
    result_of(unsafe { libc::pthread_attr_init(attributes.as_mut_ptr()) })?;
    let mut native = 0;
    // A thin pointer to the fat one, as the call takes.
    let run = Box::into_raw(Box::new(run));
    // SAFETY: the attributes are initialized. If the thread is started, `begin` alone takes what `run` points to, which
    // is `Send`. It never unwinds.
    let started = unsafe {
        result_of(libc::pthread_attr_setstacksize(
            attributes.as_mut_ptr(),
            STACK_BYTES,
        ))
        .and_then(|()| {
            result_of(libc::pthread_create(
                &raw mut native,
                attributes.as_ptr(),
                begin,
                run.cast(),
            ))
        })
    };
    // SAFETY: they are initialized, and not used any more.
    unsafe { libc::pthread_attr_destroy(attributes.as_mut_ptr()) };
    if let Err(error) = started {
        // SAFETY: the pointer is from `Box::into_raw`, and there is no thread that takes it.
        drop(unsafe { Box::from_raw(run) });
        return Err(error);
    }
    Ok(native)
}

/// The first function of every thread. If `run` panicked although it must not, the process would abort here, as in
/// every function that may not unwind.
extern "C" fn begin(run: *mut c_void) -> *mut c_void {
    // SAFETY: `start` made it by `Box::into_raw` of this type, and leaves it to this thread alone.
    let run = unsafe { Box::from_raw(run.cast::<ThreadBody>()) };
    run();
    ptr::null_mut()
}

fn take_name(name: Arc<str>) {
    // The system takes 15 bytes, of any value but zero.
    let shown: Vec<_> = name.bytes().filter(|&byte| byte != 0).take(15).collect();
    if let Ok(shown) = CString::new(shown) {
        // SAFETY: the text ends in a zero byte and is valid during the call, which copies it.
        unsafe { libc::prctl(libc::PR_SET_NAME, shown.as_ptr()) };
    }
    NAME.set(Some(name));
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the threads of a [`scope`] are started in; they may borrow from outside of it.
#[derive(Debug)]
pub struct Scope<'scope, 'env: 'scope> {
    running: Arc<RunningThreads>,
    /// Neither lifetime may be made shorter or longer.
    _scope: PhantomData<&'scope mut &'scope ()>,
    _env: PhantomData<&'env mut &'env ()>,
}

/// How many threads of a scope may still use what they borrow.
#[derive(Debug, Default)]
struct RunningThreads {
    count: Mutex<usize>,
    none_left: Condvar,
}

impl RunningThreads {
    fn add(&self) {
        *lock(&self.count) += 1;
    }

    fn remove(&self) {
        let mut count = lock(&self.count);
        *count -= 1;
        if *count == 0 {
            self.none_left.notify_all();
        }
    }

    fn wait(&self) {
        let count = lock(&self.count);
        let waited = self.none_left.wait_while(count, |count| *count > 0);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }
}

/// Counts one thread until it is dropped: after everything that the thread ran, also if dropping a result that nobody
/// waits for has panicked.
struct RunningThread(Arc<RunningThreads>);

impl RunningThread {
    fn of(running: &Arc<RunningThreads>) -> Self {
        running.add();
        Self(Arc::clone(running))
    }
}

impl Drop for RunningThread {
    fn drop(&mut self) {
        self.0.remove();
    }
}

/// A thread of a scope.
#[derive(Debug)]
pub struct ScopedJoinHandle<'scope, T> {
    thread: JoinHandle<()>,
    outcome: Arc<Mutex<Option<Result<T>>>>,
    _scope: PhantomData<&'scope ()>,
}

impl<T> ScopedJoinHandle<'_, T> {
    /// As [`JoinHandle::join`].
    ///
    /// # Errors
    /// What the thread panicked with.
    ///
    /// # Panics
    /// The thread waits for itself.
    pub fn join(self) -> Result<T> {
        self.thread.join()?;
        let outcome = lock(&self.outcome).take();
        outcome.expect("a thread leaves what it came to before it ends")
    }
}

/// As `std::thread::scope`, for threads of [`spawn_scoped`]: returns when all of them are done with what they borrow.
/// A thread's panic is given to whoever joins it, and to nobody else.
pub fn scope<'env, T>(body: impl for<'scope> FnOnce(&'scope Scope<'scope, 'env>) -> T) -> T {
    let scope = Scope {
        running: Arc::default(),
        _scope: PhantomData,
        _env: PhantomData,
    };
    let result = catch_unwind(AssertUnwindSafe(|| body(&scope)));
    scope.running.wait();
    result.unwrap_or_else(|panic: Box<dyn Any + Send>| resume_unwind(panic))
}

/// As [`spawn`], for a thread that ends within a scope.
///
/// # Errors
/// [`NoThread`]; `body` is dropped then.
pub fn spawn_scoped<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    name: impl Into<String>,
    body: impl FnOnce() -> T + Send + 'scope,
) -> std::result::Result<ScopedJoinHandle<'scope, T>, NoThread> {
    let outcome = Arc::new(Mutex::new(None));
    let own_outcome = Arc::clone(&outcome);
    let run: Box<dyn FnOnce() + Send + 'scope> = Box::new(move || {
        let result = catch_unwind(AssertUnwindSafe(body));
        *lock(&own_outcome) = Some(result);
    });
    // SAFETY: only the lifetime changes. `scope` neither returns nor unwinds before the count in `running` is zero, and
    // the thread is counted until this closure is gone, and with it all that borrows: what it captured, and the result,
    // unless a handle has that. A handle does not outlive the scope ('scope in its type).
    let run: ThreadBody = unsafe { std::mem::transmute(run) };
    let running = RunningThread::of(&scope.running);
    let thread = spawn(name, move || {
        let _last = running;
        run();
    })?;
    Ok(ScopedJoinHandle {
        thread,
        outcome,
        _scope: PhantomData,
    })
}
