//! What the tests share: file systems in images, recorder processes, a strict model.
#![allow(dead_code, unused_imports)]

pub mod client;
pub mod filesystem;
pub mod holders;
pub mod model;
pub mod process;
pub mod writers;

pub use client::Client;
pub use filesystem::{FileSystem, KINDS};
pub use holders::Holders;
pub use model::Model;
pub use process::Recorder;

/// Seed of a randomised test: `GSYNC_SEED`, or another one every time; printed, so that a failure can be repeated.
pub fn seed(what: &str) -> u64 {
    let seed = std::env::var("GSYNC_SEED").ok().and_then(|text| text.parse().ok());
    let seed = seed.unwrap_or_else(|| fastrand::u64(..1_000_000_000));
    eprintln!("{what}: GSYNC_SEED={seed}");
    seed
}

/// What a consumer believes once the recorder has caught up must be what is on the disk.
pub fn check(model: &mut Model, client: &mut Client, brick: &std::path::Path) {
    client.barrier();
    model.read(&client.journal);
    model.assert_equals_disk(brick);
    model.assert_data_announced(brick);
}

/// Waits until `done`, or panics.
pub fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while !done() {
        assert!(std::time::Instant::now() < deadline, "{what} did not happen within 60 s");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}
