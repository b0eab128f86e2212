//! Every kind of damage at every place of a small journal: nothing panics, and no record is lost without a report.
//!
//! A lost record must show as an unproven span or as an error. The exceptions are GlusterFS's format's own, and are
//! named in the tests: a slice of GlusterFS has neither length nor checksum.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use changelog::{Format, History, JournalReader, Position, Reason, Record, Unproven};
use support::{copy_dir, decode_file, journal_of, numbered, writer};

const NOW: u64 = 1_795_221_431;

/// A journal of six slices (two of them empty) and an open one.
fn journal() -> (tempfile::TempDir, Vec<Record>) {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = writer(&dir.path().join("whole"), NOW);
    let mut records = Vec::new();
    for (round, count) in [2, 3, 0, 1, 0, 4].into_iter().enumerate() {
        let first = records.len() as u64;
        records.extend((first..first + count).map(numbered));
        writer.append(&records[first as usize..]).unwrap();
        writer.roll(NOW + 10 + round as u64 * 15).unwrap();
    }
    records.push(numbered(records.len() as u64));
    writer.append(&records[records.len() - 1..]).unwrap();
    (dir, records)
}

/// A fresh copy of the whole journal.
fn copy(dir: &Path) -> PathBuf {
    let damaged = dir.join("damaged");
    if damaged.exists() {
        fs::remove_dir_all(&damaged).unwrap();
    }
    copy_dir(&dir.join("whole"), &damaged);
    damaged
}

fn slice_files(dir: &Path) -> Vec<PathBuf> {
    History::read(dir).unwrap().slices.into_iter().map(|slice| slice.path.unwrap()).collect()
}

/// Reads to the tail; `None` for an error. Ends in any case.
fn read(dir: &Path, from: Position) -> Option<(Vec<Record>, Vec<Unproven>)> {
    let mut reader = JournalReader::open(dir, from).ok()?;
    let (mut records, mut unproven) = (Vec::new(), Vec::new());
    for _ in 0..1000 {
        let batch = reader.read(3).ok()?;
        records.extend(batch.records.into_iter().map(|(_, record)| record));
        unproven.extend(batch.unproven);
        if batch.at_tail {
            return Some((records, unproven));
        }
    }
    panic!("reading does not end");
}

/// Demands that every record was read, in order, or that something was reported; returns whether it was.
fn check(dir: &Path, expected: &[Record], what: &str) -> bool {
    History::read(dir).ok();
    let Some((records, unproven)) = read(dir, Position::START) else { return true };
    let complete = records == expected;
    assert!(
        complete || !unproven.is_empty(),
        "{what}: {} of {} records, nothing reported",
        records.len(),
        expected.len()
    );
    !unproven.is_empty()
}

#[test]
fn a_slice_of_our_own_cut_anywhere_is_reported() {
    let (dir, records) = journal();
    for slice in 0..4 {
        let damaged = copy(dir.path());
        let path = &slice_files(&damaged)[slice];
        let bytes = fs::read(path).unwrap();
        for len in 0..bytes.len() {
            fs::write(path, &bytes[..len]).unwrap();
            assert!(check(&damaged, &records, &format!("slice {slice} cut to {len}")));
        }
    }
}

#[test]
fn a_slice_of_our_own_changed_anywhere_is_reported() {
    let (dir, records) = journal();
    let damaged = copy(dir.path());
    let path = &slice_files(&damaged)[1];
    let bytes = fs::read(path).unwrap();
    for at in 0..bytes.len() {
        for change in [bytes[at] ^ 1, bytes[at] ^ 0x80, 0] {
            let mut changed = bytes.clone();
            changed[at] = change;
            if changed == bytes {
                continue;
            }
            fs::write(path, &changed).unwrap();
            assert!(check(&damaged, &records, &format!("byte {at} is {change}")));
        }
        let mut zeroed = bytes.clone();
        zeroed[at..].fill(0);
        if zeroed != bytes {
            fs::write(path, &zeroed).unwrap();
            assert!(check(&damaged, &records, &format!("zeros from {at}")));
        }
        let doubled = [&bytes[..at], &bytes].concat();
        fs::write(path, &doubled).unwrap();
        assert_eq!(check(&damaged, &records, &format!("first {at} bytes twice")), at > 0);
    }
}

