//! Writes that stop half-way, and rolls that do.

use super::*;
use crate::gfid::Gfid;
use crate::reader::JournalReader;
use crate::record::{EntryName, EntryOp};

const NOW: u64 = 1_795_221_431;

fn record(number: u8) -> Record {
    let name = vec![b'a' + number; 1 + usize::from(number)];
    Record::Entry(Gfid([number; 16]), EntryOp::Symlink(EntryName { parent: Gfid::ROOT, name }))
}

fn encoded_len(records: &[Record]) -> usize {
    let mut bytes = Vec::new();
    for record in records {
        encode(record, Format::OWN, &mut bytes).unwrap();
    }
    bytes.len()
}

fn read(reader: &mut JournalReader) -> Vec<Record> {
    let batch = reader.read(1000).unwrap();
    assert!(batch.at_tail && batch.unproven.is_empty(), "{batch:?}");
    batch.records.into_iter().map(|(_, record)| record).collect()
}

#[test]
fn a_write_that_stops_anywhere_leaves_whole_records_and_a_reader_that_saw_it_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = JournalWriter::create_or_open(dir.path(), JournalOptions { now_secs: NOW }).unwrap();
    let batch = [record(1), record(2), record(3)];
    let mut reader = JournalReader::open(dir.path(), Position::START).unwrap();
    let mut expected = Vec::new();
    for written in 0..encoded_len(&batch) {
        writer.fail_write_after = Some(written);
        assert!(matches!(writer.append(&batch), Err(Error::Io { .. })));
        let whole = (0..3).take_while(|&count| encoded_len(&batch[..=count]) <= written).count();
        expected = batch[..whole].to_vec();
        assert_eq!(fs::metadata(dir.path().join(OPEN_SLICE)).unwrap().len(), writer.position().offset);
        if written % 3 == 0 {
            // What a reader sees of a torn write goes away again.
            let file = OpenOptions::new().write(true).open(dir.path().join(OPEN_SLICE)).unwrap();
            file.write_all_at(b"Egarbage", writer.position().offset).unwrap();
            if let Some(open) = &mut writer.open {
                open.ragged = true;
            }
        }
        assert_eq!(read(&mut reader), expected, "{written}");
        writer.append(&[record(4)]).unwrap();
        assert_eq!(read(&mut reader), [record(4)], "{written}");
        assert_eq!(reader.position(), writer.position());
    }
    assert_eq!(expected.len(), 2);
    // The seal, too, is that of the whole records.
    writer.roll(NOW + 5).unwrap();
    assert_eq!(read(&mut reader), []);
    assert_eq!(reader.position(), writer.position());
}

#[test]
fn a_roll_that_cannot_make_its_directory_changes_nothing_and_is_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = JournalWriter::create_or_open(dir.path(), JournalOptions { now_secs: NOW }).unwrap();
    writer.append(&[record(1)]).unwrap();
    let before = writer.position();
    // A file where the year's directory belongs.
    fs::write(dir.path().join("2026"), "").unwrap();
    assert!(matches!(writer.roll(NOW + 5), Err(Error::Io { .. })));
    assert_eq!(writer.position(), before);
    writer.append(&[record(2)]).unwrap();
    let mut reader = JournalReader::open(dir.path(), Position::START).unwrap();
    assert_eq!(read(&mut reader), [record(1), record(2)]);
    fs::remove_file(dir.path().join("2026")).unwrap();
    // With the same time: the seal that was written for the failed attempt does not count.
    writer.roll(NOW + 5).unwrap();
    writer.append(&[record(3)]).unwrap();
    assert_eq!(read(&mut reader), [record(3)]);
    assert_eq!(read(&mut JournalReader::open(dir.path(), Position::START).unwrap()).len(), 3);
}

#[test]
fn times_grow_strictly_whatever_the_clock_says() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = JournalWriter::create_or_open(dir.path(), JournalOptions { now_secs: NOW }).unwrap();
    for (number, now) in [(1, NOW), (2, NOW - 100), (3, NOW + 50), (4, 0)] {
        writer.append(&[record(number)]).unwrap();
        writer.roll(now).unwrap();
    }
    assert_eq!(writer.position(), Position { after: NOW + 51, offset: HEADER_BYTES });
    let mut reader = JournalReader::open(dir.path(), Position::START).unwrap();
    assert_eq!(read(&mut reader), [record(1), record(2), record(3), record(4)]);
}

#[test]
fn a_journal_that_failed_to_sync_takes_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = JournalWriter::create_or_open(dir.path(), JournalOptions { now_secs: NOW }).unwrap();
    writer.poisoned = true;
    assert!(matches!(writer.append(&[record(1)]), Err(Error::Poisoned { .. })));
    assert!(matches!(writer.sync(), Err(Error::Poisoned { .. })));
    assert!(matches!(writer.roll(NOW), Err(Error::Poisoned { .. })));
}
