//! What an application has of a connection whose daemon has ended, and how it goes on: what `docs/BDEV.md` says.

use std::path::Path;
use std::thread;

use chimaera_bdev_client::{
    Client, CreateOptions, Error, OwnedBlock, OwnerTag, PoolQuery, Runtime, Status,
};
use chimaera_tests::{
    Daemon, MIB, Watchdog, assert_refused, disk_folder, file_bytes, memory, text, until,
};

const QUERY: PoolQuery = PoolQuery::Local;
const OURS: OwnerTag = OwnerTag(0x0075);

/// As in `docs/BDEV.md`, at a socket that is named, and without pauses.
fn reconnect(socket: &Path, path: &str) -> Result<Client, Error> {
    loop {
        let opened = Runtime::connect_to(socket)
            .and_then(|runtime| Client::open_or_create(&runtime, path, &CreateOptions::file()));
        match opened {
            Err(error) if passes(error.status()) => thread::yield_now(),
            ended => return ended,
        }
    }
}

fn passes(status: Status) -> bool {
    matches!(
        status,
        Status::NoRuntime | Status::ShuttingDown | Status::ConnectionLost | Status::Busy
    )
}

#[test]
fn an_application_goes_on_with_the_next_daemon() {
    let _watchdog = Watchdog::start();
    let disk = disk_folder();
    let path = disk.path().join("pool");
    let daemon = Daemon::start();
    let socket = daemon.socket();
    let runtime = daemon.connect();
    let options = CreateOptions::file().size(file_bytes(4));
    let pool = Client::open_or_create(&runtime, text(&path), &options).expect("made");
    let volatile = memory(&runtime, MIB);
    let kept = pool.allocate_blocks_for(QUERY, 4096, OURS).expect("room")[0];
    let mut buffer = runtime.allocate_buffer(4096).expect("a buffer");
    buffer.fill(0x5A);
    pool.write(QUERY, &kept, &buffer).expect("a write");
    pool.flush(QUERY).expect("a flush");

    let folder = daemon.kill_and_leave();
    // The client notices without a call.
    until("the connection ends", || !runtime.is_connected());
    let lost = pool
        .async_write(QUERY, &kept, buffer)
        .wait()
        .expect_err("lost");
    assert_eq!(lost.status(), Status::ConnectionLost);
    let mut buffer = lost.into_buffer().expect("it comes back");
    assert_refused(
        pool.flush(QUERY),
        Status::ConnectionLost,
        &["connect again"],
    );
    assert!(buffer.iter().all(|&byte| byte == 0x5A), "still readable");
    buffer.fill(0xA5);
    let nobody = Runtime::connect_to(&socket);
    assert_refused(nobody.map(drop), Status::NoRuntime, &[]);

    let waits = thread::spawn({
        let (socket, path) = (socket.clone(), text(&path).to_owned());
        move || reconnect(&socket, &path)
    });
    let daemon = Daemon::start_in(folder, &[] as &[&str]);
    assert_eq!(daemon.socket(), socket);
    let again = waits.join().expect("no panic").expect("reconnected");
    assert!(!runtime.is_connected(), "the old connection stays lost");
    // The block is found by its tag, with what was flushed.
    let found: Vec<_> = again
        .all_blocks(QUERY)
        .map(|block| block.expect("listed"))
        .collect();
    assert_eq!(found, [OwnedBlock::new(kept, OURS)]);
    let mut read = again.runtime().allocate_buffer(4096).expect("a buffer");
    again.read(QUERY, &kept, &mut read).expect("a read");
    assert!(read.iter().all(|&byte| byte == 0x5A));
    let foreign = again.write(QUERY, &kept, &buffer);
    assert_refused(foreign, Status::InvalidBuffer, &["another connection"]);
    let gone = Client::new(again.runtime(), volatile.pool_id());
    assert_refused(gone.get_stats(), Status::PoolNotFound, &[]);
}
