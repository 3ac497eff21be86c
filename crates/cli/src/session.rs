//! `chimaera session`: who uses the daemon, and how much of it.

use std::collections::BTreeMap;

use chimaera_client::proto::accounts::{ResourceUse, SessionInfo, SessionList};
use serde::Serialize;

use crate::args::{DaemonArguments, GlobalArguments, SessionCommand};
use crate::connection::{ask, connect_small};
use crate::failure::CommandFailure;
use crate::output::{self, printable};
use crate::size::show_size;
use crate::users::user_name;

pub(crate) fn run(
    command: &SessionCommand,
    global: &GlobalArguments,
) -> Result<(), CommandFailure> {
    match command {
        SessionCommand::List(daemon) => list(daemon, global),
    }
}

/// What `session list --json` prints.
#[derive(Serialize)]
struct ListReport {
    sessions: Vec<SessionReport>,
    users: Vec<UserReport>,
}

#[derive(Serialize)]
struct SessionReport {
    session: u64,
    user: u32,
    process_id: i32,
    name: String,
    is_operator: bool,
    age_seconds: u64,
    is_ending: bool,
    uses: Vec<ResourceUse>,
}

#[derive(Serialize)]
struct UserReport {
    user: u32,
    uses: Vec<ResourceUse>,
}

impl From<SessionInfo> for SessionReport {
    fn from(session: SessionInfo) -> Self {
        Self {
            session: session.session,
            user: session.user,
            process_id: session.process_id,
            name: session.name,
            is_operator: session.is_operator,
            age_seconds: session.age_seconds,
            is_ending: session.is_ending,
            uses: session.uses,
        }
    }
}

fn list(daemon: &DaemonArguments, global: &GlobalArguments) -> Result<(), CommandFailure> {
    let runtime = connect_small(daemon)?;
    let (mut sessions, mut users) = (Vec::new(), BTreeMap::new());
    loop {
        let after = sessions.last().map_or(0, |last: &SessionInfo| last.session);
        let page: SessionList = ask(runtime.admin().async_session_page(after), daemon)?;
        let advances = page
            .sessions
            .first()
            .is_some_and(|first| first.session > after);
        sessions.extend(page.sessions);
        users.extend(page.users.into_iter().map(|user| (user.user, user.uses)));
        // A page that does not advance would be requested again and again.
        if !page.more || !advances {
            break;
        }
    }
    if global.json {
        let users = users.into_iter();
        return output::json(&ListReport {
            sessions: sessions.into_iter().map(SessionReport::from).collect(),
            users: users
                .map(|(user, uses)| UserReport { user, uses })
                .collect(),
        });
    }
    show_sessions(&sessions);
    for (user, uses) in &users {
        output::line(format_args!(""));
        output::line(format_args!("user {} has", user_name(*user)));
        let mut table = output::table(&["  RESOURCE", "USED", "OF AT MOST"], 1);
        for used in uses {
            let limit = used
                .limit
                .map_or("-".to_owned(), |limit| amount(used, limit));
            table.add_row([
                format!("  {}", used.resource),
                amount(used, used.used),
                limit,
            ]);
        }
        output::lines(table.trim_fmt());
    }
    Ok(())
}

fn show_sessions(sessions: &[SessionInfo]) {
    let heading = [
        "SESSION", "USER", "PID", "LANES", "SEGMENTS", "MAPPED", "AGE", "PROGRAM",
    ];
    let mut table = output::table(&heading, 2);
    for session in sessions {
        let of = |resource: &str| {
            let mut uses = session.uses.iter();
            uses.find(|used| used.resource == resource)
                .map_or_else(|| "0".to_owned(), |used| amount(used, used.used))
        };
        let ending = if session.is_ending { " (ending)" } else { "" };
        table.add_row([
            session.session.to_string(),
            user_name(session.user),
            session.process_id.to_string(),
            of("lanes"),
            of("segments"),
            of("address-bytes"),
            format!("{} s", session.age_seconds),
            format!("{}{ending}", printable(&session.name)),
        ]);
    }
    output::lines(table.trim_fmt());
}

/// So much of a resource, as people write it.
fn amount(used: &ResourceUse, amount: u64) -> String {
    match used.resource.ends_with("-bytes") {
        true => show_size(amount),
        false => amount.to_string(),
    }
}
