//! `geo-rep create`: what it checks on both sides, that a refusal changes nothing, and that a key opens one root only.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use gsync_tests::deployment::Deployment;
use gsync_tests::fs::{FileSystem, Mounted};
use gsync_tests::session::Session;
use gsync_tests::sshd::Sshd;
use gsync_tests::{need, programs, require, wait};

/// How long a session may take to show what is wrong.
const LIMIT: Duration = Duration::from_secs(60);

/// Both sides before anything was created.
struct Rig {
    mounted: Mounted,
    sshd: Sshd,
    deployment: Deployment,
}

/// Everything that a refused command must leave as it was: times, sizes, modes and contents by path.
type Seen = BTreeMap<PathBuf, (u32, u64, i64, i64, Vec<u8>)>;

fn look(path: &Path, seen: &mut Seen) {
    let Ok(stat) = path.symlink_metadata() else { return };
    let content = if stat.is_file() { fs::read(path).unwrap_or_default() } else { Vec::new() };
    seen.insert(
        path.into(),
        (stat.mode(), if stat.is_file() { stat.len() } else { 0 }, stat.mtime(), stat.mtime_nsec(), content),
    );
    if stat.is_dir() {
        for entry in fs::read_dir(path).into_iter().flatten().flatten() {
            look(&entry.path(), seen);
        }
    }
}

impl Rig {
    fn new() -> anyhow::Result<Rig> {
        let rig = Rig {
            mounted: Mounted::new(FileSystem::Ext4, 128)?,
            sshd: Sshd::start_open()?,
            deployment: Deployment::new()?,
        };
        for dir in ["brick", "empty", "full", "bin"] {
            fs::create_dir(rig.at(dir))?;
        }
        fs::write(rig.at("brick/file"), "content")?;
        fs::write(rig.at("full/unknown"), "unknown")?;
        Ok(rig)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.mounted.root().join(name)
    }

    fn seen(&self) -> Seen {
        let mut seen = Seen::new();
        for path in [self.mounted.root(), &self.deployment.state_dir(), &self.deployment.run_dir()] {
            look(path, &mut seen);
        }
        look(&self.sshd.authorized_keys(), &mut seen);
        seen
    }

    /// A program that does what the agent does, with its answers changed.
    fn fake_agent(&self, name: &str, script: &str) -> anyhow::Result<String> {
        let path = self.at("bin").join(name);
        let agent = programs::path("gsync-agent");
        fs::write(&path, format!("#!/bin/sh\nagent={}\n{script}\n", agent.display()))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        Ok(path.display().to_string())
    }

    /// The command with another state directory.
    fn command_with(&self, state: &Path) -> Command {
        let mut command = Command::new(programs::path("geo-rep"));
        command.arg("--state-dir").arg(state).arg("--run-dir").arg(self.deployment.run_dir());
        command
    }

    /// The words of a `create` over ssh.
    fn over_ssh(&self, secondary: &str, more: &[&str]) -> Vec<String> {
        let mut words: Vec<String> = ["create", "--name", "t"].map(String::from).to_vec();
        words.extend(["--ssh-port".into(), self.sshd.port().to_string()]);
        words.extend(["--ssh-identity".into(), self.sshd.identity().display().to_string()]);
        if !more.contains(&"--remote-agent") {
            words.extend(["--remote-agent".into(), programs::path("gsync-agent").display().to_string()]);
        }
        words.extend(more.iter().map(ToString::to_string));
        words.push(self.at("brick").display().to_string());
        words.push(format!("{}@127.0.0.1:{}", self.sshd.user(), self.at(secondary).display()));
        words
    }

    /// The words of a `create` on this machine.
    fn here(&self, primary: &Path, secondary: &Path, more: &[&str]) -> Vec<String> {
        let mut words: Vec<String> = ["create", "--name", "t"].map(String::from).to_vec();
        words.extend(more.iter().map(ToString::to_string));
        words.extend([primary.display().to_string(), secondary.display().to_string()]);
        words
    }

    /// Runs what has to be refused with these words, and looks that nothing was changed on either side.
    fn refuses(&self, words: &[String], expected: &[&str]) -> anyhow::Result<()> {
        let mut command = self.deployment.command();
        command.args(words);
        self.refuses_command(command, expected)
    }

