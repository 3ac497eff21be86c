//! A host with one worker under many peers that send whatever they like: whoever behaves is served on. Alone in its
//! program, because it counts what the process has open.

use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread;

use chimaera_proto::control::{self, ControlRequest};
use chimaera_proto::limits::{LANE_DEPTH, MAX_CONTROL_MESSAGE_BYTES};
use chimaera_proto::task::DESCRIPTOR_WORDS;
use chimaera_runtime::{Config, Host, UsersCeiling, UsersSocket};
use chimaera_shm::{PublishOrder, Segment};
use chimaera_testing::raw_client::{RawClient, hello, ping};
use chimaera_testing::raw_peer::{MAX_FILES_BESIDE, PeerAnswer, RawPeer};
use chimaera_testing::{HostileFiles, Watchdog, Xorshift, until};
use nix::sys::socket::Shutdown;
use tempfile::TempDir;

/// Peers at a time, and what each of them does one after another.
const PEERS: u64 = 6;
const ROUNDS: usize = 600;

/// The most things that a peer does with one connection.
const MAX_STEPS: usize = 40;

static PANICS: AtomicUsize = AtomicUsize::new(0);

/// What the peers have sent: packets, and tasks.
static TRIED: AtomicU64 = AtomicU64::new(0);

fn open_files() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("listed").count()
}

fn count_panics() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        PANICS.fetch_add(1, Ordering::SeqCst);
        report(panic);
    }));
}

/// A host whose peers come as users.
struct Rig {
    host: Host,
    socket: PathBuf,
    _folder: TempDir,
}

impl Rig {
    fn new() -> Self {
        let folder = TempDir::new().expect("a folder");
        let socket = folder.path().join("users.sock");
        let host = Host::start(&Config {
            listen: vec![UsersSocket {
                path: socket.clone(),
                mode: 0o600,
                group: None,
                max: UsersCeiling::Write,
            }],
            worker_count: 1,
            ..Config::default()
        });
        Self {
            host: host.expect("the host starts"),
            socket,
            _folder: folder,
        }
    }
}

/// A peer and what it draws from.
struct Hostile<'a> {
    numbers: Xorshift,
    files: &'a HostileFiles,
    socket: &'a Path,
}

impl<'a> Hostile<'a> {
    fn live(&mut self) {
        for _ in 0..ROUNDS {
            match self.numbers.below(8) {
                0 => self.hurry(),
                1..=3 => self.break_a_session(),
                _ => self.break_the_protocol(),
            }
        }
    }

    /// Many connections that are closed at once, some with a message that nobody has read.
    fn hurry(&mut self) {
        let mut held = Vec::new();
        for _ in 0..40 {
            let Some(peer) = RawPeer::connect(self.socket).expect("somebody listens") else {
                continue;
            };
            TRIED.fetch_add(1, Ordering::Relaxed);
            match self.numbers.below(3) {
                0 => held.push(peer),
                1 => _ = peer.send(&[0; 64], &self.some_files()),
                _ => {}
            }
        }
    }

    /// Any packets, in any order, over one connection.
    fn break_the_protocol(&mut self) {
        let Some(peer) = RawPeer::connect(self.socket).expect("somebody listens") else {
            return;
        };
        for number in 1..=self.numbers.below(MAX_STEPS) as u64 {
            let packet = self.some_packet(number);
            let files = self.some_files();
            peer.send(&packet, &files);
            TRIED.fetch_add(1, Ordering::Relaxed);
            match self.numbers.below(16) {
                0 => peer.shut_down(Shutdown::Write),
                1 => peer.shut_down(Shutdown::Read),
                2..=9 if peer.try_receive() == Some(PeerAnswer::End) => return,
                _ => {}
            }
        }
    }

