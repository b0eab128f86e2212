//! What the kernel reports: fanotify events with file handles, out of raw bytes.
//!
//! Safe code over a slice; a malformed buffer ends the iteration and never panics.

use crate::handle::Handle;

const METADATA_BYTES: usize = 24;
const INFO_HEADER_BYTES: usize = 4;
const FSID_BYTES: usize = 8;

/// One event. Several operations may have been merged into it, see `Dirty` for what that means.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Event<'a> {
    /// `FAN_CREATE | ...`.
    pub mask: u64,
    /// Process that caused it.
    pub pid: i32,
    /// The name it is about; of a rename the old one.
    pub name: Option<Name<'a>>,
    /// Of a rename the new name.
    pub new_name: Option<Name<'a>>,
    /// The object it is about.
    pub object: Option<Handle>,
}

/// A name in a directory; `.` where the directory itself is meant.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Name<'a> {
    /// The directory.
    pub dir: Handle,
    /// The name, as the kernel has it.
    pub name: &'a [u8],
}

/// Iterates over the events that one read(2) returned.
#[derive(Clone, Debug)]
pub struct Events<'a> {
    rest: &'a [u8],
}

impl<'a> Events<'a> {
    /// Over these bytes.
    pub fn new(bytes: &'a [u8]) -> Events<'a> {
        Events { rest: bytes }
    }
}

impl<'a> Iterator for Events<'a> {
    type Item = Event<'a>;

    fn next(&mut self) -> Option<Event<'a>> {
        let length = u32_at(self.rest, 0)? as usize;
        let metadata_bytes = u16_at(self.rest, 6)? as usize;
        if metadata_bytes < METADATA_BYTES || length < metadata_bytes {
            return None;
        }
        let event = self.rest.get(..length)?;
        self.rest = &self.rest[length..];
        if event[4] != libc::FANOTIFY_METADATA_VERSION {
            return None;
        }
        let mut parsed = Event {
            mask: u64::from_ne_bytes(event.get(8..16)?.try_into().ok()?),
            pid: u32_at(event, 20)? as i32,
            ..Event::default()
        };
        let mut infos = &event[metadata_bytes..];
        while let Some(length) = u16_at(infos, 2).map(usize::from) {
            let Some(info) = infos.get(INFO_HEADER_BYTES..length) else { break };
            parsed.take_info(infos[0], info);
            infos = &infos[length..];
        }
        Some(parsed)
    }
}

impl<'a> Event<'a> {
    fn take_info(&mut self, kind: u8, info: &'a [u8]) {
        let Some((handle, rest)) = parse_handle(info) else { return };
        let name = || {
            let end = rest.iter().position(|&byte| byte == 0)?;
            Some(Name { dir: handle.clone(), name: &rest[..end] })
        };
        match kind {
            libc::FAN_EVENT_INFO_TYPE_FID => self.object = Some(handle),
            libc::FAN_EVENT_INFO_TYPE_DFID_NAME | libc::FAN_EVENT_INFO_TYPE_OLD_DFID_NAME => self.name = name(),
            libc::FAN_EVENT_INFO_TYPE_NEW_DFID_NAME => self.new_name = name(),
            _ => {}
        }
    }
}

fn parse_handle(info: &[u8]) -> Option<(Handle, &[u8])> {
    let length = u32_at(info, FSID_BYTES)? as usize;
    let kind = u32_at(info, FSID_BYTES + 4)? as i32;
    let (bytes, rest) = info.get(FSID_BYTES + 8..)?.split_at_checked(length)?;
    Some((Handle::new(kind, bytes)?, rest))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(kind: u8, handle: &[u8], name: Option<&[u8]>) -> Vec<u8> {
        let mut body = vec![9; 8];
        body.extend_from_slice(&(handle.len() as u32).to_ne_bytes());
        body.extend_from_slice(&1i32.to_ne_bytes());
        body.extend_from_slice(handle);
        if let Some(name) = name {
            body.extend_from_slice(name);
            body.push(0);
        }
        while !body.len().is_multiple_of(4) {
            body.push(0);
        }
        let mut all = vec![kind, 0];
        all.extend_from_slice(&(body.len() as u16 + 4).to_ne_bytes());
        all.extend(body);
        all
    }

    fn event(mask: u64, infos: &[Vec<u8>]) -> Vec<u8> {
        let length = 24 + infos.iter().map(Vec::len).sum::<usize>();
        let mut all = (length as u32).to_ne_bytes().to_vec();
        all.extend_from_slice(&[3, 0]);
        all.extend_from_slice(&24u16.to_ne_bytes());
        all.extend_from_slice(&mask.to_ne_bytes());
        all.extend_from_slice(&(-1i32).to_ne_bytes());
        all.extend_from_slice(&77i32.to_ne_bytes());
        all.extend(infos.concat());
        all
    }

    #[test]
    fn a_rename_has_both_names_and_the_object() {
        let mut bytes = event(
            libc::FAN_RENAME,
            &[info(10, b"old_dir_", Some(b"a")), info(12, b"new_dir_", Some(b"b")), info(1, b"the_file", None)],
        );
        bytes.extend(event(libc::FAN_Q_OVERFLOW, &[]));
        let events: Vec<_> = Events::new(&bytes).collect();
        assert_eq!(events.len(), 2);
        assert_eq!((events[0].pid, events[0].name.as_ref().unwrap().name), (77, b"a".as_slice()));
        assert_eq!(events[0].new_name.as_ref().unwrap().dir, Handle::new(1, b"new_dir_").unwrap());
        assert_eq!(events[0].object, Handle::new(1, b"the_file"));
        assert_eq!(events[1].mask, libc::FAN_Q_OVERFLOW);
    }

    #[test]
    fn no_bytes_make_it_panic() {
        let good = event(libc::FAN_CREATE, &[info(2, b"dirdirdi", Some(b"name")), info(1, b"objectob", None)]);
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..100_000 {
            let mut bytes = good.clone();
            for _ in 0..random.usize(1..6) {
                let at = random.usize(..bytes.len());
                bytes[at] = random.u8(..);
            }
            bytes.truncate(random.usize(..=bytes.len()));
            assert!(Events::new(&bytes).count() <= 8);
            let noise: Vec<u8> = (0..random.usize(..80)).map(|_| random.u8(..)).collect();
            let _ = Events::new(&noise).count();
        }
    }
}
