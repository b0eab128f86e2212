//! The contract of [`Store`], as tests that every implementation has to pass.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use crate::embedded::Embedded;
use crate::ids::Epoch;
use crate::leadership::Standing;
use crate::memory::Memory;
use crate::store::{Change, Expected, Store, StoreError};

/// More changes than a watcher may lag behind.
const MANY: u32 = 300;

/// For what happens by itself.
const LIMIT: Duration = Duration::from_secs(30);

async fn writes_are_conditional(store: &dyn Store) {
    let first = store.put("a", b"1".to_vec(), Expected::Absent).await.unwrap();
    assert!(matches!(store.put("a", b"x".to_vec(), Expected::Absent).await, Err(StoreError::Conflict { .. })));
    let second = store.put("a", b"2".to_vec(), Expected::Revision(first)).await.unwrap();
    assert!(second > first);
    for stale in [Expected::Revision(first), Expected::Absent] {
        assert!(matches!(store.put("a", b"x".to_vec(), stale).await, Err(StoreError::Conflict { .. })));
        assert!(matches!(store.delete("a", stale).await, Err(StoreError::Conflict { .. })));
    }
    let found = store.get("a").await.unwrap().unwrap();
    assert_eq!((found.value.as_slice(), found.revision), (&b"2"[..], second));
    let gone = store.delete("a", Expected::Revision(second)).await.unwrap();
    assert!(gone > second);
    assert_eq!(store.get("a").await.unwrap(), None);
    store.delete("a", Expected::Any).await.unwrap();
    let again = store.put("a", b"3".to_vec(), Expected::Absent).await.unwrap();
    assert!(again > gone, "a revision is never used twice");
    store.delete("a", Expected::Any).await.unwrap();
}

async fn keys_are_listed_by_prefix(store: &dyn Store) {
    for key in ["p/b", "p/a", "p", "q/a", "p/a/x"] {
        store.put(key, key.into(), Expected::Any).await.unwrap();
    }
    let keys = |entries: Vec<crate::store::Entry>| entries.into_iter().map(|e| e.key).collect::<Vec<_>>();
    assert_eq!(keys(store.list("p/").await.unwrap()), ["p/a", "p/a/x", "p/b"]);
    assert_eq!(keys(store.list("z").await.unwrap()), [""; 0]);
    assert!(matches!(store.put("", vec![], Expected::Any).await, Err(StoreError::Limit { .. })));
    let large = vec![0; crate::store::VALUE_MAX + 1];
    assert!(matches!(store.put("large", large, Expected::Any).await, Err(StoreError::Limit { .. })));
}

async fn changes_are_watched(store: &dyn Store) {
    let mut watch = store.watch("w/").await.unwrap();
    store.put("v", vec![], Expected::Any).await.unwrap();
    store.put("w/1", b"x".to_vec(), Expected::Any).await.unwrap();
    store.delete("w/1", Expected::Any).await.unwrap();
    assert!(matches!(watch.next().await, Some(Change::Put(entry)) if entry.key == "w/1" && entry.value == b"x"));
    assert!(matches!(watch.next().await, Some(Change::Deleted { key, .. }) if key == "w/1"));
    for i in 0..MANY {
        store.put("w/many", i.to_le_bytes().to_vec(), Expected::Any).await.unwrap();
    }
    // A watcher that is too slow is told; one that is not told misses nothing.
    let mut next = 0;
    while next < MANY {
        match tokio::time::timeout(LIMIT, watch.next()).await.expect("a watch is silent").unwrap() {
            Change::Lost => return,
            Change::Put(entry) => assert_eq!(entry.value, next.to_le_bytes()),
            Change::Deleted { key, .. } => panic!("{key} was not deleted"),
        }
        next += 1;
    }
}

async fn announcements_end_with_the_process(store: &dyn Store) {
    let mut watch = store.watch("n/").await.unwrap();
    store.announce("n/a", b"1".to_vec()).await.unwrap();
    store.announce("n/a", b"2".to_vec()).await.unwrap();
    store.announce("n/b", b"3".to_vec()).await.unwrap();
    store.delete("n/b", Expected::Any).await.unwrap();
    let values = |entries: Vec<crate::store::Entry>| entries.into_iter().map(|e| e.value).collect::<Vec<_>>();
    assert_eq!(values(store.list("n/").await.unwrap()), [b"2"]);
    assert_eq!(store.get("n/a").await.unwrap().unwrap().value, b"2");
    for want in [Some(&b"1"[..]), Some(b"2"), Some(b"3"), None] {
        match (watch.next().await, want) {
            (Some(Change::Put(entry)), Some(want)) => assert_eq!(entry.value, want),
            (Some(Change::Deleted { key, .. }), None) => assert_eq!(key, "n/b"),
            (other, _) => panic!("{other:?}"),
        }
    }
}

async fn closing_gives_everything_up(store: &dyn Store) {
    store.announce("n/a", b"1".to_vec()).await.unwrap();
    let mut watch = store.watch("n/").await.unwrap();
    let mut lead = store.campaign("end", "a").await.unwrap();
    assert_eq!(lead.standing(), Standing::Held);
    store.close().await.unwrap();
    assert_eq!(tokio::time::timeout(LIMIT, lead.changed()).await.unwrap(), Standing::Lost);
    loop {
        match tokio::time::timeout(LIMIT, watch.next()).await.unwrap() {
            Some(Change::Put(entry)) => assert_eq!(entry.value, b"1"),
            Some(Change::Deleted { .. }) | None => break,
            Some(Change::Lost) => panic!("nothing was lost"),
        }
    }
}

