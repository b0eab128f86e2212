//! Power fails: the image of the live file system is copied, and the copy is what is there after the reboot.

mod common;

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use changelog::{Gfid, Record};
use common::writers::mess;
use common::{FileSystem, Model, Recorder, seed};

const OLD: &[u8] = b"the content of before";
const NEW: &[u8] = b"and the one of after!";

/// A consumer of the changelog that fetches each content it is told of.
#[derive(Default)]
struct Secondary {
    model: Model,
    contents: HashMap<Gfid, Vec<u8>>,
}

impl Secondary {
    fn follow(&mut self, journal: &Path, brick: &Path) -> Vec<Record> {
        let mut model = self.model.clone();
        let records = self.model.read(journal);
        for record in &records {
            drop(model.apply(record));
            if let Record::Entry(gfid, _) = record
                && !model.kinds.contains_key(gfid)
            {
                self.contents.remove(gfid);
            }
        }
        let places: HashMap<Gfid, PathBuf> = self.places().into_iter().map(|(path, gfid)| (gfid, path)).collect();
        for record in &records {
            if let Record::Data(gfid) = record
                && let Some(path) = places.get(gfid)
                && let Ok(content) = fs::read(brick.join(path))
            {
                self.contents.insert(*gfid, content);
            }
        }
        records
    }

    /// Files by path below the brick.
    fn places(&self) -> BTreeMap<PathBuf, Gfid> {
        let paths = self.model.paths().into_iter();
        let files = paths.filter(|(_, (kind, _))| matches!(kind, 'f' | '?'));
        files.map(|(path, (_, gfid))| (std::str::from_utf8(&path[1..]).unwrap().into(), gfid)).collect()
    }

    fn assert_contents(&self, brick: &Path, what: &str) {
        for (path, gfid) in self.places() {
            if !fs::symlink_metadata(brick.join(&path)).unwrap().is_file() {
                continue;
            }
            let (disk, ours) = (fs::read(brick.join(&path)).unwrap(), self.contents.get(&gfid));
            let ours = ours.cloned().unwrap_or_default();
            assert!(ours == disk, "{what}: the content of {path:?} is not that of the disk");
        }
    }
}

/// Same size, in place.
fn overwrite(path: &Path) {
    OpenOptions::new().write(true).open(path).unwrap().write_all_at(NEW, 0).unwrap();
}

/// Whether the file lost what was written although nothing shows it.
fn is_hidden_loss(path: &Path, before: &fs::Metadata) -> bool {
    let now = fs::metadata(path).unwrap();
    let times = |m: &fs::Metadata| (m.len(), m.mtime(), m.mtime_nsec(), m.ctime(), m.ctime_nsec());
    times(&now) == times(before) && fs::read(path).unwrap() == OLD
}

