//! What real bricks wrote, against the bytes, against GlusterFS's own decoder, and against what the client did.

mod support;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::Path;

use changelog::encoding::{Tail, decode, encode};
use changelog::header::{HeaderStep, decode_header};
use changelog::htime::parse_index_record;
use changelog::json::percent_decode;
use changelog::{EntryName, EntryOp, Fop, Format, Gfid, History, JournalReader, Position, Reason, Record};
use serde_json::Value;
use support::{BRICKS, copy_dir, corpus, decode_file, journal_of, read_all, slices_of};

#[test]
fn every_slice_is_decoded_completely_and_encodes_to_the_same_bytes() {
    let (mut slices, mut total) = (0, 0);
    for brick in BRICKS {
        for path in slices_of(brick) {
            let bytes = fs::read(&path).unwrap();
            let (format, decoded) = decode_file(&bytes);
            assert_eq!((format, decoded.tail), (Format::OWN, Tail::Complete), "{}", path.display());
            assert_eq!(encode_all(&decoded.records, format), bytes, "{}", path.display());
            for format in Format::ALL {
                let bytes = encode_all(&decoded.records, format);
                let HeaderStep::Header { format: found, len } = decode_header(&bytes) else { panic!("no header") };
                assert_eq!(found, format);
                assert_eq!(decode(&bytes[len..], format).records, decoded.records, "{}", path.display());
            }
            slices += 1;
            total += decoded.records.len();
        }
    }
    assert_eq!((slices, total), (231, 4822));
}

fn encode_all(records: &[Record], format: Format) -> Vec<u8> {
    let mut bytes = format.header();
    for record in records {
        encode(record, format, &mut bytes).unwrap();
    }
    bytes
}

/// libgfchangelog's text of a record: three characters of a name are escaped, all others are as they are.
fn gluster_text(record: &Record, out: &mut Vec<u8>) {
    let kind = match record {
        Record::Entry(..) => 'E',
        Record::Data(_) => 'D',
        Record::Meta(..) => 'M',
    };
    out.extend(format!("{kind} {}", record.gfid()).bytes());
    match record {
        Record::Data(_) => {}
        Record::Meta(_, fop) => out.extend(format!(" {fop}").bytes()),
        Record::Entry(_, op) => {
            out.extend(format!(" {}", op.fop()).bytes());
            if let Some(birth) = op.birth() {
                out.extend(format!(" {} {} {}", birth.mode, birth.uid, birth.gid).bytes());
            }
            for entry in [Some(op.entry()), op.new_entry()].into_iter().flatten() {
                out.extend(format!(" {}/", entry.parent).bytes());
                for &byte in &entry.name {
                    match byte {
                        b'%' | b' ' | b'\n' => out.extend(format!("%{byte:02X}").bytes()),
                        byte => out.push(byte),
                    }
                }
            }
            if matches!(op, EntryOp::Unlink(..) | EntryOp::Rmdir(..)) {
                out.push(b' ');
            }
        }
    }
    out.push(b'\n');
}

#[test]
fn records_are_what_libgfchangelog_reads() {
    let mut compared = 0;
    for brick in BRICKS {
        for path in slices_of(brick) {
            let Ok(expected) = fs::read(corpus().join(brick).join("parsed").join(path.file_name().unwrap())) else {
                continue;
            };
            let mut text = Vec::new();
            for record in &decode_file(&fs::read(&path).unwrap()).1.records {
                gluster_text(record, &mut text);
            }
            assert_eq!(
                String::from_utf8_lossy(&text).lines().map(str::trim_end).collect::<Vec<_>>(),
                String::from_utf8_lossy(&expected).lines().map(str::trim_end).collect::<Vec<_>>(),
                "{}",
                path.display()
            );
            compared += 1;
        }
    }
    assert_eq!(compared, 222);
}

/// One line of `*-ops.jsonl`, and what it must have left in the changelog.
struct Expected {
    group: String,
    entries: Vec<(Gfid, EntryShape)>,
    data: Vec<Gfid>,
    meta: Vec<Gfid>,
}

/// An entry operation without mode and owner.
#[derive(Clone, PartialEq, Eq, Debug)]
struct EntryShape(Fop, EntryName, Option<EntryName>);

/// The names of the volume as the operations made them.
#[derive(Default)]
struct Names(HashMap<EntryName, Gfid>);

impl Names {
    /// The parent and the last component of a percent-encoded path.
    fn entry(&self, path: &str) -> EntryName {
        let (above, last) = path.rsplit_once('/').unwrap_or(("", path));
        let parent = above.split('/').filter(|part| !part.is_empty()).fold(Gfid::ROOT, |parent, part| {
            let name = percent_decode(part).unwrap();
            self.0[&EntryName { parent, name }]
        });
        EntryName { parent, name: percent_decode(last).unwrap() }
    }
}

