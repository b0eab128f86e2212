//! What the engines do besides carrying everything: `auto` chooses, and rsync's messages become reasons.

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::time::Duration;

use gsync_tests::deployment::Deployment;
use gsync_tests::fidelity::kinds::bytes;
use gsync_tests::fs::{FileSystem, Mounted};
use gsync_tests::proxy::Proxy;
use gsync_tests::session::Session;
use gsync_tests::sshd::Sshd;
use gsync_tests::{need, require, wait};

/// How long one thing may take on a busy machine.
const LIMIT: Duration = Duration::from_secs(120);

/// A file that is worth a difference.
const LARGE_BYTES: usize = 12 << 20;

/// Bytes on the wire for a small change of it, and for a new file of this size.
const CHANGE_COSTS: u64 = 1 << 20;
const NEW_BYTES: usize = 2 << 20;

fn auto() -> anyhow::Result<()> {
    let (mounted, sshd) = (Mounted::new(FileSystem::Ext4, 512)?, Sshd::start_open()?);
    let proxy = Proxy::start(sshd.port())?;
    let deployment = Deployment::new()?;
    let through = Some((&sshd, proxy.port()));
    let session = Session::create_through(&deployment, mounted.root(), mounted.root(), through)?;
    session.config("sync-engine", "auto")?;
    fs::write(session.brick.join("large"), bytes(1, LARGE_BYTES))?;
    for number in 0..100 {
        fs::write(session.brick.join(format!("small-{number}")), bytes(number, 1000))?;
    }
    session.start()?;
    session.must_be_equal()?;

    let costs = |what: &str, change: &dyn Fn() -> anyhow::Result<()>| -> anyhow::Result<u64> {
        let before = proxy.wire();
        change()?;
        session.settle(LIMIT)?;
        let wire = proxy.wire().since(before);
        eprintln!("{what}: {wire:?}");
        Ok(wire.total())
    };
    let patch = || {
        let file = fs::File::options().write(true).open(session.brick.join("large"))?;
        Ok(file.write_all_at(b"a small change", LARGE_BYTES as u64 / 2)?)
    };
    assert!(costs("a small change of a large file", &patch)? < CHANGE_COSTS);
    let create = || Ok(fs::write(session.brick.join("new"), bytes(2, NEW_BYTES))?);
    assert!(costs("a new file", &create)? < NEW_BYTES as u64 * 2);
    let touch = || Ok(fs::write(session.brick.join("small-7"), bytes(7, 2000))?);
    assert!(costs("a small file", &touch)? < CHANGE_COSTS / 4);
    session.must_be_equal()
}

#[test]
fn auto_sends_differences_of_large_files() {
    require!(need::root(), FileSystem::Ext4.available(), Sshd::available(), need::program("rsync"));
    auto().unwrap_or_else(|error| panic!("{error:#}"));
}

/// An rsync that cannot read one file, as long as there is a file `broken` beside it.
const FAILING: &str = r#"#!/bin/sh
here=$(dirname "$0")
cat > "$here/names.$$"
rsync "$@" < "$here/names.$$"
status=$?
name=$(tr '\0' '\n' < "$here/names.$$" | head -n 1)
rm "$here/names.$$"
if [ -e "$here/broken" ]; then
    echo "rsync: [sender] read errors mapping \"/run/links/$name\": Input/output error (5)" >&2
    echo "rsync error: some files/attrs were not transferred (code 23) at main.c(1338) [sender=3.5.0]" >&2
    exit 23
fi
exit $status
"#;

fn reasons() -> anyhow::Result<()> {
    let mounted = Mounted::new(FileSystem::Ext4, 64)?;
    let deployment = Deployment::new()?;
    let session = Session::create(&deployment, mounted.root(), mounted.root(), None)?;
    let (program, broken) = (deployment.dir().join("failing-rsync"), deployment.dir().join("broken"));
    fs::write(&program, FAILING)?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    fs::write(&broken, "")?;
    session.config("sync-engine", "rsync")?;
    session.config("rsync-command", &program.display().to_string())?;
    fs::write(session.brick.join("file"), "content")?;
    session.start()?;
    let expected = "rsync: [sender] read errors mapping: Input/output error (5)";
    let status = wait::wait_for("the reason", LIMIT, || {
        let status = session.status().map_err(|error| format!("{error:#}"))?;
        let told = status["failure_reasons"].to_string().contains(expected);
        if told { Ok(status) } else { Err(status.to_string()) }
    });
    assert_eq!(status["status"], "Active", "{status}");
    fs::remove_file(&broken)?;
    wait::wait_until("the file", LIMIT, || session.secondary.join("file").exists());
    session.must_be_equal()
}

#[test]
fn what_rsync_says_is_the_reason() {
    require!(need::root(), FileSystem::Ext4.available(), need::program("rsync"));
    reasons().unwrap_or_else(|error| panic!("{error:#}"));
}