    fn refuses_command(&self, mut command: Command, expected: &[&str]) -> anyhow::Result<()> {
        let before = self.seen();
        let output = command.output()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.code() == Some(2), "{command:?}: {}: {said}", output.status);
        for words in expected {
            ensure!(said.contains(words), "{command:?} does not say '{words}': {said}");
        }
        ensure!(said.lines().filter(|line| line.starts_with("hint: ")).count() == 1, "no hint: {said}");
        self.is_unchanged(&before, &format!("{command:?}"))
    }

    fn is_unchanged(&self, before: &Seen, what: &str) -> anyhow::Result<()> {
        let after = self.seen();
        let differing: Vec<&PathBuf> =
            before.keys().chain(after.keys()).filter(|path| before.get(*path) != after.get(*path)).collect();
        ensure!(differing.is_empty(), "{what} changed {differing:?}");
        Ok(())
    }
}

/// A bind mount, gone with the value.
struct Bind(PathBuf);

impl Bind {
    fn new(from: &Path, to: PathBuf) -> anyhow::Result<Bind> {
        fs::create_dir_all(&to)?;
        let status = Command::new("mount").arg("--bind").arg(from).arg(&to).status()?;
        ensure!(status.success(), "mount --bind: {status}");
        Ok(Bind(to))
    }
}

