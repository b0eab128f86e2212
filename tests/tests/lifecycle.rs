//! The life of a session by its operator's commands, and what may happen to it meanwhile.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::Context;
use gsync_tests::deployment::Deployment;
use gsync_tests::fs::{FileSystem, Mounted};
use gsync_tests::proxy::Proxy;
use gsync_tests::session::{NAME, Session};
use gsync_tests::sshd::Sshd;
use gsync_tests::{need, proc, programs, require, wait};
use rustix::process::Signal;

/// For anything that is to happen by itself.
const LIMIT: Duration = Duration::from_secs(60);

/// A cut connection has to show in the status after this time: ssh notices a silent one after 15 s.
const FAULTY_LIMIT: Duration = Duration::from_secs(25);

/// Content of the sample, and how little of it may be sent again after an index was lost.
const SAMPLE_BYTES: usize = 4 << 20;
const SENT_AGAIN_MAX: u64 = 64 << 10;

/// 64 files with 4 MiB, a hard link and a symbolic link.
fn sample(brick: &Path) -> anyhow::Result<()> {
    let mut rng = fastrand::Rng::with_seed(7);
    for number in 0..64 {
        let dir = brick.join(format!("dir-{}", number % 4));
        fs::create_dir_all(&dir)?;
        let mut content = vec![0; SAMPLE_BYTES / 64];
        rng.fill(&mut content);
        fs::write(dir.join(format!("file-{number}")), content)?;
    }
    fs::hard_link(brick.join("dir-0/file-0"), brick.join("dir-1/link"))?;
    std::os::unix::fs::symlink("../dir-0/file-0", brick.join("dir-2/symlink"))?;
    Ok(())
}

/// Every kind of change; `step` makes them different.
fn change(brick: &Path, step: &str) -> anyhow::Result<()> {
    fs::write(brick.join(format!("new-{step}")), step)?;
    fs::write(brick.join("dir-1/changed"), format!("content {step}"))?;
    fs::create_dir_all(brick.join(format!("made-{step}/below")))?;
    fs::write(brick.join(format!("made-{step}/below/file")), step)?;
    fs::rename(brick.join("dir-0/file-4"), brick.join(format!("made-{step}/moved")))?;
    fs::rename(brick.join(format!("made-{step}/moved")), brick.join("dir-0/file-4"))?;
    fs::rename(brick.join("dir-3"), brick.join(format!("dir-3-{step}")))?;
    fs::rename(brick.join(format!("dir-3-{step}")), brick.join("dir-3"))?;
    fs::hard_link(brick.join("dir-2/symlink"), brick.join(format!("link-{step}")))?;
    fs::remove_file(brick.join(format!("link-{step}")))?;
    fs::rename(brick.join("dir-1/changed"), brick.join(format!("dir-2/changed-{step}")))?;
    Ok(())
}

fn on_ext4() -> Result<(), String> {
    need::root()?;
    FileSystem::Ext4.available()
}

/// GFIDs of everything on the secondary, by path.
fn gfids(root: &Path) -> anyhow::Result<BTreeMap<PathBuf, Vec<u8>>> {
    let (mut found, mut waiting) = (BTreeMap::new(), vec![root.to_owned()]);
    while let Some(dir) = waiting.pop() {
        for entry in fs::read_dir(&dir)? {
            let entry = entry?;
            if dir == root && entry.file_name() == ".gsync" {
                continue;
            }
            let path = entry.path();
            if entry.file_type()?.is_dir() {
                waiting.push(path.clone());
            }
            let gfid = xattr::get(&path, "trusted.gfid")?.with_context(|| format!("{}: no GFID", path.display()))?;
            found.insert(path, gfid);
        }
    }
    Ok(found)
}

