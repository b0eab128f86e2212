use super::*;
use crate::fs::{FileSystem, Mounted};

fn writers(mounted: &Mounted, change: impl FnOnce(&mut Options)) -> Writers {
    let (brick, outside) = (mounted.directory("brick").unwrap(), mounted.directory("outside").unwrap());
    let mut options = Options::new(brick, outside);
    change(&mut options);
    Writers::start(options)
}

#[test]
fn all_kinds_of_calls_succeed_and_none_fails_strangely() {
    for kind in FileSystem::ALL {
        crate::require!(kind.available());
        let mounted = Mounted::new(kind, 400).unwrap();
        let counts = writers(&mounted, |options| options.operations_max = Some(30_000)).join();
        assert_eq!(counts.tried(), 30_000);
        assert!(counts.unexpected.is_empty(), "{kind}: {counts}");
        for (name, (_, done)) in &counts.calls {
            assert!(*done > 0, "{kind}: no {name} succeeded: {counts}");
        }
        assert!(counts.calls.len() == 30 && counts.done() > 3000, "{kind}: {counts}");
        // Nothing escaped: beside the two directories there is what mkfs made, and nothing else.
        for entry in std::fs::read_dir(mounted.root()).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            assert!(["brick", "outside", "lost+found"].contains(&name.as_str()), "{kind}: {name}");
        }
    }
}

#[test]
fn writers_stop_when_told() {
    crate::require!(FileSystem::Tmpfs.available());
    let mounted = Mounted::new(FileSystem::Tmpfs, 200).unwrap();
    let running = writers(&mounted, |_| {});
    crate::wait::wait_until("some calls", Duration::from_secs(10), || running.operations() > 1000);
    let counts = running.stop();
    assert!(counts.tried() > 1000);
}

#[test]
fn the_rate_and_the_duration_are_kept() {
    crate::require!(FileSystem::Tmpfs.available());
    let mounted = Mounted::new(FileSystem::Tmpfs, 200).unwrap();
    let counts = writers(&mounted, |options| {
        options.rate = 200;
        options.duration_max = Some(Duration::from_secs(1));
    })
    .join();
    // A loaded machine may make fewer; never more.
    assert!((20..=210).contains(&counts.tried()), "{counts}");
}
