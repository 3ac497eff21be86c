//! The peer iceoryx2: requests and responses of 64 bytes between two processes, by its API without
//! copies, both sides looking all the time.

/// Looks whether it is built in.
///
/// # Errors
/// Why not, and what to do.
pub(crate) fn find() -> std::result::Result<(), String> {
    #[cfg(feature = "peer-iceoryx2")]
    return Ok(());
    #[cfg(not(feature = "peer-iceoryx2"))]
    Err(super::NOT_BUILT_IN.to_owned())
}

#[cfg(feature = "peer-iceoryx2")]
pub(crate) use driver::{Caller, Server};
#[cfg(not(feature = "peer-iceoryx2"))]
pub(crate) use stub::{Caller, Server};

#[cfg(feature = "peer-iceoryx2")]
mod driver {
    use std::path::Path;
    use std::time::Duration;

    use iceoryx2::port::client::Client;
    use iceoryx2::port::server::Server as Port;
    use iceoryx2::prelude::*;
    use iceoryx2::service::port_factory::request_response::PortFactory as Factory;

    use crate::error::Result;
    use crate::partner::{Partner, spin_until};
    use crate::timing::{BATCH, per_call};

    /// As large as one of our descriptors.
    type Payload = [u64; 8];

    /// Where its shared memory has names.
    const SHARED_MEMORY: &str = "/dev/shm";

    /// What the names of its files and of its shared memory begin with: nobody else's do, since
    /// the folder is new.
    fn prefix(folder: &Path) -> Result<&str> {
        let name = folder.file_name().and_then(|name| name.to_str());
        Ok(name.ok_or("the folder's name is not UTF-8")?)
    }

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

    /// The service, made for one client and one server.
    struct Service {
        factory: Factory<ipc::Service, Payload, (), Payload, ()>,
        _node: Node<ipc::Service>,
    }

    impl Service {
        fn in_folder(folder: &Path) -> Result<Self> {
            let mut config = Config::default();
            config.global.prefix = FileName::new(prefix(folder)?.as_bytes())?;
            let root = folder.as_os_str().as_encoded_bytes();
            config
                .global
                .set_root_path(&iceoryx2::prelude::Path::new(root)?);
            let node = NodeBuilder::new()
                .config(&config)
                .signal_handling_mode(SignalHandlingMode::Disabled)
                .create::<ipc::Service>()?;
            let factory = node
                .service_builder(&"round-trip".try_into()?)
                .request_response::<Payload, Payload>()
                .max_clients(1)
                .max_servers(1)
                .enable_fire_and_forget_requests(false)
                .open_or_create()?;
            Ok(Self {
                factory,
                _node: node,
            })
        }
    }

    /// The side that answers.
    pub(crate) struct Server {
        port: Port<ipc::Service, Payload, (), Payload, ()>,
        _service: Service,
    }

    impl Server {
        /// A server whose files lie in a folder.
        pub(crate) fn new(folder: &Path) -> Result<Self> {
            let service = Service::in_folder(folder)?;
            Ok(Self {
                port: service.factory.server_builder().create()?,
                _service: service,
            })
        }

        /// Answers as long as it is to.
        pub(crate) fn serve_while(&self, is_wanted: impl Fn() -> bool) -> Result<()> {
            loop {
                if let Some(request) = self.port.receive()? {
                    let payload = *request.payload();
                    request.loan_uninit()?.write_payload(payload).send()?;
                } else if !is_wanted() {
                    return Ok(());
                }
            }
        }
    }

    /// The side that asks, and the partner that answers.
    pub(crate) struct Caller {
        client: Client<ipc::Service, Payload, (), Payload, ()>,
        _service: Service,
        partner: Partner,
        // After the partner has ended.
        _sweep: Sweep,
    }

    impl Caller {
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
                // The first time, the server is made only now.
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
    use std::path::Path;
    use std::time::Duration;

    use crate::error::Result;
    use crate::partner::Partner;

    /// There is none, since [`super::find`] finds nothing.
    pub(crate) enum Server {}

    impl Server {
        pub(crate) fn new(_folder: &Path) -> Result<Self> {
            Err(super::super::NOT_BUILT_IN.into())
        }

        pub(crate) fn serve_while(&self, _is_wanted: impl Fn() -> bool) -> Result<()> {
            match *self {}
        }
    }

    /// As above.
    pub(crate) enum Caller {}

    impl Caller {
        pub(crate) fn new(_partner: Partner) -> Result<Self> {
            Err(super::super::NOT_BUILT_IN.into())
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

    #[test]
    #[expect(clippy::print_stderr, reason = "a skipped test says so")]
    fn requests_are_answered_round_after_round() -> Result<()> {
        if let Err(reason) = find() {
            eprintln!("skipped: {reason}");
            return Ok(());
        }
        let (partner, other) = partner_in_a_thread()?;
        {
            let caller = Caller::new(partner)?;
            for _ in 0..2 {
                assert!(caller.round_trip(Duration::from_millis(1))? > 0.0);
            }
        }
        other.join().expect("the other side does not panic")
    }
}
