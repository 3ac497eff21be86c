//! Several creators of one pool at a time: whoever has made the file, nobody removes it from a pool.

use std::path::Path;
use std::sync::Barrier;
use std::thread;

use chimaera_bdev_client::{
    Client, CreateOptions, Error, PoolId, PoolInfo, PoolQuery, Runtime, embed,
};
use chimaera_testing::{MIB, Watchdog};

const QUERY: PoolQuery = PoolQuery::Dynamic;
const ROUNDS: usize = 50;

fn embedded() -> Runtime {
    embed().workers(1).start().expect("starts")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// Creates the pool by as many threads at once as there are options.
fn create_at_once(
    runtime: &Runtime,
    path: &Path,
    options: &[CreateOptions],
) -> Vec<Result<PoolInfo, Error>> {
    let barrier = Barrier::new(options.len());
    thread::scope(|scope| {
        let creators = options.iter().map(|options| {
            scope.spawn(|| {
                let client = Client::new(runtime, PoolId::NULL);
                barrier.wait();
                client.create(QUERY, text(path), options)
            })
        });
        let creators: Vec<_> = creators.collect();
        let ended = creators
            .into_iter()
            .map(|creator| creator.join().expect("no panic"));
        ended.collect()
    })
}

/// Has several threads create each of many pools, and checks that a pool that is there has its file.
fn check_files(options: &[CreateOptions]) {
    let _watchdog = Watchdog::start();
    let runtime = embedded();
    let folder = tempfile::tempdir().expect("a folder");
    for round in 0..ROUNDS {
        let path = folder.path().join(format!("pool{round}"));
        let created = create_at_once(&runtime, &path, options);
        if runtime.admin().find_pool(text(&path)).is_ok() {
            assert!(path.exists(), "the pool has lost its file: {created:?}");
            let again = Client::new(&runtime, PoolId::NULL);
            again
                .create(QUERY, text(&path), &CreateOptions::file())
                .expect("it is there, on its file");
            runtime
                .admin()
                .destroy_pool(text(&path))
                .expect("the pool ends");
        }
    }
}

#[test]
fn who_creates_a_pool_that_others_create_too_leaves_them_its_file() {
    let options = || CreateOptions::file().size(4 * MIB);
    check_files(&[options(), options(), options(), options()]);
}

#[test]
fn who_is_refused_because_of_another_ones_pool_leaves_it_its_file() {
    let options = |depth| CreateOptions::file().size(4 * MIB).io_depth(depth);
    check_files(&[options(32), options(64), options(32), options(64)]);
}
