//! Why there is no such pool, or none can be made, in words for whoever asked.

use chimaera_chimod::ModuleError;
use chimaera_proto::{PoolId, Status};

pub(super) fn mismatch(text: String) -> ModuleError {
    ModuleError::new(Status::ParameterMismatch, text)
}

pub(super) fn not_found(text: String) -> ModuleError {
    ModuleError::new(Status::PoolNotFound, text)
}

/// Adds to the text of a panic whose it was and where to look. Other errors keep the module's own words.
pub(crate) fn with_whose_panic(mut error: ModuleError, pool: &str, module: &str) -> ModuleError {
    if error.failure.status == Status::ModulePanicked {
        error.message = format!(
            "pool {pool}, module {module}: {}: this is a mistake in the module; the runtime's log says where",
            error.message
        );
    }
    error
}

pub(super) fn of_the_admin_pool(name: &str, id: PoolId) -> ModuleError {
    let text = format!(
        "pool {name}: its file or device records the id {id}, which is the admin pool's in every runtime: a mistake \
         in the module, or the file or device is damaged"
    );
    ModuleError::new(Status::Busy, text)
}

pub(super) fn taken(name: &str, id: PoolId, other: &str) -> ModuleError {
    let text = format!(
        "pool {name}: its file or device records the id {id}, which {other} has in this runtime: destroy that one first"
    );
    ModuleError::new(Status::Busy, text)
}

pub(super) fn too_many(max: usize) -> ModuleError {
    let text = format!("the runtime has {max} pools, which is the most: destroy one");
    ModuleError::new(Status::Busy, text)
}

pub(crate) fn shutting_down() -> ModuleError {
    ModuleError::new(
        Status::ShuttingDown,
        "the runtime is shutting down: connect again when it is back",
    )
}