fn life() -> anyhow::Result<()> {
    let mounted = Mounted::new(FileSystem::Ext4, 256)?;
    let deployment = Deployment::new()?;
    let session = Session::create(&deployment, mounted.root(), mounted.root(), None)?;
    sample(&session.brick)?;
    session.wait_for_status("Created", LIMIT);
    session.start()?;
    session.wait_for_status("Active", LIMIT);
    session.must_be_equal()?;
    let agreed = gfids(&session.secondary)?;

    for (away, word, back) in [("pause", "Paused", "resume"), ("stop", "Stopped", "start")] {
        deployment.run([away, NAME])?;
        session.wait_for_status(word, LIMIT);
        let workers = || deployment.processes(&["gsync-worker"]).is_empty();
        wait::wait_until("the worker's end", LIMIT, workers);
        change(&session.brick, away)?;
        std::thread::sleep(Duration::from_millis(500));
        let arrived = session.secondary.join(format!("new-{away}")).exists();
        assert!(!arrived, "a session that is {word} goes on");
        deployment.run([back, NAME])?;
        session.wait_for_status("Active", LIMIT);
        session.must_be_equal()?;
        let (sent_bytes, _) = session.sent()?;
        assert!(sent_bytes < SENT_AGAIN_MAX, "{sent_bytes} bytes were sent after {back}");
    }

    // While it works, the other engine.
    let pids = |name| deployment.processes(&[name]).iter().map(|process| process.pid).collect::<Vec<_>>();
    let recorder = pids("gsync-recorder");
    for engine in ["rsync", "tar"] {
        session.config("sync-engine", engine)?;
        assert_eq!(deployment.run(["config", NAME, "sync-engine"])?.trim(), engine);
        change(&session.brick, engine)?;
        session.must_be_equal()?;
        session.wait_for_status("Active", LIMIT);
    }
    assert_eq!(pids("gsync-recorder"), recorder, "the recorder was started anew");
    let now = gfids(&session.secondary)?;
    let same = |(path, gfid): (&PathBuf, &Vec<u8>)| now.get(path) == Some(gfid);
    assert!(agreed.iter().all(same), "an object was copied anew");

    let refused = deployment.output(["delete", NAME])?;
    assert_eq!(refused.status.code(), Some(2), "a session is deleted while it is started");
    deployment.run(["stop", NAME])?;
    deployment.run(["delete", NAME])?;
    assert!(!deployment.output(["status", NAME])?.status.success());
    assert!(session.secondary.join("dir-0/file-0").exists(), "the data has to stay");
    assert!(session.secondary.join("new-tar").exists());
    Ok(())
}

#[test]
fn a_whole_life() {
    require!(on_ext4(), need::program("rsync"));
    life().unwrap_or_else(|error| panic!("{error:#}"));
}

/// What `geo-rep` is told, and what it has to say about it.
fn mistakes() -> anyhow::Result<()> {
    let mounted = Mounted::new(FileSystem::Ext4, 64)?;
    let deployment = Deployment::new()?;
    let session = Session::create(&deployment, mounted.root(), mounted.root(), None)?;
    let at = |name: &str| mounted.root().join(name).display().to_string();
    fs::write(mounted.root().join("a-file"), "x")?;
    fs::create_dir_all(mounted.root().join("filled/something"))?;
    fs::create_dir_all(mounted.root().join("other"))?;
    session.start()?;
    let (brick, secondary) = (at("brick"), at("secondary"));
    let (missing, file, filled, other) = (at("missing"), at("a-file"), at("filled"), at("other"));
    let (inside, free, deep) = (at("brick/inside"), at("free"), at("no/such/place"));
    let cases: &[(&[&str], &str)] = &[
        (&["create", &missing, &free], "does not exist"),
        (&["create", &file, &free], "not a directory"),
        (&["create", &brick, &inside], "is inside the primary"),
        (&["create", &brick, &brick], "same directory"),
        (&["create", &brick, &filled], "not empty"),
        (&["create", &other, &secondary], "already"),
        (&["create", &brick, &deep], "nor the directory above it exists"),
        (&["create", "--name", NAME, &brick, &free], "already a session named"),
        (&["create", "--name", "a name/with..", &brick, &free], "cannot name a session"),
        (&["create", &brick, "relative/path"], "relative/path"),
        (&["start", NAME], "already"),
        (&["start", "nobody"], "no session named 'nobody'"),
        (&["resume", NAME], "not paused"),
        (&["delete", NAME], "stop"),
        (&["config", NAME, "sync-engin", "tar"], "no option 'sync-engin'"),
        (&["config", NAME, "sync-engine", "ftp"], "not possible"),
        (&["config", NAME, "sync-jobs", "0"], "not possible"),
    ];
    let tree = || -> anyhow::Result<Vec<String>> {
        let mut names: Vec<_> = fs::read_dir(mounted.root())?
            .map(|e| Ok(e?.file_name().into_string()))
            .collect::<std::io::Result<Vec<_>>>()?
            .into_iter()
            .flatten()
            .collect();
        names.sort();
        Ok(names)
    };
    let state = || -> anyhow::Result<(String, String)> {
        let status = deployment.json(["status", "--json"])?;
        let sessions = status["sessions"].as_array().cloned().unwrap_or_default();
        let kept: Vec<String> = sessions
            .iter()
            .map(|s| format!("{} {} {} {}", s["name"], s["id"], s["desired"], s["config_version"]))
            .collect();
        Ok((kept.join("\n"), deployment.run(["config", NAME, "--json"])?))
    };
    let (tree_before, state_before) = (tree()?, state()?);
    for (words, expected) in cases {
        let output = deployment.output(*words)?;
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{words:?}: {said}");
        assert!(said.starts_with("error: ") && said.contains("\nhint: "), "{words:?}: {said}");
        assert!(said.contains(expected), "{words:?}: {said}");
        assert_eq!(tree()?, tree_before, "{words:?}");
        assert_eq!(state()?, state_before, "{words:?}");
    }
    session.must_be_equal()
}

