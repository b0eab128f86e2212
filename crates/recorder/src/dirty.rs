//! Which names and which objects are to be looked at, in the order in which they were first mentioned.
//!
//! The kernel merges events that were not read yet, so an event tells neither what happened last nor how often. It
//! only tells where to look; that is all that is kept of it.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use crate::event::{Event, Name};
use crate::handle::Handle;

/// More keys than this (about 300 MB) are given up for a crawl.
pub const DIRTY_MAX: usize = 1_000_000;

/// Events after which a name has to be looked at.
const ENTRY_EVENTS: u64 =
    libc::FAN_CREATE | libc::FAN_DELETE | libc::FAN_RENAME | libc::FAN_MOVED_FROM | libc::FAN_MOVED_TO;

/// A name in a directory that is known by its handle only.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct RawSlot {
    /// The directory.
    pub dir: Handle,
    /// The name.
    pub name: Box<[u8]>,
}

/// What events said about an object.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Hints {
    /// Content was written.
    pub modified: bool,
    /// A writer closed it.
    pub closed: bool,
    /// Attributes, or the number of its names, changed.
    pub attributes: bool,
}

impl Hints {
    /// Both together.
    pub fn or(self, other: Hints) -> Hints {
        Hints {
            modified: self.modified || other.modified,
            closed: self.closed || other.closed,
            attributes: self.attributes || other.attributes,
        }
    }
}

/// A share of the keys, taken out to be worked on.
#[derive(Debug, Default)]
pub struct Taken {
    /// Names to look at.
    pub slots: Vec<Arc<RawSlot>>,
    /// Objects to look at.
    pub objects: Vec<(Handle, Hints)>,
}

/// The set of all keys.
#[derive(Debug, Default)]
pub struct Dirty {
    slots: HashSet<Arc<RawSlot>>,
    slot_order: VecDeque<Arc<RawSlot>>,
    objects: HashMap<Handle, Hints>,
    object_order: VecDeque<Handle>,
    overflow: bool,
    events: u64,
}

impl Dirty {
    /// Notes what an event is about.
    pub fn absorb(&mut self, event: &Event<'_>, own_pid: i32) {
        if event.mask & libc::FAN_Q_OVERFLOW != 0 {
            self.give_up();
            return;
        }
        if event.pid == own_pid {
            return;
        }
        self.events += 1;
        if event.mask & ENTRY_EVENTS != 0 {
            for name in [&event.name, &event.new_name].into_iter().flatten() {
                self.add_slot(name);
            }
        }
        let hints = Hints {
            modified: event.mask & libc::FAN_MODIFY != 0,
            closed: event.mask & libc::FAN_CLOSE_WRITE != 0,
            attributes: event.mask & libc::FAN_ATTRIB != 0,
        };
        match (&event.object, &event.name) {
            (Some(object), _) => self.add_object(object, hints),
            // A change of the directory itself.
            (None, Some(name)) if name.name == b"." => self.add_object(&name.dir, hints),
            _ => {}
        }
        if self.len() > DIRTY_MAX {
            self.give_up();
        }
    }

    fn add_slot(&mut self, name: &Name<'_>) {
        if name.name.is_empty() || name.name == b"." {
            return;
        }
        let slot = Arc::new(RawSlot { dir: name.dir.clone(), name: name.name.into() });
        if self.slots.insert(slot.clone()) {
            self.slot_order.push_back(slot);
        }
    }

    fn add_object(&mut self, object: &Handle, hints: Hints) {
        match self.objects.get_mut(object) {
            Some(known) => *known = known.or(hints),
            None => {
                self.objects.insert(object.clone(), hints);
                self.object_order.push_back(object.clone());
            }
        }
    }

    /// Forgets everything; a crawl will find it.
    fn give_up(&mut self) {
        let events = self.events;
        *self = Dirty { overflow: true, events, ..Dirty::default() };
    }

    /// Notes that events were lost.
    pub fn absorb_overflow(&mut self) {
        self.give_up();
    }

    /// Number of keys.
    pub fn len(&self) -> usize {
        self.slots.len() + self.objects.len()
    }

    /// Whether there is nothing to look at.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty() && self.objects.is_empty()
    }

    /// Whether there is nothing to look at and nothing was lost.
    pub fn is_quiet(&self) -> bool {
        self.is_empty() && !self.overflow
    }

    /// How many events of other processes there were.
    pub fn events(&self) -> u64 {
        self.events
    }

    /// Whether events were lost since the last call.
    pub fn take_overflow(&mut self) -> bool {
        std::mem::take(&mut self.overflow)
    }

    /// Takes the oldest names and, with the last of them, the oldest objects.
    ///
    /// Objects go with the last names: what was said about an object that one of the names brings must not be
    /// forgotten before.
    pub fn take(&mut self, max: usize) -> Taken {
        let count = self.slot_order.len().min(max);
        let slots: Vec<_> = self.slot_order.drain(..count).collect();
        for slot in &slots {
            self.slots.remove(slot);
        }
        let mut objects = Vec::new();
        if self.slot_order.is_empty() {
            let count = self.object_order.len().min(max);
            for object in self.object_order.drain(..count) {
                let hints = self.objects.remove(&object).unwrap_or_default();
                objects.push((object, hints));
            }
        }
        if self.is_empty() && self.slots.capacity() + self.objects.capacity() > 65_536 {
            // The memory of a burst is not kept.
            *self = Dirty { overflow: self.overflow, events: self.events, ..Dirty::default() };
        }
        Taken { slots, objects }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handle(n: u8) -> Handle {
        Handle::new(1, &[n; 8]).unwrap()
    }

    fn event(mask: u64, name: &'static [u8], object: u8) -> Event<'static> {
        let name = Some(Name { dir: handle(0), name });
        Event { mask, pid: 5, name, new_name: None, object: Some(handle(object)) }
    }

    #[test]
    fn keys_are_kept_once_in_order_with_all_hints() {
        let mut dirty = Dirty::default();
        dirty.absorb(&event(libc::FAN_CREATE | libc::FAN_MODIFY, b"b", 1), 9);
        dirty.absorb(&event(libc::FAN_DELETE, b"a", 2), 9);
        dirty.absorb(&event(libc::FAN_CLOSE_WRITE, b"b", 1), 9);
        dirty.absorb(&event(libc::FAN_CREATE, b"b", 3), 9);
        dirty.absorb(&event(libc::FAN_CREATE, b"own", 4), 5);
        let first = dirty.take(1);
        assert_eq!((&*first.slots[0].name, first.objects.len()), (b"b".as_slice(), 0));
        let second = dirty.take(9);
        assert_eq!((&*second.slots[0].name, second.slots.len()), (b"a".as_slice(), 1));
        let hints = second.objects.iter().find(|(object, _)| *object == handle(1)).unwrap().1;
        assert!(hints.modified && hints.closed && !hints.attributes);
        assert!(dirty.is_empty());
    }

    #[test]
    fn an_overflow_forgets_everything_and_is_told_once() {
        let mut dirty = Dirty::default();
        dirty.absorb(&event(libc::FAN_CREATE, b"b", 1), 9);
        dirty.absorb(&Event { mask: libc::FAN_Q_OVERFLOW, ..Event::default() }, 9);
        assert!(dirty.is_empty());
        assert!(dirty.take_overflow() && !dirty.take_overflow());
    }
}