fn gfid_at(op: &Value, key: &str, at: usize) -> Option<Gfid> {
    op[key][at].as_str().map(|text| text.parse().unwrap())
}

fn expected_of(names: &mut Names, op: &Value) -> Expected {
    let mut expected =
        Expected { group: op["group"].as_str().unwrap().into(), entries: vec![], data: vec![], meta: vec![] };
    if op["result"] != "ok" {
        return expected;
    }
    let paths: Vec<&str> = op["paths"].as_array().unwrap().iter().map(|path| path.as_str().unwrap()).collect();
    let (before, after) = (|at| gfid_at(op, "gfid_before", at), |at| gfid_at(op, "gfid_after", at));
    let verb = op["op"].as_str().unwrap();
    let mut made = |fop, gfid: Gfid, at: usize| {
        let entry = names.entry(paths[at]);
        names.0.insert(entry.clone(), gfid);
        expected.entries.push((gfid, EntryShape(fop, entry, None)));
    };
    match verb.split([' ', '+', ',']).next().unwrap() {
        "create" if verb.starts_with("create, unlink") => {}
        "create" => {
            made(Fop::CREATE, after(0).unwrap(), 0);
            if verb != "create" {
                expected.data.push(after(0).unwrap());
            }
        }
        "mkdir" => made(Fop::MKDIR, after(0).unwrap(), 0),
        "symlink" => made(Fop::SYMLINK, after(0).unwrap(), 0),
        "mkfifo" | "mknod" => made(Fop::MKNOD, after(0).unwrap(), 0),
        "link" => made(Fop::LINK, after(1).unwrap(), 1),
        "copy_file_range" => {
            made(Fop::CREATE, after(1).unwrap(), 1);
            expected.data.push(after(1).unwrap());
        }
        "unlink" | "rmdir" => {
            let fop = if verb == "unlink" { Fop::UNLINK } else { Fop::RMDIR };
            let entry = names.entry(paths[0]);
            names.0.remove(&entry);
            expected.entries.push((before(0).unwrap(), EntryShape(fop, entry, None)));
        }
        // Two names of one object: rename(2) does nothing.
        "rename" if before(0) == before(1) => {}
        "rename" => {
            let (old, new) = (names.entry(paths[0]), names.entry(paths[1]));
            let gfid = before(0).unwrap();
            names.0.remove(&old);
            names.0.insert(new.clone(), gfid);
            expected.entries.push((gfid, EntryShape(Fop::RENAME, old, Some(new))));
        }
        "pwrite" | "append" | "truncate" | "open" | "mmap" => expected.data.push(before(0).unwrap()),
        "chmod" | "chown" | "lchown" | "utime" | "setxattr" | "removexattr" => expected.meta.push(before(0).unwrap()),
        // GlusterFS 10.3 records none of these; the last three are not operations of the client.
        "fallocate" | "posix_fallocate" | "stat" | "read" | "readdir" | "nothing" | "brick" | "gluster" => {}
        other => panic!("unknown operation {other}"),
    }
    expected
}

/// Groups whose brick was down, or whose changelog was off, while (some) operations were made: for these the
/// expectation does not hold on that brick, and the reason is in the corpus's README.
const NOT_RECORDED: [(&str, &str, &str); 6] = [
    ("crep-p2", "p2-brick-down", "the brick was down"),
    ("crep-p2", "p2-brick-back-self-heal", "shows what the heal did, not what the client did"),
    ("crep-p1", "changelog-off-and-on", "the first two operations were made while the changelog was off"),
    ("crep-p2", "changelog-off-and-on", "the same"),
    ("cdht-p1", "changelog-off-and-on", "the same"),
    ("cdht-p2", "changelog-off-and-on", "the same"),
];

/// What one brick recorded in one group: entry operations by object, in order; objects with D; objects with M.
#[derive(Default)]
struct Recorded {
    entries: BTreeMap<Gfid, Vec<EntryShape>>,
    data: BTreeSet<Gfid>,
    meta: BTreeSet<Gfid>,
}

