//! Any record survives all four formats; any bytes are survived by the decoder.

use changelog::encoding::{Step, Tail, decode, decode_record, encode};
use changelog::header::decode_header;
use changelog::json::{percent_decode, percent_encode, record_json};
use changelog::{Birth, Damage, EntryName, EntryOp, Fop, Format, Gfid, Record, Version};
use proptest::prelude::*;

fn gfids() -> impl Strategy<Value = Gfid> {
    any::<[u8; 16]>().prop_map(Gfid)
}

fn names() -> impl Strategy<Value = EntryName> {
    let byte = any::<u8>().prop_filter("no NUL, no slash", |&byte| byte != 0 && byte != b'/');
    let name = prop::collection::vec(byte, 1..=255).prop_filter("no dots", |name| name != b"." && name != b"..");
    (gfids(), name).prop_map(|(parent, name)| EntryName { parent, name })
}

fn births() -> impl Strategy<Value = Birth> {
    any::<(u32, u32, u32)>().prop_map(|(mode, uid, gid)| Birth { mode, uid, gid })
}

fn paths() -> impl Strategy<Value = Option<Vec<u8>>> {
    prop::option::of(prop::collection::vec(1u8..=255, 1..=4096))
}

fn records() -> impl Strategy<Value = Record> {
    let op = prop_oneof![
        (births(), names()).prop_map(|(birth, name)| EntryOp::Create(birth, name)),
        (births(), names()).prop_map(|(birth, name)| EntryOp::Mknod(birth, name)),
        (births(), names()).prop_map(|(birth, name)| EntryOp::Mkdir(birth, name)),
        names().prop_map(EntryOp::Symlink),
        names().prop_map(EntryOp::Link),
        (names(), names()).prop_map(|(old, new)| EntryOp::Rename(old, new)),
        (names(), paths()).prop_map(|(name, path)| EntryOp::Unlink(name, path)),
        (names(), paths()).prop_map(|(name, path)| EntryOp::Rmdir(name, path)),
    ];
    prop_oneof![
        gfids().prop_map(Record::Data),
        (gfids(), any::<u32>()).prop_map(|(gfid, fop)| Record::Meta(gfid, Fop(fop))),
        (gfids(), op).prop_map(|(gfid, op)| Record::Entry(gfid, op)),
    ]
}

/// What is left of a record in version 1.1.
fn without_path(record: &Record) -> Record {
    match record.clone() {
        Record::Entry(gfid, EntryOp::Unlink(name, _)) => Record::Entry(gfid, EntryOp::Unlink(name, None)),
        Record::Entry(gfid, EntryOp::Rmdir(name, _)) => Record::Entry(gfid, EntryOp::Rmdir(name, None)),
        record => record,
    }
}

