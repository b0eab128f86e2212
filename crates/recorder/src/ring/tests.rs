use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use super::*;

/// An event of some length, told apart by its content.
fn event(length: u32, content: u8) -> Vec<u8> {
    let mut all = length.to_ne_bytes().to_vec();
    all.resize(length as usize, content);
    all
}

/// A ring, and a socket in the place of a group.
struct Bench {
    ring: Ring,
    writer: UnixStream,
    reader: UnixStream,
}

impl Bench {
    fn new(capacity: u64) -> Bench {
        let (writer, reader) = UnixStream::pair().unwrap();
        reader.set_nonblocking(true).unwrap();
        Bench { ring: Ring::create(capacity).unwrap(), writer, reader }
    }

    fn read(&mut self, events: &[Vec<u8>]) -> Option<u64> {
        self.writer.write_all(&events.concat()).unwrap();
        let mut out = Vec::new();
        let at = self.ring.read(self.reader.as_fd(), &mut out).unwrap();
        assert!(at.is_none() || out == events.concat());
        at
    }

    fn reopen(&mut self) {
        self.ring = Ring::open(self.ring.memory().try_clone_to_owned().unwrap()).unwrap();
    }

    fn waiting(&self, from: u64) -> Vec<u8> {
        let mut all = Vec::new();
        self.ring.replay(from, |_, bytes| all.extend_from_slice(bytes)).unwrap();
        all
    }
}

#[test]
fn what_is_not_acknowledged_is_there_for_the_next_owner() {
    let mut bench = Bench::new(64 << 10);
    let events: Vec<_> = (0..5).map(|n| event(24 + 4 * n, n as u8 + 1)).collect();
    assert_eq!(bench.read(&events[..2]), Some(0));
    let second = bench.read(&events[2..4]).unwrap();
    bench.reopen();
    assert_eq!(bench.waiting(0), events[..4].concat());
    assert_eq!(bench.waiting(second), events[2..4].concat());
    bench.ring.acknowledge(second);
    bench.reopen();
    assert!(bench.ring.replay(0, |_, _| {}).is_err(), "what was acknowledged is gone");
    assert_eq!(bench.waiting(second), events[2..4].concat());
    bench.ring.acknowledge(u64::MAX);
    assert_eq!(bench.ring.acked(), bench.ring.head());
    let third = bench.read(&events[4..]).unwrap();
    bench.reopen();
    assert_eq!(bench.waiting(third), events[4]);
}

#[test]
fn a_read_that_was_not_noted_is_found() {
    let mut bench = Bench::new(64 << 10);
    bench.read(&[event(40, 1)]).unwrap();
    let noted = bench.ring.head();
    bench.read(&[event(60, 2), event(24, 3)]).unwrap();
    let head = bench.ring.head();
    // As if the process had ended between the read and its note.
    bench.ring.shared.number(AT_HEAD).store(noted, SeqCst);
    bench.ring.shared.number(AT_READING).store(noted + 1, SeqCst);
    bench.reopen();
    assert_eq!(bench.ring.head(), head);
    assert_eq!(bench.waiting(noted), [event(60, 2), event(24, 3)].concat());
}

#[test]
fn laps_full_rings_and_reopening_at_random() {
    let seed = std::env::var("GSYNC_SEED").ok().and_then(|text| text.parse().ok());
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
    eprintln!("GSYNC_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut bench = Bench::new(40_000);
    let mut expected: std::collections::VecDeque<(u64, Vec<u8>)> = std::collections::VecDeque::new();
    let (mut full, mut laps) = (0, 0);
    for round in 0..20_000u32 {
        match random.u32(..10) {
            0..6 => {
                let batch: Vec<_> =
                    (0..random.u32(1..4)).map(|n| event(24 + 4 * random.u32(..300), (round + n) as u8)).collect();
                let free = 40_000 - (bench.ring.head() - bench.ring.acked());
                if free < 2 * READ_MIN {
                    let mut out = Vec::new();
                    match bench.ring.read(bench.reader.as_fd(), &mut out) {
                        Ok(None) => full += 1,
                        Ok(Some(_)) => panic!("read out of nothing"),
                        Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
                    }
                    continue;
                }
                let before = bench.ring.head();
                match bench.read(&batch) {
                    Some(at) => {
                        laps += u32::from(at != before);
                        expected.push_back((at, batch.concat()));
                    }
                    // A socket forgets nothing: the ring has to be emptied before the next read.
                    None => {
                        full += 1;
                        bench.ring.acknowledge(u64::MAX);
                        expected.clear();
                        let mut out = Vec::new();
                        let at = bench.ring.read(bench.reader.as_fd(), &mut out).unwrap().unwrap();
                        expected.push_back((at, out));
                    }
                }
            }
            6..8 => {
                for _ in 0..random.usize(..4) {
                    expected.pop_front();
                }
                let acked = expected.front().map_or(u64::MAX, |(at, _)| *at);
                bench.ring.acknowledge(acked);
            }
            _ => bench.reopen(),
        }
        if random.u32(..50) == 0 {
            let all: Vec<u8> = expected.iter().flat_map(|(_, bytes)| bytes.clone()).collect();
            assert_eq!(bench.waiting(bench.ring.acked()), all, "round {round}");
        }
    }
    assert!(full > 10 && laps > 10, "{full} {laps}");
}

#[test]
fn bricks_are_kept() {
    let bench = Bench::new(64 << 10);
    for number in 0..100u8 {
        bench.ring.set_brick([number; 16], u64::from(number));
    }
    assert_eq!(bench.ring.bricks().len(), BRICKS_MAX);
    bench.ring.set_brick([3; 16], 77);
    bench.ring.remove_brick([4; 16]);
    let other = Ring::peek(bench.ring.memory().try_clone_to_owned().unwrap()).unwrap();
    assert!(other.bricks().contains(&([3; 16], 77)));
    assert!(!other.bricks().iter().any(|(id, _)| *id == [4; 16]));
    assert_eq!(other.bricks().len(), BRICKS_MAX - 1);
}

#[test]
fn something_else_is_no_ring() {
    let file = tempfile::tempfile().unwrap();
    file.set_len(1 << 20).unwrap();
    assert!(Ring::open(file.into()).is_err(), "not a memory file");
    for (at, value) in [(AT_MAGIC, 1), (AT_CAPACITY, 5), (AT_ACKED, 9), (AT_HEAD, 1 << 40), (AT_BASE, 3)] {
        let bench = Bench::new(64 << 10);
        bench.ring.shared.number(at).store(value, SeqCst);
        assert!(Ring::open(bench.ring.memory().try_clone_to_owned().unwrap()).is_err(), "{at}");
    }
    // Nonsense in the place of events is told, not believed.
    let mut bench = Bench::new(64 << 10);
    bench.read(&[event(24, 1), event(40, 1)]).unwrap();
    bench.ring.shared.put(DATA, &7u32.to_ne_bytes());
    assert!(bench.ring.replay(0, |_, _| {}).is_err());
    bench.ring.shared.put(DATA, &70_000u32.to_ne_bytes());
    assert!(bench.ring.replay(0, |_, _| {}).is_err());
    assert!(bench.ring.memory().as_raw_fd() > 2);
}