impl Drop for Bind {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

fn available() -> Result<(), String> {
    Sshd::available()?;
    FileSystem::Ext4.available()
}

fn mistakes_over_ssh() -> anyhow::Result<()> {
    let rig = Rig::new()?;
    let with = |more: &[&str]| rig.over_ssh("empty", more);

    rig.refuses(&rig.over_ssh("full", &[]), &["is not empty", "--adopt", "--quarantine", "another directory"])?;
    rig.refuses(&rig.over_ssh("no/where", &[]), &["nor the directory above it exists"])?;
    rig.refuses(&rig.over_ssh("brick/file", &[]), &["is not a directory"])?;
    rig.refuses(&rig.over_ssh("brick", &[]), &["the same directory"])?;
    rig.refuses(&rig.over_ssh("brick/inner", &[]), &["is inside the primary"])?;
    rig.refuses(&with(&["--remote-agent", "/no/such/agent"]), &["there is no gsync-agent on"])?;

    let ours = env!("CARGO_PKG_VERSION");
    let ancient = rig.fake_agent("ancient", "[ \"$1\" = --version ] && echo gsync-agent 0.0.1; exit 2")?;
    rig.refuses(&with(&["--remote-agent", &ancient]), &["says 'gsync-agent 0.0.1'", &format!("release {ours}")])?;
    let older = rig.fake_agent("older", r#""$agent" "$@" | sed 's/"software":"[^"]*"/"software":"0.0.9"/'"#)?;
    rig.refuses(&with(&["--remote-agent", &older]), &["is release 0.0.9", &format!("this is release {ours}")])?;
    let off = rig.fake_agent("off", r#""$agent" "$@" | sed 's/"now_ms":[0-9]*/"now_ms":1000/'"#)?;
    rig.refuses(&with(&["--remote-agent", &off]), &["the clock of", "--force", "NTP"])?;
    // All at once, over a rotten answer of the other side.
    let poor = r#"s/"free_bytes":[0-9]*/"free_bytes":1/;s/"rsync":"[^"]*"/"rsync":"3.1.3"/;s/"free_inodes":[0-9]*/"free_inodes":0/"#;
    let poor = rig.fake_agent("poor", &format!(r#""$agent" "$@" | sed '{poor}'"#))?;
    let words = ["4 things stand in the way", "is not empty", "has room for 1 bytes", "(inodes)", "is version 3.1.3"];
    rig.refuses(&rig.over_ssh("full", &["--remote-agent", &poor, "--sync-engine", "rsync"]), &words)?;

    let mut elsewhere = rig.over_ssh("empty", &[]);
    let port = elsewhere.iter().position(|word| word == "--ssh-port").context("no port")? + 1;
    elsewhere[port] = "1".into();
    rig.refuses(&elsewhere, &["cannot log in on", "Connection refused"])?;
    let other = Sshd::start("true")?;
    let mut unknown_key = rig.over_ssh("empty", &[]);
    let key = unknown_key.iter().position(|word| word == "--ssh-identity").context("no key")? + 1;
    unknown_key[key] = other.identity().display().to_string();
    rig.refuses(&unknown_key, &["cannot log in on", "Permission denied"])?;

    // The operator knows this host by another key.
    let home = rig.at("home");
    fs::create_dir_all(home.join(".ssh"))?;
    let host_key = fs::read_to_string(other.known_hosts())?;
    let (_, key) = host_key.split_once(' ').context("no host key")?;
    fs::write(home.join(".ssh/known_hosts"), format!("[127.0.0.1]:{} {key}", rig.sshd.port()))?;
    let mut command = rig.deployment.command();
    command.env("HOME", &home).args(with(&[]));
    rig.refuses_command(command, &["cannot log in on", "Host key verification failed"])
}

fn mistakes_here() -> anyhow::Result<()> {
    let rig = Rig::new()?;
    let (brick, empty) = (rig.at("brick"), rig.at("empty"));
    fs::create_dir(brick.join("inner"))?;
    std::os::unix::fs::symlink(&brick, rig.at("link"))?;
    rig.refuses(&rig.here(&brick, &rig.at("link"), &[]), &["the same directory"])?;
    {
        let bind = Bind::new(&brick, rig.at("bound"))?;
        rig.refuses(&rig.here(&brick, &bind.0, &[]), &["the same directory"])?;
        rig.refuses(&rig.here(&brick, &bind.0.join("inner"), &[]), &["is inside the primary"])?;
        rig.refuses(&rig.over_ssh("bound", &[]), &["the same directory"])?;
        let inner = Bind::new(&brick.join("inner"), rig.at("bound-inner"))?;
        rig.refuses(&rig.here(&brick, &inner.0, &[]), &["is inside the primary"])?;
        rig.refuses(&rig.here(&inner.0, &brick, &[]), &["the primary is inside the secondary"])?;
        // The state directory through a bind mount of its place.
        let state = Bind::new(&rig.deployment.state_dir(), rig.at("bound-state"))?;
        rig.refuses(&rig.here(&state.0, &empty, &[]), &["overlap"])?;
        rig.refuses(&rig.here(&brick, &state.0, &[]), &["overlap"])?;
    }
    let mut command = rig.command_with(&brick.join("inner"));
    command.args(rig.here(&brick, &empty, &[]));
    rig.refuses_command(command, &["our own directory", "overlap"])?;

    // Another rsync is found first.
    let old = rig.at("bin/rsync");
    fs::write(&old, "#!/bin/sh\necho rsync  version 3.1.3  protocol version 31\n")?;
    fs::set_permissions(&old, fs::Permissions::from_mode(0o755))?;
    let path = format!("{}:{}", rig.at("bin").display(), std::env::var("PATH")?);
    let mut command = rig.deployment.command();
    command.env("PATH", path).args(rig.here(&brick, &empty, &["--sync-engine", "rsync"]));
    rig.refuses_command(command, &["on this machine is version 3.1.3, 3.2 or newer", "sync-engine tar"])?;
    fs::remove_file(&old)?;
    // None at all; the programs that are needed are named by their paths.
    let mut command = rig.deployment.command();
    command.env("PATH", rig.at("bin")).args(rig.here(&brick, &empty, &["--sync-engine", "rsync"]));
    rig.refuses_command(command, &["there is no rsync on this machine"])?;

    let geo_rep = rig.deployment.command();
    let mut nobody = Command::new("setpriv");
    nobody.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "--"]).arg(geo_rep.get_program());
    nobody.args(geo_rep.get_args()).args(rig.here(&brick, &empty, &[]));
    // The programs may lie where only root gets to.
    if need::program("setpriv").is_ok() && nobody.output()?.status.code() == Some(2) {
        rig.refuses_command(nobody, &["this needs root"])?;
    }

    // Too small a secondary.
    let small = Mounted::new(FileSystem::Ext4, 16)?;
    fs::write(brick.join("large"), vec![7; 40 << 20])?;
    let place = small.root().join("copy");
    rig.refuses(&rig.here(&brick, &place, &[]), &["has room for", "the primary holds 40.", "make room"])?;
    ensure!(!place.exists(), "the secondary was made");
    // Overruled, it is done.
    let output = rig.deployment.output(rig.here(&brick, &place, &["--force"]))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success() && said.contains("overruled by --force: "), "{said}");
    // Nothing of the trials stays behind.
    let left: Vec<_> = fs::read_dir(small.root())?.flatten().map(|entry| entry.file_name()).collect();
    ensure!(left.iter().all(|name| name == "copy" || name == "lost+found"), "{left:?}");
    rig.deployment.run(["delete", "t"])?;
    Ok(())
}

fn dry_run() -> anyhow::Result<()> {
    let rig = Rig::new()?;
    for words in [
        rig.over_ssh("empty", &["--dry-run"]),
        rig.over_ssh("new", &["--dry-run"]),
        rig.over_ssh("full", &["--dry-run", "--adopt"]),
        rig.here(&rig.at("brick"), &rig.at("empty"), &["--dry-run"]),
        rig.here(&rig.at("brick"), &rig.at("full"), &["--dry-run", "--quarantine"]),
    ] {
        let before = rig.seen();
        let said = rig.deployment.run(&words)?;
        ensure!(said.contains("Nothing stands in the way. Nothing was changed."), "{said}");
        rig.is_unchanged(&before, &words.join(" "))?;
    }
    ensure!(rig.deployment.monitor().is_none(), "a monitor was started");
    rig.refuses(&rig.over_ssh("full", &["--dry-run"]), &["is not empty"])
}

/// Two primary machines want one root; a key that leads to another root than its session names.
fn one_root_one_session() -> anyhow::Result<()> {
    let rig = Rig::new()?;
    let session = Session::create(&rig.deployment, &rig.at("one"), &rig.at("far"), Some(&rig.sshd))?;
    fs::write(session.brick.join("file"), "content")?;
    let other = Deployment::new()?;
    other.belongs(&session.secondary);
    let mut words = rig.over_ssh("far/secondary", &[]);
    let output = other.output(&words)?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.code() == Some(2), "{said}");
    ensure!(said.contains("session 't' of ") && said.contains("--force"), "{said}");
    session.start()?;
    session.must_be_equal()?;

    // The line is led to another root behind the session's back.
    let keys = fs::read_to_string(rig.sshd.authorized_keys())?;
    let root = session.secondary.display().to_string();
    let diverted = rig.at("diverted");
    fs::create_dir(&diverted)?;
    rig.deployment.belongs(&diverted);
    fs::write(rig.sshd.authorized_keys(), keys.replace(&root, &diverted.display().to_string()))?;
    rig.deployment.kill(&["gsync-worker"]);
    let said = wait::wait_for("a refusal", LIMIT, || {
        let status = session.status().map_err(|e| format!("{e:#}"))?;
        let error = status["error"].as_str().unwrap_or_default().to_owned();
        if error.contains("the session's key leads to") { Ok(error) } else { Err(status.to_string()) }
    });
    ensure!(said.contains(&diverted.display().to_string()), "{said}");
    let names: Vec<_> = fs::read_dir(&diverted)?.flatten().map(|entry| entry.file_name()).collect();
    ensure!(names == [".gsync"], "{names:?}");
    fs::write(rig.sshd.authorized_keys(), &keys)?;
    session.wait_for_status("Active", LIMIT);

    // The other machine takes the root over: then this one's worker is refused, and says by whom.
    words.insert(1, "--force".into());
    other.run(&words)?;
    rig.deployment.kill(&["gsync-worker"]);
    wait::wait_for("a refusal", LIMIT, || {
        let status = session.status().map_err(|e| format!("{e:#}"))?;
        let error = status["error"].as_str().unwrap_or_default().to_owned();
        if error.contains("uses this directory") { Ok(()) } else { Err(status.to_string()) }
    });
    // A session that is deleted gives the root free.
    other.run(["delete", "t"])?;
    session.wait_for_status("Active", LIMIT);
    session.must_be_equal()
}

/// The path of known_hosts was given to ssh as it is, so a state directory with a blank in it broke every session.
fn blanks_in_paths() -> anyhow::Result<()> {
    let rig = Rig::new()?;
    let state = rig.deployment.dir().join("a state \"100%\"");
    let secondary = "it's a \"copy\" 100%";
    let run = |words: &[String]| -> anyhow::Result<String> {
        let output = rig.command_with(&state).args(words).output()?;
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.success(), "{words:?}: {}\n{out}{err}", output.status);
        Ok(out.into_owned())
    };
    rig.deployment.belongs(&rig.at(secondary));
    run(&rig.over_ssh(secondary, &["--sync-engine", "rsync"]))?;
    let word = |line: &str| line.split(' ').map(String::from).collect::<Vec<_>>();
    run(&word("start t"))?;
    let said = run(&word("verify t --timeout 60"))?;
    ensure!(said.contains("are equal"), "{said}");
    run(&word("stop t"))?;
    run(&word("delete t"))?;
    Ok(())
}

#[test]
fn mistakes_of_create_over_ssh_change_nothing() {
    require!(available());
    mistakes_over_ssh().unwrap_or_else(|error| panic!("{error:#}"));
}

#[test]
fn mistakes_of_create_on_one_machine_change_nothing() {
    require!(available());
    mistakes_here().unwrap_or_else(|error| panic!("{error:#}"));
}

#[test]
fn a_dry_run_changes_nothing() {
    require!(available());
    dry_run().unwrap_or_else(|error| panic!("{error:#}"));
}

#[test]
fn one_root_belongs_to_one_session() {
    require!(available());
    one_root_one_session().unwrap_or_else(|error| panic!("{error:#}"));
}

#[test]
fn paths_may_have_blanks_and_quotes() {
    require!(available());
    blanks_in_paths().unwrap_or_else(|error| panic!("{error:#}"));
}
