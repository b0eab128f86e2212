//! Where the secondary is and how a channel to it is started.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use protocol::rsync::LOCAL_HOST;

/// Ciphers in order of preference: AES-GCM carries 2.5 times what ssh's default does where the processor has AES
/// instructions (docs/decisions.md).
const CIPHERS: &str = "aes128-gcm@openssh.com,aes256-gcm@openssh.com,chacha20-poly1305@openssh.com";

/// A secondary.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Target {
    /// A directory on this machine.
    Local {
        /// The secondary's root.
        root: PathBuf,
        /// The program `gsync-agent`.
        agent: PathBuf,
    },
    /// A directory on another machine; which one is up to the forced command over there.
    Ssh(SshTarget),
}

/// How to log in on the secondary.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SshTarget {
    /// User over there; ssh's own default when absent.
    pub user: Option<String>,
    /// Host name or address.
    pub host: String,
    /// Port of sshd.
    pub port: u16,
    /// Private key; ssh's own choice when absent.
    pub identity: Option<PathBuf>,
    /// File with the pinned host key; the user's own when absent.
    pub known_hosts: Option<PathBuf>,
    /// Further arguments, passed as they are.
    pub options: Vec<String>,
    /// The ssh program.
    pub command: PathBuf,
    /// Where the control socket of the one connection is.
    pub control_path: PathBuf,
}

impl Target {
    /// Program and arguments of a channel on which the agent's door is asked for `words`.
    pub fn command(&self, words: &[&str]) -> Vec<OsString> {
        let mut line: Vec<OsString> = match self {
            Target::Local { root, agent } => {
                vec![agent.into(), "door".into(), "--root".into(), root.into(), "--".into()]
            }
            Target::Ssh(ssh) => {
                let mut line = ssh.base();
                line.extend(["-o".into(), "ControlMaster=no".into(), "--".into(), ssh.destination().into()]);
                line
            }
        };
        line.extend(words.iter().map(Into::into));
        line
    }

    /// The remote shell for rsync (its `-e`) and what stands for the host before the colon.
    pub fn rsync_shell(&self) -> (String, String) {
        match self {
            Target::Local { root, agent } => {
                (format!("{} door --root {} --", quoted(agent), quoted(root)), LOCAL_HOST.into())
            }
            Target::Ssh(ssh) => {
                let words = ssh.base();
                let shell: Vec<String> = words.iter().map(|w| quoted(Path::new(w))).collect();
                (format!("{} -o ControlMaster=no", shell.join(" ")), ssh.destination())
            }
        }
    }
}

impl SshTarget {
    /// Program and options that every call has.
    pub(crate) fn base(&self) -> Vec<OsString> {
        let mut line: Vec<OsString> = vec![self.command.clone().into(), "-S".into(), literal(&self.control_path)];
        let mut option = |text: String| line.extend([OsString::from("-o"), text.into()]);
        option("BatchMode=yes".into());
        option("ServerAliveInterval=5".into());
        option("ServerAliveCountMax=3".into());
        option("ConnectTimeout=10".into());
        option(format!("Ciphers={CIPHERS}"));
        option(format!("Port={}", self.port));
        option("Compression=no".into());
        option("ClearAllForwardings=yes".into());
        if let Some(file) = &self.known_hosts {
            option(format!("UserKnownHostsFile={}", option_value(file)));
            option("StrictHostKeyChecking=yes".into());
        }
        if let Some(identity) = &self.identity {
            option("IdentitiesOnly=yes".into());
            option(format!("IdentityFile={}", option_value(identity)));
        }
        line.extend(self.options.iter().map(OsString::from));
        line
    }

    /// `[user@]host`.
    pub(crate) fn destination(&self) -> String {
        match &self.user {
            Some(user) => format!("{user}@{}", self.host),
            None => self.host.clone(),
        }
    }
}

/// A path as an argument of ssh, which expands what follows a per cent sign.
fn literal(path: &Path) -> OsString {
    let bytes = path.as_os_str().as_bytes().iter();
    OsString::from_vec(bytes.flat_map(|&c| std::iter::repeat_n(c, if c == b'%' { 2 } else { 1 })).collect())
}

/// A path as the value of an option of ssh, which splits at blanks and expands what follows a per cent sign.
fn option_value(path: &Path) -> String {
    let escaped = path.display().to_string().replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%");
    format!("\"{escaped}\"")
}

/// rsync splits `-e` at blanks and knows single quotes; a quote inside is doubled.
fn quoted(word: &Path) -> String {
    format!("'{}'", word.display().to_string().replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    // The file was given to ssh as it is: ssh took each word of it for a file, and no host key was known.
    #[test]
    fn a_known_hosts_file_may_have_blanks_in_its_path() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a \"b\" 100%n \\c");
        std::fs::write(&file, "").unwrap();
        let target = SshTarget {
            user: None,
            host: "far".into(),
            port: 22,
            identity: None,
            known_hosts: Some(file.clone()),
            options: Vec::new(),
            command: "ssh".into(),
            control_path: "/run/c".into(),
        };
        let line = target.base();
        let output = std::process::Command::new(&line[0]).args(&line[1..]).args(["-F", "none", "-G", "far"]).output();
        let Ok(output) = output else { return eprintln!("SKIPPED: there is no ssh") };
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let shown = text.lines().find_map(|line| line.strip_prefix("userknownhostsfile "));
        assert_eq!(shown.map(|shown| shown.replace("%%", "%")), Some(file.display().to_string()), "{text}");
    }

    #[test]
    fn a_local_channel_is_a_child() {
        let target = Target::Local { root: "/b b".into(), agent: "/bin/gsync-agent".into() };
        let line = target.command(&["gsync", "control"]);
        assert_eq!(line, ["/bin/gsync-agent", "door", "--root", "/b b", "--", "gsync", "control"]);
        assert_eq!(target.rsync_shell().0, "'/bin/gsync-agent' door --root '/b b' --");
    }
}