#[test]
fn mistakes_change_nothing() {
    require!(on_ext4());
    mistakes().unwrap_or_else(|error| panic!("{error:#}"));
}

fn killed_monitor() -> anyhow::Result<()> {
    let mounted = Mounted::new(FileSystem::Ext4, 64)?;
    let deployment = Deployment::new()?;
    let session = Session::create(&deployment, mounted.root(), mounted.root(), None)?;
    sample(&session.brick)?;
    session.start()?;
    session.must_be_equal()?;
    for _ in 0..2 {
        let monitor = deployment.monitor().context("no monitor")?;
        assert!(monitor.kill());
        wait::wait_until("its end", LIMIT, || !proc::is_running(monitor.pid));
        fs::write(session.brick.join("meanwhile"), monitor.pid.to_string())?;
        // A look is enough.
        deployment.run(["status"])?;
        let again = deployment.monitor().context("no monitor again")?;
        assert_ne!(again.pid, monitor.pid);
        session.wait_for_status("Active", LIMIT);
        session.must_be_equal()?;
        for name in ["gsync-monitor", "gsync-recorder", "gsync-worker"] {
            let running = deployment.processes(&[name]);
            assert_eq!(running.len(), 1, "{running:?}");
        }
    }
    Ok(())
}

#[test]
fn a_killed_monitor_is_started_by_the_next_command() {
    require!(on_ext4());
    killed_monitor().unwrap_or_else(|error| panic!("{error:#}"));
}

fn cut_off() -> anyhow::Result<()> {
    let (mounted, sshd) = (Mounted::new(FileSystem::Ext4, 64)?, Sshd::start_open()?);
    let proxy = Proxy::start(sshd.port())?;
    let deployment = Deployment::new()?;
    let through = Some((&sshd, proxy.port()));
    let session = Session::create_through(&deployment, mounted.root(), mounted.root(), through)?;
    sample(&session.brick)?;
    session.start()?;
    session.must_be_equal()?;
    let (sent, wire) = (session.sent()?, proxy.wire());
    proxy.refuse();
    change(&session.brick, "cut")?;
    let status = session.wait_for_status("Faulty", FAULTY_LIMIT);
    // Not only that something is wrong, but what.
    let status = wait::wait_for("the reason", LIMIT, || {
        let error = session.status().map(|status| status["error"].to_string()).unwrap_or_default();
        if error.contains("refused") { Ok(error) } else { Err(format!("{error}; {status}")) }
    });
    eprintln!("the status says {status}");
    let shown = deployment.run(["status", NAME])?;
    assert!(shown.contains("Faulty") && shown.contains("refused"), "{shown}");
    assert!(!session.secondary.join("new-cut").exists());
    proxy.allow();
    let status = session.wait_for_status("Active", LIMIT);
    assert_eq!(status["error"], "", "{status}");
    session.must_be_equal()?;
    let (after, carried) = (session.sent()?, proxy.wire().since(wire));
    eprintln!("sent before and after: {sent:?}, {after:?}; carried since: {carried:?}");
    assert!(carried.total() < SENT_AGAIN_MAX, "{carried:?}");
    Ok(())
}

