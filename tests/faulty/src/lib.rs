//! A module that does wrong what a module can do wrong, each on demand, to show that the host
//! holds. It is for tests only.

use std::sync::Mutex;

use chimaera_chimod::{Activity, Container, CreateContext, ModuleError, Request, Worker};
use chimaera_proto::Status;

/// Tells by its creation parameters (UTF-8) what to do wrong when a pool is made.
#[derive(Debug)]
struct Faulty {
    params: Vec<u8>,
    held: Mutex<Vec<Request>>,
}

chimaera_chimod::export_chimod!(Faulty, "chimaera_faulty");

/// A payload whose own drop panics: the nastiest thing to throw.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("the payload of a panic panics as it is dropped");
    }
}

impl Container for Faulty {
    fn create(context: CreateContext<'_>) -> Result<Self, ModuleError> {
        match context.params {
            b"panic" => panic!("as asked, while creating {}", context.name),
            b"error" => Err(ModuleError::new(Status::NoSpace, "as asked: no space")),
            b"ok as error" => Err(ModuleError::new(
                Status::Ok,
                "as asked: an error that is none",
            )),
            params => Ok(Self {
                params: params.to_vec(),
                held: Mutex::default(),
            }),
        }
    }

    fn check_params(&self, params: &[u8]) -> Result<(), ModuleError> {
        assert!(
            params == self.params,
            "other parameters make this module panic"
        );
        Ok(())
    }

    fn submit(&self, _: &mut Worker<'_>, request: Request) -> Activity {
        match request.method() {
            0 => request.complete(&[]),
            1 => panic!("as asked, with the request in hand"),
            2 => drop(request),
            3 => std::panic::panic_any(Bomb),
            // Completes on a thread that the host does not know.
            4 => drop(std::thread::spawn(move || request.complete(&[4]))),
            // Keeps the request until method 6 comes.
            5 => self.held.lock().expect("not poisoned").push(request),
            6 => {
                for held in self.held.lock().expect("not poisoned").drain(..) {
                    held.complete(&[6]);
                }
                request.complete(&[]);
            }
            // More values than a completion carries.
            7 => request.complete(&[0; 8]),
            // Panics on a thread of its own, with the request in hand.
            8 => drop(std::thread::spawn(move || {
                let _request = request;
                panic!("as asked, on a thread of the module's");
            })),
            _ => request.fail(Status::UnknownMethod),
        }
        Activity::IDLE
    }

    fn flush(&self) -> Result<(), ModuleError> {
        match &*self.params {
            b"flush panic" => panic!("as asked, while flushing"),
            b"flush error" => Err(ModuleError::new(Status::IoError, "as asked: cannot flush")),
            _ => Ok(()),
        }
    }
}
