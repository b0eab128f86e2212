//! A writer that does something between any two system calls of the reader.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::*;
use crate::gfid::Gfid;
use crate::race::with_hook;
use crate::writer::{JournalOptions, JournalWriter};

const NOW: u64 = 1_795_221_431;

/// A writer, and how many records it has written.
struct Brick {
    writer: JournalWriter,
    written: u8,
    now_secs: u64,
}

impl Brick {
    fn act(&mut self, actions: &str) {
        for action in actions.chars() {
            match action {
                'a' => {
                    self.writer.append(&[Record::Data(Gfid([self.written; 16]))]).unwrap();
                    self.written += 1;
                }
                'r' => {
                    // Two rolls are on two days, so that a listing can see the later one only.
                    self.now_secs += 50_000;
                    self.writer.roll(self.now_secs).unwrap();
                }
                other => panic!("{other}"),
            }
        }
    }
}

fn drain(reader: &mut JournalReader, max_records: usize, seen: &mut Vec<u8>) {
    loop {
        let batch = reader.read(max_records).unwrap();
        assert_eq!(batch.unproven, []);
        seen.extend(batch.records.iter().map(|(_, record)| record.gfid().0[0]));
        if batch.at_tail {
            return;
        }
    }
}

/// Runs one interleaving; returns how many places the reader passed.
fn interleave(before: &str, live: bool, meanwhile: &[(usize, &'static str)]) -> usize {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| tempfile::tempdir().unwrap());
    let writer = JournalWriter::create_or_open(dir.path(), JournalOptions { now_secs: NOW }).unwrap();
    let brick = Rc::new(RefCell::new(Brick { writer, written: 0, now_secs: NOW }));
    let mut reader = JournalReader::open(dir.path(), Position::START).unwrap();
    let mut seen = Vec::new();
    if live {
        brick.borrow_mut().act("a");
        drain(&mut reader, 10, &mut seen);
    }
    brick.borrow_mut().act(before);
    let passed = Rc::new(Cell::new(0));
    let hook = {
        let (brick, passed, meanwhile) = (brick.clone(), passed.clone(), meanwhile.to_vec());
        move || {
            for (_, actions) in meanwhile.iter().filter(|&&(at, _)| at == passed.get()) {
                brick.borrow_mut().act(actions);
            }
            passed.set(passed.get() + 1);
        }
    };
    with_hook(hook, || drain(&mut reader, 10, &mut seen));
    drain(&mut reader, 10, &mut seen);
    let brick = brick.borrow();
    let case = format!("before {before}, live {live}, meanwhile {meanwhile:?}");
    assert_eq!(seen, (0..brick.written).collect::<Vec<u8>>(), "{case}");
    assert_eq!(reader.position(), brick.writer.position(), "{case}");
    passed.get()
}

#[test]
fn whatever_a_writer_does_between_two_system_calls_each_record_is_read_once() {
    let mut cases = 0;
    for before in ["", "a", "ar", "arr", "arar"] {
        for live in [false, true] {
            let places = interleave(before, live, &[]);
            assert!(places >= 1);
            for at in 0..places {
                for actions in ["a", "r", "ar", "rar", "ararar"] {
                    // What it does makes the reader pass more places; once more at one of the next ones.
                    interleave(before, live, &[(at, actions)]);
                    for later in [1, 3] {
                        interleave(before, live, &[(at, actions), (at + later, "ara")]);
                        cases += 1;
                    }
                }
            }
        }
    }
    assert!(cases > 500, "{cases}");
}
