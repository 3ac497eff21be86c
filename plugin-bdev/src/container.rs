//! The container of a bdev pool: where its tasks arrive, and which of them goes where.

#![forbid(unsafe_code)]

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use chimaera_bdev_format::PoolOwner;
use chimaera_bdev_proto::{BdevType, Method, TransferArguments};
use chimaera_chimod::{
    Activity, Container, CreateAgain, CreateContext, DeclaredMethod, Incarnation, ModuleError,
    Request, Right, Worker,
};
use chimaera_proto::task::ARGUMENT_COUNT;
use chimaera_proto::{Permissions, PoolId, Status};

use crate::backend::Backend;
use crate::backend::new_blocks::NewBlocks;
use crate::backend::transfer::Direction;
use crate::params::Parameters;
use crate::pool::counters::WorkerCounters;
use crate::pool::open;
use crate::pool::state::{BlockPool, PoolState};
use crate::tasks::allocation::AllocationOutcome;
use crate::tasks::keeper::{IdentityChange, Keeper, KeeperWork};
use crate::tasks::{allocation, listing, stats, transfer};

/// The methods, with the right that each needs.
const METHODS: [DeclaredMethod; Method::ALL.len()] = {
    let mut methods = DeclaredMethod::first(Right::Read);
    let mut index = 0;
    while index < methods.len() {
        let method = Method::ALL[index];
        methods[index] = DeclaredMethod::new(method as u16, method.right());
        index += 1;
    }
    methods
};

/// A pool, and the thread that keeps it.
pub struct BdevContainer {
    // First, and so dropped first: it commits, on a file that is still the pool's alone.
    keeper: Option<Keeper>,
    pool: BlockPool,
}

impl Container for BdevContainer {
    const METHODS: &'static [DeclaredMethod] = &METHODS;

    fn create(context: CreateContext<'_>) -> Result<Self, ModuleError> {
        let parameters = Parameters::decode(context.params)?;
        match parameters.bdev_type {
            BdevType::Ram => Ok(Self {
                keeper: None,
                pool: open::in_memory(&context, parameters)?,
            }),
            BdevType::File => Self::create_on_file(&context, parameters),
        }
    }

    fn pool_id(&self) -> Option<PoolId> {
        self.pool.own_id
    }

    fn was_opened(&self) -> bool {
        self.pool.was_opened
    }

    fn incarnation(&self) -> Option<Incarnation> {
        self.pool.incarnation
    }

    fn permissions(&self) -> Option<Permissions> {
        self.pool.permissions
    }

    fn set_permissions(&self, permissions: Permissions) -> Result<(), ModuleError> {
        let state = &self.pool.state;
        let owner = PoolOwner::from(permissions);
        state.scrub.set_owner(owner, |scrubs| {
            self.record("permissions", IdentityChange::Owner(owner, scrubs))
        })
    }

    fn create_again(&self, again: CreateAgain<'_>) -> Result<(), ModuleError> {
        let asked = Parameters::decode(again.params)?;
        self.pool.check_same(&asked)?;
        let PoolState {
            declared, scrub, ..
        } = &*self.pool.state;
        let metrics = declared.change(asked.metrics, again)?;
        if scrub.begins(asked.scrub, again)? {
            self.record("scrub", IdentityChange::Scrubs)?;
        }
        if let Some(metrics) = metrics {
            self.record("perf_metrics", IdentityChange::Metrics(metrics))?;
        }
        Ok(())
    }

    fn submit(&self, worker: &mut Worker<'_>, request: Request) -> Activity {
        let pool = &self.pool;
        match Method::from_number(request.method()) {
            Some(Method::Write) => return transfer::start(pool, worker, request, Direction::Write),
            Some(Method::Read) => return transfer::start(pool, worker, request, Direction::Read),
            Some(Method::AllocateBlocks) if !pool.parameters.read_only => {
                return self.allocate(worker, request);
            }
            Some(Method::FreeBlocks) if !pool.parameters.read_only => {
                allocation::free(&pool.state.allocator, self.counters(worker), request);
            }
            method => self.answer(worker, request, method),
        }
        Activity::IDLE
    }

    const PREFETCHES: bool = true;

    fn prefetch(&self, method: u16, arguments: &[u64; ARGUMENT_COUNT]) {
        let is_read = method == Method::Read as u16;
        if is_read || method == Method::Write as u16 {
            let start = TransferArguments::probable_start(arguments);
            self.pool.state.allocator.prefetch(start);
            if is_read && let Backend::Ram(device) = &self.pool.backend {
                device.prefetch(start);
            }
        }
    }

    fn poll(&self, worker: &mut Worker<'_>) -> Activity {
        match &self.pool.backend {
            Backend::Ram(device) => {
                let (state, index) = (&self.pool.state, worker.index());
                device.poll(worker, |new| hand_out(state, index, new))
            }
            Backend::File(device) => transfer::advance(&self.pool, device, worker),
        }
    }

    fn wake_fd(&self, worker_index: usize) -> Option<BorrowedFd<'_>> {
        match &self.pool.backend {
            Backend::Ram(_) => None,
            Backend::File(device) => device.wake_fd(worker_index),
        }
    }

    fn flush(&self) -> Result<(), ModuleError> {
        let Some(keeper) = &self.keeper else {
            return Ok(());
        };
        keeper.flush().map_err(|failure| match &self.pool.backend {
            Backend::File(device) => device.named_file().explain(failure),
            Backend::Ram(_) => ModuleError::new(failure.status, failure.to_string()),
        })
    }
}

