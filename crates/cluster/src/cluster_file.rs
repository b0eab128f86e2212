//! The file that tells how to reach etcd, in TOML. A node without one has the embedded store.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use crate::etcd::options::{DEFAULT_LEASE, DEFAULT_PREFIX};
use crate::etcd::{EtcdOptions, TlsFiles};

/// What `lease-seconds` may be: below, a short stall of etcd makes roles move; above, nobody replicates for that long.
const LEASE_SECONDS: std::ops::RangeInclusive<u64> = 5..=60;

/// How the lines end that begin a block in the files that it names.
const CERTIFICATE: &str = "CERTIFICATE-----";
const PRIVATE_KEY: &str = "PRIVATE KEY-----";

/// Why a cluster file cannot be used. An operator has to mend it.
#[derive(Debug, thiserror::Error)]
pub enum ClusterFileError {
    /// It, or a file that it names, cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is not as it should be.
    #[error("{}: {reason}", path.display())]
    Wrong {
        /// The cluster file.
        path: PathBuf,
        /// What is wrong, and what it should be.
        reason: String,
    },
}

/// The file as it is written.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Written {
    endpoints: Vec<String>,
    ca: Option<PathBuf>,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
    user: Option<String>,
    password_file: Option<PathBuf>,
    prefix: Option<String>,
    lease_seconds: Option<u64>,
}

/// Reads a cluster file and the files that it names, for the node of this name.
///
/// # Errors
/// [`ClusterFileError`].
pub fn read(path: &Path, node: &str) -> Result<EtcdOptions, ClusterFileError> {
    let text = String::from_utf8_lossy(&read_file(path)?).into_owned();
    let wrong = |reason: String| ClusterFileError::Wrong { path: path.into(), reason };
    let written: Written = toml::from_str(&text).map_err(|error| wrong(in_one_line(&text, &error)))?;
    check(&written).map_err(wrong)?;
    let read = |file: &Option<PathBuf>| file.as_deref().map(|file| read_file(&beside(path, file))).transpose();
    for (file, what) in [(&written.ca, CERTIFICATE), (&written.cert, CERTIFICATE), (&written.key, PRIVATE_KEY)] {
        let Some(file) = file else { continue };
        let content = read_file(&beside(path, file))?;
        if !String::from_utf8_lossy(&content).lines().any(|line| line.starts_with("-----BEGIN") && line.ends_with(what))
        {
            return Err(wrong(format!("{} has no PEM block '{what}'", file.display())));
        }
    }
    let identity = read(&written.cert)?.zip(read(&written.key)?);
    let tls = read(&written.ca)?.map(|ca| TlsFiles { ca, identity });
    let user = match (&written.user, read(&written.password_file)?) {
        (Some(user), Some(password)) => {
            let password = String::from_utf8(password).map_err(|_| wrong("the password is not UTF-8".into()))?;
            Some((user.clone(), password.trim_end_matches(['\r', '\n']).to_owned()))
        }
        _ => None,
    };
    Ok(EtcdOptions {
        endpoints: written.endpoints,
        tls,
        user,
        prefix: written.prefix.unwrap_or_else(|| DEFAULT_PREFIX.into()),
        lease: written.lease_seconds.map_or(DEFAULT_LEASE, Duration::from_secs),
        name: node.into(),
        lease_file: None,
    })
}

fn in_one_line(text: &str, error: &toml::de::Error) -> String {
    let before = error.span().and_then(|span| text.get(..span.start));
    let line = before.map_or(1, |before| before.matches('\n').count() + 1);
    format!("line {line}: {}", error.message())
}

/// What is wrong with it, if anything is.
fn check(written: &Written) -> Result<(), String> {
    if written.endpoints.is_empty() {
        return Err("'endpoints' names no member of etcd".into());
    }
    for endpoint in &written.endpoints {
        let rest = endpoint.strip_prefix("https://").or_else(|| endpoint.strip_prefix("http://"));
        let port = rest.and_then(|rest| rest.rsplit_once(':')).filter(|(host, _)| !host.is_empty());
        if port.is_none_or(|(_, port)| port.parse::<u16>().is_err()) {
            return Err(format!("the endpoint '{endpoint}' is not like 'https://host:2379'"));
        }
    }
    let is_tls = written.endpoints.iter().filter(|endpoint| endpoint.starts_with("https://")).count();
    if is_tls != 0 && is_tls != written.endpoints.len() {
        return Err("the endpoints are partly http and partly https".into());
    }
    if is_tls != 0 && written.ca.is_none() {
        return Err("endpoints with https need 'ca', the certificate of who vouches for them".into());
    }
    if is_tls == 0 && (written.ca.is_some() || written.cert.is_some() || written.key.is_some()) {
        return Err("'ca', 'cert' and 'key' are for endpoints with https".into());
    }
    if written.cert.is_some() != written.key.is_some() {
        return Err("'cert' and 'key' belong together".into());
    }
    if written.user.is_some() != written.password_file.is_some() {
        return Err("'user' and 'password-file' belong together".into());
    }
    if let Some(prefix) = written.prefix.as_ref().filter(|prefix| prefix.len() < 2 || !prefix.ends_with('/')) {
        return Err(format!("the prefix '{prefix}' does not end with '/'"));
    }
    if let Some(seconds) = written.lease_seconds.filter(|seconds| !LEASE_SECONDS.contains(seconds)) {
        let (least, most) = (LEASE_SECONDS.start(), LEASE_SECONDS.end());
        return Err(format!("'lease-seconds' is {seconds} and may be {least} to {most}"));
    }
    Ok(())
}

