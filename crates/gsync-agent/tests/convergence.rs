//! Whatever the order of the statements, and whenever the agent dies: the tree becomes the new one, exactly.

mod common;

use std::path::Path;
use std::time::Duration;

use changelog::Position;
use common::filesystem::on_each;
use common::model::{Model, Statements, statements};
use common::worker::{AgentRoot, Worker, send_file};
use common::{Local, list, look, seed};
use fastrand::Rng;
use protocol::FrameError;
use protocol::agent::{Item, Mark, Outcome, Stored};
use rustix::process::Signal;

/// Rounds without any progress after which a test gives up.
const MAX_ROUNDS: usize = 200;

/// Takes the statements out that were carried out; retries go to the end, as a worker does it.
fn settle(left: &mut Statements, sent: &Statements, items: &[Outcome], gone: &[Outcome]) {
    left.items.drain(..sent.items.len());
    for (item, outcome) in sent.items.iter().zip(items) {
        match outcome {
            Outcome::Done => {}
            Outcome::ParentMissing | Outcome::Loop | Outcome::NeedContent => left.items.push(item.clone()),
            other => panic!("{item:?}: {other:?}"),
        }
    }
    for (gfid, outcome) in sent.gone.iter().zip(gone) {
        match outcome {
            Outcome::Done => left.gone.retain(|g| g != gfid),
            Outcome::NotEmpty => {}
            other => panic!("{gfid}: {other:?}"),
        }
    }
}

fn converge(local: &mut Local, rng: &mut Rng, old: &Model, new: &Model) {
    let mut left = statements(rng, old, new);
    for _ in 0..MAX_ROUNDS {
        if left.items.is_empty() && left.gone.is_empty() {
            return;
        }
        let batch = left.next(rng);
        for item in &batch.items {
            if let Item::Content { gfid, .. } = item {
                local.stage(*gfid, &new.content(*gfid));
            }
        }
        let (items, gone) = local.apply_gone(batch.items.clone(), batch.gone.clone());
        settle(&mut left, &batch, &items, &gone);
    }
    panic!("no end: {left:?}");
}

fn assert_exact(root: &Path, model: &Model) {
    let (seen, expected) = (look(root), model.seen());
    let brief = |s: &common::Seen| s.iter().map(|(p, v)| format!("{p} {:?} {:?}", v.1, v.2.len())).collect::<Vec<_>>();
    assert_eq!(brief(&seen), brief(&expected));
    assert_eq!(seen, expected);
    for dir in ["parked", "made", "quarantine", "relink"] {
        let mut left = list(&root.join(".gsync").join(dir));
        // A stage that is just being removed.
        left.retain(|name| !name.starts_with("dead-"));
        assert!(left.is_empty(), "{dir}: {left:?}");
    }
}

#[test]
fn any_order_of_statements_leads_to_the_new_tree() {
    let mut rng = Rng::with_seed(seed("CONVERGENCE_SEED"));
    on_each(|root| {
        for round in 0..60 {
            let root = root.join(round.to_string());
            std::fs::create_dir(&root).unwrap();
            let mut local = Local::open(&root);
            let mut old = Model::default();
            for _ in 0..4 {
                let range = if rng.bool() { 0..30 } else { 20..60 };
                let new = Model::random(&mut rng, range, 40);
                converge(&mut local, &mut rng, &old, &new);
                assert_exact(&root, &new);
                // Once more changes nothing.
                converge(&mut local, &mut rng, &old, &new);
                assert_exact(&root, &new);
                old = new;
                if rng.u8(..4) == 0 {
                    if rng.bool() {
                        local.close();
                    }
                    local = Local::open(&root);
                }
            }
            drop(local);
            std::fs::remove_dir_all(&root).unwrap();
        }
    });
}

#[test]
fn an_agent_killed_at_any_moment_loses_nothing() {
    let mut rng = Rng::with_seed(seed("KILL_SEED"));
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    let agent = AgentRoot(root.into());
    let (mut old, mut committed, mut kills) = (Model::default(), 0, 0);
    for round in 1..=12 {
        let new = Model::random(&mut rng, 0..60, 80);
        let all = statements(&mut rng, &old, &new);
        loop {
            let kill_after = (rng.u8(..4) != 0).then(|| Duration::from_micros(rng.u64(..150_000)));
            let result = std::thread::scope(|scope| {
                let killer = kill_after.map(|delay| {
                    let agent = &agent;
                    scope.spawn(move || {
                        std::thread::sleep(delay);
                        agent.end_agent(Signal::KILL)
                    })
                });
                let result = send_all(root, &mut rng, &all, &new, round, &mut committed);
                kills += u32::from(killer.is_some_and(|k| k.join().unwrap()));
                result
            });
            if result.is_ok() {
                break;
            }
            assert!(kill_after.is_some(), "{result:?}");
        }
        assert_exact(root, &new);
        old = new;
    }
    println!("killed {kills} times");
    assert!(kills > 0);
}

/// All statements from the start, as after any loss of a connection; commits the round as mark.
fn send_all(
    root: &Path,
    rng: &mut Rng,
    all: &Statements,
    new: &Model,
    round: u64,
    committed: &mut u64,
) -> Result<(), FrameError> {
    let Ok(mut worker) = Worker::try_connect(root, &common::worker::hello(7)) else {
        return Err(FrameError::Closed);
    };
    let stored = worker.welcome.stored.mark.as_ref().map_or(0, |mark| mark.synced_until);
    assert!(stored == *committed || stored == round, "mark {stored}, committed {committed}");
    let mut channel = worker.try_stage_channel()?;
    let mut left = all.clone();
    for _ in 0..MAX_ROUNDS {
        if left.items.is_empty() && left.gone.is_empty() {
            let position = Position { after: round, offset: 0 };
            let mark = Some(Mark { brick: [2; 16], position, synced_until: round });
            worker.commit(Stored { mark, ..Stored::default() })?;
            *committed = round;
            return Ok(());
        }
        let batch = left.next(rng);
        for item in &batch.items {
            if let Item::Content { gfid, .. } = item {
                let staged = send_file(&mut channel, *gfid, &new.content(*gfid))?;
                assert_eq!((staged.gfid, staged.errno), (*gfid, 0));
            }
        }
        let (items, gone) = worker.apply(batch.items.clone(), batch.gone.clone())?;
        settle(&mut left, &batch, &items, &gone);
    }
    panic!("no end: {left:?}");
}
