//! The side of iceoryx2 that asks. A partner answers it.

#[cfg(feature = "peer-iceoryx2")]
pub(crate) use driver::Iceoryx2Caller;
#[cfg(not(feature = "peer-iceoryx2"))]
pub(crate) use stub::Iceoryx2Caller;

#[cfg(feature = "peer-iceoryx2")]
mod driver {
    use std::time::Duration;

    use iceoryx2::port::client::Client;
    use iceoryx2::prelude::*;

    use crate::error::Result;
    use crate::partner::{Partner, spin_until};
    use crate::peers::iceoryx2::server::{EchoedWords, Service, prefix};
    use crate::timing::{BATCH, per_call};

    /// Where its shared memory has names.
    const SHARED_MEMORY: &str = "/dev/shm";

    /// Removes what is left in shared memory: iceoryx2 keeps a segment for each root folder, and
    /// a process that dies keeps all of its own.
    struct Sweep(String);

    impl Drop for Sweep {
        fn drop(&mut self) {
            let files = std::fs::read_dir(SHARED_MEMORY).into_iter().flatten();
            for file in files.flatten() {
                if file.file_name().to_string_lossy().starts_with(&self.0) {
                    let _ = std::fs::remove_file(file.path());
                }
            }
        }
    }

    /// The side that asks, and the partner that answers.
    pub(crate) struct Iceoryx2Caller {
        client: Client<ipc::Service, EchoedWords, (), EchoedWords, ()>,
        _service: Service,
        partner: Partner,
        // After the partner has ended.
        _sweep: Sweep,
    }

    impl Iceoryx2Caller {
        pub(crate) fn new(partner: Partner) -> Result<Self> {
            let sweep = Sweep(prefix(partner.folder())?.to_owned());
            let service = Service::in_folder(partner.folder())?;
            Ok(Self {
                client: service.factory.client_builder().create()?,
                _service: service,
                partner,
                _sweep: sweep,
            })
        }

        /// Nanoseconds of a round trip: the median of batches, made for as long as `window`.
        pub(crate) fn round_trip(&self, window: Duration) -> Result<f64> {
            self.partner.while_it_serves_iceoryx2(|| {
                // The first time, the partner makes its server only now.
                spin_until(|| self.ask().is_ok_and(|has_server| has_server))?;
                per_call(BATCH, window, || match self.ask()? {
                    true => Ok(()),
                    false => Err("the server of iceoryx2 has gone".into()),
                })
            })
        }

        /// A request and its response, or false if nobody serves.
        fn ask(&self) -> Result<bool> {
            let pending = self.client.loan_uninit()?.write_payload([7; 8]).send()?;
            if pending.number_of_server_connections() == 0 {
                return Ok(false);
            }
            let mut answer = Ok(None);
            spin_until(|| {
                answer = pending.receive();
                !matches!(answer, Ok(None))
            })?;
            Ok(answer?.is_some())
        }
    }
}

#[cfg(not(feature = "peer-iceoryx2"))]
mod stub {
    use std::time::Duration;

    use crate::error::Result;
    use crate::partner::Partner;
    use crate::peers::absent::NOT_BUILT_IN;

    /// There is none, since [`find`](super::super::find) finds nothing.
    pub(crate) enum Iceoryx2Caller {}

    impl Iceoryx2Caller {
        pub(crate) fn new(_partner: Partner) -> Result<Self> {
            Err(NOT_BUILT_IN.into())
        }

        pub(crate) fn round_trip(&self, _window: Duration) -> Result<f64> {
            match *self {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::error::Result;
    use crate::partner::tests::partner_in_a_thread;
    use crate::peers::iceoryx2::find;

    #[test]
    #[expect(clippy::print_stderr, reason = "a skipped test says so")]
    fn requests_are_answered_round_after_round() -> Result<()> {
        if let Err(reason) = find() {
            eprintln!("skipped: {reason}");
            return Ok(());
        }
        let (partner, other) = partner_in_a_thread()?;
        {
            let caller = Iceoryx2Caller::new(partner)?;
            for _ in 0..2 {
                assert!(caller.round_trip(Duration::from_millis(1))? > 0.0);
            }
        }
        other.join().expect("the other side does not panic")
    }
}