    /// A session in good order at first, whose lane and memory then hold anything.
    fn break_a_session(&mut self) {
        let Some(peer) = RawPeer::connect(self.socket).expect("somebody listens") else {
            return;
        };
        let segment = Arc::new(Segment::create("hostile", 4 << 20).expect("a segment"));
        let memory = std::os::fd::AsFd::as_fd(&*segment);
        peer.request(1, &hello(), &[memory]);
        peer.request(2, &ControlRequest::OpenLane { lane: 0 }, &[]);
        if !matches!(peer.receive(), PeerAnswer::Reply(1, _)) {
            return;
        }
        let lane = segment.lane(0);
        for sequence in 1..=self.numbers.below(4 * LANE_DEPTH) as u32 {
            match self.numbers.below(64) {
                0 => self.scribble(&segment),
                1 => _ = peer.send(&self.some_packet(3), &self.some_files()),
                _ => {}
            }
            let mut words: [u64; DESCRIPTOR_WORDS] =
                std::array::from_fn(|_| self.numbers.next_number());
            if self.numbers.below(4) != 0 {
                // Nearly a task.
                let record = (sequence as usize % LANE_DEPTH) as u8;
                words = chimaera_proto::Descriptor { record, ..ping() }.to_words(sequence);
                let word = self.numbers.below(DESCRIPTOR_WORDS);
                words[word] ^= 1 << self.numbers.below(64);
            }
            words[0] = words[0] & !u64::from(u32::MAX) | u64::from(sequence);
            lane.publish(sequence, &words);
            let _ = lane.must_ring(PublishOrder::Fence);
            TRIED.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Writes anything anywhere before the buffers.
    fn scribble(&mut self, segment: &Segment) {
        for _ in 0..64 {
            let offset = self.numbers.below(1 << 20) as u64 & !7;
            let place = segment.range(offset, 8).expect("in the segment");
            // SAFETY: the word is mapped and aligned. The host reads it as an atomic, at any time.
            unsafe {
                place
                    .cast::<u64>()
                    .write_volatile(self.numbers.next_number());
            };
        }
    }

    fn some_files(&mut self) -> Vec<BorrowedFd<'a>> {
        let count = match self.numbers.below(8) {
            0 => MAX_FILES_BESIDE,
            1 => self.numbers.below(8),
            2..=4 => 1,
            _ => 0,
        };
        let first = self.numbers.below(self.files.count());
        (first..first + count)
            .map(|number| self.files.file(number))
            .collect()
    }

    fn some_packet(&mut self, number: u64) -> Vec<u8> {
        let request = match self.numbers.below(5) {
            0 => hello(),
            1 => ControlRequest::OpenLane {
                lane: self.numbers.below(70) as u32,
            },
            2 => ControlRequest::AddSegment {
                segment: self.numbers.below(4) as u32,
            },
            3 => ControlRequest::OfferFile {
                number: self.numbers.next_number(),
            },
            _ => {
                let len = self.numbers.below(MAX_CONTROL_MESSAGE_BYTES + 64);
                return (0..len).map(|_| self.numbers.below(256) as u8).collect();
            }
        };
        let mut packet = control::encode(number, &request).expect("encodes");
        match self.numbers.below(4) {
            0 => {
                let at = self.numbers.below(packet.len());
                packet[at] = self.numbers.below(256) as u8;
            }
            1 => packet.truncate(self.numbers.below(packet.len())),
            _ => {}
        }
        packet
    }
}

#[test]
fn whoever_behaves_is_served_whatever_others_send() {
    let _watchdog = Watchdog::start();
    count_panics();
    let rig = Rig::new();
    let files = HostileFiles::new();
    let mut victim = RawClient::new(rig.host.connect().expect("connects"));
    let before = open_files();
    let has_ended = AtomicBool::new(false);
    let pings = thread::scope(|scope| {
        let victim = scope.spawn(|| {
            let mut pings = 0_u64;
            while !has_ended.load(Ordering::SeqCst) {
                // Panics if it is not served.
                assert_eq!(victim.call(&ping()).status_word, 0);
                pings += 1;
            }
            // It still is.
            assert_eq!(victim.call(&ping()).status_word, 0);
            (victim, pings)
        });
        let peers: Vec<_> = (0..PEERS)
            .map(|seed| {
                let (files, socket) = (&files, &*rig.socket);
                scope.spawn(move || {
                    let numbers = Xorshift::new(seed);
                    let mut peer = Hostile {
                        numbers,
                        files,
                        socket,
                    };
                    peer.live();
                })
            })
            .collect();
        let peers: Vec<_> = peers
            .into_iter()
            .map(std::thread::ScopedJoinHandle::join)
            .collect();
        has_ended.store(true, Ordering::SeqCst);
        let (mut victim, pings) = victim.join().expect("the victim is served");
        for peer in peers {
            peer.expect("a peer's own assertions hold");
        }
        until("their sessions end", || {
            victim.runtime_status().session_count == 1
        });
        pings
    });
    until("what they sent is closed", || open_files() <= before);
    assert_eq!(PANICS.load(Ordering::SeqCst), 0, "something panicked");
    let tried = TRIED.load(Ordering::SeqCst);
    assert!(
        tried > 10_000 && pings > 1000,
        "{tried} tried, {pings} served"
    );
    rig.host.end().expect("nothing to flush");
}