fn recorded(brick: &str) -> BTreeMap<String, Recorded> {
    let groups: Value = serde_json::from_slice(&fs::read(corpus().join(brick).join("groups.json")).unwrap()).unwrap();
    let mut all = BTreeMap::new();
    for group in groups.as_array().unwrap() {
        let recorded: &mut Recorded = all.entry(group["group"].as_str().unwrap().to_owned()).or_default();
        for name in group["changelogs"].as_array().unwrap() {
            let bytes = fs::read(journal_of(brick).join(name.as_str().unwrap())).unwrap();
            for record in decode_file(&bytes).1.records {
                match record {
                    Record::Data(gfid) => drop(recorded.data.insert(gfid)),
                    Record::Meta(gfid, _) => drop(recorded.meta.insert(gfid)),
                    Record::Entry(gfid, op) => {
                        let shape = EntryShape(op.fop(), op.entry().clone(), op.new_entry().cloned());
                        recorded.entries.entry(gfid).or_default().push(shape);
                    }
                }
            }
        }
    }
    all
}

/// Says whether all of `part` is in `whole`, in the same order.
fn is_part(part: &[EntryShape], whole: &[EntryShape]) -> bool {
    let mut rest = whole.iter();
    part.iter().all(|shape| rest.any(|other| other == shape))
}

fn check_volume(volume: &str, bricks: &[&str], one_brick_is_enough: bool) -> usize {
    let mut names = Names::default();
    let mut entries: BTreeMap<(String, Gfid), Vec<EntryShape>> = BTreeMap::new();
    let (mut data, mut meta) = (BTreeSet::new(), BTreeSet::new());
    for line in fs::read_to_string(corpus().join(format!("{volume}-ops.jsonl"))).unwrap().lines() {
        let expected = expected_of(&mut names, &serde_json::from_str(line).unwrap());
        for (gfid, shape) in expected.entries {
            entries.entry((expected.group.clone(), gfid)).or_default().push(shape);
        }
        data.extend(expected.data.into_iter().map(|gfid| (expected.group.clone(), gfid)));
        meta.extend(expected.meta.into_iter().map(|gfid| (expected.group.clone(), gfid)));
    }
    let recorded: Vec<_> = bricks.iter().map(|brick| (*brick, recorded(brick))).collect();
    let excepted = |brick: &str, group: &str| {
        NOT_RECORDED.iter().any(|&(in_brick, in_group, _)| (in_brick, in_group) == (brick, group))
    };
    let check = |group: &str, what: &dyn std::fmt::Debug, has: &dyn Fn(&Recorded) -> bool| {
        let bricks: Vec<_> = recorded.iter().filter(|(brick, _)| !excepted(brick, group)).collect();
        let holding = bricks.iter().filter(|(_, groups)| has(&groups[group])).count();
        let enough = if one_brick_is_enough { holding >= 1 } else { holding == bricks.len() };
        assert!(bricks.is_empty() || enough, "{volume} {group}: {what:?} is on {holding} of {} bricks", bricks.len());
    };
    for ((group, gfid), shapes) in &entries {
        // Exactly these, in this order.
        check(group, &(gfid, shapes), &|recorded| recorded.entries.get(gfid) == Some(shapes));
    }
    for (group, gfid) in &data {
        check(group, &("D", gfid), &|recorded| recorded.data.contains(gfid));
    }
    for (group, gfid) in &meta {
        check(group, &("M", gfid), &|recorded| recorded.meta.contains(gfid));
    }
    // And nothing that nobody did.
    for (brick, groups) in &recorded {
        for (group, recorded) in groups.iter().filter(|(group, _)| !excepted(brick, group)) {
            for (gfid, shapes) in &recorded.entries {
                let known = entries.get(&(group.clone(), *gfid));
                let transient = group == "write-after-unlink";
                // Of a distributed volume the brick without the data records the unlink of a file that was renamed
                // there (its linkto file), so parts of what was done can be on the other brick too.
                let done = known
                    .is_some_and(|known| if one_brick_is_enough { is_part(shapes, known) } else { shapes == known });
                assert!(transient || done, "{brick} {group}: {gfid} {shapes:?} but {known:?} was done");
            }
        }
    }
    entries.len() + data.len() + meta.len()
}

#[test]
fn the_replica_volume_recorded_what_the_client_did() {
    assert_eq!(check_volume("crep", &["crep-p1", "crep-p2"], false), 1441);
}

#[test]
fn the_distributed_volume_recorded_what_the_client_did() {
    assert_eq!(check_volume("cdht", &["cdht-p1", "cdht-p2"], true), 1432);
}

