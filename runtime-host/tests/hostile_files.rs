//! What clients send beside their messages to make the host hang: it serves everybody else all the while.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{ErrorKind, IoSlice, PipeReader, Read};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chimaera_proto::Status;
use chimaera_proto::control::{self, ControlReply, ControlRequest};
use chimaera_runtime::{Config, Host, UsersCeiling, UsersSocket};
use chimaera_shm::{Segment, packet};
use chimaera_testing::raw_client::{
    RawClient, SEGMENT_BYTES, ask, hello, ping, receive, send, status,
};
use chimaera_testing::{FuseCall, FuseServer, LingeringSocket, Watchdog, skipped, until, within};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, connect, sendmsg, socket,
};
use tempfile::TempDir;

/// The most processes that receive one user's files.
const MAX_RECEIVING: usize = 8;

/// Somebody else.
const OTHER: u32 = 1003;

/// Held by each test: a host that starts gets a receiver, which for a moment has copies of this process's files. Those
/// of another test would hold it up.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A host that listens, and where.
struct Listening {
    _host: Host,
    folder: TempDir,
    _watchdog: Watchdog,
}

impl Listening {
    fn start() -> Self {
        Self::trusting(&[])
    }

    fn trusting(types: &[&str]) -> Self {
        let watchdog = Watchdog::start();
        let folder = tempfile::tempdir().expect("a folder");
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).expect("its own");
        let users = UsersSocket {
            path: folder.path().join("socket"),
            mode: 0o666,
            group: None,
            max: UsersCeiling::Write,
        };
        let host = Host::start(&Config {
            listen: vec![users],
            worker_count: 1,
            allow_file_systems: types.iter().map(ToString::to_string).collect(),
            ..Config::default()
        });
        Self {
            _host: host.expect("the host starts"),
            folder,
            _watchdog: watchdog,
        }
    }

    fn connect(&self) -> OwnedFd {
        let flags = SockFlag::SOCK_CLOEXEC;
        let socket = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None);
        let socket = socket.expect("a socket");
        let path = UnixAddr::new(&self.folder.path().join("socket")).expect("short");
        connect(socket.as_raw_fd(), &path).expect("connects");
        socket
    }

    /// Opens a session, works and ends, as somebody else would.
    fn assert_serves(&self) {
        let socket = self.connect();
        let pinged = within("somebody else's session", move || {
            let mut client = RawClient::new(socket);
            let pinged = status(&client.call(&ping()));
            let pool_file = File::open("/proc/self/exe").expect("a file of the disk");
            let offer = ControlRequest::OfferFile { number: 1 };
            let (reply, _) = ask(&client.socket, &offer, Some(&pool_file));
            (pinged, reply)
        });
        assert_eq!(pinged.0, None);
        // Where programs lie on a disk that the daemon trusts.
        let is_answered = matches!(
            pinged.1,
            ControlReply::FileOffered | ControlReply::Refused { .. }
        );
        assert!(is_answered, "{:?}", pinged.1);
    }
}

/// Sends bytes with these files.
fn send_with(socket: &OwnedFd, bytes: &[u8], files: &[&dyn AsFd]) {
    let files: Vec<_> = files.iter().map(|file| file.as_fd().as_raw_fd()).collect();
    let bytes = [IoSlice::new(bytes)];
    let rights = [ControlMessage::ScmRights(&files)];
    let sent = sendmsg::<UnixAddr>(
        socket.as_raw_fd(),
        &bytes,
        &rights,
        MsgFlags::MSG_NOSIGNAL,
        None,
    );
    sent.expect("sends");
}

fn offer() -> Vec<u8> {
    control::encode(1, &ControlRequest::OfferFile { number: 1 }).expect("encodes")
}

/// Waits until nobody has the other end of a pipe.
fn wait_until_closed(mut reader: PipeReader) {
    let read = within("the file's end", move || reader.read(&mut [0]));
    assert_eq!(read.expect("the end"), 0);
}

/// The next reply; `None` at the end of the connection.
fn reply(socket: &OwnedFd) -> Option<ControlReply> {
    // An end with something unread is told as an error, once, and before what was sent.
    let received = match packet::receive(socket) {
        Err(error) if error.kind() == ErrorKind::ConnectionReset => packet::receive(socket),
        received => received,
    };
    let answer = received.expect("receives")?;
    let (_, reply) = control::decode(&answer.bytes).expect("decodes");
    Some(reply)
}

#[track_caller]
fn assert_refused(socket: &OwnedFd, expected: Status, words: &str) {
    let reply = reply(socket).expect("an answer");
    let ControlReply::Refused { status, reason } = reply else {
        panic!("{reply:?}");
    };
    assert_eq!(status, expected, "{reason}");
    assert!(reason.contains(words), "no {words:?} in {reason}");
    assert!(self::reply(socket).is_none(), "the session goes on");
}

fn lingering() -> LingeringSocket {
    LingeringSocket::new(Duration::from_secs(600))
}

