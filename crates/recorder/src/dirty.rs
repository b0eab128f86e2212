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
    /// With the position of the event that mentioned it first.
    slot_order: VecDeque<(Arc<RawSlot>, u64)>,
    objects: HashMap<Handle, Hints>,
    object_order: VecDeque<(Handle, u64)>,
    overflow: bool,
    /// Where the oldest event is that was forgotten and not told of yet.
    lost_from: Option<u64>,
    events: u64,
}

impl Dirty {
    /// Notes what an event is about. `position`: where it is in the ring, or the events among which it is begin.
    pub fn absorb(&mut self, event: &Event<'_>, own_pid: Option<i32>, position: u64) {
        if event.mask & libc::FAN_Q_OVERFLOW != 0 {
            self.absorb_overflow(position);
            return;
        }
        if Some(event.pid) == own_pid {
            return;
        }
        self.events += 1;
        if event.mask & ENTRY_EVENTS != 0 {
            for name in [&event.name, &event.new_name].into_iter().flatten() {
                self.add_slot(name, position);
            }
        }
        let hints = Hints {
            modified: event.mask & libc::FAN_MODIFY != 0,
            closed: event.mask & libc::FAN_CLOSE_WRITE != 0,
            attributes: event.mask & libc::FAN_ATTRIB != 0,
        };
        match (&event.object, &event.name) {
            (Some(object), _) => self.add_object(object, hints, position),
            // A change of the directory itself.
            (None, Some(name)) if name.name == b"." => self.add_object(&name.dir, hints, position),
            _ => {}
        }
        if self.len() > DIRTY_MAX {
            self.absorb_overflow(position);
        }
    }

    fn add_slot(&mut self, name: &Name<'_>, position: u64) {
        if name.name.is_empty() || name.name == b"." {
            return;
        }
        let slot = Arc::new(RawSlot { dir: name.dir.clone(), name: name.name.into() });
        if self.slots.insert(slot.clone()) {
            self.slot_order.push_back((slot, position));
        }
    }

    fn add_object(&mut self, object: &Handle, hints: Hints, position: u64) {
        match self.objects.get_mut(object) {
            Some(known) => *known = known.or(hints),
            None => {
                self.objects.insert(object.clone(), hints);
                self.object_order.push_back((object.clone(), position));
            }
        }
    }

    /// Notes that events were lost, and forgets everything: a crawl will find it.
    pub fn absorb_overflow(&mut self, position: u64) {
        let lost_from = self.oldest().unwrap_or(position);
        *self = Dirty { overflow: true, lost_from: Some(lost_from), events: self.events, ..Dirty::default() };
    }

    /// Position of the oldest event that was not taken yet; `None`: all were.
    pub fn oldest(&self) -> Option<u64> {
        let slot = self.slot_order.front().map(|(_, position)| *position);
        let object = self.object_order.front().map(|(_, position)| *position);
        [slot, object, self.lost_from].into_iter().flatten().min()
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
        self.lost_from = None;
        std::mem::take(&mut self.overflow)
    }

    /// Takes the oldest names and, with the last of them, the oldest objects.
    ///
    /// Objects go with the last names: what was said about an object that one of the names brings must not be
    /// forgotten before.
    pub fn take(&mut self, max: usize) -> Taken {
        let count = self.slot_order.len().min(max);
        let slots: Vec<_> = self.slot_order.drain(..count).map(|(slot, _)| slot).collect();
        for slot in &slots {
            self.slots.remove(slot);
        }
        let mut objects = Vec::new();
        if self.slot_order.is_empty() {
            let count = self.object_order.len().min(max);
            for (object, _) in self.object_order.drain(..count) {
                let hints = self.objects.remove(&object).unwrap_or_default();
                objects.push((object, hints));
            }
        }
        if self.is_empty() && self.slots.capacity() + self.objects.capacity() > 65_536 {
            // The memory of a burst is not kept.
            let (overflow, lost_from, events) = (self.overflow, self.lost_from, self.events);
            *self = Dirty { overflow, lost_from, events, ..Dirty::default() };
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
        dirty.absorb(&event(libc::FAN_CREATE | libc::FAN_MODIFY, b"b", 1), Some(9), 7);
        dirty.absorb(&event(libc::FAN_DELETE, b"a", 2), Some(9), 7);
        dirty.absorb(&event(libc::FAN_CLOSE_WRITE, b"b", 1), Some(9), 7);
        dirty.absorb(&event(libc::FAN_CREATE, b"b", 3), Some(9), 7);
        dirty.absorb(&event(libc::FAN_CREATE, b"own", 4), Some(5), 7);
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
        dirty.absorb(&event(libc::FAN_CREATE, b"b", 1), Some(9), 7);
        dirty.absorb(&Event { mask: libc::FAN_Q_OVERFLOW, ..Event::default() }, Some(9), 8);
        assert!(dirty.is_empty());
        assert_eq!(dirty.oldest(), Some(7), "nothing behind this is written down");
        assert!(dirty.take_overflow() && !dirty.take_overflow());
        assert_eq!(dirty.oldest(), None);
    }

    #[test]
    fn the_oldest_event_is_that_of_the_oldest_key() {
        let mut dirty = Dirty::default();
        for (position, name, object) in [(10, b"a", 1), (20, b"b", 2), (30, b"a", 1), (40, b"c", 1)] {
            dirty.absorb(&event(libc::FAN_CREATE, name, object), None, position);
        }
        assert_eq!(dirty.oldest(), Some(10));
        dirty.take(1);
        assert_eq!(dirty.oldest(), Some(10), "the objects of the first event were not taken");
        dirty.take(2);
        assert_eq!(dirty.oldest(), None);
        dirty.absorb(&event(libc::FAN_CREATE, b"a", 1), None, 50);
        assert_eq!(dirty.oldest(), Some(50));
    }
}