async fn a_campaign_that_is_given_up_never_wins(store: &dyn Store) {
    let leads = store.campaign("g", "a").await.unwrap();
    let waits = tokio::time::timeout(Duration::from_millis(300), store.campaign("g", "b"));
    assert!(waits.await.is_err(), "nobody wins while another one leads");
    store.resign("g", leads.epoch()).await.unwrap();
    let other = tokio::time::timeout(LIMIT, store.campaign("g", "c")).await.expect("somebody who left leads").unwrap();
    assert!(other.epoch() > leads.epoch());
}

async fn one_candidate_leads(store: Arc<dyn Store>) {
    let first = store.campaign("e", "a").await.unwrap();
    let second = store.campaign("e", "a").await.unwrap();
    assert!(second.epoch() > first.epoch(), "a new election has a new epoch");
    assert_eq!((first.standing(), second.standing()), (Standing::Lost, Standing::Held));
    let other = Arc::clone(&store);
    let mut waiting = tokio::spawn(async move { other.campaign("e", "b").await.unwrap() });
    let early = tokio::time::timeout(Duration::from_millis(50), &mut waiting).await;
    assert!(early.is_err(), "nobody wins while another one leads");
    store.resign("e", first.epoch()).await.unwrap();
    assert_eq!(store.leader("e").await.unwrap().unwrap().candidate, "a", "an old epoch resigns nothing");
    store.resign("e", second.epoch()).await.unwrap();
    let third = tokio::time::timeout(LIMIT, waiting).await.unwrap().unwrap();
    assert!(third.epoch() > second.epoch());
    assert_eq!((second.standing(), third.standing()), (Standing::Lost, Standing::Held));
    let leader = store.leader("e").await.unwrap().unwrap();
    assert_eq!((leader.candidate.as_str(), leader.epoch), ("b", third.epoch()));
    assert!(store.campaign("f", "a").await.unwrap().epoch() >= Epoch(1), "elections are independent");
}

pub(crate) async fn whole_contract(store: Arc<dyn Store>) {
    writes_are_conditional(store.as_ref()).await;
    keys_are_listed_by_prefix(store.as_ref()).await;
    changes_are_watched(store.as_ref()).await;
    announcements_end_with_the_process(store.as_ref()).await;
    one_candidate_leads(Arc::clone(&store)).await;
    a_campaign_that_is_given_up_never_wins(store.as_ref()).await;
    closing_gives_everything_up(store.as_ref()).await;
}

#[tokio::test]
async fn memory_keeps_the_contract() {
    whole_contract(Arc::new(Memory::default())).await;
}

#[tokio::test]
async fn embedded_keeps_the_contract() {
    let dir = tempfile::tempdir().unwrap();
    whole_contract(Arc::new(Embedded::open(&dir.path().join("store")).unwrap())).await;
}

#[tokio::test]
async fn embedded_is_owned_by_one() {
    let dir = tempfile::tempdir().unwrap();
    let _held = Embedded::open(dir.path()).unwrap();
    assert!(matches!(Embedded::open(dir.path()), Err(StoreError::Busy { .. })));
}

#[tokio::test]
async fn damage_is_an_error_and_no_panic() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = Embedded::open(&path).unwrap();
    for i in 0..50 {
        store.put(&format!("k{i}"), vec![7; 3000], Expected::Any).await.unwrap();
    }
    drop(store);
    let good = std::fs::read(path.join("db")).unwrap();
    let mut refused = 0;
    for at in (0..good.len()).step_by(good.len() / 16) {
        let mut bad = good.clone();
        let end = (at + 600).min(bad.len());
        bad[at..end].fill(0xa5);
        std::fs::write(path.join("db"), bad).unwrap();
        // Whatever it finds: it returns.
        match Embedded::open(&path) {
            Ok(_) => {}
            Err(StoreError::Damaged { .. }) => refused += 1,
            Err(other) => panic!("{other}"),
        }
    }
    assert!(refused > 0, "none of the damages was noticed");
}

const CHILD: &str = "GSYNC_TEST_STORE_CHILD";

/// Run by the next test in a process of its own: writes until it is killed.
#[tokio::test]
async fn child_that_writes() {
    let Some(path) = std::env::var_os(CHILD) else { return };
    let store = Embedded::open(Path::new(&path)).unwrap();
    for i in 0u64.. {
        store.put("cursor", i.to_le_bytes().to_vec(), Expected::Any).await.unwrap();
        let epoch = store.campaign("e", "a").await.unwrap().epoch();
        println!("done {i} {epoch}");
    }
}

#[tokio::test]
async fn what_was_acknowledged_survives_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let mut newest = (0, Epoch(0));
    for round in 0..5 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "contract::child_that_writes", "--nocapture", "--test-threads=1"])
            .env(CHILD, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut acknowledged = (0, newest.1);
        for line in lines.map(Result::unwrap).filter(|line| line.starts_with("done")).take(40 + round * 17) {
            let numbers: Vec<u64> = line.split(' ').skip(1).map(|n| n.parse().unwrap()).collect();
            assert!(Epoch(numbers[1]) > acknowledged.1, "epochs grow over restarts");
            acknowledged = (numbers[0], Epoch(numbers[1]));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let store = Embedded::open(dir.path()).unwrap();
        let cursor = store.get("cursor").await.unwrap().unwrap();
        let cursor = u64::from_le_bytes(cursor.value.try_into().unwrap());
        assert!(cursor >= acknowledged.0, "{cursor} was read back, {} was acknowledged", acknowledged.0);
        assert!(store.campaign("e", "b").await.unwrap().epoch() > acknowledged.1);
        newest = (cursor, acknowledged.1);
    }
}
