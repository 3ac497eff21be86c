//! Finding the daemon, and whether it is one to be trusted.

use std::time::Duration;

use chimaera_proto::Status;
use chimaera_proto::shell;
use chimaera_proto::socket_path::{SOCKET_VARIABLE, SocketPlace};
use nix::sys::socket::{getsockopt, sockopt};
use nix::unistd::Uid;

use crate::control::ControlSocket;
use crate::error::Error;

/// Whose daemon a client accepts.
#[derive(Clone, Debug)]
pub(crate) enum Trust {
    /// A daemon of root's, of the client's own user, or of these users.
    Users(Vec<u32>),
    /// A daemon of any user.
    Anybody,
}

impl Default for Trust {
    fn default() -> Self {
        Self::Users(Vec::new())
    }
}

impl Trust {
    pub(crate) fn add(&mut self, uid: u32) {
        if let Self::Users(users) = self {
            users.push(uid);
        }
    }

    fn permits(&self, uid: u32) -> bool {
        match self {
            Self::Anybody => true,
            Self::Users(users) => {
                uid == 0 || uid == Uid::effective().as_raw() || users.contains(&uid)
            }
        }
    }
}

/// Connects to the daemon at the first of these places where one listens. The next place is tried only if nobody
/// listens: if a daemon refuses, that is the result.
pub(crate) fn find_daemon(
    places: &[SocketPlace],
    reply_timeout: Duration,
    trust: &Trust,
) -> Result<ControlSocket, Error> {
    let mut absent = Vec::new();
    let mut start = "start one";
    for place in places {
        // A folder that is absent is a socket that is absent.
        if let Err(wrong) = place.check()
            && !wrong.is_absent()
        {
            absent.push(wrong.to_string());
            start = "then start one";
            continue;
        }
        match ControlSocket::connect(place, reply_timeout) {
            Ok(socket) => return check_who_listens(socket, place, trust),
            Err(error) if error.is_no_daemon() && places.len() > 1 => {
                absent.push(format!("nobody listens at {place}"));
            }
            Err(error) if error.is_no_daemon() => {
                return Err(error.with_account(nobody_listens(place)));
            }
            Err(error) => return Err(error),
        }
    }
    Err(Error::new(Status::NoRuntime, "connecting to the runtime").with_account(
        format!(
            "no daemon was found: {}; {start} (`chimaera runtime start`), or set {SOCKET_VARIABLE} to the \
             socket of one that runs",
            absent.join("; ")
        ),
    ))
}

/// What to do where no daemon listens at the only place where one is looked for.
fn nobody_listens(place: &SocketPlace) -> String {
    let first = match place.check_named() {
        Ok(()) => String::new(),
        Err(wrong) => format!("{wrong}; then "),
    };
    let socket = match place.is_named() {
        true => format!(" --socket {}", shell::word(&place.path().to_string_lossy())),
        // The daemon creates the folder, which nobody has named.
        false => String::new(),
    };
    // A client that was given a path does not read the variable.
    let other = match place.is_named() && !place.is_named_by_variable() {
        true => "name the socket of one that runs".to_owned(),
        false => format!("set {SOCKET_VARIABLE} to the socket of one that runs"),
    };
    format!(
        "no daemon listens there: {first}start one (`chimaera runtime start{socket}`), or {other}"
    )
}

/// Refuses a daemon of a user that is not trusted: a daemon sees what clients write, and decides what they read.
fn check_who_listens(
    socket: ControlSocket,
    place: &SocketPlace,
    trust: &Trust,
) -> Result<ControlSocket, Error> {
    let operation = || format!("connecting to the runtime at {place}");
    let listener = getsockopt(socket.socket(), sockopt::PeerCredentials)
        .map_err(|errno| Error::io(&errno.into(), operation()))?;
    if trust.permits(listener.uid()) {
        return Ok(socket);
    }
    Err(
        Error::new(Status::PermissionDenied, operation()).with_account(format!(
            "user {} runs the daemon there, which is neither root nor this user ({}), and would see all \
             that is stored: a program accepts it by ConnectOptions::trust_user, a command with --any-user",
            listener.uid(),
            Uid::effective(),
        )),
    )
}
