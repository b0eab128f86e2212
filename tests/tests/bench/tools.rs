//! What is compared with.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::ensure;
use gsync_tests::need;
use gsync_tests::sshd::Sshd;

/// Ours with whole files, the default.
pub const OURS: &str = "gsync, tar engine";
/// Ours with rsync for contents.
pub const OURS_RSYNC: &str = "gsync, rsync engine";
/// tar on both ends.
pub const TAR: &str = "tar c \\| ssh tar x";
/// The same with the cipher that ssh takes by itself.
pub const TAR_DEFAULT: &str = "tar c \\| ssh tar x, ssh's own cipher";
/// rsync.
pub const RSYNC: &str = "rsync -aHAX";
/// inotify and rsync.
pub const LSYNCD: &str = "lsyncd";

/// How long a program may take to end.
const END_LIMIT: Duration = Duration::from_secs(10);

/// ssh as a shell word, with what our own uses, or without its choice of ciphers.
fn ssh(sshd: &Sshd, own_cipher: bool) -> String {
    let cipher = if own_cipher { "" } else { " -o Ciphers=aes128-gcm@openssh.com" };
    format!(
        "ssh -F none -o BatchMode=yes -o IdentitiesOnly=yes -o Compression=no{cipher} -p {} -i {} -o UserKnownHostsFile={}",
        sshd.port(),
        sshd.identity().display(),
        sshd.known_hosts().display()
    )
}

/// One first copy with another tool: from a brick that lies there to a copy that is on the disk. Seconds.
pub fn copy(tool: &str, from: &Path, to: &Path, sshd: &Sshd) -> anyhow::Result<f64> {
    let (from, to, ssh, user) = (from.display(), to.display(), ssh(sshd, tool == TAR_DEFAULT), sshd.user());
    let script = match tool {
        RSYNC => format!("rsync -aHAX -e '{ssh}' {from}/ {user}@127.0.0.1:{to}/ && sync -f {to}"),
        _ => format!(
            "tar -C {from} --xattrs --acls -cf - . | {ssh} {user}@127.0.0.1 'tar -C {to} --xattrs --acls -xpf - && sync -f {to}'"
        ),
    };
    let start = Instant::now();
    let output = Command::new("bash").args(["-o", "pipefail", "-c", &script]).output()?;
    ensure!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(start.elapsed().as_secs_f64())
}

/// A running lsyncd.
pub struct Lsyncd(Child);

impl Lsyncd {
    /// Whether it is installed.
    pub fn available() -> bool {
        need::program("lsyncd").is_ok()
    }

    /// Starts it: rsync for each change, as soon as it can.
    pub fn start(from: &Path, to: &Path, sshd: &Sshd, state: &Path) -> anyhow::Result<Lsyncd> {
        let config = state.join("lsyncd.lua");
        let text = format!(
            "settings {{ nodaemon = true, insist = true, logfile = \"{log}\" }}\n\
             sync {{ default.rsync, source = \"{from}\", target = \"{user}@127.0.0.1:{to}\", delay = 0, rsync = {{ archive = \
             true, hard_links = true, acls = true, xattrs = true, rsh = \"{ssh}\" }} }}\n",
            log = state.join("lsyncd.log").display(),
            from = from.display(),
            to = to.display(),
            user = sshd.user(),
            ssh = ssh(sshd, false),
        );
        fs::write(&config, text)?;
        let program = need::program("lsyncd").map_err(anyhow::Error::msg)?;
        let child = Command::new(program).arg(&config).stdin(Stdio::null()).stdout(Stdio::null()).spawn()?;
        Ok(Lsyncd(child))
    }
}

impl Drop for Lsyncd {
    fn drop(&mut self) {
        let children = gsync_tests::proc::tree(self.0.id() as i32);
        if let Some(own) = children.iter().find(|process| process.pid == self.0.id() as i32) {
            own.signal(rustix::process::Signal::TERM);
        }
        let start = Instant::now();
        while start.elapsed() < END_LIMIT && matches!(self.0.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(20));
        }
        for process in children {
            process.kill();
        }
        let _ = self.0.wait();
    }
}
