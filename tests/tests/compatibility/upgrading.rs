//! Pools of all programs are made pools of version 2, if they are not.

use std::fs::File;

use chimaera_tests::exit::NO_SPACE;
use chimaera_tests::{Daemon, chimaera, json, text};

use crate::restored::{RestoredPool, for_each_image};

/// Extends the file, and has the daemon open it, which lets the pool grow.
fn grow(restored: &RestoredPool, daemon: &Daemon, bytes: u64) {
    let file = File::options().write(true).open(&restored.path);
    let file = file.expect("the pool");
    let size = file.metadata().expect("its size").len();
    file.set_len(size + bytes).expect("more space");
    let runtime = daemon.connect();
    let pool = restored.open(daemon, &runtime);
    let destroyed = runtime.admin().destroy_pool(pool.pool_id());
    destroyed.expect("the pool goes");
}

#[test]
fn each_is_upgraded_and_holds_what_it_held() {
    let daemon = Daemon::start();
    for_each_image(|name, image| {
        let mut restored = RestoredPool::renamed(image);
        let is_old = restored.version() == 1;
        let path = restored.path.clone();
        let upgrade = ["pool", "upgrade", text(&path), "--json"];
        let mut upgraded = chimaera(&upgrade);
        if upgraded.code == Some(NO_SPACE) {
            let report = json(&upgraded.stdout);
            let growth = report["missing_room"]["grow_by"].as_u64();
            grow(&restored, &daemon, growth.expect("growing helps"));
            upgraded = chimaera(&upgrade);
        }
        let report = json(&upgraded.success());
        assert_eq!(report["upgraded"], is_old, "{name}: {report}");
        let found = restored.inspect();
        assert_eq!(found["format_version"], 2, "{name}: {found}");
        restored.image.remaining = found["remaining_size"].as_u64().expect("a number");
        let runtime = daemon.connect();
        let pool = restored.open(&daemon, &runtime);
        restored.assert_holds(&daemon, &pool);
        restored.change(&pool);
        restored.assert_holds(&daemon, &pool);
        let destroyed = runtime.admin().destroy_pool(pool.pool_id());
        destroyed.expect("the pool goes");
        let _ = chimaera(&["pool", "check", text(&path)]).success();
    });
}