#[test]
fn index_and_disk_agree_and_the_time_off_is_the_only_gap() {
    // What a killed brick left open gets a name at the next start, and no record in the index at all.
    for (brick, off, left_over) in [
        ("crep-p1", (1_795_221_739, 1_795_221_741), vec![1_795_221_727]),
        ("crep-p2", (1_795_221_739, 1_795_221_741), vec![1_795_221_716, 1_795_221_728]),
        ("cdht-p1", (1_795_221_832, 1_795_221_834), vec![1_795_221_822]),
        ("cdht-p2", (1_795_221_832, 1_795_221_834), vec![1_795_221_822]),
    ] {
        let history = History::read(&journal_of(brick)).unwrap();
        assert_eq!(history.unproven.len(), 1, "{brick} {:?}", history.unproven);
        let gap = &history.unproven[0];
        assert_eq!((gap.from, gap.to.unwrap(), gap.reason), (off.0, off.1, Reason::ChangelogOff), "{brick}");
        let unindexed: Vec<u64> = history.slices.iter().filter(|slice| !slice.indexed).map(|slice| slice.ts).collect();
        assert_eq!(unindexed, left_over, "{brick}");
        assert!(history.slices.iter().all(|slice| slice.path.is_some()), "{brick}");
        assert_eq!(history.slices.len() + 1, slices_of(brick).len());
        assert_eq!(history.htimes.len(), 2);
        assert_eq!((history.proven.len(), history.proven[0].to, history.proven[1].from), (2, off.0, off.1), "{brick}");
        let written: Vec<u64> = history.slices.iter().filter(|slice| slice.indexed).map(|slice| slice.ts).collect();
        assert_eq!(written, upper_case_records(&journal_of(brick)), "{brick}");
        assert!(serde_json::to_string(&history).unwrap().contains(r#""reason":"changelog-off""#));
    }
}

/// The slices with a file, read from the HTIME files without this crate's index.
fn upper_case_records(journal: &Path) -> Vec<u64> {
    let mut found = Vec::new();
    for entry in fs::read_dir(journal.join("htime")).unwrap() {
        let bytes = fs::read(entry.unwrap().path()).unwrap();
        for record in bytes.split(|&byte| byte == 0).filter(|record| !record.is_empty()) {
            let text = String::from_utf8(record.to_vec()).unwrap();
            if text.contains("CHANGELOG") {
                found.push(parse_index_record(record).unwrap().ts);
            }
        }
    }
    found.sort_unstable();
    found
}

#[test]
fn the_journal_of_a_brick_is_the_concatenation_of_its_slices() {
    for brick in BRICKS {
        let mut expected = Vec::new();
        for path in slices_of(brick) {
            expected.extend(decode_file(&fs::read(&path).unwrap()).1.records);
        }
        let (records, unproven, tail) = read_all(&journal_of(brick), Position::START);
        assert_eq!(records.iter().map(|(_, record)| record.clone()).collect::<Vec<_>>(), expected, "{brick}");
        assert_eq!(unproven.iter().map(|span| span.reason).collect::<Vec<_>>(), [Reason::ChangelogOff], "{brick}");
        assert_eq!(read_all(&journal_of(brick), tail).0, []);
        for at in (0..records.len()).step_by(97).chain([records.len() - 1]) {
            let (rest, ahead, _) = read_all(&journal_of(brick), records[at].0);
            assert_eq!(rest, records[at..], "{brick} {at}");
            // The gap is ahead of all positions before it and of none behind it.
            let before_gap = unproven[0].to.is_some_and(|to| records[at].0.after < to);
            assert_eq!(ahead, if before_gap { unproven.clone() } else { vec![] }, "{brick} {at}");
        }
    }
}

/// A moved or restored brick keeps the old paths in its index (issue #76); GlusterFS 7 and before has flat files; the
/// upgrade script leaves `.bak` files, and files in directories of another date.
#[test]
fn the_index_is_followed_wherever_the_files_are() {
    let expected = read_all(&journal_of("cdht-p1"), Position::START);
    let dir = tempfile::tempdir().unwrap();
    let moved = dir.path().join("moved CHANGELOG.1");
    copy_dir(&journal_of("cdht-p1"), &moved);
    let htime = moved.join("htime/HTIME.1795221431");
    fs::copy(&htime, moved.join("htime/HTIME.1795221431.bak")).unwrap();
    fs::write(moved.join("htime/notes"), "").unwrap();
    let day = moved.join("2026/11/21");
    fs::create_dir(moved.join("2026/11/20")).unwrap();
    let mut names: Vec<_> = fs::read_dir(&day).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    for (at, name) in names.iter().enumerate() {
        match at % 3 {
            0 => fs::rename(day.join(name), moved.join(name)).unwrap(),
            1 => fs::rename(day.join(name), moved.join("2026/11/20").join(name)).unwrap(),
            _ => {}
        }
    }
    assert_eq!(read_all(&moved, Position::START), expected);
    let mut reader = JournalReader::open(&moved, expected.0[200].0).unwrap();
    assert_eq!(reader.read(1).unwrap().records, expected.0[200..201]);
}
