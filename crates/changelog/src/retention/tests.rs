//! Random journals, compacted and shortened, stopped at every step, read from every position that there ever was.

use std::collections::{BTreeSet, HashSet};

use super::*;
use crate::compact::keys;
use crate::disk::stop;
use crate::gfid::Gfid;
use crate::position::Position;
use crate::reader::JournalReader;
use crate::record::{Birth, EntryName, EntryOp, Fop, Record};
use crate::unproven::Reason;
use crate::writer::JournalOptions;

const NOW: u64 = 1_795_221_431;

fn record(rng: &mut fastrand::Rng) -> Record {
    let gfid = Gfid([rng.u8(1..6); 16]);
    let mut name = || EntryName { parent: Gfid([rng.u8(1..3); 16]), name: vec![b'a' + rng.u8(..3); rng.usize(1..4)] };
    let (one, other) = (name(), name());
    let birth = Birth { mode: 0o100_644, uid: 0, gid: 0 };
    match rng.u32(0..7) {
        0 => Record::Data(gfid),
        1 => Record::Meta(gfid, Fop(38)),
        2 => Record::Entry(gfid, EntryOp::Create(birth, one)),
        3 => Record::Entry(gfid, EntryOp::Rename(one, other)),
        4 => Record::Entry(gfid, EntryOp::Unlink(one, None)),
        5 => Record::Entry(gfid, EntryOp::Mkdir(birth, one)),
        _ => Record::Entry(gfid, EntryOp::Link(one)),
    }
}

fn open(dir: &Path) -> JournalWriter {
    JournalWriter::create_or_open(dir, JournalOptions { now_secs: NOW }).unwrap()
}

/// Writes a journal of some slices, empty ones among them, and an open one.
fn write(dir: &Path, rng: &mut fastrand::Rng) -> JournalWriter {
    let mut writer = open(dir);
    for slice in 1..rng.u64(4..14) {
        for _ in 0..rng.usize(0..8) {
            writer.append(&[record(rng)]).unwrap();
        }
        writer.roll(NOW + slice * rng.u64(1..3)).unwrap();
    }
    writer.append(&[record(rng)]).unwrap();
    writer
}

/// Everything from a position on, and the reasons of what is not proven.
fn read(dir: &Path, from: Position) -> (Vec<(Position, Record)>, Vec<Reason>) {
    let mut reader = JournalReader::open(dir, from).unwrap();
    let (mut records, mut reasons) = (Vec::new(), Vec::new());
    loop {
        let batch = reader.read(3).unwrap();
        records.extend(batch.records);
        reasons.extend(batch.unproven.iter().map(|span| span.reason));
        if batch.at_tail {
            return (records, reasons);
        }
    }
}

fn touched<'a>(records: impl IntoIterator<Item = &'a (Position, Record)>) -> BTreeSet<Vec<u8>> {
    records.into_iter().flat_map(|(_, record)| keys(record)).collect()
}

/// From every position that there ever was, everything that was touched behind it is still mentioned, and proven.
fn check(dir: &Path, before: &[(Position, Record)], what: &str) {
    for (index, (position, _)) in before.iter().enumerate() {
        let (records, reasons) = read(dir, *position);
        assert!(reasons.is_empty(), "{what}, from {position}: {reasons:?}");
        let (want, have) = (touched(&before[index..]), touched(&records));
        assert!(want.is_subset(&have), "{what}, from {position}: {} keys are lost", want.difference(&have).count());
    }
}

