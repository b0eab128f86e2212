//! Applications at work: the same few names, again and again, from several threads.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Instant;

use rustix::fs::{CWD, RenameFlags, renameat_with};

const NAMES: [&str; 12] = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l"];

/// Does `count` operations, most of which fail because of the other threads.
pub fn mess(brick: &Path, outside: &Path, count: usize, seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    for _ in 0..count {
        operation(brick, outside, &mut random);
    }
}

/// The same from four threads.
pub fn mess_from_four(brick: &Path, outside: &Path, count: usize, seed: u64) {
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            scope.spawn(move || mess(brick, outside, count / 4, seed.wrapping_mul(31).wrapping_add(thread)));
        }
    });
}

/// The same from three threads until a time.
pub fn mess_until(brick: &Path, outside: &Path, until: Instant, seed: u64) {
    std::thread::scope(|scope| {
        for thread in 0..3u64 {
            scope.spawn(move || {
                let mut number = 0;
                while Instant::now() < until {
                    mess(brick, outside, 20, seed ^ thread << 10 ^ number);
                    number += 1;
                }
            });
        }
    });
}

fn path(base: &Path, random: &mut fastrand::Rng) -> PathBuf {
    let mut path = base.to_owned();
    for _ in 0..random.usize(1..=3) {
        path.push(NAMES[random.usize(..NAMES.len())]);
    }
    path
}

fn operation(brick: &Path, outside: &Path, random: &mut fastrand::Rng) {
    let (a, b) = (path(brick, random), path(brick, random));
    let out = outside.join(NAMES[random.usize(..4)]);
    match random.usize(..100) {
        0..14 => drop(fs::create_dir(&a)),
        14..26 => drop(write(&a, &vec![b'x'; random.usize(..9000)])),
        26..46 => drop(fs::rename(&a, &b)),
        46..50 => drop(renameat_with(CWD, &a, CWD, &b, RenameFlags::EXCHANGE)),
        50..56 => drop(fs::hard_link(&a, &b)),
        56..62 => drop(fs::remove_file(&a)),
        62..66 => drop(fs::remove_dir(&a)),
        66..67 => drop(fs::remove_dir_all(&a)),
        67..71 => drop(fs::rename(&a, &out)),
        71..75 => drop(fs::rename(&out, &a)),
        75..79 => {
            // Ping-pong: the kernel merges the third rename into the first.
            for _ in 0..3 {
                drop(fs::rename(&a, &b));
                drop(fs::rename(&b, &a));
            }
        }
        79..84 => {
            if let Ok(mut file) = OpenOptions::new().append(true).custom_flags(NONBLOCK).open(&a) {
                drop(file.write_all(b"more"));
                if random.bool() {
                    drop(file.write_all_at(b"pwrite", 3));
                }
            }
        }
        84..88 => {
            if let Ok(file) = OpenOptions::new().write(true).custom_flags(NONBLOCK).open(&a) {
                drop(file.set_len(random.u64(..5000)));
            }
        }
        88..91 => {
            if a.is_file() {
                truncate(&a, random.i64(0..5000));
            }
        }
        91..94 => {
            if !fs::symlink_metadata(&a).is_ok_and(|stat| stat.is_symlink()) {
                drop(fs::set_permissions(&a, fs::Permissions::from_mode(random.u32(0o700..0o777))));
            }
        }
        94..97 => drop(xattr::set(&a, "user.test", &[random.u8(..)])),
        97..98 => drop(std::os::unix::fs::symlink("target", &a)),
        98..99 => drop(rustix::fs::mknodat(CWD, &a, rustix::fs::FileType::Fifo, 0o600.into(), 0)),
        _ => {
            // The way of editors.
            let temporary = a.with_extension("tmp");
            if write(&temporary, b"new content").is_ok() {
                drop(fs::rename(&temporary, &b));
            }
        }
    }
}

/// Opening a FIFO must not wait for a reader.
const NONBLOCK: i32 = rustix::fs::OFlags::NONBLOCK.bits() as i32;

fn write(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).custom_flags(NONBLOCK);
    options.open(path)?.write_all(content)
}

/// Truncates by path, for which rustix has no call.
fn truncate(path: &Path, length: i64) {
    let mut command = std::process::Command::new("truncate");
    drop(command.args(["-c", "-s"]).arg(length.to_string()).arg(path).output());
}