#[test]
fn files_for_which_a_message_has_no_room_keep_nobody_waiting() {
    let _alone = alone();
    let LingeringSocket { socket, peer } = lingering();
    let null = File::open("/dev/null").expect("opened");
    let others: Vec<&dyn AsFd> = vec![&null; 252];
    let host = Listening::start();
    let rude = [2, 252].map(|before| {
        let rude = host.connect();
        let files = [&others[..before], &[&socket as &dyn AsFd]].concat();
        send_with(&rude, &offer(), &files);
        rude
    });
    // Whoever closes it now is the last one.
    drop(socket);
    host.assert_serves();
    for rude in rude {
        assert_refused(&rude, Status::ProtocolViolation, "more than one file");
    }
    host.assert_serves();
    drop(host);
    drop(peer);
}

#[test]
fn connections_with_unread_files_that_linger_keep_nobodys_files_open() {
    let _alone = alone();
    let host = Listening::start();
    let mut peers = Vec::new();
    for index in 0..36 {
        let LingeringSocket { socket, peer } = lingering();
        let rude = host.connect();
        // The first of these ends the connection.
        if index % 2 == 0 {
            packet::send(&rude, b"no hello", None).expect("sends");
        }
        // The host may have closed the connection already.
        let _ = packet::send(&rude, b"never read", Some(socket.as_fd()));
        drop(rude);
        // If the host has closed the connection, this is the last to close it, and then it waits.
        std::thread::spawn(move || drop(socket));
        peers.push(peer);
    }
    // Somebody else's file, which nobody receives either.
    let (reader, writer) = std::io::pipe().expect("a pipe");
    let polite = host.connect();
    packet::send(&polite, b"no hello", None).expect("sends");
    let _ = packet::send(&polite, b"never read", Some(writer.as_fd()));
    drop((polite, writer));
    wait_until_closed(reader);
    host.assert_serves();
    drop(host);
}

#[test]
fn a_file_whose_server_never_answers_is_refused_and_nobody_asks_its_server() {
    let _alone = alone();
    let server = match FuseServer::mount(1 << 20) {
        Ok(server) => server,
        Err(reason) => return skipped("a file on FUSE", &reason),
    };
    let open = || {
        let opened = OpenOptions::new()
            .read(true)
            .write(true)
            .open(server.file());
        opened.expect("opened")
    };
    let files: Vec<_> = (0..9).map(|_| open()).collect();
    // Else a test that fails would wait for itself.
    let _answers = AnswersAtEnd(&server);
    let host = Listening::start();
    let clients: Vec<_> = (0..9).map(|_| RawClient::new(host.connect())).collect();
    let questions = [
        FuseCall::GetAttributes,
        FuseCall::Statfs,
        FuseCall::Read,
        FuseCall::Lookup,
    ];
    let asked = questions.map(|call| server.count(call));
    server.withhold(&questions);
    server.withhold(&[FuseCall::Flush, FuseCall::Release]);
    for (client, file) in clients.iter().zip(&files[..MAX_RECEIVING]) {
        host.assert_serves();
        send_with(&client.socket, &offer(), &[file]);
        assert_refused(&client.socket, Status::PermissionDenied, "type fuse");
    }
    // Each child has been told to end, and waits for the file's server.
    server.wait_for_unanswered(MAX_RECEIVING);
    let now = questions.map(|call| server.count(call));
    assert_eq!(now, asked, "the file's server was asked");
    // The user has no further child.
    let last = &clients[MAX_RECEIVING].socket;
    send_with(last, &offer(), &[&files[MAX_RECEIVING]]);
    assert_refused(
        last,
        Status::OutOfResources,
        "8 processes that received files",
    );
    if nix::unistd::geteuid().is_root() {
        as_user(OTHER, || host.assert_serves());
    }
    server.answer_all();
    until("the user is served again", || {
        let socket = host.connect();
        let segment = Segment::create("again", SEGMENT_BYTES).expect("a segment");
        send(&socket, 1, &hello(), Some(&segment));
        matches!(reply(&socket), Some(ControlReply::Welcome { .. }))
    });
}

/// A server that answers when this is dropped.
struct AnswersAtEnd<'a>(&'a FuseServer);

impl Drop for AnswersAtEnd<'_> {
    fn drop(&mut self) {
        self.0.answer_all();
    }
}

#[test]
fn files_of_a_type_that_the_operator_trusts_are_taken() {
    let _alone = alone();
    let server = match FuseServer::mount(1 << 20) {
        Ok(server) => server,
        Err(reason) => return skipped("a trusted file on FUSE", &reason),
    };
    let host = Listening::trusting(&["fuse"]);
    let client = RawClient::new(host.connect());
    let file = File::open(server.file()).expect("opened");
    let (reply, _) = ask(
        &client.socket,
        &ControlRequest::OfferFile { number: 1 },
        Some(&file),
    );
    assert_eq!(reply, ControlReply::FileOffered);
}

