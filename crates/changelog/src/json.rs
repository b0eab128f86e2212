//! Records as JSON, for people and scripts (`geo-rep changelog dump`).

use serde_json::{Map, Value};

use crate::record::{EntryName, EntryOp, Record};

/// Returns a record as an object.
///
/// `type` is `E`, `D` or `M`; `gfid`; `fop` the operation's name in upper case, or its number in decimal where it has
/// none (not for D); for E `parent` and `name`, for a rename `new_parent` and `new_name` too; `mode`, `uid` and `gid` as
/// numbers where the record has them; `path` of a delete where it was captured. Names are percent-encoded
/// ([`percent_encode`]).
pub fn record_json(record: &Record) -> Value {
    let mut object = Map::new();
    let kind = match record {
        Record::Entry(..) => "E",
        Record::Data(_) => "D",
        Record::Meta(..) => "M",
    };
    object.insert("type".into(), kind.into());
    object.insert("gfid".into(), record.gfid().to_string().into());
    match record {
        Record::Data(_) => {}
        Record::Meta(_, fop) => {
            object.insert("fop".into(), fop.to_string().into());
        }
        Record::Entry(_, op) => put_entry_op(op, &mut object),
    }
    Value::Object(object)
}

fn put_entry_op(op: &EntryOp, object: &mut Map<String, Value>) {
    object.insert("fop".into(), op.fop().to_string().into());
    if let Some(birth) = op.birth() {
        object.insert("mode".into(), birth.mode.into());
        object.insert("uid".into(), birth.uid.into());
        object.insert("gid".into(), birth.gid.into());
    }
    let mut put = |parent_key: &str, name_key: &str, entry: &EntryName| {
        object.insert(parent_key.into(), entry.parent.to_string().into());
        object.insert(name_key.into(), percent_encode(&entry.name).into());
    };
    put("parent", "name", op.entry());
    if let Some(entry) = op.new_entry() {
        put("new_parent", "new_name", entry);
    }
    if let EntryOp::Unlink(_, Some(path)) | EntryOp::Rmdir(_, Some(path)) = op {
        object.insert("path".into(), percent_encode(path).into());
    }
}

/// Writes every byte outside printable ASCII, and `%` itself, as `%` and two upper-case digits.
pub fn percent_encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for &byte in bytes {
        if matches!(byte, b' '..=b'~') && byte != b'%' {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
}

/// Reverses [`percent_encode`]; `None` where `%` is not followed by two hexadecimal digits.
pub fn percent_decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        if *first != b'%' {
            bytes.push(*first);
            rest = tail;
            continue;
        }
        let digit = |at: usize| tail.get(at).and_then(|&digit| char::from(digit).to_digit(16));
        bytes.push(u8::try_from(digit(0)? << 4 | digit(1)?).ok()?);
        rest = &tail[2..];
    }
    Some(bytes)
}