#[test]
fn slices_that_are_missing_exchanged_or_no_files_are_reported() {
    let (dir, records) = journal();
    for slice in 0..4 {
        let damaged = copy(dir.path());
        let files = slice_files(&damaged);
        let path = &files[slice];
        fs::remove_file(path).unwrap();
        assert!(check(&damaged, &records, "missing"));
        fs::create_dir(path).unwrap();
        check(&damaged, &records, "a directory");
        fs::remove_dir(path).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, path, rustix::fs::Mode::RWXU).unwrap();
        assert!(check(&damaged, &records, "a FIFO"));
        fs::remove_file(path).unwrap();
        std::os::unix::fs::symlink(&files[(slice + 1) % 4], path).unwrap();
        assert!(check(&damaged, &records, "a link to another slice"));
        fs::remove_file(path).unwrap();
        fs::copy(&files[(slice + 1) % 4], path).unwrap();
        assert!(check(&damaged, &records, "another slice"));
    }
    let damaged = copy(dir.path());
    fs::remove_dir_all(damaged.join("2026")).unwrap();
    let (records, unproven) = read(&damaged, Position::START).unwrap();
    assert_eq!((records.len(), unproven.len()), (1, 1), "one span for all that is missing: {unproven:?}");
    assert_eq!((unproven[0].from, unproven[0].to), (0, Some(NOW + 85)));
}

#[test]
fn a_damaged_index_loses_no_slice() {
    let (dir, records) = journal();
    let damaged = copy(dir.path());
    let path = damaged.join(format!("htime/HTIME.{NOW}"));
    let bytes = fs::read(&path).unwrap();
    for at in 0..bytes.len() {
        // Whatever the index says, all slices are on the disk and are read.
        let whole = |changed: &[u8], what: &str| {
            fs::write(&path, changed).unwrap();
            check(&damaged, &records, &format!("{what} at {at}"));
            let (read, unproven) = read(&damaged, Position::START).unwrap();
            let lost: BTreeSet<_> = records.iter().map(Record::gfid).collect::<BTreeSet<_>>();
            let found: BTreeSet<_> = read.iter().map(Record::gfid).collect();
            assert!(found == lost, "{what} at {at}: {unproven:?}");
        };
        whole(&bytes[..at], "cut");
        whole(&[&bytes[..at], &bytes].concat(), "twice");
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        whole(&changed, "flipped");
        changed[at..].fill(0);
        whole(&changed, "zeros");
    }
}

/// The index is the proof that nothing is missing, so a slice that is gone must show while either of the two is left.
#[test]
fn a_slice_missing_from_disk_and_a_damaged_index_are_reported() {
    let (dir, records) = journal();
    let damaged = copy(dir.path());
    let path = damaged.join(format!("htime/HTIME.{NOW}"));
    let bytes = fs::read(&path).unwrap();
    fs::remove_file(&slice_files(&damaged)[1]).unwrap();
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        // Not shown: the record of the slice that is missing turned into a valid one of an empty slice. One bit does
        // not do that (C to c is 0x20).
        fs::write(&path, &changed).unwrap();
        assert!(check(&damaged, &records, &format!("flipped at {at}")));
        changed[at..].fill(0);
        fs::write(&path, &changed).unwrap();
        assert!(check(&damaged, &records, &format!("zeros at {at}")));
        fs::write(&path, &bytes[..at]).unwrap();
        assert!(check(&damaged, &records, &format!("cut at {at}")));
    }
    fs::remove_file(&path).unwrap();
    assert!(check(&damaged, &records, "no index"));
}

