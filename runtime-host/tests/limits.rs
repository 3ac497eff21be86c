//! Limits on what one client may take from all others.

use std::io::{IoSlice, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Instant;

use chimaera_proto::Status;
use chimaera_proto::control::{self, ControlReply, ControlRequest};
use chimaera_proto::limits::{MAX_SEGMENT_BYTES, MAX_SEGMENTS, MIN_SEGMENT_BYTES};
use chimaera_runtime::{Config, Host};
use chimaera_shm::{Segment, packet};
use chimaera_testing::raw_client::{RawClient, ask, hello, ping, status};
use chimaera_testing::{PATIENCE, until};
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg, setsockopt, sockopt};

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
                _ => ControlRequest::AddSegment { segment },
            };
            match ask(socket, &request, Some(&file.as_fd())).0 {
                ControlReply::Refused { status, .. } => {
                    assert_eq!(status, Status::LimitReached);
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
    until("there is room again", || {
        let socket = host.connect().expect("connects");
        let (reply, _) = ask(&socket, &hello(), Some(&small));
        matches!(reply, ControlReply::Welcome { .. })
    });
}

/// A socket whose `close` waits long for somebody to read what was written to it.
fn slow_to_close() -> (OwnedFd, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
    let address = listener.local_addr().expect("has an address");
    let mut writer = TcpStream::connect(address).expect("connects");
    let (reader, _) = listener.accept().expect("accepts");
    let linger = libc::linger {
        l_onoff: 1,
        l_linger: 2 * PATIENCE.as_secs() as i32,
    };
    setsockopt(&writer, sockopt::Linger, &linger).expect("is set");
    writer.set_nonblocking(true).expect("is set");
    while writer.write(&[0; 1 << 16]).is_ok() {}
    (writer.into(), reader)
}

#[test]
fn a_file_that_is_slow_to_close_keeps_nobody_waiting() {
    let host = Host::start(&Config::default()).expect("the host starts");
    let requests = [hello(), ControlRequest::OpenLane { lane: 0 }];
    let mut readers = Vec::new();
    for (request, count) in requests.iter().zip([1, 2]) {
        let (file, reader) = slow_to_close();
        let files = vec![file.as_raw_fd(); count];
        let packet = control::encode(1, request).expect("encodes");
        let bytes = [IoSlice::new(&packet)];
        let rights = [ControlMessage::ScmRights(&files)];
        let rude = host.connect().expect("connects");
        sendmsg::<UnixAddr>(rude.as_raw_fd(), &bytes, &rights, MsgFlags::empty(), None)
            .expect("sends");
        // This may be the last to close it, and then it waits.
        std::thread::spawn(move || drop(file));
        readers.push((reader, rude));
    }
    // Files that are never received are closed with the connection.
    let (file, reader) = slow_to_close();
    let rude = host.connect().expect("connects");
    packet::send(&rude, b"no hello", None).expect("sends");
    // The host may have closed the connection already.
    let _ = packet::send(&rude, b"never read", Some(file.as_fd()));
    std::thread::spawn(move || drop(file));
    readers.push((reader, rude));
    let began = Instant::now();
    assert_eq!(
        status(&RawClient::new(host.connect().expect("connects")).call(&ping())),
        None
    );
    assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
    // Nobody will read any more, so whoever closes them need not wait.
    drop(readers);
}
