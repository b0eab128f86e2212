//! A real etcd with one member or several, each a process of its own.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::{need, wait};

/// How long etcd may take to answer.
const UP_LIMIT: Duration = Duration::from_secs(60);

/// How often other ports are tried when somebody was faster.
const PORT_TRIES: usize = 5;

/// Where the data is: in memory where there is such a directory, because etcd syncs every write.
const IN_MEMORY: &str = "/dev/shm";

/// A running etcd; killed on drop.
#[derive(Debug)]
pub struct Etcd {
    members: Vec<Member>,
    tls: Option<Certificates>,
    dir: tempfile::TempDir,
}

#[derive(Debug)]
struct Member {
    client: String,
    arguments: Vec<String>,
    child: Option<Child>,
    log: PathBuf,
}

/// A certificate authority, with certificates of a server on 127.0.0.1 and of a client.
#[derive(Debug)]
pub struct Certificates(tempfile::TempDir);

impl Certificates {
    /// Makes keys and certificates.
    ///
    /// # Errors
    /// What openssl said.
    pub fn new() -> anyhow::Result<Certificates> {
        let made = Certificates(tempfile::Builder::new().prefix("gsync-pki-").tempdir()?);
        made.openssl("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=ca -keyout ca.key -out ca.pem")?;
        for (name, usage) in [("server", "serverAuth,clientAuth"), ("client", "clientAuth")] {
            let extensions = format!("subjectAltName=IP:127.0.0.1\nextendedKeyUsage={usage}\n");
            fs::write(made.0.path().join("extensions"), extensions)?;
            made.openssl(&format!("req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN={name} -keyout {name}.key -out {name}.csr"))?;
            made.openssl(&format!("x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile extensions -out {name}.pem"))?;
        }
        Ok(made)
    }

