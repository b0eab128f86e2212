//! Writer and reader together: everything once, in order, whatever happens between two reads.

mod support;

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use changelog::{Error, History, JournalOptions, JournalReader, JournalWatch, JournalWatcher, JournalWriter};
use changelog::{Position, Record};
use support::{number_of, numbered, quick_dir, read_all, read_rest, seed, writer};

const NOW: u64 = 1_795_221_431;

fn append(writer: &mut JournalWriter, numbers: std::ops::Range<u64>) {
    let records: Vec<Record> = numbers.map(numbered).collect();
    writer.append(&records).unwrap();
}

fn numbers(records: &[(Position, Record)]) -> Vec<u64> {
    records.iter().map(|(_, record)| number_of(record)).collect()
}

#[test]
fn rolled_and_open_slices_are_one_stream_and_every_position_resumes() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = writer(dir.path(), NOW);
    let mut expected = Vec::new();
    for (round, count) in [3, 0, 1, 5, 0, 0, 4].into_iter().enumerate() {
        for _ in 0..count {
            expected.push((writer.position(), numbered(expected.len() as u64)));
            writer.append(&[expected.last().unwrap().1.clone()]).unwrap();
        }
        // Over midnight, and the last one stays open.
        if round < 6 {
            writer.roll(NOW + round as u64 * 40_000).unwrap();
        }
    }
    let (records, unproven, tail) = read_all(dir.path(), Position::START);
    assert_eq!(records, expected);
    assert_eq!(unproven, []);
    assert_eq!(tail, writer.position());
    for (at, (position, _)) in expected.iter().enumerate() {
        let (records, unproven, next) = read_all(dir.path(), *position);
        assert_eq!((&records[..], unproven, next), (&expected[at..], vec![], tail), "{position}");
    }
    // The positions taken in the open slice hold when it has its name.
    writer.roll(NOW + 400_000).unwrap();
    for (at, (position, _)) in expected.iter().enumerate() {
        let (records, unproven, _) = read_all(dir.path(), *position);
        assert_eq!((numbers(&records), unproven), (numbers(&expected[at..]), vec![]), "{position}");
    }
    assert_eq!(read_all(dir.path(), tail).0, []);
    assert_eq!(read_all(dir.path(), tail).1, []);
    let history = History::read(dir.path()).unwrap();
    assert_eq!(history.unproven, []);
    assert_eq!(history.htimes[0].records, 7);
    assert_eq!(history.htimes[0].empty, 3);
    assert_eq!(history.slices.len(), 4);
}

/// Every mixture of appends, rolls and reads up to a length, so that each race between two reads occurs: several
/// rolls, empty slices, a torn write that is finished later.
#[test]
fn every_short_sequence_of_appends_rolls_and_reads_delivers_each_record_once() {
    const LENGTH: u32 = 6;
    for code in 0..4u32.pow(LENGTH) {
        let dir = quick_dir();
        let mut writer = writer(dir.path(), NOW);
        let mut reader = JournalReader::open(dir.path(), Position::START).unwrap();
        let (mut appended, mut read) = (0, Vec::new());
        for step in 0..LENGTH {
            match code / 4u32.pow(step) % 4 {
                0 => {
                    append(&mut writer, appended..appended + 2);
                    appended += 2;
                }
                1 => writer.roll(NOW + u64::from(step)).unwrap(),
                2 => {
                    let (records, unproven, next) = read_rest(&mut reader);
                    assert_eq!(unproven, [], "{code}");
                    assert_eq!(next, writer.position(), "{code}");
                    read.extend(numbers(&records));
                }
                _ => {
                    let batch = reader.read(1).unwrap();
                    read.extend(numbers(&batch.records));
                }
            }
        }
        let (records, unproven, next) = read_rest(&mut reader);
        read.extend(numbers(&records));
        assert_eq!((unproven, next), (vec![], writer.position()), "{code}");
        assert_eq!(read, (0..appended).collect::<Vec<u64>>(), "{code}");
    }
}

