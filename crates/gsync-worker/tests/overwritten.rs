//! A file lost its name and a new one was made under it. The new file's name comes with its content, so that nobody
//! looked at the name on its own, and nobody asked what became of the first file: it stayed parked for ever.

use std::time::{Duration, Instant};

use changelog::{Birth, EntryName, EntryOp, Gfid, Position, Record};
use gsync_worker::brake::{Brake, Limits};
use gsync_worker::core::Core;
use gsync_worker::event::{Effect, Event, TransferState, Transferred};
use gsync_worker::plan::Survey;
use protocol::agent::Outcome;
use protocol::brick::Names;
use protocol::{Kind, Object, Place, Time};

fn file() -> Object {
    let time = Time { secs: 1, nanos: 0 };
    Object {
        kind: Kind::File,
        mode: 0o644,
        uid: 0,
        gid: 0,
        nlink: 1,
        rdev: 0,
        size: 1,
        mtime: time,
        ctime: time,
        target: Vec::new(),
        xattrs: Vec::new(),
    }
}

#[test]
fn the_object_that_had_the_name_of_a_new_file_is_asked_for() {
    let now = Instant::now();
    let (old, new) = (Gfid([1; 16]), Gfid([2; 16]));
    let name = EntryName { parent: Gfid::ROOT, name: b"n".to_vec() };
    let birth = Birth { mode: 0o100_644, uid: 0, gid: 0 };
    let records =
        [Record::Entry(old, EntryOp::Unlink(name.clone(), None)), Record::Entry(new, EntryOp::Create(birth, name))];
    let records = (51..).zip(records).map(|(offset, record)| (Position { after: 1, offset }, record)).collect();
    let limits = Limits { share: 100, count: 0, free: None };
    let brake = Brake::new(limits, Default::default(), now);
    let mut core = Core::new([7; 16], Default::default(), (1, 1), brake, now);
    let next = Position { after: 1, offset: 53 };
    let mut effects = core.apply(Event::Records { unproven: None, records, next, at_tail: true, read_until: 0 }, now);
    assert!(matches!(effects.as_slice(), [Effect::Transfer(_)]), "{effects:?}");
    let state = TransferState::Staged { object: file(), whole: true };
    effects = core.apply(Event::Transferred(vec![Transferred { gfid: new, state }]), now);
    let Some(Effect::Survey(round)) = effects.pop() else { panic!("{effects:?}") };
    let places = vec![Place { parent: Gfid::ROOT, name: b"n".to_vec() }];
    let lives = vec![(new, Names::Alive(file(), places))];
    effects = core.apply(Event::Surveyed(round, Survey { lives, ..Survey::default() }), now);
    let Some(Effect::Apply(ticket, batch)) = effects.pop() else { panic!("{effects:?}") };
    let items = vec![Outcome::Done; batch.items.len()];
    core.apply(
        Event::Applied { ticket, items, gone: Vec::new(), parked: Vec::new(), balance: Default::default() },
        now,
    );
    let effects = core.tick(now + Duration::from_secs(1));
    let Some(Effect::Survey(round)) = effects.first() else { panic!("nobody asks for it: {effects:?}") };
    assert_eq!(round.names[0].1.mentions, [old, new]);
}