    /// One of `ca.pem`, `server.pem`, `server.key`, `client.pem`, `client.key`.
    pub fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn openssl(&self, words: &str) -> anyhow::Result<()> {
        let output = Command::new("openssl").args(words.split(' ')).current_dir(self.0.path()).output()?;
        ensure!(output.status.success(), "openssl {words}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }
}

impl Etcd {
    /// Whether this machine can run one.
    ///
    /// # Errors
    /// What is missing, in words.
    pub fn available() -> Result<(), String> {
        ["etcd", "etcdctl", "openssl"].iter().try_for_each(|name| need::program(name).map(drop))
    }

    /// Starts this many members, without TLS.
    ///
    /// # Errors
    /// What etcd logged.
    pub fn start(members: usize) -> anyhow::Result<Etcd> {
        Etcd::start_with(members, None)
    }

    /// Starts one member that talks TLS and wants a client's certificate.
    ///
    /// # Errors
    /// What openssl said or etcd logged.
    pub fn start_tls() -> anyhow::Result<Etcd> {
        Etcd::start_with(1, Some(Certificates::new()?))
    }

    fn start_with(members: usize, tls: Option<Certificates>) -> anyhow::Result<Etcd> {
        let mut builder = tempfile::Builder::new();
        builder.prefix("gsync-etcd-");
        let in_memory = Path::new(IN_MEMORY).is_dir();
        let dir = if in_memory { builder.tempdir_in(IN_MEMORY)? } else { builder.tempdir()? };
        let mut etcd = Etcd { members: Vec::new(), tls, dir };
        for attempt in 0..PORT_TRIES {
            etcd.configure(members, attempt)?;
            for number in 0..members {
                etcd.launch(number)?;
            }
            match etcd.wait_until_up() {
                Ok(()) => return Ok(etcd),
                Err(error) if attempt + 1 == PORT_TRIES => return Err(error),
                Err(_) => (0..members).for_each(|number| etcd.kill(number)),
            }
        }
        bail!("etcd does not start")
    }

    fn configure(&mut self, members: usize, attempt: usize) -> anyhow::Result<()> {
        let listeners: Vec<TcpListener> =
            (0..members * 2).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<_, _>>()?;
        let ports =
            listeners.iter().map(|listener| Ok(listener.local_addr()?.port())).collect::<std::io::Result<Vec<_>>>()?;
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let peer = |number: usize| format!("http://127.0.0.1:{}", ports[members + number]);
        let cluster: Vec<String> = (0..members).map(|number| format!("m{number}={}", peer(number))).collect();
        self.members.clear();
        for (number, port) in ports.iter().enumerate().take(members) {
            let client = format!("{scheme}://127.0.0.1:{port}");
            let data = self.dir.path().join(format!("m{number}-{attempt}"));
            let mut arguments: Vec<String> = [
                ("name", format!("m{number}")),
                ("data-dir", data.display().to_string()),
                ("listen-client-urls", client.clone()),
                ("advertise-client-urls", client.clone()),
                ("listen-peer-urls", peer(number)),
                ("initial-advertise-peer-urls", peer(number)),
                ("initial-cluster", cluster.join(",")),
                ("log-level", "warn".into()),
                ("logger", "zap".into()),
            ]
            .map(|(name, value)| format!("--{name}={value}"))
            .to_vec();
            if let Some(tls) = &self.tls {
                for (name, file) in
                    [("cert-file", "server.pem"), ("key-file", "server.key"), ("trusted-ca-file", "ca.pem")]
                {
                    arguments.push(format!("--{name}={}", tls.file(file).display()));
                }
                arguments.push("--client-cert-auth".into());
            }
            let log = self.dir.path().join(format!("m{number}.log"));
            self.members.push(Member { client, arguments, child: None, log });
        }
        Ok(())
    }

    /// Starts a member, with the data that it had.
    ///
    /// # Errors
    /// What the system says.
    pub fn launch(&mut self, number: usize) -> anyhow::Result<()> {
        let member = &mut self.members[number];
        let log = fs::OpenOptions::new().create(true).append(true).open(&member.log)?;
        let mut command = Command::new(need::program("etcd").map_err(anyhow::Error::msg)?);
        command.args(&member.arguments).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        member.child = Some(command.spawn().context("cannot start etcd")?);
        Ok(())
    }

    /// Waits until a value can be written.
    ///
    /// # Errors
    /// What etcd logged.
    pub fn wait_until_up(&mut self) -> anyhow::Result<()> {
        let start = std::time::Instant::now();
        while !self.ctl(&["put", "gsync-test-up", "1"])?.status.success() {
            let ended = self
                .members
                .iter_mut()
                .any(|m| m.child.as_mut().is_some_and(|c| c.try_wait().is_ok_and(|e| e.is_some())));
            if ended || start.elapsed() > UP_LIMIT {
                let logs: Vec<String> =
                    self.members.iter().map(|m| fs::read_to_string(&m.log).unwrap_or_default()).collect();
                bail!("etcd does not answer: {}", logs.join("\n"));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Where clients reach the members.
    pub fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(|member| member.client.clone()).collect()
    }

    /// The certificates, with TLS.
    pub fn certificates(&self) -> Option<&Certificates> {
        self.tls.as_ref()
    }

    /// Runs etcdctl.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn ctl(&self, arguments: &[&str]) -> anyhow::Result<Output> {
        let mut command = Command::new("etcdctl");
        command.env("ETCDCTL_API", "3").arg("--endpoints").arg(self.endpoints().join(","));
        command.args(["--command-timeout=5s", "--dial-timeout=2s"]);
        if let Some(tls) = &self.tls {
            command.arg("--cacert").arg(tls.file("ca.pem"));
            command.arg("--cert").arg(tls.file("client.pem")).arg("--key").arg(tls.file("client.key"));
        }
        command.args(arguments).output().context("cannot start etcdctl")
    }

    /// Runs etcdctl, which must succeed; what it printed.
    ///
    /// # Errors
    /// What it said.
    pub fn must(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let output = self.ctl(arguments)?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "etcdctl {}: {said}", arguments.join(" "));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// The member that leads the others.
    ///
    /// # Panics
    /// When there is none after a minute.
    pub fn leader(&self) -> usize {
        wait::wait_for("a leader of etcd", UP_LIMIT, || {
            let text = self.must(&["endpoint", "status", "-w", "json"]).map_err(|e| e.to_string())?;
            let status: serde_json::Value = serde_json::from_str(&text).map_err(|e| e.to_string())?;
            let leads = |row: &&serde_json::Value| row["Status"]["leader"] == row["Status"]["header"]["member_id"];
            let endpoint = status.as_array().and_then(|rows| rows.iter().find(leads)).map(|row| &row["Endpoint"]);
            let endpoint = endpoint.and_then(|endpoint| endpoint.as_str()).ok_or("none leads")?;
            self.members.iter().position(|member| member.client == endpoint).ok_or(endpoint.to_owned())
        })
    }

    /// Kills a member as a crash would.
    pub fn kill(&mut self, number: usize) {
        if let Some(mut child) = self.members[number].child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Sends all members a signal, such as STOP and CONT.
    pub fn signal_all(&self, signal: Signal) {
        for child in self.members.iter().filter_map(|member| member.child.as_ref()) {
            let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
            let _ = pid.map(|pid| kill_process(pid, signal));
        }
    }

    /// How many members there are.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Never.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        for number in 0..self.members.len() {
            self.kill(number);
        }
    }
}
