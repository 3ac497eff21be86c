//! A socket whose last close blocks.

use std::io::{ErrorKind, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};

/// A TCP socket with bytes that its peer does not read, and the wish to wait long for that (`SO_LINGER`). Whoever
/// closes the last descriptor of it waits, unless its peer reads or ends. A waiting thread can be killed with its
/// process.
#[derive(Debug)]
pub struct LingeringSocket {
    /// The socket.
    pub socket: TcpStream,
    /// Its peer. If this is dropped, closing the socket does not wait any more.
    pub peer: TcpStream,
}

impl LingeringSocket {
    /// A socket whose last close blocks for as long as this, in whole seconds.
    ///
    /// # Panics
    /// If the system has no socket, or does not have it linger.
    #[must_use]
    pub fn new(linger: Duration) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("listens");
        let address = listener.local_addr().expect("an address");
        let mut socket = TcpStream::connect(address).expect("connects");
        let (peer, _) = listener.accept().expect("accepts");
        socket.set_nonblocking(true).expect("does not wait to send");
        // Until neither the peer nor the socket takes more.
        let error = loop {
            if let Err(error) = socket.write(&[0; 64 * 1024]) {
                break error;
            }
        };
        assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}");
        // One that does not wait for anything does not linger either.
        socket.set_nonblocking(false).expect("waits again");
        let linger = libc::linger {
            l_onoff: 1,
            l_linger: linger.as_secs() as i32,
        };
        setsockopt(&socket.as_fd(), sockopt::Linger, &linger).expect("lingers");
        Self { socket, peer }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::thread;

    use super::*;
    use crate::task_state::thread_sleeps;
    use crate::time_limit::{until, within};

    #[test]
    fn the_last_close_waits_for_the_peer() {
        let LingeringSocket { socket, peer } = LingeringSocket::new(Duration::from_secs(600));
        let other = socket.try_clone().expect("another descriptor");
        // Not the last one.
        within("closing another descriptor", move || drop(other));
        let (told, thread_id) = channel();
        let closer = thread::spawn(move || {
            told.send(nix::unistd::gettid().as_raw())
                .expect("the test waits");
            drop(socket);
        });
        let thread_id = thread_id.recv().expect("the thread runs");
        let call = format!("/proc/self/task/{thread_id}/syscall");
        until("the thread waits in its close", || {
            let call = std::fs::read_to_string(&call).unwrap_or_default();
            call.starts_with(&format!("{} ", libc::SYS_close)) && thread_sleeps(thread_id)
        });
        assert!(!closer.is_finished());
        drop(peer);
        within("the close", move || closer.join()).expect("does not panic");
    }
}
