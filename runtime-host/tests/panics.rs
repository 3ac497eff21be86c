//! A module that is linked into the program and panics: one line of the log says which module, where and in which pool,
//! whether or not the program's hook logs it.

use chimaera_chimod::{
    Activity, Container, CreateAgain, CreateContext, DeclaredMethod, ModuleError, Request, Right,
    Worker,
};
use chimaera_proto::{Descriptor, PoolId, Status};
use chimaera_runtime::{Config, Host};
use chimaera_testing::raw_client::{RawClient, ping, status};

struct Panicking;

chimaera_chimod::export_chimod!(Panicking, "panicking");

impl Container for Panicking {
    const METHODS: &'static [DeclaredMethod] = &DeclaredMethod::first::<64>(Right::Read);

    fn create(_: CreateContext<'_>) -> Result<Self, ModuleError> {
        Ok(Self)
    }

    fn create_again(&self, _: CreateAgain<'_>) -> Result<(), ModuleError> {
        Ok(())
    }

    fn submit(&self, _: &mut Worker<'_>, _request: Request) -> Activity {
        panic!("as asked")
    }
}

/// Has a pool's module panic, and returns what the log says about it.
fn panic_once(client: &mut RawClient, minor: u32) -> Vec<String> {
    let pool = PoolId::new(8000, minor);
    let name = format!("pool {minor}");
    assert_eq!(client.create_pool("panicking", &name, pool), None);
    let panics = client.call(&Descriptor { pool, ..ping() });
    assert_eq!(status(&panics), Some(Status::ModulePanicked));
    let recent = client.runtime_status().log.recent;
    let texts = recent.into_iter().map(|line| line.text);
    let of_pool = format!("pool {minor}\"");
    texts.filter(|text| text.contains(&of_pool)).collect()
}

#[test]
fn a_linked_module_panics_in_one_line_with_module_and_pool_whoever_tells_of_it() {
    let host = Host::start(&Config {
        worker_count: 1,
        modules: vec![module()],
        ..Config::default()
    })
    .expect("the host starts");
    let mut client = RawClient::new(host.connect().expect("connects"));

    // The application has a hook of its own.
    std::panic::set_hook(Box::new(|_| {}));
    let said = panic_once(&mut client, 1);
    let expected = "module panicking, pool \"pool 1\" (8000.1): panicked: as asked";
    assert_eq!(said, [expected]);

    // The daemon's.
    std::panic::set_hook(Box::new(chimaera_runtime::log_panic));
    let said = panic_once(&mut client, 2);
    let [line] = &said[..] else {
        panic!("not one line: {said:?}");
    };
    let beginning =
        "module panicking, pool \"pool 2\" (8000.2): panicked at runtime-host/tests/panics.rs:";
    assert!(line.starts_with(beginning), "{line}");
    assert!(line.contains(" on thread chimaera-"), "{line}");
    assert!(line.ends_with(": as asked"), "{line}");
    // Each panic is logged.
    assert_eq!(panic_once(&mut client, 3).len(), 1);
    let _ = std::panic::take_hook();
    host.end().expect("nothing to flush");
}
