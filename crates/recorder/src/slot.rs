//! A name in a directory, by identity.

use changelog::{EntryName, Gfid};

/// One place where an object can be.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Slot {
    /// The directory.
    pub parent: Gfid,
    /// The name in it.
    pub name: Box<[u8]>,
}

impl Slot {
    /// `name` in `parent`.
    pub fn new(parent: Gfid, name: &[u8]) -> Slot {
        Slot { parent, name: name.into() }
    }

    /// Where an object waits that has to give way, or whose next name is not known yet.
    pub fn parking(object: Gfid) -> Slot {
        Slot::new(Gfid::PARKING, object.to_string().as_bytes())
    }

    /// Whether this is a place of [`Slot::parking`].
    pub fn is_parking(&self) -> bool {
        self.parent == Gfid::PARKING
    }

    /// As a record has it.
    pub fn to_entry(&self) -> EntryName {
        EntryName { parent: self.parent, name: self.name.to_vec() }
    }
}

impl From<&EntryName> for Slot {
    fn from(entry: &EntryName) -> Slot {
        Slot::new(entry.parent, &entry.name)
    }
}
