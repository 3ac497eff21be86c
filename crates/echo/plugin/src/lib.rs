//! The echo ChiMod: small, and with everything that a module needs.
//!
//! It has creation parameters (a greeting), an empty task, and tasks that read and write the
//! client's buffer. `docs/WRITING_A_CHIMOD.md` of Chimaera says what a module may do and must not.

use chimaera_chimod::{
    Activity, Container, CreateAgain, CreateContext, DeclaredMethod, ModuleError, Request, Right,
    Worker,
};
use chimaera_echo_proto::{MAX_GREETING_BYTES, Method};
use chimaera_proto::Status;

/// Bytes that [`reverse`] holds at a time, so that a large buffer needs no large copy.
const CHUNK_BYTES: usize = 4096;

/// A pool.
#[derive(Debug)]
pub struct EchoPool {
    greeting: String,
}

chimaera_chimod::export_chimod!(EchoPool, "chimaera_echo");

impl Container for EchoPool {
    const METHODS: &'static [DeclaredMethod] = &[
        DeclaredMethod::new(Method::Echo as u16, Right::Read),
        DeclaredMethod::new(Method::Reverse as u16, Right::Read),
        DeclaredMethod::new(Method::Greet as u16, Right::Read),
    ];

    fn create(context: CreateContext<'_>) -> Result<Self, ModuleError> {
        Ok(Self {
            greeting: parse_greeting(context.params)?.to_owned(),
        })
    }

    fn create_again(&self, asked: CreateAgain<'_>) -> Result<(), ModuleError> {
        let asked = parse_greeting(asked.params)?;
        if asked == self.greeting {
            return Ok(());
        }
        Err(ModuleError::new(
            Status::ParameterMismatch,
            format!(
                "the pool's greeting is \"{}\", asked for \"{asked}\"",
                self.greeting
            ),
        ))
    }

    fn submit(&self, _: &mut Worker<'_>, request: Request) -> Activity {
        match Method::from_number(request.method()) {
            Some(Method::Echo) => {
                let [word, ..] = request.arguments();
                request.complete(&[word]);
            }
            Some(Method::Reverse) => reverse(request),
            Some(Method::Greet) => self.greet(request),
            None => request.fail(Status::UnknownMethod),
        }
        Activity::IDLE
    }
}

impl EchoPool {
    fn greet(&self, request: Request) {
        let greeting = self.greeting.as_bytes();
        match request.writable_buffer() {
            Some(buffer) if buffer.len() >= greeting.len() => buffer.copy_from(0, greeting),
            _ => return request.fail(Status::InvalidBuffer),
        }
        request.complete(&[greeting.len() as u64]);
    }
}

fn parse_greeting(params: &[u8]) -> Result<&str, ModuleError> {
    let greeting = std::str::from_utf8(params).ok();
    greeting
        .filter(|text| text.len() <= MAX_GREETING_BYTES)
        .ok_or_else(|| {
            ModuleError::new(
                Status::InvalidArgument,
                format!("a greeting is UTF-8 of at most {MAX_GREETING_BYTES} bytes"),
            )
        })
}

/// Exchanges chunks from both ends, working towards the middle. Not inlined: its buffers would be part
/// of the stack of every task.
#[inline(never)]
fn reverse(request: Request) {
    let Some(buffer) = request.writable_buffer() else {
        return request.fail(Status::InvalidBuffer);
    };
    let (mut front, mut back) = ([0; CHUNK_BYTES], [0; CHUNK_BYTES]);
    let (mut start, mut end) = (0, buffer.len());
    while start < end {
        // The last chunk may be both the first and the last half of what is left.
        let len = CHUNK_BYTES.min((end - start).div_ceil(2));
        buffer.copy_to(start, &mut front[..len]);
        buffer.copy_to(end - len, &mut back[..len]);
        front[..len].reverse();
        back[..len].reverse();
        buffer.copy_from(start, &back[..len]);
        buffer.copy_from(end - len, &front[..len]);
        start += len;
        end -= len;
    }
    request.complete(&[]);
}