/// Refuses what only operators may ask for, before any path is looked at.
fn check_operator(context: &CreateContext<'_>, parameters: &Parameters) -> Result<(), ModuleError> {
    if context.creator.is_operator {
        return Ok(());
    }
    let text = if parameters.overwrite {
        "overwriting what a file or device holds is for operators: use one that is blank"
    } else if parameters.trust_owner {
        "trusting the owner that a file or device records is for operators: leave that out"
    } else {
        return Ok(());
    };
    Err(ModuleError::new(
        Status::PermissionDenied,
        format!("{}: {text}", context.name),
    ))
}

/// Completes an allocation in memory, whose blocks were zeroed.
fn hand_out(state: &PoolState, worker_index: usize, new: NewBlocks) {
    // Memory has no commits to wait for.
    let _ = allocation::hand_out(&state.allocator, state.counters.of(worker_index), new);
}

impl BdevContainer {
    fn create_on_file(
        context: &CreateContext<'_>,
        parameters: Parameters,
    ) -> Result<Self, ModuleError> {
        check_operator(context, &parameters)?;
        let (pool, named_file, ledger, undo) = open::on_file(context, parameters)?;
        let keeper = Keeper::start(
            ledger,
            Arc::clone(&pool.state),
            named_file,
            context.host,
            parameters.read_only,
        );
        let keeper = match keeper {
            Ok(keeper) => keeper,
            Err(error) => {
                let text = format!("cannot keep the pool: {error}");
                return Err(undo.after(ModuleError::new(Status::OutOfResources, text)));
            }
        };
        // Nothing can fail any more.
        undo.keep();
        Ok(Self {
            keeper: Some(keeper),
            pool,
        })
    }

    fn allocate(&self, worker: &mut Worker<'_>, request: Request) -> Activity {
        let (worker_index, state) = (worker.index(), &self.pool.state);
        if state.scrub.is_on() {
            return self.allocate_zeroed(worker, request);
        }
        let counters = self.counters(worker);
        match allocation::allocate(&state.allocator, worker_index, counters, request) {
            AllocationOutcome::Completed => {}
            outcome => self.have_committed(worker, outcome),
        }
        Activity::IDLE
    }

    /// Allocates blocks that are zeroed first: in memory here, on a device by the keeper.
    #[cold]
    fn allocate_zeroed(&self, worker: &mut Worker<'_>, request: Request) -> Activity {
        let device = match &self.pool.backend {
            Backend::Ram(device) => device,
            Backend::File(_) => {
                if let Some(keeper) = &self.keeper {
                    keeper.push(KeeperWork::AllocateZeroed(request));
                }
                return Activity::IDLE;
            }
        };
        let (index, state) = (worker.index(), &self.pool.state);
        let counters = self.counters(worker);
        match allocation::reserve(&state.allocator, index, counters, request) {
            Ok(new) => device.zero(worker, new, |new| hand_out(state, index, new)),
            Err(outcome) => {
                self.have_committed(worker, outcome);
                Activity::IDLE
            }
        }
    }

    /// Has something else hold of the pool, and be recorded where it is on a device. `what` names it, for a text.
    fn record(&self, what: &str, change: IdentityChange) -> Result<(), ModuleError> {
        let Some(keeper) = &self.keeper else {
            change.take_effect(&self.pool.state);
            return Ok(());
        };
        keeper.record(change).map_err(|failure| ModuleError {
            failure,
            message: format!("cannot record other {what} in the pool: {failure}"),
        })
    }

    /// Leaves it to the keeper to commit, and then to try again what found no space or no room for its owner tag: a
    /// commit makes frees durable, and takes tags out of memory.
    #[cold]
    fn have_committed(&self, worker: &Worker<'_>, outcome: AllocationOutcome) {
        match outcome {
            AllocationOutcome::Completed => {}
            AllocationOutcome::CompletedAmongManyTags => {
                if let Some(keeper) = &self.keeper {
                    keeper.push(KeeperWork::Commit);
                }
            }
            AllocationOutcome::NeedsFrees(request) | AllocationOutcome::NeedsTagRoom(request) => {
                if let Some(request) = self.leave(request, KeeperWork::Allocate) {
                    self.pool.refuse(worker, request, Status::NoSpace);
                }
            }
        }
    }

    /// Answers tasks that are rare, and refuses others. Kept out of `submit`, so that frequent tasks stay
    /// short.
    #[cold]
    fn answer(&self, worker: &Worker<'_>, request: Request, method: Option<Method>) {
        let (pool, counters) = (&self.pool, self.counters(worker));
        match method {
            Some(Method::GetStats) => stats::answer_stats(pool, counters, request),
            Some(Method::Flush) => {
                if let Some(request) = self.leave(request, KeeperWork::Flush) {
                    request.complete(&[]);
                }
            }
            Some(Method::ListBlocks) => {
                if let Some(request) = self.leave(request, KeeperWork::List) {
                    listing::answer_list_in_memory(&pool.state, counters, request);
                }
            }
            Some(Method::GetMap) => listing::answer_map(pool, counters, request),
            // `submit` takes these itself, except for allocations and frees in a read-only pool.
            Some(Method::AllocateBlocks | Method::FreeBlocks | Method::Write | Method::Read) => {
                pool.refuse(worker, request, Status::ReadOnly);
            }
            None => pool.refuse(worker, request, Status::UnknownMethod),
        }
    }

    /// Leaves a task to the keeper. A pool in memory has no keeper, and gives the task back.
    fn leave(&self, request: Request, work: fn(Request) -> KeeperWork) -> Option<Request> {
        let Some(keeper) = &self.keeper else {
            return Some(request);
        };
        keeper.push(work(request));
        None
    }

    fn counters(&self, worker: &Worker<'_>) -> &WorkerCounters {
        self.pool.state.counters.of(worker.index())
    }
}
