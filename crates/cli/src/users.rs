//! Users, groups and modes as they are written on a command line: by name or number, and octal.

use chimaera_client::proto::rights::{MODE_BITS, OVERFLOW_ID};
use chimaera_runtime::{Operators, UsersCeiling, UsersSocket};
use nix::unistd::{Gid, Group, Uid, User, geteuid};

use crate::output::printable;

/// The group whose members may use a daemon of root's, where there is such a group.
pub(crate) const USERS_GROUP: &str = "chimaera";

/// Reads a user: a name that this system knows, or a number.
pub(crate) fn user_id(text: &str) -> Result<u32, String> {
    id(text, "user", |name| {
        User::from_name(name).map(|user| user.map(|user| user.uid.as_raw()))
    })
}

/// Reads a group: a name that this system knows, or a number.
pub(crate) fn group_id(text: &str) -> Result<u32, String> {
    id(text, "group", |name| {
        Group::from_name(name).map(|group| group.map(|group| group.gid.as_raw()))
    })
}

fn id(
    text: &str,
    kind: &str,
    known: impl FnOnce(&str) -> nix::Result<Option<u32>>,
) -> Result<u32, String> {
    let id = match text.parse() {
        Ok(id) => id,
        Err(_) => match known(text) {
            Ok(Some(id)) => id,
            Ok(None) => return Err(format!("there is no {kind} of this name: give its number")),
            Err(errno) => return Err(format!("{kind}s cannot be looked up: {errno}")),
        },
    };
    match id {
        OVERFLOW_ID | u32::MAX => Err(format!("{id} is nobody's number: it owns nothing")),
        id => Ok(id),
    }
}

/// A user's name, or its number if this system knows no name.
pub(crate) fn user_name(id: u32) -> String {
    match User::from_uid(Uid::from_raw(id)) {
        Ok(Some(user)) => printable(&user.name).into_owned(),
        _ => id.to_string(),
    }
}

/// A group's name, or its number if this system knows no name.
pub(crate) fn group_name(id: u32) -> String {
    match Group::from_gid(Gid::from_raw(id)) {
        Ok(Some(group)) => printable(&group.name).into_owned(),
        _ => id.to_string(),
    }
}

/// Reads an owner and a group: `USER`, `USER:GROUP` or `:GROUP`.
pub(crate) fn owner_and_group(text: &str) -> Result<(Option<u32>, Option<u32>), String> {
    let (user, group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group_id(group)?)),
        None => (text, None),
    };
    let user = match user {
        "" if group.is_some() => None,
        user => Some(user_id(user)?),
    };
    Ok((user, group))
}

/// Reads a pool's mode: an octal number.
pub(crate) fn mode(text: &str) -> Result<u16, String> {
    let mode = u16::from_str_radix(text, 8).ok();
    mode.filter(|mode| mode & !MODE_BITS == 0)
        .ok_or_else(|| "a mode is an octal number from 0 to 777, for example 640".to_owned())
}

/// The pool that a command names: `NAME`, or `OWNER:NAME` for one of another user.
///
/// Before the colon stands a number or the name of a user that this system knows; else the colon is the name's.
pub(crate) fn split_owner(text: &str) -> (Option<u32>, &str) {
    match text.split_once(':') {
        Some((owner, name)) if !name.is_empty() => match user_id(owner) {
            Ok(owner) => (Some(owner), name),
            Err(_) => (None, text),
        },
        _ => (None, text),
    }
}

/// Reads the operators of a daemon: `USER` and `@GROUP`, between commas.
pub(crate) fn operators(texts: &[String]) -> Result<Operators, String> {
    let mut operators = Operators::default();
    for text in texts {
        let named = |error| format!("{text}: {error}");
        match text.strip_prefix('@') {
            Some(group) => operators.groups.push(group_id(group).map_err(named)?),
            None => operators.users.push(user_id(text).map_err(named)?),
        }
    }
    Ok(operators)
}

/// Reads a socket for users: `PATH[,mode=MODE][,group=GROUP][,max=read|write]`.
pub(crate) fn users_socket(text: &str) -> Result<UsersSocket, String> {
    let mut parts = text.split(',');
    let path = parts.next().unwrap_or_default();
    if path.is_empty() {
        return Err("it begins with the socket's path".to_owned());
    }
    let mut socket = default_users_socket(path);
    for part in parts {
        match part.split_once('=') {
            Some(("mode", text)) => socket.mode = mode(text)?.into(),
            Some(("group", text)) => socket.group = Some(group_id(text)?),
            Some(("max", "read")) => socket.max = UsersCeiling::Read,
            Some(("max", "write")) => socket.max = UsersCeiling::Write,
            _ => {
                return Err(format!(
                    "\"{part}\" is not mode=MODE, group=GROUP, max=read or max=write"
                ));
            }
        }
    }
    Ok(socket)
}

/// A socket for users of which only the path is given: of root's daemon for the members of [`USERS_GROUP`], if there is
/// that group; else for the daemon's own user.
pub(crate) fn default_users_socket(path: &str) -> UsersSocket {
    let group = match geteuid().is_root() {
        true => group_id(USERS_GROUP).ok(),
        false => None,
    };
    UsersSocket {
        path: path.into(),
        mode: if group.is_some() { 0o660 } else { 0o600 },
        group,
        max: UsersCeiling::Write,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_groups_and_modes_are_read_as_they_are_written() {
        assert_eq!(owner_and_group("1001"), Ok((Some(1001), None)));
        assert_eq!(owner_and_group("1001:100"), Ok((Some(1001), Some(100))));
        assert_eq!(owner_and_group(":100"), Ok((None, Some(100))));
        assert_eq!(owner_and_group("root"), Ok((Some(0), None)));
        for text in [
            "",
            ":",
            "1001:",
            "-1",
            "no such user",
            "65534",
            "4294967295",
        ] {
            assert!(owner_and_group(text).is_err(), "{text}");
        }
        assert_eq!(mode("640"), Ok(0o640));
        for text in ["", "8", "1777", "-1", "rw"] {
            assert!(mode(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_colon_names_an_owner_only_behind_a_user() {
        assert_eq!(split_owner("1001:name"), (Some(1001), "name"));
        assert_eq!(split_owner("root:a:b"), (Some(0), "a:b"));
        for text in ["name", "/a:b", "no such user:name", "1001:", ":name"] {
            assert_eq!(split_owner(text), (None, text));
        }
    }

    #[test]
    fn sockets_and_operators_are_read_or_say_what_is_wrong() {
        let socket = users_socket("/run/x,mode=0666,group=100,max=read").expect("is right");
        assert_eq!((socket.mode, socket.group), (0o666, Some(100)));
        assert_eq!(socket.max, UsersCeiling::Read);
        for text in [
            "",
            ",mode=0600",
            "/x,mode=9",
            "/x,max=all",
            "/x,y",
            "/x,group=",
        ] {
            assert!(users_socket(text).is_err(), "{text}");
        }
        let named = operators(&["1001".to_owned(), "@100".to_owned()]).expect("is right");
        assert_eq!((named.users, named.groups), (vec![1001], vec![100]));
        assert!(operators(&["@".to_owned()]).is_err());
    }
}