#[test]
fn a_reader_follows_a_writer_in_another_thread() {
    let mut random = fastrand::Rng::with_seed(seed("CHANGELOG_FOLLOW_SEED"));
    let dir = quick_dir();
    let mut journal = writer(dir.path(), NOW);
    const TOTAL: u64 = 60_000;
    let done = AtomicBool::new(false);
    let writer_seed = random.u64(..);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut random = fastrand::Rng::with_seed(writer_seed);
            let (mut appended, mut now) = (0, NOW);
            while appended < TOTAL {
                let count = random.u64(1..60).min(TOTAL - appended);
                append(&mut journal, appended..appended + count);
                appended += count;
                for _ in 0..random.usize(0..3) {
                    now += random.u64(0..3);
                    journal.roll(now).unwrap();
                }
                if random.u8(..) < 20 {
                    drop(journal);
                    journal = writer(dir.path(), now);
                }
            }
            done.store(true, Ordering::Release);
        });
        let mut reader = JournalReader::open(dir.path(), Position::START).unwrap();
        let (mut next_number, mut position) = (0, Position::START);
        let deadline = Instant::now() + Duration::from_secs(120);
        loop {
            let was_done = done.load(Ordering::Acquire);
            let batch = reader.read(random.usize(1..500)).unwrap();
            assert_eq!(batch.unproven, []);
            for (at, record) in &batch.records {
                assert!(*at >= position, "{at} after {position}");
                assert_eq!(number_of(record), next_number);
                next_number += 1;
                position = *at;
            }
            assert!(batch.next >= position);
            position = batch.next;
            if was_done && batch.at_tail {
                break;
            }
            if random.u8(..) < 8 {
                reader = JournalReader::open(dir.path(), position).unwrap();
            }
            assert!(Instant::now() < deadline, "stuck at {position} after {next_number} records");
        }
        assert_eq!(next_number, TOTAL);
    });
}

#[test]
fn waiting_at_the_tail_lists_no_directory_and_reads_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = writer(dir.path(), NOW);
    append(&mut writer, 0..10);
    writer.roll(NOW + 1).unwrap();
    append(&mut writer, 10..20);
    let mut reader = JournalReader::open(dir.path(), Position::START).unwrap();
    assert_eq!(read_rest(&mut reader).0.len(), 20);
    let before = reader.stats();
    assert!(before.directories > 0);
    for _ in 0..100 {
        assert!(reader.read(100).unwrap().at_tail);
    }
    append(&mut writer, 20..30);
    assert_eq!(read_rest(&mut reader).0.len(), 10);
    let after = reader.stats();
    assert_eq!(after.directories, before.directories);
    // One a poll, and two more for the poll that found something.
    assert_eq!(after.reads - before.reads, 103);
}

#[test]
fn a_journal_that_is_switched_off_costs_no_listing_either() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = writer(dir.path(), NOW);
    append(&mut journal, 0..3);
    journal.roll(NOW + 5).unwrap();
    drop(journal);
    fs::remove_file(dir.path().join("CHANGELOG")).unwrap();
    let mut reader = JournalReader::open(dir.path(), Position::START).unwrap();
    assert_eq!(read_rest(&mut reader).0.len(), 3);
    let before = reader.stats();
    for _ in 0..10 {
        assert!(reader.read(10).unwrap().at_tail);
    }
    assert_eq!(reader.stats(), before);
    // And notices when it goes on, even if the slice that was begun meanwhile is rolled already.
    let mut journal = writer(dir.path(), NOW + 20);
    append(&mut journal, 3..6);
    journal.roll(NOW + 25).unwrap();
    drop(journal);
    fs::remove_file(dir.path().join("CHANGELOG")).unwrap();
    assert_eq!(numbers(&read_rest(&mut reader).0), [3, 4, 5]);
}

/// Rule 1 of the journal's positions: a torn record in the open slice is waited for.
#[test]
fn a_torn_tail_of_the_open_slice_is_completed_later() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = writer(dir.path(), NOW);
    append(&mut writer, 0..1);
    let open = dir.path().join("CHANGELOG");
    let begin = fs::read(&open).unwrap();
    append(&mut writer, 1..2);
    let whole = fs::read(&open).unwrap();
    let mut reader = JournalReader::open(dir.path(), Position::START).unwrap();
    for len in begin.len()..whole.len() {
        // Rewritten in place: the inode stays.
        fs::write(&open, &whole[..len]).unwrap();
        let batch = reader.read(10).unwrap();
        assert_eq!(batch.records.len(), usize::from(len == begin.len()));
        assert!(batch.at_tail && batch.unproven.is_empty());
    }
    fs::write(&open, &whole).unwrap();
    assert_eq!(numbers(&reader.read(10).unwrap().records), [1]);
}

#[test]
fn a_restarted_writer_cuts_the_torn_tail_rolls_and_goes_on_in_the_same_index() {
    for cut in 1..40 {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = writer(dir.path(), NOW);
        append(&mut journal, 0..3);
        let position = journal.position();
        append(&mut journal, 3..4);
        drop(journal);
        let open = dir.path().join("CHANGELOG");
        let bytes = fs::read(&open).unwrap();
        fs::write(&open, &bytes[..bytes.len() - cut]).unwrap();
        let mut reader = JournalReader::open(dir.path(), Position::START).unwrap();
        assert_eq!(reader.read(10).unwrap().next, position);

        // With the clock behind.
        let mut journal = writer(dir.path(), NOW - 1000);
        assert!(journal.is_empty() && journal.slice_bytes() == 0);
        assert_eq!(journal.slice_age(NOW - 990), 10);
        append(&mut journal, 4..6);
        let (records, unproven, next) = read_rest(&mut reader);
        assert_eq!((numbers(&records), unproven), (vec![4, 5], vec![]));
        assert_eq!(next, journal.position());
        assert_eq!(numbers(&read_all(dir.path(), Position::START).0), [0, 1, 2, 4, 5]);
        assert_eq!(read_all(dir.path(), Position::START).1, []);
        assert_eq!(History::read(dir.path()).unwrap().htimes.len(), 1);
    }
}