proptest! {
    #[test]
    fn records_round_trip_in_every_format(records in prop::collection::vec(records(), 0..12)) {
        for format in Format::ALL {
            let mut bytes = Vec::new();
            for record in &records {
                encode(record, format, &mut bytes).unwrap();
            }
            let decoded = decode(&bytes, format);
            prop_assert_eq!(decoded.tail, Tail::Complete);
            prop_assert_eq!(decoded.consumed, bytes.len());
            let expected: Vec<Record> = match format.version {
                Version::V1_1 => records.iter().map(without_path).collect(),
                Version::V1_2 => records.clone(),
            };
            prop_assert_eq!(decoded.records, expected);
        }
    }

    #[test]
    fn every_prefix_of_a_record_is_incomplete(record in records()) {
        for format in Format::ALL {
            let mut bytes = Vec::new();
            encode(&record, format, &mut bytes).unwrap();
            for len in 0..bytes.len() {
                prop_assert_eq!(decode_record(&bytes[..len], format), Step::Incomplete);
            }
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic_and_what_is_decoded_encodes_to_the_same(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        decode_header(&bytes);
        check_bytes(&bytes)?;
    }

    #[test]
    fn flipped_records_never_panic_and_what_is_decoded_encodes_to_the_same(
        records in prop::collection::vec(records(), 1..4), flips in prop::collection::vec(any::<(prop::sample::Index, u8)>(), 1..4),
    ) {
        for format in Format::ALL {
            let mut bytes = Vec::new();
            for record in &records {
                encode(record, format, &mut bytes).unwrap();
            }
            for (at, value) in &flips {
                let at = at.index(bytes.len());
                bytes[at] = *value;
            }
            check_bytes(&bytes)?;
        }
    }

    #[test]
    fn names_in_json_are_reversible(name in prop::collection::vec(any::<u8>(), 0..64)) {
        let text = percent_encode(&name);
        prop_assert!(text.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
        prop_assert_eq!(percent_decode(&text), Some(name));
    }

    #[test]
    fn every_record_has_json(record in records()) {
        let json = record_json(&record);
        prop_assert_eq!(json["gfid"].as_str().unwrap(), record.gfid().to_string());
    }
}

/// Nothing is decoded in two ways: the bytes of a decoded record are exactly those that encoding it gives.
fn check_bytes(bytes: &[u8]) -> Result<(), TestCaseError> {
    for format in Format::ALL {
        let decoded = decode(bytes, format);
        let mut again = Vec::new();
        for record in &decoded.records {
            encode(record, format, &mut again).unwrap();
        }
        prop_assert_eq!(&again[..], &bytes[..decoded.consumed]);
    }
    Ok(())
}

#[test]
fn names_that_no_decoder_accepts_are_not_encoded() {
    let long = vec![b'n'; 256];
    let longest = vec![b'p'; 4097];
    let entry = |name: &[u8]| EntryName { parent: Gfid::ROOT, name: name.to_vec() };
    let mut out = b"before".to_vec();
    for bad in [b"".as_slice(), b".", b"..", b"a/b", b"a\0b", &long] {
        for op in [EntryOp::Link(entry(bad)), EntryOp::Rename(entry(b"good"), entry(bad))] {
            assert_eq!(encode(&Record::Entry(Gfid::ROOT, op), Format::OWN, &mut out), Err(Damage::Name));
        }
    }
    for bad in [b"".as_slice(), b"a\0b", &longest] {
        let op = EntryOp::Unlink(entry(b"good"), Some(bad.to_vec()));
        assert_eq!(encode(&Record::Entry(Gfid::ROOT, op), Format::OWN, &mut out), Err(Damage::CapturedPath));
    }
    assert_eq!(out, b"before");
}

#[test]
fn damage_is_named() {
    let gfid = "c5250af6-720e-4bfe-b938-827614304f39";
    for (text, damage) in [
        (format!("X{gfid}\0"), Damage::Type),
        (format!("\0{gfid}\0"), Damage::Type),
        ("Dc5250af6-720e-4bfe-b938-827614304f3x\0".to_owned(), Damage::Gfid),
        ("DC5250AF6-720e-4bfe-b938-827614304f39\0".to_owned(), Damage::Gfid),
        (format!("D{gfid}D{gfid}"), Damage::Separator),
        (format!("M{gfid}\0038\0"), Damage::Number),
        (format!("M{gfid}\0\0"), Damage::Number),
        (format!("M{gfid}\04294967296\0"), Damage::Number),
        (format!("M{gfid}\012345678901"), Damage::Number),
        (format!("E{gfid}\013\0{gfid}/name\0"), Damage::EntryFop),
        (format!("E{gfid}\07\0{gfid}/\0"), Damage::Name),
        (format!("E{gfid}\07\0{gfid}/..\0"), Damage::Name),
        (format!("E{gfid}\07\0{gfid}\0"), Damage::Separator),
        (format!("E{gfid}\05\0{gfid}/name\0\0D{gfid}\0"), Damage::Separator),
    ] {
        assert_eq!(decode_record(text.as_bytes(), Format::OWN), Step::Damaged(damage), "{text:?}");
    }
    let unknown = format!("M{gfid}\x004294967295\x00");
    assert!(matches!(decode_record(unknown.as_bytes(), Format::OWN), Step::Record(Record::Meta(_, Fop(u32::MAX)), _)));
}

#[test]
fn json_has_the_documented_keys() {
    let entry = |name: &str| EntryName { parent: Gfid::ROOT, name: name.as_bytes().to_vec() };
    let birth = Birth { mode: 33188, uid: 5, gid: 6 };
    let root = "00000000-0000-0000-0000-000000000001";
    let json = |record| record_json(&record).to_string();
    assert_eq!(json(Record::Data(Gfid::ROOT)), format!(r#"{{"gfid":"{root}","type":"D"}}"#));
    assert_eq!(json(Record::Meta(Gfid::ROOT, Fop(77))), format!(r#"{{"fop":"77","gfid":"{root}","type":"M"}}"#));
    let create = Record::Entry(Gfid::ROOT, EntryOp::Create(birth, entry("50% \n")));
    assert_eq!(
        record_json(&create),
        serde_json::json!({"type": "E", "gfid": root, "fop": "CREATE", "mode": 33188, "uid": 5, "gid": 6,
            "parent": root, "name": "50%25 %0A"})
    );
    let rename = Record::Entry(Gfid::ROOT, EntryOp::Rename(entry("a"), entry("b")));
    assert_eq!(
        record_json(&rename),
        serde_json::json!({"type": "E", "gfid": root, "fop": "RENAME", "parent": root, "name": "a",
            "new_parent": root, "new_name": "b"})
    );
}
