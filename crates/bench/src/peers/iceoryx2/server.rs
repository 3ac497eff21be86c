//! The side of iceoryx2 that answers, and what both sides have.

#[cfg(feature = "peer-iceoryx2")]
pub(crate) use driver::Iceoryx2Server;
#[cfg(feature = "peer-iceoryx2")]
pub(super) use driver::{EchoedWords, Service, prefix};
#[cfg(not(feature = "peer-iceoryx2"))]
pub(crate) use stub::Iceoryx2Server;

#[cfg(feature = "peer-iceoryx2")]
mod driver {
    use std::path::Path;

    use iceoryx2::port::server::Server as Port;
    use iceoryx2::prelude::*;
    use iceoryx2::service::port_factory::request_response::PortFactory as Factory;

    use crate::error::Result;

    /// As large as one of our descriptors.
    pub(in super::super) type EchoedWords = [u64; 8];

    /// What the names of its files and of its shared memory begin with. No others do, since the folder is
    /// new.
    pub(in super::super) fn prefix(folder: &Path) -> Result<&str> {
        let name = folder.file_name().and_then(|name| name.to_str());
        Ok(name.ok_or("the folder's name is not UTF-8")?)
    }

    /// The service, made for one client and one server.
    pub(in super::super) struct Service {
        pub(in super::super) factory: Factory<ipc::Service, EchoedWords, (), EchoedWords, ()>,
        _node: Node<ipc::Service>,
    }

    impl Service {
        pub(in super::super) fn in_folder(folder: &Path) -> Result<Self> {
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
                .request_response::<EchoedWords, EchoedWords>()
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
    pub(crate) struct Iceoryx2Server {
        port: Port<ipc::Service, EchoedWords, (), EchoedWords, ()>,
        _service: Service,
    }

    impl Iceoryx2Server {
        /// A server whose files lie in a folder.
        pub(crate) fn new(folder: &Path) -> Result<Self> {
            let service = Service::in_folder(folder)?;
            Ok(Self {
                port: service.factory.server_builder().create()?,
                _service: service,
            })
        }

        /// Answers requests as long as `is_wanted`.
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
}

#[cfg(not(feature = "peer-iceoryx2"))]
mod stub {
    use std::path::Path;

    use crate::error::Result;
    use crate::peers::absent::NOT_BUILT_IN;

    /// There is none, since [`find`](super::super::find) finds nothing.
    pub(crate) enum Iceoryx2Server {}

    impl Iceoryx2Server {
        pub(crate) fn new(_folder: &Path) -> Result<Self> {
            Err(NOT_BUILT_IN.into())
        }

        pub(crate) fn serve_while(&self, _is_wanted: impl Fn() -> bool) -> Result<()> {
            match *self {}
        }
    }
}