#[test]
fn zeros_that_a_power_loss_left_are_a_torn_tail_and_other_bytes_are_reported() {
    for (tail, reported) in [(vec![0; 100_000], 0), (vec![0, 0, 7, 0], 1)] {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = writer(dir.path(), NOW);
        append(&mut journal, 0..3);
        drop(journal);
        let open = dir.path().join("CHANGELOG");
        let mut bytes = fs::read(&open).unwrap();
        bytes.extend(tail);
        fs::write(&open, bytes).unwrap();
        let mut journal = writer(dir.path(), NOW + 3);
        append(&mut journal, 3..4);
        let (records, unproven, _) = read_all(dir.path(), Position::START);
        assert_eq!((numbers(&records), unproven.len()), (vec![0, 1, 2, 3], reported), "{unproven:?}");
    }
}

#[test]
fn a_restarted_writer_completes_the_index_and_a_header_that_was_cut() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = writer(dir.path(), NOW);
    append(&mut journal, 0..3);
    let htime = dir.path().join(format!("htime/HTIME.{NOW}"));
    journal.roll(NOW + 5).unwrap();
    drop(journal);
    let index = fs::read(&htime).unwrap();
    for (cut, header) in (0..index.len()).zip((0..51).cycle()) {
        fs::write(&htime, &index[..cut]).unwrap();
        fs::write(dir.path().join("CHANGELOG"), vec![b'G'; 0]).unwrap();
        let bytes = changelog::Format::OWN.header();
        fs::write(dir.path().join("CHANGELOG"), &bytes[..header]).unwrap();
        drop(writer(dir.path(), NOW + 9));
        assert_eq!(fs::read(&htime).unwrap(), index, "{cut}");
        assert_eq!(fs::read(dir.path().join("CHANGELOG")).unwrap(), bytes);
    }
}

#[test]
fn there_is_one_writer() {
    let dir = tempfile::tempdir().unwrap();
    let first = writer(dir.path(), NOW);
    let second = JournalWriter::create_or_open(dir.path(), JournalOptions { now_secs: NOW });
    assert!(matches!(second, Err(Error::Locked { .. })));
    drop(first);
    writer(dir.path(), NOW);
}

#[test]
fn an_unencodable_record_writes_nothing_of_its_batch() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = writer(dir.path(), NOW);
    let bad = changelog::EntryOp::Link(changelog::EntryName { parent: changelog::Gfid::ROOT, name: b"a/b".to_vec() });
    let batch = [numbered(0), Record::Entry(changelog::Gfid::ROOT, bad)];
    assert!(matches!(writer.append(&batch), Err(Error::Unencodable { .. })));
    assert!(writer.is_empty());
    assert_eq!(fs::metadata(dir.path().join("CHANGELOG")).unwrap().len(), 51);
}

#[test]
fn a_journal_without_write_permission_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = writer(dir.path(), NOW);
    append(&mut writer, 0..3);
    drop(writer);
    let before = listing(dir.path());
    assert_eq!(read_all(dir.path(), Position::START).0.len(), 3);
    assert_eq!(listing(dir.path()), before);
    assert!(JournalReader::open(&dir.path().join("absent"), Position::START).is_err());
}

fn listing(dir: &Path) -> Vec<(std::path::PathBuf, u64, std::time::SystemTime)> {
    let mut found: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.path(), entry.metadata().unwrap().len(), entry.metadata().unwrap().modified().unwrap()))
        .collect();
    found.sort();
    found
}

#[test]
fn the_watcher_hints_at_appends_and_rolls_and_not_at_reads() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = writer(dir.path(), NOW);
    let watcher = JournalWatcher::new(dir.path()).unwrap();
    let (sender, hints) = std::sync::mpsc::channel();
    let _watch = JournalWatch::new(dir.path(), move || {
        sender.send(()).ok();
    })
    .unwrap();
    append(&mut writer, 0..1);
    assert!(watcher.wait(Duration::from_secs(10)));
    assert!(hints.recv_timeout(Duration::from_secs(10)).is_ok());
    writer.roll(NOW + 1).unwrap();
    assert!(watcher.wait(Duration::from_secs(10)));
    while watcher.wait(Duration::from_millis(200)) {}
    read_all(dir.path(), Position::START);
    assert!(!watcher.wait(Duration::from_millis(200)));
}
