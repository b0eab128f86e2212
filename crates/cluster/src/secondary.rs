//! Where a session replicates to.

use std::fmt;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A secondary: a directory here, or on another machine that is reached through ssh.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Secondary {
    /// A directory on the primary's own machine.
    Local {
        /// The directory, absolute.
        path: PathBuf,
    },
    /// A directory on another machine. Port and key are settings of the session.
    Ssh {
        /// User over there; ssh's own default when absent.
        user: Option<String>,
        /// Host name or address.
        host: String,
        /// The directory over there, absolute.
        path: PathBuf,
    },
}

/// Why a text is not a secondary.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SecondaryError {
    /// It is none of the forms.
    #[error("'{0}' is not a secondary: give an absolute directory, or [user@]host:/directory")]
    Form(String),
    /// The directory is not absolute, or has `..` in it.
    #[error("the directory of the secondary '{0}' has to be absolute and without '..'")]
    Directory(String),
    /// User or host cannot be one.
    #[error("'{0}' is not a user and host that ssh could be given")]
    Host(String),
}

impl Secondary {
    /// The directory.
    pub fn path(&self) -> &Path {
        match self {
            Secondary::Local { path } | Secondary::Ssh { path, .. } => path,
        }
    }

    /// The user over there, as the status shows it. A local secondary is written by the user of the monitor.
    pub fn user(&self) -> &str {
        match self {
            Secondary::Ssh { user: Some(user), .. } => user,
            _ => "root",
        }
    }

    /// `[user@]host` for ssh; absent for a directory of this machine.
    pub fn destination(&self) -> Option<String> {
        match self {
            Secondary::Local { .. } => None,
            Secondary::Ssh { user: Some(user), host, .. } => Some(format!("{user}@{host}")),
            Secondary::Ssh { user: None, host, .. } => Some(host.clone()),
        }
    }

    /// Whether both are the same directory: `root@` says nothing, as in GlusterFS.
    pub fn is_same(&self, other: &Secondary) -> bool {
        match (self, other) {
            (Secondary::Local { path: a }, Secondary::Local { path: b }) => a == b,
            (Secondary::Ssh { host: a, path: pa, .. }, Secondary::Ssh { host: b, path: pb, .. }) => {
                a.eq_ignore_ascii_case(b) && pa == pb && self.user() == other.user()
            }
            _ => false,
        }
    }
}

impl fmt::Display for Secondary {
    /// As GlusterFS writes it: `host::/directory`; a local one is its directory.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Secondary::Local { path } => write!(f, "{}", path.display()),
            Secondary::Ssh { host, path, .. } => write!(f, "{host}::{}", path.display()),
        }
    }
}

impl FromStr for Secondary {
    type Err = SecondaryError;

    /// Accepts `/directory`, `[user@]host:/directory` and `[user@]host::/directory`; the host may be `[::1]`.
    fn from_str(text: &str) -> Result<Secondary, SecondaryError> {
        if text.starts_with('/') {
            return Ok(Secondary::Local { path: directory(text, text)? });
        }
        let (target, path) = split(text).ok_or_else(|| SecondaryError::Form(text.into()))?;
        let (user, host) = match target.rsplit_once('@') {
            Some((user, host)) => (Some(user), host),
            None => (None, target),
        };
        let host = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
        let user_ok = user.is_none_or(|user| is_word(user) && !user.contains(':'));
        if !user_ok || !is_word(host) {
            return Err(SecondaryError::Host(target.into()));
        }
        Ok(Secondary::Ssh { user: user.map(Into::into), host: host.into(), path: directory(path, text)? })
    }
}

/// Whether a text looks like a secondary rather than like a name; decides how a session is addressed.
pub fn looks_like_secondary(text: &str) -> bool {
    text.starts_with('/') || split(text).is_some()
}

fn split(text: &str) -> Option<(&str, &str)> {
    let colon = text.find(":/").filter(|&at| at > 0)?;
    let target = &text[..colon];
    Some((target.strip_suffix(':').unwrap_or(target), &text[colon + 1..]))
}

/// What ssh could take for an option, or a shell for something else, is no word.
fn is_word(text: &str) -> bool {
    let plain = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-' | b':' | b'%');
    !text.is_empty() && !text.starts_with('-') && text.bytes().all(plain)
}

/// Takes out doubled and trailing slashes.
fn directory(path: &str, whole: &str) -> Result<PathBuf, SecondaryError> {
    let path = Path::new(path);
    let has_up = path.components().any(|part| part == Component::ParentDir);
    if !path.is_absolute() || has_up || path.as_os_str().as_encoded_bytes().contains(&b'\n') {
        return Err(SecondaryError::Directory(whole.into()));
    }
    Ok(path.components().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ssh(user: Option<&str>, host: &str, path: &str) -> Secondary {
        Secondary::Ssh { user: user.map(Into::into), host: host.into(), path: path.into() }
    }

    #[test]
    fn every_form_is_understood() {
        for (text, want) in [
            ("/copy", Secondary::Local { path: "/copy".into() }),
            ("/a//b/./c/", Secondary::Local { path: "/a/b/c".into() }),
            ("far:/copy", ssh(None, "far", "/copy")),
            ("far::/copy", ssh(None, "far", "/copy")),
            ("geo@far.example.org:/a b", ssh(Some("geo"), "far.example.org", "/a b")),
            ("root@[::1]:/copy", ssh(Some("root"), "::1", "/copy")),
            ("root@[::1]::/copy", ssh(Some("root"), "::1", "/copy")),
        ] {
            assert_eq!(text.parse::<Secondary>(), Ok(want), "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in ["", "copy", "far", "far:copy", ":/copy", "-oProxyCommand=x:/copy", "a b:/c", "u@-x:/c", "/a/../b"]
        {
            assert!(text.parse::<Secondary>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_same_directory_is_noticed() {
        let one: Secondary = "far:/copy".parse().unwrap();
        assert!(one.is_same(&"root@FAR::/copy/".parse().unwrap()));
        assert!(!one.is_same(&"geo@far:/copy".parse().unwrap()));
        assert!(!one.is_same(&"/copy".parse().unwrap()));
    }
}
