//! A side behind a channel gives the same result, and nothing that a peer sends does harm.

mod common;

use std::fs;
use std::io::{Read, Write, pipe};
use std::path::Path;
use std::thread::JoinHandle;

use common::*;
use verify::{Options, Side, VerifyError};

/// A server thread for a tree and the side that talks to it.
fn remote(root: &Path) -> (Side, JoinHandle<Result<(), VerifyError>>) {
    let (server_input, client_output) = pipe().unwrap();
    let (client_input, server_output) = pipe().unwrap();
    let root = root.to_owned();
    let server = std::thread::spawn(move || verify::serve(&root, server_input, server_output));
    (Side::channel(client_input, client_output).unwrap(), server)
}

#[test]
fn a_channel_gives_the_same_result() {
    if !is_root("a_channel_gives_the_same_result") {
        return;
    }
    let trees = Trees::full();
    let options = Options::default();
    let mut primary = Side::local(trees.primary());
    let (mut secondary, server) = remote(&trees.secondary());
    let report = verify::compare(&mut primary, &mut secondary, &options).unwrap();
    assert_eq!(lines(&report), [""; 0]);

    // The same channel goes on answering, also about single paths.
    let at = trees.secondary();
    fs::remove_file(at.join("hard-a")).unwrap();
    fs::write(at.join("hard-a"), "hard").unwrap();
    fs::remove_dir_all(at.join("dir/sub")).unwrap();
    for name in 0..3000 {
        fs::write(at.join(format!("extra-{name}")), "").unwrap();
    }
    let local = trees.compare();
    let report = verify::compare(&mut primary, &mut secondary, &options).unwrap();
    assert_eq!(report.differences, local.differences);
    assert!(report.differing > 3000);
    let again = verify::recheck(&report, &mut primary, &mut secondary, &options).unwrap();
    assert_eq!(again.differences, local.differences);
    drop(secondary);
    server.join().unwrap().unwrap();
}

#[test]
fn deep_trees_fit_through_a_channel() {
    let trees = Trees::empty();
    make_deep(&trees.primary(), 80, b"same");
    make_deep(&trees.secondary(), 80, b"SAME");
    let (mut primary, server) = remote(&trees.primary());
    let (mut secondary, other) = remote(&trees.secondary());
    let report = verify::compare(&mut primary, &mut secondary, &Options::default()).unwrap();
    assert_eq!(report.differing, 80);
    let again = verify::recheck(&report, &mut primary, &mut secondary, &Options::default()).unwrap();
    assert_eq!(again.differences, report.differences);
    drop((primary, secondary));
    server.join().unwrap().unwrap();
    other.join().unwrap().unwrap();
}

#[test]
fn a_remote_root_that_is_not_there_is_an_error_with_its_reason() {
    let trees = Trees::empty();
    let (mut secondary, server) = remote(&trees.aside("nowhere"));
    let result = verify::compare(&mut Side::local(trees.primary()), &mut secondary, &Options::default());
    match result {
        Err(VerifyError::Refused { reason }) => assert!(reason.contains("No such file"), "{reason}"),
        other => panic!("{other:?}"),
    }
    drop(secondary);
    server.join().unwrap().unwrap();
}

/// What the channel carries in both directions during one comparison.
fn recording(trees: &Trees) -> (Vec<u8>, Vec<u8>) {
    let (server_input, client_output) = pipe().unwrap();
    let (client_input, server_output) = pipe().unwrap();
    let root = trees.secondary();
    let (to_server, to_client) = (Tape::new(trees.aside("to-server")), Tape::new(trees.aside("to-client")));
    let (server_tape, client_tape) = (to_client.path.clone(), to_server.path.clone());
    let server = std::thread::spawn(move || verify::serve(&root, server_input, to_client.tee(server_output)));
    let mut secondary = Side::channel(client_input, to_server.tee(client_output)).unwrap();
    let mut primary = Side::local(trees.primary());
    let report = verify::compare(&mut primary, &mut secondary, &Options::default()).unwrap();
    verify::recheck(&report, &mut primary, &mut secondary, &Options::default()).unwrap();
    drop(secondary);
    server.join().unwrap().unwrap();
    (fs::read(client_tape).unwrap(), fs::read(server_tape).unwrap())
}

struct Tape {
    path: std::path::PathBuf,
    file: fs::File,
}

impl Tape {
    fn new(path: std::path::PathBuf) -> Tape {
        let file = fs::File::create(&path).unwrap();
        Tape { path, file }
    }