#[test]
fn a_secondary_that_cannot_be_reached_is_told_and_comes_back() {
    require!(on_ext4(), Sshd::available());
    cut_off().unwrap_or_else(|error| panic!("{error:#}"));
}

/// `sent_max`: how many bytes may be sent after the loss.
fn lost_index(sent_max: u64, lose: impl FnOnce(&Deployment, &Session) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let mounted = Mounted::new(FileSystem::Ext4, 256)?;
    let deployment = Deployment::new()?;
    let session = Session::create(&deployment, mounted.root(), mounted.root(), None)?;
    sample(&session.brick)?;
    session.start()?;
    session.must_be_equal()?;
    change(&session.brick, "before")?;
    session.must_be_equal()?;
    let before = gfids(&session.secondary)?;
    deployment.run(["stop", NAME])?;
    wait::wait_until("the worker's end", LIMIT, || deployment.processes(&["gsync-worker"]).is_empty());
    lose(&deployment, &session)?;
    fs::rename(session.brick.join("dir-3"), session.brick.join("dir-3-renamed"))?;
    fs::write(session.brick.join("dir-2/one-more"), "one more")?;
    session.start()?;
    session.must_be_equal()?;
    let renamed = |path: &PathBuf| {
        let below = path.strip_prefix(session.secondary.join("dir-3"));
        below.map_or_else(|_| path.clone(), |below| session.secondary.join("dir-3-renamed").join(below))
    };
    let expected: BTreeMap<_, _> =
        before.iter().map(|(path, gfid)| (renamed(path).components().collect::<PathBuf>(), gfid.clone())).collect();
    let mut after = gfids(&session.secondary)?;
    after.remove(&session.secondary.join("dir-2/one-more")).context("not there")?;
    assert_eq!(after, expected, "an object was copied anew");
    let (sent_bytes, sent_files) = session.sent()?;
    eprintln!("sent after the loss: {sent_bytes} bytes, {sent_files} files");
    assert!(sent_bytes < sent_max, "{sent_bytes} bytes of {sent_files} files were sent again");
    // And it works on.
    fs::rename(session.brick.join("dir-3-renamed"), session.brick.join("dir-3"))?;
    change(&session.brick, "after")?;
    session.must_be_equal()
}

#[test]
fn an_agent_without_its_index_makes_it_again() {
    require!(on_ext4());
    let lose = |deployment: &Deployment, session: &Session| {
        for agent in deployment.processes(&["gsync-agent"]) {
            agent.signal(Signal::TERM);
        }
        wait::wait_until("the agent's end", LIMIT, || deployment.processes(&["gsync-agent"]).is_empty());
        fs::remove_file(session.secondary.join(".gsync/index.redb")).context("the agent's index")
    };
    lost_index(SENT_AGAIN_MAX, lose).unwrap_or_else(|error| panic!("{error:#}"));
}

fn lose_recorder_index(deployment: &Deployment, _: &Session) -> anyhow::Result<()> {
    for process in deployment.processes(&["gsync-recorder", "gsync-monitor"]) {
        process.signal(Signal::TERM);
    }
    let ended = || deployment.processes(&["gsync-recorder", "gsync-monitor"]).is_empty();
    wait::wait_until("the recorder's end", LIMIT, ended);
    let bricks = fs::read_dir(deployment.state_dir().join("bricks"))?.collect::<std::io::Result<Vec<_>>>()?;
    assert_eq!(bricks.len(), 1);
    fs::remove_file(bricks[0].path().join("index.redb")).context("the recorder's index")
}

#[test]
fn a_recorder_without_its_index_crawls_and_nothing_is_copied_anew() {
    require!(on_ext4());
    lost_index(u64::MAX, lose_recorder_index).unwrap_or_else(|error| panic!("{error:#}"));
}

