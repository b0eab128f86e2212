//! Transcripts of the command with a real monitor. Recorder and worker are the monitor's fakes.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

struct Rig {
    dir: tempfile::TempDir,
}

impl Rig {
    fn new() -> Rig {
        let dir = tempfile::tempdir().unwrap();
        let bin = dir.path().join("bin");
        fs::create_dir(&bin).unwrap();
        let built = Path::new(env!("CARGO_BIN_EXE_geo-rep")).parent().unwrap();
        for (name, program) in [
            ("gsync-monitor", "gsync-monitor"),
            ("gsync-agent", "gsync-agent"),
            ("gsync-recorder", "examples/fake_recorder"),
            ("gsync-worker", "examples/fake_worker"),
        ] {
            let program = built.join(program);
            assert!(
                program.exists(),
                "{} is missing: cargo test -p gsync-monitor -p gsync-agent builds it",
                program.display()
            );
            symlink(program, bin.join(name)).unwrap();
        }
        fs::create_dir(dir.path().join("data")).unwrap();
        Rig { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn run(&self, line: &str) -> Output {
        // `@` stands for the rig's directory.
        let here = self.dir.path().to_str().unwrap();
        let words = line.split_whitespace().map(|word| word.replace('@', here));
        let mut command = Command::new(env!("CARGO_BIN_EXE_geo-rep"));
        command.env("GSYNC_STATE_DIR", self.path("d")).env("GSYNC_RUN_DIR", self.path("r"));
        command.env("GSYNC_BIN_DIR", self.path("bin")).args(words).output().unwrap()
    }

    /// Runs what has to work and returns what it prints.
    fn works(&self, line: &str) -> String {
        let output = self.run(line);
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{line}: {error}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs what has to be refused: with code 2, an error with these words, one hint, and no change of anything.
    fn refuses(&self, line: &str, words: &str) {
        let before = self.state();
        let output = self.run(line);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{line}: {error}");
        assert!(error.starts_with("error: ") && error.contains(words), "{line}: {error}");
        assert_eq!(error.lines().filter(|line| line.starts_with("hint: ")).count(), 1, "{line}: {error}");
        assert_eq!(output.stdout, b"", "{line}");
        assert_eq!(self.state(), before, "{line} changed something");
    }

    /// What a refused command must not change: the tree, and the sessions with their settings.
    fn state(&self) -> (Vec<PathBuf>, String) {
        let mut found = vec![];
        for entry in fs::read_dir(self.dir.path()).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.ends_with("d") && !path.ends_with("r") {
                found.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            }
            found.push(path);
        }
        let sessions = self.path("d/sessions");
        found.extend(fs::read_dir(sessions).into_iter().flatten().map(|entry| entry.unwrap().path()));
        found.retain(|path| !path.ends_with("d") && !path.ends_with("r"));
        found.sort();
        let mut text = String::new();
        if self.path("d/store").exists() {
            text = self.works("status --json");
            let rows: serde_json::Value = serde_json::from_str(&text).unwrap();
            let names = rows["sessions"].as_array().unwrap().iter().map(|s| s["name"].as_str().unwrap().to_owned());
            for name in names.collect::<Vec<_>>() {
                text += &self.works(&format!("config {name} --json"));
            }
        }
        (found, text)
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        let id = fs::read_to_string(self.path("r/monitor.pid")).ok();
        let pid = id.and_then(|id| id.trim().parse().ok()).and_then(rustix::process::Pid::from_raw);
        if let Some(pid) = pid {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
}

#[test]
fn mistakes_of_create_change_nothing() {
    let rig = Rig::new();
    fs::write(rig.path("file"), "").unwrap();
    for name in ["full", "full/x", "empty", "data/inner", "outer", "outer/data2", "ours", "ours/.gsync"] {
        fs::create_dir(rig.path(name)).unwrap();
    }
    symlink(rig.path("data"), rig.path("link")).unwrap();
    rig.refuses("create @/nothing @/empty", "does not exist");
    rig.refuses("create @/file @/empty", "is not a directory");
    rig.refuses("create / @/empty", "cannot be replicated");
    rig.refuses("create @/data empty", "is not a secondary");
    rig.refuses("create @/data host:relative", "is not a secondary");
    rig.refuses("create @/data u@-x:/y", "is not a user and host");
    rig.refuses("create @/data @/data", "the same directory");
    rig.refuses("create @/data @/link", "the same directory");
    rig.refuses("create @/data @/data/inner", "inside the primary");
    rig.refuses("create @/data @/data/new", "inside the primary");
    rig.refuses("create @/outer/data2 @/outer", "inside the secondary");
    rig.refuses("create @/data @/file", "not a directory");
    rig.refuses("create @/data @/a/b", "nor the directory above it exists");
    rig.refuses("create @/data @/full", "is not empty");
    rig.refuses("create @/data @/d", "overlap");
    rig.refuses("create @/data @/empty --ssh-port 22", "no meaning");
    assert!(!rig.path("d").exists(), "not even the monitor was started");
    rig.refuses("create @/data @/empty --name a/b", "cannot name a session");

    let said = rig.works("create @/data @/ours --name first");
    assert!(said.contains("has been successful") && said.contains("geo-rep start first"), "{said}");
    rig.refuses("create @/outer @/empty --name first", "already a session named 'first'");
    rig.refuses("create @/outer @/ours", "is the secondary of session 'first' already");
    rig.refuses("create @/outer @/ours/deep", "overlaps");
    rig.refuses("create @/outer @/data", "the primary of session 'first'");
    fs::remove_dir(rig.path("data/inner")).unwrap();
    rig.refuses("create @/data @/full --force", "is not empty");
    rig.works("create @/data @/full --adopt --name second");
    rig.works("create @/data @/fresh");
    assert!(rig.path("fresh").is_dir(), "the last component is made");
    let rows: serde_json::Value = serde_json::from_str(&rig.works("status --json")).unwrap();
    let names: Vec<_> = rows["sessions"].as_array().unwrap().iter().map(|s| s["name"].clone()).collect();
    assert_eq!(names, ["data", "first", "second"]);
    let volumes: Vec<_> =
        rows["sessions"].as_array().unwrap().iter().map(|s| s["bricks"][0]["primary_vol"].clone()).collect();
    assert_eq!(volumes, ["data", "data", "data"], "one directory is one volume");
}

#[test]
fn a_session_goes_through_its_life() {
    let rig = Rig::new();
    assert_eq!(rig.works("status"), "No active geo-replication sessions\n");
    assert!(!rig.path("d").exists(), "looking starts nothing");
    rig.works("create @/data @/copy --name s");
    rig.refuses("stop s", "it is not running");
    rig.refuses("resume s", "it is not paused");
    assert!(rig.works("start s").starts_with("Starting geo-replication session between data & "));
    rig.refuses("start s", "it is already started");
    rig.works("start s --force");
    rig.works("start s force");
    rig.refuses("resume s", "it is not paused");
    rig.refuses("delete s", "it is still active");
    rig.works("pause s");
    rig.refuses("pause s", "it is already paused");
    rig.refuses("start s", "it is paused");
    rig.refuses("delete s", "it is still active");
    rig.works("resume @/data @/copy");
    let table = rig.works("status s detail");
    assert!(table.lines().next().unwrap().ends_with("FAILURES") && table.contains("Active"), "{table}");
    rig.works("stop data @/copy");
    rig.refuses("stop s", "it is not running");
    assert!(rig.works("status").contains("Stopped"));
    assert!(rig.works("delete s").contains("stays as it is"));
    rig.refuses("status s", "there is no session named 's'");
    rig.refuses("start nobody", "there is no session named 'nobody'");
    rig.works("create @/data @/copy --name s");
}

#[test]
fn settings_are_listed_changed_and_refused() {
    let rig = Rig::new();
    rig.works("create @/data @/copy --name s");
    rig.refuses("config s speed", "there is no option 'speed'; possible are brake-count, ");
    rig.refuses("config s speed 9", "there is no option 'speed'");
    rig.refuses("config s !speed", "there is no option 'speed'");
    rig.refuses("config s sync-jobs 9", "a whole number from 1 to 8");
    rig.refuses("config s sync-engine scp", "one of tar, rsync");
    rig.refuses("config s ssh-command /no/such/ssh", "there is no program");
    rig.refuses("config s ssh-identity /no/such/key", "there is no key");
    rig.refuses("config s a b c", "not understood");
    rig.works("config s sync_jobs 5");
    assert_eq!(rig.works("config s sync-jobs"), "5\n");
    rig.works("config s sync-method tarssh");
    assert!(rig.works("config s").contains("sync-engine:tar\n"));
    rig.works("config s ssh-options -oCompression=yes");
    rig.works("config s !sync-jobs");
    assert_eq!(rig.works("config s sync-jobs"), "3\n");
    rig.works("config s --reset ssh-options");
    assert_eq!(rig.works("config s ssh-options"), "\n");
}

#[test]
fn verify_says_what_differs_with_its_exit_code() {
    let rig = Rig::new();
    fs::create_dir(rig.path("copy")).unwrap();
    assert!(rig.run("verify --paths @/data @/nothing").status.code() == Some(2));
    rig.works("create @/data @/copy --name s");
    rig.works("start s");
    // The fake worker copies nothing.
    fs::write(rig.path("data/file"), "x").unwrap();
    let output = rig.run("verify s --timeout 2");
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("file: missing on the secondary"), "{said}");
    fs::remove_file(rig.path("data/file")).unwrap();
    for dir in ["data", "copy"] {
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
        fs::File::open(rig.path(dir)).unwrap().set_modified(time).unwrap();
    }
    let json: serde_json::Value = serde_json::from_str(&rig.works("verify s --json")).unwrap();
    assert_eq!((&json["equal"], &json["waited"]), (&true.into(), &true.into()));
    assert!(rig.works("verify --paths @/data @/copy").contains("are equal"));
}

#[test]
fn changelogs_are_dumped_as_json() {
    let rig = Rig::new();
    let (gfid, zero) = ("6b1f4c1e-0e8f-4f3a-9f51-3a5d5c5a9b10", "\0");
    let text = format!("GlusterFS Changelog | version: v1.2 | encoding : 2\nD{gfid}{zero}");
    fs::write(rig.path("slice"), &text).unwrap();
    assert_eq!(rig.works("changelog dump @/slice"), format!("{{\"gfid\":\"{gfid}\",\"type\":\"D\"}}\n"));
    fs::write(rig.path("slice"), text + "garbage\0").unwrap();
    assert_eq!(rig.run("changelog dump @/slice").status.code(), Some(1), "damage is told");
    rig.refuses("changelog dump @/nothing", "cannot read the changelog");
    rig.refuses("changelog history @/data", "there is no changelog of");
}
