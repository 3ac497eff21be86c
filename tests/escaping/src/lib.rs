//! A module that tries on demand what the daemon's process must not be able to do, to show that the system refuses it
//! and not that somebody says so. It is for tests only.

mod attempts;
mod contract;

use std::sync::Arc;

use chimaera_chimod::{
    Activity, Container, CreateAgain, CreateContext, DeclaredMethod, ModuleError, Request, Right,
    Worker,
};
use chimaera_proto::Status;

use attempts::Aims;
pub use contract::{EscapeAttempt, MODULE_NAME, TRY};

struct EscapingContainer {
    aims: Arc<Aims>,
}

chimaera_chimod::export_chimod!(EscapingContainer, "chimaera_escaping");

impl Container for EscapingContainer {
    const METHODS: &'static [DeclaredMethod] = &DeclaredMethod::first::<1>(Right::Read);

    fn create(context: CreateContext<'_>) -> Result<Self, ModuleError> {
        let aims = std::str::from_utf8(context.params)
            .ok()
            .and_then(Aims::parse);
        let aims = aims.ok_or_else(|| ModuleError::new(Status::InvalidArgument, "no aims"))?;
        Ok(Self {
            aims: Arc::new(aims),
        })
    }

    fn create_again(&self, _: CreateAgain<'_>) -> Result<(), ModuleError> {
        Ok(())
    }

    fn submit(&self, _: &mut Worker<'_>, request: Request) -> Activity {
        let [attempt, on_thread, ..] = request.arguments();
        let Some(&attempt) = EscapeAttempt::ALL.get(attempt as usize) else {
            request.fail(Status::InvalidArgument);
            return Activity::IDLE;
        };
        let aims = Arc::clone(&self.aims);
        let act = move || {
            let errno = aims.attempt(attempt);
            request.complete(&[errno as u64]);
        };
        match on_thread {
            0 => act(),
            _ => drop(std::thread::spawn(act)),
        }
        Activity::IDLE
    }
}
