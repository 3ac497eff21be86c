//! The SDK for ChiMods, the plugins of a Chimaera host.
//!
//! A module is a type that implements [`Container`] and a line that exports it:
//!
//! ```
//! use chimaera_chimod::{
//!     Activity, Container, CreateAgain, CreateContext, DeclaredMethod, ModuleError, Request, Right, Worker,
//! };
//!
//! struct Doubler;
//!
//! impl Container for Doubler {
//!     const METHODS: &'static [DeclaredMethod] = &[DeclaredMethod::new(0, Right::Read)];
//!
//!     fn create(_: CreateContext<'_>) -> Result<Self, ModuleError> {
//!         Ok(Self)
//!     }
//!     fn create_again(&self, _: CreateAgain<'_>) -> Result<(), ModuleError> {
//!         Ok(())
//!     }
//!     fn submit(&self, _: &mut Worker<'_>, request: Request) -> Activity {
//!         let [number, ..] = request.arguments();
//!         request.complete(&[number.wrapping_mul(2)]);
//!         Activity::IDLE
//!     }
//! }
//!
//! chimaera_chimod::export_chimod!(Doubler, "doubler");
//! # fn main() {}
//! ```
//!
//! Built as a `cdylib` named `libdoubler_runtime.so`, the host loads it as the module `doubler`.
//! `docs/WRITING_A_CHIMOD.md` tells the whole story.
//!
//! Laws of this crate:
//! - Host and plugin are libraries of their own, with their own copies of every static. Nothing
//!   but [`abi`] crosses: plain data, function pointers, and memory that whoever allocated frees.
//! - Versions are compared before anything of the other side is called ([`abi::Header`]).
//! - A panic never crosses. It fails the task (or the call) it happened in, and nothing else.
//! - A [`Request`] completes exactly once: by value, or failed by its drop.

pub mod abi;
mod container;
mod entry_points;
mod failing_call;
pub mod host;
mod host_handle;
mod methods;
mod per_worker;
mod request;

pub use abi::Activity;
pub use chimaera_proto::{ModuleError, Right};
pub use container::{
    AllowedFolder, AllowedPaths, Container, CreateAgain, CreateContext, Creator, Incarnation,
    Worker,
};
pub use host::Module;
pub use host_handle::{Host, HostResource, Level};
pub use methods::{DeclaredMethod, MAX_METHODS, MethodMasks};
pub use per_worker::PerWorker;
pub use request::{Request, SharedBuffer, WritableBuffer};

#[doc(hidden)]
pub use entry_points::vtable_of;

/// Exports a [`Container`] as the module with this name, and defines `module()`, through which
/// an application that links the crate can use it without a library to load.
///
/// A text that is not a module's name ([`check_module_name`](chimaera_proto::check_module_name)) does not compile:
///
/// ```compile_fail,E0080
/// # use chimaera_chimod::{Activity, Container, CreateAgain, CreateContext, ModuleError, Request, Worker};
/// # struct Doubler;
/// # impl Container for Doubler {
/// #     const METHODS: &'static [chimaera_chimod::DeclaredMethod] = &[];
/// #     fn create(_: CreateContext<'_>) -> Result<Self, ModuleError> {
/// #         Ok(Self)
/// #     }
/// #     fn create_again(&self, _: CreateAgain<'_>) -> Result<(), ModuleError> {
/// #         Ok(())
/// #     }
/// #     fn submit(&self, _: &mut Worker<'_>, _: Request) -> Activity {
/// #         Activity::IDLE
/// #     }
/// # }
/// chimaera_chimod::export_chimod!(Doubler, "Doubler");
/// # fn main() {}
/// ```
#[macro_export]
macro_rules! export_chimod {
    ($container:ty, $name:literal) => {
        #[doc(hidden)]
        // SAFETY: the symbol carries the module's name, so that no two modules that are linked
        // into one program define the same one.
        #[unsafe(export_name = concat!("CHIMAERA_CHIMOD_", $name))]
        pub static CHIMAERA_CHIMOD: $crate::abi::ModuleVTable =
            $crate::vtable_of::<$container>($name, env!("CARGO_PKG_VERSION"));

        /// The module, for use without loading a library.
        #[must_use]
        pub fn module() -> $crate::Module {
            $crate::Module::linked(&CHIMAERA_CHIMOD)
        }
    };
}
