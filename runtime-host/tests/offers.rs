//! Files that a client offers: how many, and what becomes of those that no pool takes.

use std::fs::File;
use std::io::{PipeReader, Read};
use std::os::fd::AsFd;

use chimaera_proto::admin::{GetOrCreatePool, Method};
use chimaera_proto::control::{ControlReply, ControlRequest, MAX_OFFERED_FILES};
use chimaera_proto::{PoolId, Status};
use chimaera_runtime::{Config, Host};
use chimaera_testing::raw_client::{RawClient, ask, status};

fn host() -> Host {
    Host::start(&Config {
        worker_count: 1,
        ..Config::default()
    })
    .expect("the host starts")
}

fn offer(client: &RawClient, number: u64, file: &impl AsFd) -> ControlReply {
    let file: &dyn AsFd = file;
    ask(
        &client.socket,
        &ControlRequest::OfferFile { number },
        Some(&file),
    )
    .0
}

/// A file whose end can be waited for: it comes when the host has closed it.
fn watched() -> (PipeReader, impl AsFd) {
    std::io::pipe().expect("a pipe")
}

fn wait_until_closed(mut reader: PipeReader) {
    assert_eq!(reader.read(&mut [0]).expect("the end"), 0);
}

#[test]
fn a_session_offers_so_many_files_and_no_more() {
    let host = host();
    let client = RawClient::new(host.connect().expect("connects"));
    let file = File::open("/dev/null").expect("opened");
    for number in 0..MAX_OFFERED_FILES as u64 {
        assert_eq!(offer(&client, number, &file), ControlReply::FileOffered);
    }
    let (reader, writer) = watched();
    let refused = offer(&client, u64::MAX, &writer);
    let ControlReply::Refused { status, reason } = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(status, Status::Busy);
    assert!(reason.contains("has offered 8 files"), "{reason}");
    drop(writer);
    wait_until_closed(reader);
    // Others are not concerned, and a number that is used again takes no further place.
    let other = RawClient::new(host.connect().expect("connects"));
    assert_eq!(offer(&other, 0, &file), ControlReply::FileOffered);
    assert_eq!(offer(&client, 0, &file), ControlReply::FileOffered);
    let none = ask(
        &client.socket,
        &ControlRequest::OfferFile { number: 0 },
        None,
    )
    .0;
    assert!(matches!(
        none,
        ControlReply::Refused {
            status: Status::ProtocolViolation,
            ..
        }
    ));
}

#[test]
fn a_file_is_closed_when_it_is_replaced_used_up_or_its_session_ends() {
    let host = host();
    let mut client = RawClient::new(host.connect().expect("connects"));
    let (replaced, writer) = watched();
    assert_eq!(offer(&client, 1, &writer), ControlReply::FileOffered);
    drop(writer);
    let (used, writer) = watched();
    assert_eq!(offer(&client, 1, &writer), ControlReply::FileOffered);
    drop(writer);
    wait_until_closed(replaced);

    let asked = GetOrCreatePool {
        file: Some(1),
        ..GetOrCreatePool::new("absent", "pool", PoolId::NULL, Vec::new())
    };
    let refused = client.admin(Method::GetOrCreatePool, &asked);
    assert_eq!(status(&refused), Some(Status::ModuleNotFound));
    wait_until_closed(used);
    let refused = client.admin(Method::GetOrCreatePool, &asked);
    assert_eq!(status(&refused), Some(Status::InvalidArgument));
    let reason = client.reason(&refused);
    assert!(reason.contains("no file with the number 1"), "{reason}");

    let (left, writer) = watched();
    assert_eq!(offer(&client, 2, &writer), ControlReply::FileOffered);
    drop(writer);
    let mut other = RawClient::new(host.connect().expect("connects"));
    let theirs = GetOrCreatePool {
        file: Some(2),
        ..asked
    };
    let refused = other.admin(Method::GetOrCreatePool, &theirs);
    assert_eq!(
        status(&refused),
        Some(Status::InvalidArgument),
        "it is another session's"
    );
    drop(client);
    wait_until_closed(left);
}