#[test]
fn a_clock_that_went_backwards_is_reported() {
    let (dir, _) = journal();
    let damaged = copy(dir.path());
    let path = damaged.join(format!("htime/HTIME.{NOW}"));
    let bytes = fs::read(&path).unwrap();
    let late: Vec<u8> = [bytes.as_slice(), format!("/x/CHANGELOG.{}\0", NOW + 12).as_bytes()].concat();
    fs::write(&path, late).unwrap();
    fs::write(damaged.join(format!("CHANGELOG.{}", NOW + 12)), Format::OWN.header()).unwrap();
    // For a reader that was behind it all already, too.
    for after in [0, NOW + 10, NOW + 85] {
        let (_, unproven) = read(&damaged, Position { after, offset: 0 }).unwrap();
        let backwards = unproven.iter().filter(|span| span.reason == Reason::ClockBackwards).count();
        assert_eq!(backwards, 1, "{after}: {unproven:?}");
    }
}

#[test]
fn positions_that_the_journal_does_not_have_are_reported() {
    let (dir, records) = journal();
    let damaged = copy(dir.path());
    for (position, reason) in [
        (Position { after: NOW - 5, offset: 0 }, Reason::BeforeIndex),
        (Position { after: NOW + 10_000, offset: 0 }, Reason::PositionUnknown),
        (Position { after: NOW + 10, offset: 52 }, Reason::PositionInvalid),
        (Position { after: NOW + 10, offset: 5000 }, Reason::PositionInvalid),
        (Position { after: NOW + 85, offset: 5000 }, Reason::PositionInvalid),
    ] {
        let (read, unproven) = read(&damaged, position).unwrap();
        assert_eq!(unproven.iter().map(|span| span.reason).collect::<Vec<_>>(), [reason], "{position}");
        assert!(records.ends_with(&read));
    }
}

/// GlusterFS's slices have no checksum: what is shown is a cut inside a record, and bytes that are no record.
#[test]
fn a_slice_of_glusterfs_cut_inside_a_record_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    copy_dir(&journal_of("cdht-p1"), &dir.path().join("whole"));
    let path = Path::new("2026/11/21/CHANGELOG.1795221443");
    let bytes = fs::read(dir.path().join("whole").join(path)).unwrap();
    let records = decode_file(&bytes).1.records;
    let mut boundaries = BTreeSet::from([51]);
    for count in 1..=records.len() {
        let mut encoded = Format::OWN.header();
        for record in &records[..count] {
            changelog::encoding::encode(record, Format::OWN, &mut encoded).unwrap();
        }
        boundaries.insert(encoded.len());
    }
    let damaged = copy(dir.path());
    let spans = |from| read(&damaged, from).unwrap().1;
    let from = Position { after: 1_795_221_437, offset: 0 };
    let before = spans(from);
    for len in 0..bytes.len() {
        fs::write(damaged.join(path), &bytes[..len]).unwrap();
        assert_eq!(spans(from) != before, !boundaries.contains(&len), "{len}");
    }
    // Zeros behind the last record, as a power loss leaves them.
    fs::write(damaged.join(path), [bytes.as_slice(), &[0; 100]].concat()).unwrap();
    assert!(spans(from).iter().any(|span| matches!(span.reason, Reason::SliceDamaged { .. })));
}

/// A slice that the brick rolled twice in one second: the second file took the place of the first.
#[test]
fn two_slices_of_one_second_are_reported() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = writer(dir.path(), NOW);
    journal.append(&[numbered(0)]).unwrap();
    let mut reader = JournalReader::open(dir.path(), Position::START).unwrap();
    assert_eq!(reader.read(10).unwrap().records.len(), 1);
    journal.append(&[numbered(1)]).unwrap();
    journal.roll(NOW + 5).unwrap();
    drop(journal);
    let path = dir.path().join(format!("2026/11/21/CHANGELOG.{}", NOW + 5));
    let htime = dir.path().join(format!("htime/HTIME.{NOW}"));
    let record = fs::read(&htime).unwrap();
    fs::write(&htime, record.repeat(2)).unwrap();
    fs::remove_file(dir.path().join("SEALS")).unwrap();
    fs::write(dir.path().join("second"), fs::read(&path).unwrap()).unwrap();
    fs::rename(dir.path().join("second"), &path).unwrap();
    // The live reader still holds the first one; what it does not know is reported.
    let batch = reader.read(10).unwrap();
    assert_eq!(batch.records[0].1, numbered(1));
    assert!(batch.unproven.iter().any(|span| span.reason == Reason::SliceVanished), "{:?}", batch.unproven);
    let (_, unproven) = read(dir.path(), Position::START).unwrap();
    assert_eq!(unproven.iter().map(|span| span.reason).collect::<Vec<_>>(), [Reason::SliceOverwritten]);
}