fn seed() -> u64 {
    let given = std::env::var("GSYNC_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or_else(|| fastrand::u64(..1 << 40));
    println!("GSYNC_SEED={seed}");
    seed
}

fn compact_all(writer: &mut JournalWriter, until: u64) -> Result<()> {
    let mut compaction = writer.begin_compaction(until);
    let mut keys: HashSet<Vec<u8>> = HashSet::new();
    while writer.compact(&mut compaction, &mut keys)? {}
    Ok(())
}

#[test]
fn nothing_that_was_touched_behind_any_position_is_lost_wherever_a_compaction_stops() {
    let first = seed();
    for seed in first..first + 6 {
        for steps in 0.. {
            let mut rng = fastrand::Rng::with_seed(seed);
            let dir = tempfile::tempdir().unwrap();
            let mut writer = write(dir.path(), &mut rng);
            let (before, reasons) = read(dir.path(), Position::START);
            assert!(reasons.is_empty());
            let until = NOW + rng.u64(0..30);
            stop::after(Some(steps));
            let stopped = compact_all(&mut writer, until).is_err();
            stop::after(None);
            let what = format!("GSYNC_SEED={seed}, after {steps} steps");
            check(dir.path(), &before, &what);
            drop(writer);
            let mut writer = open(dir.path());
            check(dir.path(), &before, &format!("{what}, opened again"));
            compact_all(&mut writer, until).unwrap();
            check(dir.path(), &before, &format!("{what}, compacted again"));
            if !stopped {
                break;
            }
        }
    }
}

#[test]
fn a_reader_that_is_under_way_goes_on_while_slices_are_joined() {
    let first = seed();
    for seed in first..first + 60 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let dir = tempfile::tempdir().unwrap();
        let mut writer = open(dir.path());
        let (mut want, mut have) = (BTreeSet::new(), BTreeSet::new());
        let mut reader = JournalReader::open(dir.path(), Position::START).unwrap();
        for step in 1..40 {
            match rng.u32(0..4) {
                0 => {
                    let batch = reader.read(rng.usize(1..5)).unwrap();
                    assert!(batch.unproven.is_empty(), "GSYNC_SEED={seed}: {:?}", batch.unproven);
                    have.extend(touched(&batch.records));
                }
                1 => compact_all(&mut writer, u64::MAX).unwrap(),
                2 => writer.roll(NOW + step).unwrap(),
                _ => {
                    let record = record(&mut rng);
                    want.extend(keys(&record));
                    writer.append(&[record]).unwrap();
                }
            }
        }
        loop {
            let batch = reader.read(100).unwrap();
            assert!(batch.unproven.is_empty(), "GSYNC_SEED={seed}: {:?}", batch.unproven);
            have.extend(touched(&batch.records));
            if batch.at_tail {
                break;
            }
        }
        assert_eq!(want, have, "GSYNC_SEED={seed}");
    }
}

#[test]
fn what_was_removed_is_told_to_those_who_need_it_and_to_nobody_else() {
    let first = seed();
    for seed in first..first + 6 {
        for steps in 0.. {
            let mut rng = fastrand::Rng::with_seed(seed);
            let dir = tempfile::tempdir().unwrap();
            let mut writer = write(dir.path(), &mut rng);
            let (before, _) = read(dir.path(), Position::START);
            let until = NOW + rng.u64(0..20);
            stop::after(Some(steps));
            writer.stale = STALE_MAX;
            let stopped = writer.remove_until(until).is_err();
            stop::after(None);
            drop(writer);
            let what = format!("GSYNC_SEED={seed}, after {steps} steps");
            for round in ["", ", opened again"] {
                for (index, (position, _)) in before.iter().enumerate() {
                    let (records, reasons) = read(dir.path(), *position);
                    if position.after >= until {
                        assert!(reasons.is_empty(), "{what}{round}, from {position}: {reasons:?}");
                        assert_eq!(records, before[index..], "{what}{round}, from {position}");
                    } else if !stopped {
                        let is_gone = before[index..].iter().any(|(p, _)| !records.iter().any(|(q, _)| p == q));
                        assert!(!is_gone || !reasons.is_empty(), "{what}{round}, from {position}: nothing is said");
                    }
                }
                let end = open(dir.path()).position();
                assert!(end >= before.last().unwrap().0, "{what}: the position went back");
            }
            if !stopped {
                break;
            }
        }
    }
}

#[test]
fn an_incomplete_journal_is_told_to_every_old_position_and_to_no_new_one() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = open(dir.path());
    writer.append(&[Record::Data(Gfid([1; 16]))]).unwrap();
    let old = [Position::START, writer.position()];
    for round in 1..3 {
        writer.declare_incomplete(NOW + round).unwrap();
        for position in old {
            assert_eq!(read(dir.path(), position).1[0], Reason::Removed, "{position}");
        }
        assert_eq!(read(dir.path(), writer.position()), (Vec::new(), Vec::new()));
        drop(writer);
        writer = open(dir.path());
        assert_eq!(read(dir.path(), writer.position()), (Vec::new(), Vec::new()));
    }
}

/// The same file written over and over needs a few bytes, however long it goes on.
#[test]
fn a_compacted_journal_has_each_key_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = open(dir.path());
    for slice in 1..60 {
        writer.append(&vec![Record::Data(Gfid([7; 16])); 50]).unwrap();
        writer.roll(NOW + slice).unwrap();
    }
    let before = writer.bytes();
    compact_all(&mut writer, u64::MAX).unwrap();
    assert!(writer.bytes() * 15 < before, "{} of {before} bytes are left", writer.bytes());
    assert_eq!(writer.slices().count(), 3, "the newest two are left alone, all others are one");
    let index = fs::read(&writer.htime.path).unwrap();
    assert_eq!(index.iter().filter(|&&byte| byte == 0).count(), 3, "the index lists what is there");
}