fn read_file(path: &Path) -> Result<Vec<u8>, ClusterFileError> {
    fs::read(path).map_err(|source| ClusterFileError::Read { path: path.into(), source })
}

/// Relative paths are relative to the cluster file.
fn beside(path: &Path, file: &Path) -> PathBuf {
    path.parent().unwrap_or(Path::new("/")).join(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CA: &str = "-----BEGIN CERTIFICATE-----\nca";
    const CERT: &str = "text\n-----BEGIN TRUSTED CERTIFICATE-----\ncert";
    const KEY: &str = "-----BEGIN EC PRIVATE KEY-----\nkey";

    fn read_text(text: &str) -> Result<EtcdOptions, String> {
        let dir = tempfile::tempdir().unwrap();
        for (name, content) in [("ca.pem", CA), ("cert.pem", CERT), ("key.pem", KEY), ("password", "p w\n")] {
            fs::write(dir.path().join(name), content).unwrap();
        }
        fs::write(dir.path().join("cluster.toml"), text).unwrap();
        read(&dir.path().join("cluster.toml"), "node").map_err(|error| {
            let error: &dyn std::error::Error = &error;
            let cause = error.source().map(|source| format!(": {source}")).unwrap_or_default();
            format!("{error}{cause}").replace(&dir.path().display().to_string(), "DIR")
        })
    }

    #[test]
    fn every_line_arrives() {
        let options = read_text(
            "# ours\nendpoints = [\"https://a:2379\", \"https://b:1\"]\nca = \"ca.pem\"\ncert = \"cert.pem\"\nkey = \
             \"key.pem\"\nuser = \"u\"\npassword-file = \"password\"\nprefix = \"x/\"\nlease-seconds = 20\n",
        );
        let want = EtcdOptions {
            endpoints: vec!["https://a:2379".into(), "https://b:1".into()],
            tls: Some(TlsFiles { ca: CA.into(), identity: Some((CERT.into(), KEY.into())) }),
            user: Some(("u".into(), "p w".into())),
            prefix: "x/".into(),
            lease: Duration::from_secs(20),
            name: "node".into(),
            lease_file: None,
        };
        assert_eq!(options.unwrap(), want);
        let least = read_text("endpoints = [\"http://[::1]:2379\"]").unwrap();
        assert_eq!(least, EtcdOptions::new(vec!["http://[::1]:2379".into()], "node".into()));
        assert!(!format!("{want:?}").contains("p w"), "a password is not for logs");
    }

    #[test]
    fn the_sample_in_the_manual_is_right() {
        let manual = include_str!("../../../docs/operations.md");
        let sample = manual.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
        let names = [("etcd-ca.pem", "ca.pem"), ("etcd-client.pem", "cert.pem"), ("etcd-client.key", "key.pem")];
        let text = names.iter().fold(sample.replace("etcd-password", "password"), |text, (a, b)| text.replace(a, b));
        let options = read_text(&text).unwrap();
        assert_eq!(
            (options.endpoints.len(), options.lease, options.prefix.as_str()),
            (3, DEFAULT_LEASE, DEFAULT_PREFIX)
        );
    }

    #[test]
    fn a_mistake_is_named() {
        let http = "endpoints = [\"http://a:1\"]\n";
        let https = "endpoints = [\"https://a:1\"]\nca = \"ca.pem\"\n";
        for (text, want) in [
            ("", "missing field `endpoints`"),
            ("endpoints = []", "names no member"),
            ("endpoints = [\"a:2379\"]", "'a:2379' is not like"),
            ("endpoints = [\"http://a\"]", "'http://a' is not like"),
            ("endpoints = [\"http://a:b\"]", "'http://a:b' is not like"),
            ("endpoints = [\"http://:1\"]", "'http://:1' is not like"),
            ("endpoints = [\"http://a:1\", \"https://a:1\"]", "partly"),
            ("endpoints = [\"https://a:1\"]", "need 'ca'"),
            (&format!("{http}ca = \"ca.pem\""), "are for endpoints with https"),
            (&format!("{https}cert = \"cert.pem\""), "'cert' and 'key' belong together"),
            (&format!("{http}user = \"u\""), "'user' and 'password-file' belong together"),
            (&format!("{http}prefix = \"gsync\""), "does not end with '/'"),
            (&format!("{http}lease-seconds = 1"), "'lease-seconds' is 1 and may be 5 to 60"),
            (&format!("{http}endpoint = 1"), "unknown field `endpoint`"),
            ("endpoints = [\"https://a:1\"]\nca = \"no.pem\"", "cannot read DIR/no.pem: No such file"),
            ("endpoints = [\"https://a:1\"]\nca = \"key.pem\"", "key.pem has no PEM block 'CERTIFICATE-----'"),
            (&format!("{https}cert = \"cert.pem\"\nkey = \"ca.pem\""), "ca.pem has no PEM block 'PRIVATE KEY-----'"),
            (&format!("{http}= 1"), "line 2"),
        ] {
            let error = read_text(text).unwrap_err();
            assert!(error.contains(want), "{text}: {error}");
            assert!(error.contains("DIR"), "{error} names no file");
        }
    }
}
