//! Long and large: run by hand, `cargo test -p recorder --release --test soak -- --ignored --nocapture`.

mod common;

use std::fs;
use std::time::Instant;

use common::{FileSystem, Model, Recorder};

fn peak_memory_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn tree(root: &std::path::Path, dirs: usize, files: usize) {
    for dir in 0..dirs {
        let path = root.join(format!("d{}/d{dir}", dir % 20));
        fs::create_dir_all(&path).unwrap();
        for file in 0..files {
            fs::File::create(path.join(format!("file-{file}"))).unwrap();
        }
    }
}

/// Memory does not grow with the tree: first crawl, restart, the whole tree moved out, created under load.
#[test]
#[ignore = "takes minutes"]
fn memory_is_bounded() {
    let Some(filesystem) = FileSystem::new("tmpfs") else { return };
    let (brick, state, outside) = (filesystem.dir("brick"), filesystem.dir("state"), filesystem.dir("outside"));
    let files = std::env::var("GSYNC_SOAK_FILES").ok().and_then(|text| text.parse().ok()).unwrap_or(200_000usize);
    tree(&brick.join("tree"), 100, files / 100);
    let report = |what: &str, begin: Instant, recorder: &Recorder| {
        let peak = peak_memory_kib(recorder.pid());
        eprintln!("{what}: {:.1} s, peak {} MiB", begin.elapsed().as_secs_f64(), peak >> 10);
        assert!(peak < 220 << 10, "{what}: {peak} KiB");
    };
    let recorder = Recorder::start(&[]);
    let begin = Instant::now();
    let mut client = recorder.follow(&brick, &state);
    client.barrier();
    report("first crawl", begin, &recorder);
    eprintln!("index: {} MiB", fs::metadata(state.join("index.redb")).unwrap().len() >> 20);
    recorder.stop();

    let recorder = Recorder::start(&[]);
    let begin = Instant::now();
    let mut client = recorder.follow(&brick, &state);
    client.barrier();
    report("crawl without changes", begin, &recorder);

    let begin = Instant::now();
    tree(&brick.join("more"), 100, files / 400);
    client.barrier();
    report("created while watched", begin, &recorder);

    let begin = Instant::now();
    fs::rename(brick.join("tree"), outside.join("tree")).unwrap();
    client.barrier();
    report("moved out", begin, &recorder);
    fs::rename(outside.join("tree"), brick.join("tree")).unwrap();
    client.barrier();
    let mut model = Model::default();
    model.read(&client.journal);
    model.assert_equals_disk(&brick);
    recorder.stop();
}