/// Returns how many losses were hidden.
fn cut(kind: &str, state_elsewhere: bool, seed: u64) -> Option<u32> {
    let what = format!("{kind}, state {}", if state_elsewhere { "elsewhere" } else { "beside it" });
    let mut filesystem = FileSystem::new(kind)?;
    let mut other = if state_elsewhere { Some(FileSystem::new("ext4")?) } else { None };
    let (brick, outside) = (filesystem.dir("brick"), filesystem.dir("outside"));
    let state = other.as_ref().unwrap_or(&filesystem).dir("state");
    let journal = state.join("changelogs");
    for name in ["in-place", "times-set-back"] {
        fs::write(brick.join(name), OLD).unwrap();
    }
    mess(&brick, &outside, 200, seed);
    rustix::fs::sync();

    let recorder = Recorder::start(&[]);
    let mut client = recorder.follow(&brick, &state);
    client.barrier();
    let mut secondary = Secondary { model: Model { lenient: true, ..Model::default() }, ..Secondary::default() };
    for round in 0..4 {
        mess(&brick, &outside, 150, seed ^ (round + 1));
        client.barrier();
        secondary.follow(&journal, &brick);
    }
    // The times reach the disk with the next commit of the file system, the content half a minute later.
    overwrite(&brick.join("in-place"));
    let before = fs::metadata(brick.join("in-place")).unwrap();
    client.barrier();
    secondary.follow(&journal, &brick);
    File::create(filesystem.root().join("other")).unwrap().sync_all().unwrap();
    std::thread::sleep(Duration::from_millis(if kind == "btrfs" { 1500 } else { 0 }));
    // These times do not reach it, and the program that wrote set them back.
    let file = OpenOptions::new().write(true).open(brick.join("times-set-back")).unwrap();
    let mtime = file.metadata().unwrap().modified().unwrap();
    file.write_all_at(NEW, 0).unwrap();
    file.set_modified(mtime).unwrap();
    drop(file);
    client.barrier();
    secondary.follow(&journal, &brick);
    let handed_out = secondary.model.position;
    // Work that no consumer has heard of.
    mess(&brick, &outside, 50, seed ^ 99);

    let image = filesystem.copy_image();
    let other_image = other.as_ref().map(FileSystem::copy_image);
    recorder.kill();
    filesystem.replace(&image);
    if let (Some(other), Some(image)) = (&mut other, other_image) {
        other.replace(&image);
    }
    let hidden = u32::from(is_hidden_loss(&brick.join("in-place"), &before));
    let lost = fs::read(brick.join("times-set-back")).unwrap() == OLD;

    let roots: Vec<PathBuf> = [Some(&filesystem), other.as_ref()].into_iter().flatten().map(FileSystem::root).collect();
    let mounts: Vec<&Path> = roots.iter().map(PathBuf::as_path).collect();
    // Killed while it crawls, it must not forget what it suspects.
    let recorder = Recorder::start_after_reboot(&mounts);
    recorder.attach(&brick, &state);
    recorder.kill();
    let recorder = Recorder::start_after_reboot(&mounts);
    let mut client = recorder.follow(&brick, &state);
    client.barrier();
    // The position from before is still good: the model's reader accepts no unproven span.
    assert!(handed_out <= client.barrier(), "{what}: a position that was handed out is not there any more");
    secondary.follow(&journal, &brick);
    secondary.model.assert_equals_disk(&brick);
    secondary.assert_contents(&brick, &what);
    for (path, gfid) in secondary.places() {
        // A consumer that has this version already must not believe that.
        if path == Path::new("in-place") && hidden == 1 {
            assert!(client.open_doubted(gfid).unwrap(), "{what}");
        }
    }
    recorder.stop();
    common::model::assert_index_fresh(&state.join("index.redb"), &brick, &secondary.model);
    // And works on, without suspicion.
    let recorder = Recorder::start_after_reboot(&mounts);
    let mut client = recorder.follow(&brick, &state);
    client.barrier();
    assert!(secondary.follow(&journal, &brick).is_empty(), "{what}: something is told again");
    mess(&brick, &outside, 100, seed ^ 100);
    client.barrier();
    secondary.follow(&journal, &brick);
    secondary.model.assert_equals_disk(&brick);
    eprintln!("{what}: hidden loss {hidden}, content lost with its times {lost}");
    Some(hidden)
}

#[test]
fn content_that_went_back_is_told_again() {
    let seed = seed("power cut");
    for kind in ["ext4", "xfs", "btrfs"] {
        let mut hidden = Vec::new();
        for state_elsewhere in [false, true] {
            hidden.extend(cut(kind, state_elsewhere, seed));
        }
        assert!(kind == "btrfs" || hidden.is_empty() || hidden.iter().sum::<u32>() > 0, "{kind}: nothing was planted");
    }
}

/// Again and again, at other moments.
#[test]
#[ignore = "long: make soak"]
fn soak_power_cuts() {
    let seed = seed("power cuts");
    for round in 0..20 {
        for kind in ["ext4", "xfs", "btrfs"] {
            cut(kind, round % 2 == 1, seed + round);
        }
    }
}