#[test]
fn what_no_pool_can_have_ends_its_session_with_the_reason() {
    let _alone = alone();
    let host = Listening::start();
    let (pipe, _writer) = std::io::pipe().expect("a pipe");
    let path_only = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_PATH)
        .open("/");
    let (listener, _other) = std::os::unix::net::UnixStream::pair().expect("a pair");
    let doorbell = chimaera_shm::Doorbell::new().expect("an eventfd");
    let proc = File::open("/proc/self/maps").expect("opened");
    let cases: [(&dyn AsFd, Status, &str); 7] = [
        (&pipe, Status::InvalidArgument, "a FIFO came"),
        (
            &path_only.expect("opened"),
            Status::InvalidArgument,
            "O_PATH",
        ),
        (&listener, Status::InvalidArgument, "a socket came"),
        (&doorbell, Status::InvalidArgument, "[eventfd] came"),
        (
            &File::open("/").expect("opened"),
            Status::InvalidArgument,
            "a directory",
        ),
        (
            &File::open("/dev/null").expect("opened"),
            Status::InvalidArgument,
            "a character device",
        ),
        (&proc, Status::PermissionDenied, "--allow-fs proc"),
    ];
    for (file, expected, words) in cases {
        let client = RawClient::new(host.connect());
        send_with(&client.socket, &offer(), &[file]);
        assert_refused(&client.socket, expected, words);
    }
    host.assert_serves();
}

#[test]
fn of_mounts_that_the_host_does_not_have_only_those_of_disks_and_memory_are_taken() {
    let _alone = alone();
    let host = Listening::start();
    let program = std::env::current_exe().expect("it runs");
    let cases = [
        (c"/", program.as_path(), true),
        (c"/proc", std::path::Path::new("/version"), false),
    ];
    for (root, file, is_taken) in cases {
        let mount = match DetachedMount::new(root, file) {
            Ok(mount) => mount,
            Err(reason) => {
                skipped("a file of a foreign mount", &reason);
                continue;
            }
        };
        let client = RawClient::new(host.connect());
        send_with(&client.socket, &offer(), &[&mount.file]);
        if is_taken && is_disk(&mount.file) {
            assert_eq!(reply(&client.socket), Some(ControlReply::FileOffered));
            continue;
        }
        let words = "another mount namespace";
        assert_refused(&client.socket, Status::PermissionDenied, words);
    }
    host.assert_serves();
}

/// Whether a file lies on a file system of this machine's own disks, and not on an overlay for example.
fn is_disk(file: &File) -> bool {
    let found = nix::sys::statfs::fstatfs(file).expect("it is open");
    [0xef53, 0x5846_5342, 0x9123_683e].contains(&found.filesystem_type().0)
}

#[test]
fn a_reply_comes_after_the_file_was_looked_at_and_in_order() {
    let _alone = alone();
    let host = Listening::start();
    let client = RawClient::new(host.connect());
    let more = Segment::create("more", SEGMENT_BYTES).expect("a segment");
    let add = control::encode(2, &ControlRequest::AddSegment { segment: 1 }).expect("encodes");
    send_with(&client.socket, &add, &[&more]);
    let lane = control::encode(3, &ControlRequest::OpenLane { lane: 64 }).expect("encodes");
    packet::send(&client.socket, &lane, None).expect("sends");
    let (number, reply, _) = receive(&client.socket);
    assert_eq!((number, reply), (2, ControlReply::SegmentAdded));
    let (number, reply, _) = receive(&client.socket);
    assert_eq!(number, 3);
    assert!(matches!(reply, ControlReply::Refused { .. }), "{reply:?}");
}

/// A mount that is in nobody's tree, and a file of it.
struct DetachedMount {
    file: File,
}

impl DetachedMount {
    /// # Errors
    /// What the system says.
    fn new(root: &std::ffi::CStr, path: &std::path::Path) -> Result<Self, String> {
        let failed = |what: &str| format!("{what}: {}", std::io::Error::last_os_error());
        // SAFETY: the path ends in a zero; the descriptor is new, and nobody else's.
        let tree = unsafe {
            let flags = OPEN_TREE_CLONE | libc::O_CLOEXEC;
            let tree = libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, root.as_ptr(), flags);
            if tree < 0 {
                return Err(failed("open_tree"));
            }
            OwnedFd::from_raw_fd(tree as i32)
        };
        let path = format!("/proc/self/fd/{}{}", tree.as_raw_fd(), path.display());
        let file = File::open(path).map_err(|error| format!("the file there: {error}"))?;
        Ok(Self { file })
    }
}

/// Makes a copy of the mount, which is in no tree.
const OPEN_TREE_CLONE: i32 = 1;

/// Runs `act` on a thread that is this user's.
fn as_user(user: u32, act: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let acting = scope.spawn(|| {
            // The C library would change all threads of the process.
            // SAFETY: these calls change the calling thread's ids, from numbers alone.
            let changed = unsafe {
                libc::syscall(libc::SYS_setresgid, user, user, user)
                    | libc::syscall(libc::SYS_setresuid, user, user, user)
            };
            assert_eq!(changed, 0, "root may");
            act();
        });
        acting.join().expect("the thread's assertions hold");
    });
}
