//! The corpus and small helpers, shared by the tests.
#![allow(dead_code)]

use std::fs;
use std::path::{Path, PathBuf};

use changelog::encoding::{Decoded, decode};
use changelog::header::{HeaderStep, decode_header};
use changelog::{Birth, EntryName, EntryOp, Fop, Format, Gfid, JournalOptions, JournalReader, JournalWriter};
use changelog::{Position, Record, Unproven};

/// The bricks of the corpus.
pub const BRICKS: [&str; 4] = ["crep-p1", "crep-p2", "cdht-p1", "cdht-p2"];

pub fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/gluster-10.3")
}

pub fn journal_of(brick: &str) -> PathBuf {
    corpus().join(brick).join("changelogs")
}

/// All slices of a brick (the open one too), sorted by path.
pub fn slices_of(brick: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut todo = vec![journal_of(brick)];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            if path.is_dir() {
                todo.push(path);
            } else if name.starts_with("CHANGELOG") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// Decodes a whole file.
pub fn decode_file(bytes: &[u8]) -> (Format, Decoded) {
    let HeaderStep::Header { format, len } = decode_header(bytes) else { panic!("no header") };
    (format, decode(&bytes[len..], format))
}

pub fn gfid(number: u64) -> Gfid {
    let mut bytes = [0; 16];
    bytes[8..].copy_from_slice(&number.to_be_bytes());
    Gfid(bytes)
}

/// A record that says its number, of varying kind and length.
pub fn numbered(number: u64) -> Record {
    let name = |text: &str| EntryName { parent: Gfid::ROOT, name: text.repeat(1 + number as usize % 7).into_bytes() };
    let birth = Birth { mode: 0o100644, uid: number as u32 % 70_000, gid: 7 };
    match number % 6 {
        0 => Record::Entry(gfid(number), EntryOp::Create(birth, name("new\n"))),
        1 => Record::Data(gfid(number)),
        2 => Record::Meta(gfid(number), Fop::SETATTR),
        3 => Record::Entry(gfid(number), EntryOp::Rename(name("a "), name("\u{e4}%"))),
        4 => Record::Entry(gfid(number), EntryOp::Unlink(name("gone"), None)),
        _ => Record::Entry(gfid(number), EntryOp::Rmdir(name("dir"), Some(b"a/b/dir".to_vec()))),
    }
}

pub fn number_of(record: &Record) -> u64 {
    u64::from_be_bytes(record.gfid().0[8..].try_into().unwrap())
}

pub fn writer(dir: &Path, now_secs: u64) -> JournalWriter {
    JournalWriter::create_or_open(dir, JournalOptions { now_secs }).unwrap()
}

/// Reads everything from a position to the tail.
pub fn read_all(dir: &Path, from: Position) -> (Vec<(Position, Record)>, Vec<Unproven>, Position) {
    let mut reader = JournalReader::open(dir, from).unwrap();
    read_rest(&mut reader)
}

pub fn read_rest(reader: &mut JournalReader) -> (Vec<(Position, Record)>, Vec<Unproven>, Position) {
    let (mut records, mut unproven) = (Vec::new(), Vec::new());
    loop {
        let batch = reader.read(100).unwrap();
        records.extend(batch.records);
        unproven.extend(batch.unproven);
        if batch.at_tail {
            return (records, unproven, batch.next);
        }
    }
}

/// Copies a directory with everything in it.
pub fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy_dir(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
}

/// The number in an environment variable, or a random one; printed, so that a failure can be repeated.
pub fn seed(variable: &str) -> u64 {
    let seed = std::env::var(variable).ok().map_or_else(|| fastrand::u64(..), |text| text.parse().unwrap());
    println!("{variable}={seed}");
    seed
}

/// A directory in memory where there is one: thousands of rolls, with several syncs each.
pub fn quick_dir() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| tempfile::tempdir().unwrap())
}
