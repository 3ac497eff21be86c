//! The contract of the echo module: its name, its methods, and what their arguments mean.
//!
//! A contract is all that a module's client and its plugin have in common. It does nothing.

#![forbid(unsafe_code)]

/// Name of the module; its library is `libchimaera_echo_runtime.so`.
pub const MODULE_NAME: &str = "chimaera_echo";

/// Longest greeting, in bytes: the creation parameter of a pool, as plain UTF-8.
pub const MAX_GREETING_BYTES: usize = 64;

/// What the echo module does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Method {
    /// Gives `arguments[0]` back as `values[0]`. Carries no buffer: an empty task, by which the
    /// cost of a task's way is measured.
    Echo = 0,
    /// Writes the buffer's bytes in reverse order into the buffer.
    Reverse = 1,
    /// Writes the pool's greeting into the buffer; `values[0]` is its length.
    Greet = 2,
}

impl Method {
    /// The method with this number.
    #[must_use]
    pub const fn from_number(number: u16) -> Option<Self> {
        Some(match number {
            0 => Self::Echo,
            1 => Self::Reverse,
            2 => Self::Greet,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::iter;

    use super::*;

    /// The method that follows in the enum, `None` after the last. Every method has an arm, or this does not compile.
    fn method_after(method: Method) -> Option<Method> {
        Some(match method {
            Method::Echo => Method::Reverse,
            Method::Reverse => Method::Greet,
            Method::Greet => return None,
        })
    }

    #[test]
    fn every_method_is_found_by_its_number() {
        let methods = iter::successors(Some(Method::Echo), |&method| method_after(method));
        for method in methods {
            assert_eq!(Method::from_number(method as u16), Some(method));
        }
    }
}