#[test]
fn switching_off_and_on_under_a_reader_is_reported_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = writer(dir.path(), NOW);
    journal.append(&[numbered(0)]).unwrap();
    let mut reader = JournalReader::open(dir.path(), Position::START).unwrap();
    assert_eq!(reader.read(10).unwrap().records.len(), 1);
    journal.roll(NOW + 5).unwrap();
    drop(journal);
    fs::remove_file(dir.path().join("CHANGELOG")).unwrap();
    fs::write(dir.path().join(format!("htime/HTIME.{}", NOW + 60)), "").unwrap();
    let mut journal = writer(dir.path(), NOW + 60);
    let mut unproven = Vec::new();
    for round in 0..5 {
        // Empty slices do not move the position over the gap.
        journal.roll(NOW + 61 + round).unwrap();
        if round == 3 {
            journal.append(&[numbered(1)]).unwrap();
        }
        let batch = reader.read(10).unwrap();
        assert_eq!(batch.records.len(), usize::from(round == 3));
        unproven.extend(batch.unproven);
    }
    assert_eq!(unproven, [Unproven { from: NOW + 5, to: Some(NOW + 60), reason: Reason::ChangelogOff }]);
    // Behind the gap a position does not have it any more.
    journal.roll(NOW + 70).unwrap();
    let position = reader.read(10).unwrap().next;
    assert_eq!(position.after, NOW + 65);
    assert_eq!(read(dir.path(), position).unwrap().1, []);
}

/// A slice gets its name first and its index record afterwards, so one may lack it at any moment; two cannot.
#[test]
fn an_index_that_lags_by_one_slice_is_no_damage() {
    let (dir, records) = journal();
    let damaged = copy(dir.path());
    let path = damaged.join(format!("htime/HTIME.{NOW}"));
    let bytes = fs::read(&path).unwrap();
    let record_len = bytes.len() / 6;
    // Not the xattr's promise, which a copy does not have.
    fs::write(&path, &bytes[..5 * record_len]).unwrap();
    assert_eq!(read(&damaged, Position::START).unwrap(), (records.clone(), vec![]));
    // The slice before is empty, the one before that is the second without a record.
    fs::write(&path, &bytes[..3 * record_len]).unwrap();
    let (found, unproven) = read(&damaged, Position::START).unwrap();
    assert_eq!(found, records);
    assert_eq!(unproven.iter().map(|span| span.reason).collect::<Vec<_>>(), [Reason::IndexIncomplete]);
}

/// The last slice is gone from index and disk: only the xattr of the index knows. Needs root.
#[test]
fn an_index_shorter_than_its_xattr_says_is_reported() {
    let (dir, _) = journal();
    let whole = dir.path().join("whole");
    let path = whole.join(format!("htime/HTIME.{NOW}"));
    if !matches!(xattr::get(&path, "trusted.glusterfs.htime"), Ok(Some(_))) {
        eprintln!("SKIPPED: no xattr trusted.glusterfs.htime here (needs CAP_SYS_ADMIN)");
        return;
    }
    assert_eq!(xattr::get(&path, "trusted.glusterfs.htime").unwrap().unwrap(), format!("{}:6", NOW + 85).as_bytes());
    let bytes = fs::read(&path).unwrap();
    fs::remove_file(&slice_files(&whole)[3]).unwrap();
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(bytes.len() as u64 / 6 * 5).unwrap();
    let (_, unproven) = read(&whole, Position::START).unwrap();
    assert_eq!(
        unproven,
        [Unproven { from: NOW + 70, to: Some(NOW + 85), reason: Reason::IndexTruncated }],
        "{unproven:?}"
    );
}