    fn tee(self, to: impl Write + Send + 'static) -> impl Write + Send + 'static {
        Tee { file: self.file, to }
    }
}

struct Tee<W> {
    file: fs::File,
    to: W,
}

impl<W: Write> Write for Tee<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.to.write_all(bytes)?;
        self.file.write_all(bytes)?;
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        self.to.flush()
    }
}

/// Damage of all kinds, with checksums repaired or not.
fn damaged(good: &[u8], random: &mut fastrand::Rng) -> Vec<u8> {
    let mut bad = good.to_vec();
    match random.u8(0..4) {
        0 => bad.truncate(random.usize(0..good.len())),
        1 => bad[random.usize(0..good.len())] ^= 1 << random.u8(0..8),
        2 => bad.insert(random.usize(0..good.len()), random.u8(..)),
        _ => {
            // Damage inside of a frame whose checksum is good: what a hostile peer can send.
            let mut at = 8;
            let mut frames = Vec::new();
            while let Some(header) = bad.get(at..at + 8) {
                let length = u32::from_le_bytes(header[..4].try_into().unwrap()) as usize;
                frames.push((at, length));
                at += 8 + length;
            }
            let (start, length) = frames[random.usize(0..frames.len())];
            for _ in 0..random.usize(1..4) {
                bad[start + 8 + random.usize(0..length)] = random.u8(..);
            }
            let frame = protocol::frame::encode(&Raw(bad[start + 8..start + 8 + length].to_vec())).unwrap();
            bad[start..start + 8 + length].copy_from_slice(&frame);
        }
    }
    bad
}

/// Bytes that are encoded as they are.
struct Raw(Vec<u8>);

impl serde::Serialize for Raw {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeTuple;
        let mut tuple = serializer.serialize_tuple(self.0.len())?;
        self.0.iter().try_for_each(|byte| tuple.serialize_element(byte))?;
        tuple.end()
    }
}

#[test]
fn damage_and_malice_are_errors_and_no_panics() {
    if !is_root("damage_and_malice_are_errors_and_no_panics") {
        return;
    }
    let trees = Trees::full();
    fs::write(trees.secondary().join("extra"), "").unwrap();
    let (to_server, to_client) = recording(&trees);
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let small = Trees::empty();
    for _ in 0..3000 {
        let bad = damaged(&to_server, &mut random);
        let _ = verify::serve(&small.primary(), bad.as_slice(), std::io::sink());
        let bad = damaged(&to_client, &mut random);
        if let Ok(mut secondary) = Side::channel(std::io::Cursor::new(bad), std::io::sink()) {
            let _ = verify::compare(&mut Side::local(small.primary()), &mut secondary, &Options::default());
        }
    }
}

#[test]
fn another_protocol_is_told_apart() {
    let answer = |bytes: &'static [u8]| Side::channel(bytes, std::io::sink()).map(|_| ());
    assert!(matches!(answer(b"Welcome to Debian!\n"), Err(VerifyError::NotManifest { .. })));
    assert!(matches!(answer(b""), Err(VerifyError::Channel { .. })));
    let mut newer = b"\x89GMnfs\r\n".to_vec();
    let versions = protocol::hello::Versions { min: 7, max: 9, software: String::new() };
    protocol::write_frame(&mut newer, &versions).unwrap();
    let result = Side::channel(std::io::Cursor::new(newer), std::io::sink()).map(|_| ());
    assert!(matches!(result, Err(VerifyError::Version { min: 7, max: 9 })));
}

#[test]
fn a_channel_that_failed_stays_failed() {
    let trees = Trees::empty();
    let (server_input, client_output) = pipe().unwrap();
    let (client_input, mut server_output) = pipe().unwrap();
    let server = std::thread::spawn(move || {
        let mut greeting = vec![0; 8];
        let mut input = server_input;
        input.read_exact(&mut greeting).unwrap();
        server_output.write_all(b"\x89GMnfs\r\n").unwrap();
        let ours = protocol::hello::Versions { min: 1, max: 1, software: String::new() };
        protocol::write_frame(&mut server_output, &ours).unwrap();
        drop(server_output);
        let _ = input.read_to_end(&mut greeting);
    });
    let mut secondary = Side::channel(client_input, client_output).unwrap();
    let mut primary = Side::local(trees.primary());
    let compare =
        |primary: &mut Side, secondary: &mut Side| verify::compare(primary, secondary, &Options::default()).map(|_| ());
    assert!(matches!(compare(&mut primary, &mut secondary), Err(VerifyError::Channel { .. })));
    assert!(matches!(compare(&mut primary, &mut secondary), Err(VerifyError::ChannelSpent)));
    drop(secondary);
    server.join().unwrap();
}
