//! `chimaera runtime`: the daemon as a whole.

mod daemon_watch;
mod link;
mod status;
mod stop;

use std::path::Path;

use chimaera_client::SocketPlace;
use chimaera_runtime::{check_processors, check_socket_path};

use crate::args::{GlobalArguments, RuntimeCommand, StartArguments};
use crate::daemon;
use crate::failure::CommandFailure;

pub(crate) fn run(
    command: &RuntimeCommand,
    global: &GlobalArguments,
) -> Result<(), CommandFailure> {
    match command {
        RuntimeCommand::Start(arguments) => start(arguments, global),
        RuntimeCommand::Stop(daemon) => stop::stop(daemon, global),
        RuntimeCommand::Status(daemon) => status::status(daemon, global),
    }
}

fn start(arguments: &StartArguments, global: &GlobalArguments) -> Result<(), CommandFailure> {
    let place = match &arguments.place.socket {
        Some(path) => SocketPlace::named(path),
        None => SocketPlace::own(),
    };
    // All of this is checked before anything is made.
    check_socket_path(place.path())?;
    let socket = daemon::absolute(place.path())?;
    check_processors(&arguments.pin)
        .map_err(|error| CommandFailure::from(error).map_text(|text| format!("--pin: {text}")))?;
    for folder in &arguments.plugin_dir {
        check_plugin_folder(folder)?;
    }
    place.prepare().map_err(|error| {
        let failure = CommandFailure::unusable_folder(&error);
        failure.map_text(|text| format!("cannot start the daemon: {text}"))
    })?;
    if arguments.detach {
        daemon::detach(arguments, &socket, global)
    } else {
        daemon::run(arguments, &socket, global)
    }
}

/// Refuses a plugin folder that is not there: it is a mistake, even if it might be made later.
fn check_plugin_folder(folder: &Path) -> Result<(), CommandFailure> {
    let shown = folder.display();
    match std::fs::metadata(folder) {
        Ok(found) if found.is_dir() => Ok(()),
        Ok(_) => Err(CommandFailure::not_found(format!(
            "--plugin-dir {shown} is not a folder: name one that has plugins"
        ))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Err(CommandFailure::not_found(format!(
                "--plugin-dir {shown} is not there: make it, or name one that has plugins"
            )))
        }
        Err(error) => Err(CommandFailure::system(format_args!(
            "cannot use --plugin-dir {shown}"
        ))(error)),
    }
}
