//! Records to bytes and back, byte for byte as GlusterFS writes them.
//!
//! Nothing separates two records, and the number of fields follows from type, operation and version only, so a
//! decoder that loses its place cannot find it again: damage ends a slice.

use crate::error::Damage;
use crate::gfid::{GFID_TEXT_LEN, Gfid};
use crate::header::{Encoding, Format, Version};
use crate::record::{Birth, EntryName, EntryOp, Fop, NAME_MAX, Record};

/// Longest accepted path of a delete (`changelog.capture-del-path`): Linux's PATH_MAX, the longest that the brick's
/// posix translator can resolve.
pub const CAPTURED_PATH_MAX: usize = 4096;

/// No record is longer: the longest has a GFID, an operation, a name and a captured path.
pub const RECORD_MAX: usize = 1 + 3 * GFID_TEXT_LEN + 2 * NAME_MAX + CAPTURED_PATH_MAX + 64;

/// What the first bytes of a buffer are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// A whole record of this many bytes.
    Record(Record, usize),
    /// The beginning of a record (also nothing at all): more bytes may complete it.
    Incomplete,
    /// No record, whatever follows.
    Damaged(Damage),
}

/// How a buffer or a file ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tail {
    /// With the last byte of a record.
    Complete,
    /// Inside a record: it is being written, or its writer died.
    Torn,
    /// With something that is no record.
    Damaged {
        /// Where that begins.
        offset: u64,
        /// Why it is none.
        reason: Damage,
    },
}

/// What a buffer contains.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Decoded {
    /// The whole records, in order.
    pub records: Vec<Record>,
    /// How many bytes they take.
    pub consumed: usize,
    /// What follows them.
    pub tail: Tail,
}

/// Decodes all records in `bytes`, which begin at a record's first byte (after the header). Never panics.
pub fn decode(bytes: &[u8], format: Format) -> Decoded {
    let mut records = Vec::new();
    let mut consumed = 0;
    loop {
        let rest = &bytes[consumed..];
        let tail = match decode_record(rest, format) {
            Step::Record(record, len) => {
                records.push(record);
                consumed += len;
                continue;
            }
            Step::Incomplete if rest.is_empty() => Tail::Complete,
            Step::Incomplete => Tail::Torn,
            Step::Damaged(reason) => Tail::Damaged { offset: consumed as u64, reason },
        };
        return Decoded { records, consumed, tail };
    }
}

/// Decodes the record at the beginning of `bytes`. Never panics, and never looks further than [`RECORD_MAX`] bytes.
pub fn decode_record(bytes: &[u8], format: Format) -> Step {
    let mut fields = Fields { bytes, at: 0, encoding: format.encoding };
    match fields.record(format.version) {
        Ok(record) => Step::Record(record, fields.at),
        Err(Stop::Incomplete) => Step::Incomplete,
        Err(Stop::Damaged(damage)) => Step::Damaged(damage),
    }
}

/// Appends a record to `out`.
///
/// Version 1.1 has no place for the captured path of a delete; it is left out there.
///
/// # Errors
/// A name or captured path that no decoder would accept; `out` is as before.
pub fn encode(record: &Record, format: Format, out: &mut Vec<u8>) -> Result<(), Damage> {
    check(record)?;
    let begin = match record {
        Record::Entry(..) => b'E',
        Record::Data(_) => b'D',
        Record::Meta(..) => b'M',
    };
    out.push(begin);
    put_gfid(record.gfid(), format.encoding, out);
    match record {
        Record::Data(_) => {}
        Record::Meta(_, fop) => put_number(fop.0, format.encoding, out),
        Record::Entry(_, op) => {
            put_number(op.fop().0, format.encoding, out);
            if let Some(birth) = op.birth() {
                for number in [birth.mode, birth.uid, birth.gid] {
                    put_number(number, format.encoding, out);
                }
            }
            put_entry(op.entry(), format.encoding, out);
            if let Some(entry) = op.new_entry() {
                put_entry(entry, format.encoding, out);
            }
            if let (EntryOp::Unlink(_, path) | EntryOp::Rmdir(_, path), Version::V1_2) = (op, format.version) {
                out.push(0);
                out.extend_from_slice(path.as_deref().unwrap_or(&[0]));
            }
        }
    }
    out.push(0);
    Ok(())
}

fn check(record: &Record) -> Result<(), Damage> {
    let Record::Entry(_, op) = record else { return Ok(()) };
    check_name(&op.entry().name)?;
    if let Some(entry) = op.new_entry() {
        check_name(&entry.name)?;
    }
    if let EntryOp::Unlink(_, Some(path)) | EntryOp::Rmdir(_, Some(path)) = op
        && (path.is_empty() || path.len() > CAPTURED_PATH_MAX || path.contains(&0))
    {
        return Err(Damage::CapturedPath);
    }
    Ok(())
}

fn check_name(name: &[u8]) -> Result<(), Damage> {
    let special = matches!(name, b"" | b"." | b"..");
    if special || name.len() > NAME_MAX || name.iter().any(|byte| matches!(byte, 0 | b'/')) {
        return Err(Damage::Name);
    }
    Ok(())
}

fn put_gfid(gfid: Gfid, encoding: Encoding, out: &mut Vec<u8>) {
    match encoding {
        Encoding::Binary => out.extend_from_slice(&gfid.0),
        Encoding::Ascii => out.extend_from_slice(gfid.to_string().as_bytes()),
    }
}

fn put_number(number: u32, encoding: Encoding, out: &mut Vec<u8>) {
    out.push(0);
    match encoding {
        Encoding::Binary => out.extend_from_slice(&number.to_le_bytes()),
        Encoding::Ascii => out.extend_from_slice(number.to_string().as_bytes()),
    }
}

