//! The first thing that a newcomer runs.

use std::process::Command;

use chimaera_bdev_format::{Geometry, PAGE_BYTES};
use chimaera_tests::{finish, program};
use tempfile::TempDir;

#[test]
fn the_demo_shows_both_pools_intact_and_leaves_nothing_behind() {
    let folder = TempDir::new().expect("a folder");
    let temporary = folder.path().join("tmp");
    let work = folder.path().join("work");
    std::fs::create_dir(&temporary).expect("a folder");
    std::fs::create_dir(&work).expect("a folder");
    let mut demo = Command::new(program("chimaera"));
    demo.arg("demo")
        .current_dir(&work)
        .env("TMPDIR", &temporary)
        // It needs no daemon, and looks for none.
        .env("CHIMAERA_SOCKET", folder.path().join("nobody.sock"));
    let finished = finish(demo);
    assert_eq!(finished.stderr, "");
    let said = finished.success();
    let (ram, file) = said
        .split_once("File pool")
        .expect("a RAM pool, then a file pool");
    for (pool, part) in [("RAM", ram), ("file", file)] {
        assert!(part.contains("wrote      1048576 bytes"), "{pool}: {said}");
        assert!(
            part.contains("read       1048576 bytes, intact"),
            "{pool}: {said}"
        );
        assert!(part.contains("256.0 MiB"), "{pool}: {said}");
        for block in ["4 KiB", "64 KiB", "256 KiB", "1 MiB"] {
            let row = part
                .lines()
                .find(|line| line.trim_start().starts_with(block));
            assert!(
                row.is_some_and(|row| row.matches("GB/s").count() == 2),
                "{pool}, {block}: {said}"
            );
        }
    }
    assert!(ram.contains("RAM pool"), "{said}");
    assert!(ram.contains("→ 256.0 MiB free"), "{said}");
    // All but its metadata.
    let geometry = Geometry::new((256 << 20) / PAGE_BYTES as u64).expect("room");
    let [metadata, room] = [
        geometry.reserved_pages(),
        geometry.total_pages() - geometry.reserved_pages(),
    ]
    .map(|pages| (pages * PAGE_BYTES as u64) as f64 / f64::from(1 << 20));
    for words in [
        format!("{metadata:.1} MiB of it for its metadata"),
        format!("→ {room:.1} MiB free"),
    ] {
        assert!(file.contains(&words), "no {words:?} in {said}");
    }
    for left in [&temporary, &work] {
        let left: Vec<_> = std::fs::read_dir(left).expect("a folder").collect();
        assert!(left.is_empty(), "the demo leaves {left:?}");
    }
}
