//! When a file is sent although somebody is writing to it.

use std::time::{Duration, Instant};

use changelog::{Position, Record};
use gsync_worker::brake::{Brake, Limits};
use gsync_worker::core::Core;
use gsync_worker::event::{Effect, Event, TransferState, Transferred};
use protocol::Gfid;

const FILE: Gfid = Gfid([5; 16]);

/// Whether the one transfer that is asked for takes the file as it is.
fn accepts(effects: &[Effect]) -> bool {
    let jobs = effects.iter().find_map(|effect| match effect {
        Effect::Transfer(jobs) => Some(jobs),
        _ => None,
    });
    jobs.expect("no transfer")[0].accept_unstable
}

/// Files that waited long for their turn, as in a first copy, used to be taken for files that are written all the time:
/// a single write during the transfer gave a mixture over there.
#[test]
fn only_time_under_a_writer_counts() {
    let start = Instant::now();
    let at = |millis| start + Duration::from_millis(millis);
    let busy = || Event::Transferred(vec![Transferred { gfid: FILE, state: TransferState::Busy }]);
    let limits = Limits { share: 100, count: 0, free: None };
    let brake = Brake::new(limits, Default::default(), start);
    let mut core = Core::new([7; 16], Default::default(), (1, 4), brake, start);
    let position = Position { after: 1, offset: 51 };
    let records = vec![(position, Record::Data(FILE))];
    let next = Position { offset: 52, ..position };
    core.settle(Event::Records { records, next, at_tail: true, read_until: 0, unproven: None }, start);
    // Its turn comes late.
    assert!(!accepts(&core.tick(at(60_000))));
    core.settle(busy(), at(60_000));
    assert!(!accepts(&core.tick(at(62_000))));
    core.settle(busy(), at(62_000));
    assert!(!accepts(&core.tick(at(64_900))));
    core.settle(busy(), at(64_900));
    assert!(accepts(&core.tick(at(65_100))));
}
