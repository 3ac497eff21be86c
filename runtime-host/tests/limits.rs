//! What one client may take from all others.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use chimaera_proto::Status;
use chimaera_proto::control::{Reply, Request};
use chimaera_proto::limits::{MAX_SEGMENT_BYTES, MAX_SEGMENTS, MIN_SEGMENT_BYTES};
use chimaera_runtime::{Config, Host};
use chimaera_shm::Segment;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};

mod support;

use support::{PATIENCE, ask, hello};

/// Memory that may be registered as a segment. It costs its maker nothing, and is not mapped here.
fn memory(len_bytes: u64) -> OwnedFd {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let file = memfd_create(c"large", flags).expect("memfd");
    nix::unistd::ftruncate(&file, len_bytes as i64).expect("truncates");
    let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals)).expect("seals");
    file
}

#[test]
fn clients_cannot_use_up_the_hosts_address_space() {
    let host = Host::start(&Config::default()).expect("the host starts");
    let file = memory(MAX_SEGMENT_BYTES);
    // Gives the number of segments that a session may have.
    let take_all = |socket: &OwnedFd| {
        let taken = (0..MAX_SEGMENTS as u32).take_while(|&segment| {
            let request = match segment {
                0 => hello(),
                _ => Request::AddSegment { segment },
            };
            match ask(socket, &request, Some(&file.as_fd())).0 {
                Reply::Refused { status, .. } => {
                    assert_eq!(status, Status::OutOfMemory);
                    false
                }
                _ => true,
            }
        });
        taken.count()
    };
    let sockets: Vec<_> = (0..64).map(|_| host.connect().expect("connects")).collect();
    let first = take_all(&sockets[0]);
    assert!((1..MAX_SEGMENTS).contains(&first), "{first} segments");
    let others: Vec<_> = sockets[1..].iter().map(take_all).collect();
    assert_eq!(others.last(), Some(&0), "there is a limit for all together");
    // The ends of sessions give it back.
    drop(sockets);
    let small = Segment::create("small", MIN_SEGMENT_BYTES).expect("segment");
    let deadline = Instant::now() + PATIENCE;
    loop {
        let socket = host.connect().expect("connects");
        match ask(&socket, &hello(), Some(&small)).0 {
            Reply::Welcome { .. } => break,
            reply => assert!(Instant::now() < deadline, "{reply:?}"),
        }
    }
}