fn put_entry(entry: &EntryName, encoding: Encoding, out: &mut Vec<u8>) {
    out.push(0);
    put_gfid(entry.parent, encoding, out);
    out.push(b'/');
    out.extend_from_slice(&entry.name);
}

/// Why a record could not be decoded.
enum Stop {
    Incomplete,
    Damaged(Damage),
}

impl From<Damage> for Stop {
    fn from(damage: Damage) -> Stop {
        Stop::Damaged(damage)
    }
}

/// A cursor over the fields of one record. Each reading method leaves `at` behind what it read.
struct Fields<'a> {
    bytes: &'a [u8],
    at: usize,
    encoding: Encoding,
}

impl<'a> Fields<'a> {
    fn record(&mut self, version: Version) -> Result<Record, Stop> {
        let kind = self.take(1)?[0];
        if !matches!(kind, b'D' | b'E' | b'M') {
            return Err(Damage::Type.into());
        }
        let gfid = self.gfid()?;
        self.separator(0)?;
        match kind {
            b'D' => Ok(Record::Data(gfid)),
            b'M' => Ok(Record::Meta(gfid, Fop(self.number()?))),
            _ => Ok(Record::Entry(gfid, self.entry_op(version)?)),
        }
    }

    fn entry_op(&mut self, version: Version) -> Result<EntryOp, Stop> {
        let fop = Fop(self.number()?);
        Ok(match fop {
            Fop::CREATE => EntryOp::Create(self.birth()?, self.entry()?),
            Fop::MKNOD => EntryOp::Mknod(self.birth()?, self.entry()?),
            Fop::MKDIR => EntryOp::Mkdir(self.birth()?, self.entry()?),
            Fop::SYMLINK => EntryOp::Symlink(self.entry()?),
            Fop::LINK => EntryOp::Link(self.entry()?),
            Fop::RENAME => EntryOp::Rename(self.entry()?, self.entry()?),
            Fop::UNLINK => EntryOp::Unlink(self.entry()?, self.captured_path(version)?),
            Fop::RMDIR => EntryOp::Rmdir(self.entry()?, self.captured_path(version)?),
            _ => return Err(Damage::EntryFop.into()),
        })
    }

    fn birth(&mut self) -> Result<Birth, Stop> {
        Ok(Birth { mode: self.number()?, uid: self.number()?, gid: self.number()? })
    }

    /// Reads a parent, a `/`, a name and its NUL.
    fn entry(&mut self) -> Result<EntryName, Stop> {
        let parent = self.gfid()?;
        self.separator(b'/')?;
        let name = self.text(NAME_MAX, Damage::Name)?;
        check_name(name)?;
        Ok(EntryName { parent, name: name.to_vec() })
    }

    /// Reads what v1.2 adds to a delete: a path with its NUL, or an empty field and one more NUL.
    fn captured_path(&mut self, version: Version) -> Result<Option<Vec<u8>>, Stop> {
        if version == Version::V1_1 {
            return Ok(None);
        }
        let path = self.text(CAPTURED_PATH_MAX, Damage::CapturedPath)?;
        if !path.is_empty() {
            return Ok(Some(path.to_vec()));
        }
        self.separator(0)?;
        Ok(None)
    }

    fn gfid(&mut self) -> Result<Gfid, Stop> {
        match self.encoding {
            Encoding::Binary => {
                let raw = self.take(16)?.try_into().expect("took 16 bytes");
                Ok(Gfid(raw))
            }
            Encoding::Ascii => {
                let text = self.take(GFID_TEXT_LEN)?;
                let lower = !text.iter().any(u8::is_ascii_uppercase);
                let gfid = Gfid::parse(text).map_err(|_| Damage::Gfid)?;
                if lower { Ok(gfid) } else { Err(Damage::Gfid.into()) }
            }
        }
    }

    /// Reads a number and the NUL behind it.
    fn number(&mut self) -> Result<u32, Stop> {
        match self.encoding {
            Encoding::Binary => {
                let raw = self.take(4)?.try_into().expect("took 4 bytes");
                self.separator(0)?;
                Ok(u32::from_le_bytes(raw))
            }
            Encoding::Ascii => {
                // u32::MAX has 10 digits.
                let text = self.text(10, Damage::Number)?;
                let padded = text.len() > 1 && text[0] == b'0';
                if text.is_empty() || padded || !text.iter().all(u8::is_ascii_digit) {
                    return Err(Damage::Number.into());
                }
                let number = text.iter().fold(0u64, |sum, digit| sum * 10 + u64::from(digit - b'0'));
                u32::try_from(number).map_err(|_| Damage::Number.into())
            }
        }
    }

    /// Reads up to `max` bytes and the NUL behind them.
    fn text(&mut self, max: usize, too_long: Damage) -> Result<&'a [u8], Stop> {
        let rest = &self.bytes[self.at..];
        let window = &rest[..rest.len().min(max + 1)];
        match window.iter().position(|&byte| byte == 0) {
            Some(len) => {
                self.at += len + 1;
                Ok(&window[..len])
            }
            None if window.len() > max => Err(too_long.into()),
            None => Err(Stop::Incomplete),
        }
    }

    fn separator(&mut self, expected: u8) -> Result<(), Stop> {
        if self.take(1)?[0] == expected { Ok(()) } else { Err(Damage::Separator.into()) }
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], Stop> {
        let taken = self.bytes.get(self.at..self.at + len).ok_or(Stop::Incomplete)?;
        self.at += len;
        Ok(taken)
    }
}