/// What the crawl finds is recorded as if it was written just now. A file that has stood still for two minutes is sent
/// only if the secondary has another version all the same.
#[test]
#[ignore = "long: make soak"]
fn soak_a_recorder_without_its_index_sends_nothing_again() {
    require!(on_ext4());
    let lose = |deployment: &Deployment, session: &Session| {
        std::thread::sleep(Duration::from_secs(125));
        lose_recorder_index(deployment, session)
    };
    // Once more the one file that was renamed after its content was sent: that gave it another ctime.
    let max = SENT_AGAIN_MAX + (SAMPLE_BYTES / 64) as u64;
    lost_index(max, lose).unwrap_or_else(|error| panic!("{error:#}"));
}

/// A session's own key, used for something else.
fn with_session_key(sshd: &Sshd, key: &Path, before: &[&str], words: &[&str]) -> anyhow::Result<Output> {
    let mut ssh = Command::new("ssh");
    ssh.args(["-F", "none", "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes", "-p", &sshd.port().to_string(), "-i"]);
    ssh.arg(key).arg("-o").arg(format!("UserKnownHostsFile={}", sshd.known_hosts().display()));
    ssh.args(before).arg(format!("{}@127.0.0.1", sshd.user())).args(words);
    Ok(ssh.stdin(Stdio::null()).output()?)
}

fn pairing() -> anyhow::Result<()> {
    let (mounted, sshd) = (Mounted::new(FileSystem::Ext4, 256)?, Sshd::start_open()?);
    let deployment = Deployment::new()?;
    let session = Session::create(&deployment, mounted.root(), mounted.root(), Some(&sshd))?;
    sample(&session.brick)?;
    session.start()?;
    session.must_be_equal()?;

    let keys = fs::read_to_string(sshd.authorized_keys())?;
    let line = keys.lines().find(|line| line.contains(" geo-rep ")).context("no line of ours")?;
    let agent = programs::path("gsync-agent").display().to_string();
    let root = session.secondary.display().to_string();
    assert!(line.starts_with(&format!("restrict,command=\"{agent} door --root {root}\" ssh-ed25519 ")), "{line}");
    let sessions = fs::read_dir(deployment.state_dir().join("sessions"))?.collect::<std::io::Result<Vec<_>>>()?;
    let key = sessions.first().context("no key")?.path().join("id_ed25519");
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&key)?.permissions());
    assert_eq!(mode & 0o777, 0o600);

    let victim = mounted.root().join("victim");
    fs::create_dir(&victim)?;
    fs::write(victim.join("secret"), "the secret")?;
    let (victim_path, touch) = (victim.display().to_string(), format!("touch {}/planted", victim.display()));
    let rsync = format!("rsync --server --sender -logDtpre.iLsfxCIvu . {victim_path}/");
    let rsync_write = format!("rsync --server -logDtpre.iLsfxCIvu . {victim_path}/");
    let beside = format!("gsync control; {touch}");
    let attempts: [(&[&str], &[&str]); 11] = [
        (&[], &["id"]),
        (&[], &[]),
        (&["-tt"], &["sh"]),
        (&["-s"], &["sftp"]),
        (&[], &["/usr/lib/openssh/sftp-server"]),
        (&[], &[&rsync]),
        (&[], &[&rsync_write]),
        (&[], &[&touch]),
        (&[], &[&beside]),
        (&[], &[&agent, "door", "--root", &victim_path, "--", "gsync", "control"]),
        (&["-o", "ExitOnForwardFailure=yes", "-R", "0:127.0.0.1:1"], &["id"]),
    ];
    for (options, words) in attempts {
        let output = with_session_key(&sshd, &key, options, words)?;
        let said = String::from_utf8_lossy(&output.stderr);
        let out = String::from_utf8_lossy(&output.stdout);
        eprintln!("{options:?} {words:?}: {}: {}", output.status, said.trim());
        assert!(!output.status.success(), "{words:?}: {out}");
        assert!(!out.contains("uid=") && !out.contains("the secret"), "{words:?}: {out}");
    }
    // The door looks at its own arguments for words only when it is not asked through ssh.
    let names: Vec<_> = fs::read_dir(&victim)?.map(|entry| entry.map(|e| e.file_name())).collect::<Result<_, _>>()?;
    assert_eq!(names, ["secret"]);
    session.wait_for_status("Active", LIMIT);
    session.must_be_equal()
}

#[test]
fn a_session_key_opens_one_door_only() {
    require!(on_ext4(), Sshd::available());
    pairing().unwrap_or_else(|error| panic!("{error:#}"));
}
