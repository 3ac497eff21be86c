//! Attaching to pools that are not there: for tests of what a client does with its tasks.

use chimaera_proto::admin::{self, AttachPool, PoolName};
use chimaera_proto::{Completion, Descriptor, Permissions, PoolId, Rights, Status, codec};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{FakeModule, HostBuffer, Verdict};

/// A module that takes tasks for any pool: whoever attaches to one is told that it is there.
#[must_use]
pub fn attaching(module: impl FakeModule) -> impl FakeModule {
    attaching_to(|| 1, module)
}

/// As [`attaching`], to a pool of which each attachment finds that incarnation, and an instance of the same number.
#[must_use]
pub fn attaching_to(
    mut incarnation: impl FnMut() -> u32 + Send + 'static,
    mut module: impl FakeModule,
) -> impl FakeModule {
    move |task: Descriptor, buffer: Option<HostBuffer>| {
        let is_attach =
            task.pool == PoolId::ADMIN && task.method == admin::Method::AttachPool as u16;
        let Some(buffer) = buffer.as_ref().filter(|_| is_attach) else {
            return module(task, buffer);
        };
        let request = buffer.read();
        let AttachPool { pool, module, .. } = parse(&request[..task.arguments[0] as usize]);
        let PoolName::Id(id) = pool.pool else {
            return Verdict::fail(Status::PoolNotFound);
        };
        let number = incarnation();
        let info = admin::PoolInfo {
            id,
            name: "pool".to_owned(),
            module,
            created: false,
            opened: false,
            incarnation: number.into(),
            predecessor: None,
            instance: number,
            permissions: Permissions::of_owner(0, 0),
            rights: Rights::ALL,
        };
        reply(buffer, Ok(info))
    }
}

/// A request of the admin module's.
pub(crate) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> T {
    codec::decode(bytes).expect("a request of this kind")
}

/// Answers a request of the admin module's.
pub(crate) fn reply<T: Serialize>(
    buffer: &HostBuffer,
    result: Result<T, (Status, String)>,
) -> Verdict {
    let (bytes, status) = match result {
        Ok(value) => (codec::encode(&value).expect("encodes"), None),
        Err((status, text)) => (text.into_bytes(), Some(status)),
    };
    buffer.write(&bytes);
    let mut completion = status.map_or(Completion::success(&[]), Completion::failure);
    completion.values[0] = bytes.len() as u64;
    Verdict::Done(completion)
}
