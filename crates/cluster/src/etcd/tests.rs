//! The store over a real etcd, and what may happen to it.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use gsync_tests::etcd::Etcd as Server;
use gsync_tests::require;
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::timeout;

use super::{Etcd, EtcdOptions, TlsFiles};
use crate::contract::whole_contract;
use crate::leadership::{Leadership, Standing};
use crate::store::{Change, Expected, Store, StoreError, Watch};

/// For what happens by itself.
const LIMIT: Duration = Duration::from_secs(60);

/// A short one, for quick tests on a loaded machine.
const LEASE: Duration = Duration::from_secs(5);

fn options(server: &Server, name: &str) -> EtcdOptions {
    EtcdOptions { lease: LEASE, ..EtcdOptions::new(server.endpoints(), name.into()) }
}

async fn open(server: &Server, name: &str) -> Etcd {
    Etcd::open(options(server, name)).await.unwrap()
}

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(LIMIT, future).await.unwrap_or_else(|_| panic!("waited too long for {what}"))
}

async fn number(store: &Etcd, key: &str) -> (u64, u64) {
    let entry = store.get(key).await.unwrap().unwrap();
    (String::from_utf8(entry.value).unwrap().parse().unwrap(), entry.revision)
}

/// Adds one to a number in the store, whoever else does; `false` if etcd did not answer.
async fn add_one(store: &Etcd, key: &str) -> bool {
    loop {
        let Ok(Some(entry)) = store.get(key).await else { return false };
        let next: u64 = String::from_utf8(entry.value).unwrap().parse::<u64>().unwrap() + 1;
        match store.put(key, next.to_string().into(), Expected::Revision(entry.revision)).await {
            Ok(_) => return true,
            Err(StoreError::Conflict { .. }) => {}
            Err(error) => panic!("a write whose fate is not known: {error}"),
        }
    }
}

/// Reads a watch until the number is there, which grows by one at a time unless the watch says that it lost some.
async fn follow(watch: &mut Watch, last: u64) {
    let mut next = 1;
    while next <= last {
        match within("a change", watch.next()).await.unwrap() {
            Change::Put(entry) => {
                let value: u64 = String::from_utf8(entry.value).unwrap().parse().unwrap();
                assert_eq!(value, next, "a change was missed or came twice");
                next += 1;
            }
            other => panic!("{other:?}"),
        }
    }
}

async fn wait_for(lead: &mut Leadership, want: Standing) {
    within(&format!("{want:?}"), async {
        loop {
            let standing = lead.changed().await;
            if standing == want {
                return;
            }
            assert_ne!(standing, Standing::Lost, "waiting for {want:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn etcd_keeps_the_contract() {
    require!(Server::available());
    for members in [1, 3] {
        let server = Server::start(members).unwrap();
        whole_contract(Arc::new(open(&server, "n").await)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_and_watchers_survive_the_death_of_etcds_leader() {
    require!(Server::available());
    let mut server = Server::start(3).unwrap();
    let stores = [open(&server, "a").await, open(&server, "b").await];
    stores[0].put("n", b"0".to_vec(), Expected::Absent).await.unwrap();
    let mut watch = stores[1].watch("n").await.unwrap();
    let mut lead = stores[0].campaign("e", "a").await.unwrap();
    let add = |store: Etcd| async move {
        for _ in 0..60 {
            assert!(add_one(&store, "n").await, "etcd does not answer");
        }
    };
    let tasks = stores.clone().map(|store| tokio::spawn(add(store)));
    let killed = server.leader();
    server.kill(killed);
    for task in tasks {
        within("the writers", task).await.unwrap();
    }
    assert_eq!(number(&stores[0], "n").await.0, 120, "a change of one node was lost to the other");
    follow(&mut watch, 120).await;
    assert_eq!(lead.standing(), Standing::Held);
    assert!(timeout(LEASE, lead.changed()).await.is_err(), "a lead moved because a member of etcd died");
    server.launch(killed).unwrap();
    server.wait_until_up().unwrap();
}

/// Two stores; the first leads and has announced something, the second one campaigns and watches.
struct Two {
    stores: [Etcd; 2],
    lead: Leadership,
    watch: Watch,
    waiting: tokio::task::JoinHandle<Result<Leadership, StoreError>>,
}

impl Two {
    async fn begin(server: &Server) -> Two {
        let stores = [open(server, "a").await, open(server, "b").await];
        stores[0].announce("row", b"here".to_vec()).await.unwrap();
        stores[0].put("n", b"0".to_vec(), Expected::Absent).await.unwrap();
        let watch = stores[1].watch("n").await.unwrap();
        let lead = stores[0].campaign("e", "a").await.unwrap();
        let other = stores[1].clone();
        let waiting = tokio::spawn(async move { other.campaign("e", "b").await });
        within("two candidates", async {
            while stores[0].0.candidates("gsync/elections/e/").await.unwrap().len() < 2 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
        Two { stores, lead, watch, waiting }
    }

    async fn wait_until_unproven(&mut self) {
        let start = Instant::now();
        wait_for(&mut self.lead, Standing::Unproven).await;
        assert!(start.elapsed() < LEASE + Duration::from_secs(4), "noticed after {:?}", start.elapsed());
        tokio::time::sleep(Duration::from_secs(10).saturating_sub(start.elapsed())).await;
    }

    /// Everything works again by itself, and the first one's end lets the second one lead.
    async fn finish(mut self, is_led_by_first: bool) {
        assert!(within("a write", add_one(&self.stores[0], "n")).await);
        follow(&mut self.watch, 1).await;
        within("the announcement", async {
            while self.stores[1].get("row").await.unwrap().is_none_or(|row| row.value != b"here") {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        })
        .await;
        assert!(!is_led_by_first || !self.waiting.is_finished(), "a role moved");
        self.stores[0].close().await.unwrap();
        let next = within("the other one", self.waiting).await.unwrap().unwrap();
        assert!(next.epoch() > self.lead.epoch());
        assert_eq!((self.lead.standing(), next.standing()), (Standing::Lost, Standing::Held));
    }
}

/// etcd starts the time of all leases anew when it is back: nobody's role moves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_moves_while_all_of_etcd_is_dead() {
    require!(Server::available());
    let mut server = Server::start(3).unwrap();
    let mut two = Two::begin(&server).await;
    (0..server.len()).for_each(|number| server.kill(number));
    two.wait_until_unproven().await;
    (0..server.len()).for_each(|number| server.launch(number).unwrap());
    server.wait_until_up().unwrap();
    wait_for(&mut two.lead, Standing::Held).await;
    two.finish(true).await;
}

/// An etcd that was frozen finds leases expired when it goes on: a role may move, and is never doubled.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_etcd_doubles_no_lead() {
    require!(Server::available());
    let mut server = Server::start(3).unwrap();
    let mut two = Two::begin(&server).await;
    server.signal_all(Signal::STOP);
    two.wait_until_unproven().await;
    assert!(!two.waiting.is_finished(), "elected by nobody");
    server.signal_all(Signal::CONT);
    server.wait_until_up().unwrap();
    let standing = within("etcd's word", two.lead.changed()).await;
    two.finish(standing == Standing::Held).await;
}

#[tokio::test]
async fn a_watch_that_fell_behind_a_compaction_is_told() {
    require!(Server::available());
    let mut server = Server::start(1).unwrap();
    let store = open(&server, "a").await;
    let mut watch = store.watch("n").await.unwrap();
    store.put("n", b"0".to_vec(), Expected::Any).await.unwrap();
    assert!(matches!(within("a change", watch.next()).await, Some(Change::Put(_))));
    // While nobody of ours is connected, things change and the history is thrown away.
    server.kill(0);
    server.launch(0).unwrap();
    server.wait_until_up().unwrap();
    for value in 0..20 {
        server.must(&["put", "gsync/keys/n", &value.to_string()]).unwrap();
    }
    let (_, revision) = number(&store, "n").await;
    server.must(&["compact", &revision.to_string()]).unwrap();
    // It either was connected again in time and saw all, or it says so; then a list shows the rest.
    let mut seen = None;
    while seen != Some(19) {
        match within("a change", watch.next()).await.unwrap() {
            Change::Put(entry) => seen = String::from_utf8(entry.value).unwrap().parse().ok(),
            Change::Lost => seen = Some(number(&store, "n").await.0),
            other => panic!("{other:?}"),
        }
    }
    store.put("n", b"end".to_vec(), Expected::Any).await.unwrap();
    loop {
        if matches!(within("what comes after", watch.next()).await, Some(Change::Put(entry)) if entry.value == b"end") {
            break;
        }
    }
}

#[tokio::test]
async fn a_compacted_history_is_found_by_listing() {
    require!(Server::available());
    let server = Server::start(1).unwrap();
    let store = open(&server, "a").await;
    for value in 0..20_u64 {
        store.put("n", value.to_string().into(), Expected::Any).await.unwrap();
    }
    let (_, revision) = number(&store, "n").await;
    server.must(&["compact", &revision.to_string()]).unwrap();
    let mut watch =
        Watch { prefix: "n".into(), changes: super::changes::watch_from(&store.0.pool, "gsync/keys/n", 11, 2) };
    assert_eq!(within("the news", watch.next()).await, Some(Change::Lost));
    assert_eq!(number(&store, "n").await.0, 19);
    store.put("n", b"20".to_vec(), Expected::Any).await.unwrap();
    assert!(matches!(within("a change", watch.next()).await, Some(Change::Put(entry)) if entry.value == b"20"));
}

#[tokio::test]
async fn certificates_are_checked_on_both_sides() {
    require!(Server::available());
    let server = Server::start_tls().unwrap();
    let certificates = server.certificates().unwrap();
    let read = |name: &str| std::fs::read(certificates.file(name)).unwrap();
    let identity = Some((read("client.pem"), read("client.key")));
    let good = TlsFiles { ca: read("ca.pem"), identity: identity.clone() };
    let with = |tls: TlsFiles| EtcdOptions { tls: Some(tls), ..options(&server, "n") };
    let store = Etcd::open(with(good.clone())).await.unwrap();
    store.put("a", b"1".to_vec(), Expected::Absent).await.unwrap();
    store.close().await.unwrap();

    let other = gsync_tests::etcd::Certificates::new().unwrap();
    let foreign = |name: &str| std::fs::read(other.file(name)).unwrap();
    let foreign_identity = Some((foreign("client.pem"), foreign("client.key")));
    let [endpoint] = server.endpoints().try_into().unwrap();
    for (tls, want) in [
        (TlsFiles { ca: foreign("ca.pem"), identity: identity.clone() }, "invalid peer certificate"),
        (TlsFiles { ca: read("ca.pem"), identity: foreign_identity }, "cert"),
        (
            TlsFiles { ca: read("ca.pem"), identity: None },
            "received fatal alert: BadCertificate; look at ca, cert and key",
        ),
        (TlsFiles { ca: b"no certificate".to_vec(), identity: None }, "ca, cert and key"),
        (TlsFiles { ca: read("ca.pem"), identity: Some((read("client.pem"), b"no key".to_vec())) }, "ca, cert and key"),
    ] {
        let error = Etcd::open(with(tls)).await.unwrap_err();
        // A server that refuses us may be heard, or just hangs up.
        let is_explained =
            error.to_string().contains("ca, cert and key") || error.to_string().contains("our certificate");
        assert!(error.to_string().contains(want) && is_explained, "{error}");
        assert!(error.to_string().contains(&endpoint), "{error}");
        println!("{error}");
    }
}

#[tokio::test]
async fn a_user_needs_the_right_password_and_the_right_to_write() {
    require!(Server::available());
    let server = Server::start(1).unwrap();
    for words in [
        "user add root:secret",
        "user grant-role root root",
        "user add gsync:pass",
        "user add nobody:pass",
        "role add gsync",
        "role grant-permission --prefix gsync readwrite gsync/",
        "user grant-role gsync gsync",
        "auth enable",
    ] {
        server.must(&words.split(' ').collect::<Vec<_>>()).unwrap();
    }
    let with = |user: Option<(&str, &str)>| EtcdOptions {
        user: user.map(|(name, password)| (name.into(), password.into())),
        ..options(&server, "n")
    };
    let store = Arc::new(Etcd::open(with(Some(("gsync", "pass")))).await.unwrap());
    whole_contract(store).await;
    for (user, want) in [
        (Some(("gsync", "wrong")), "user and password-file"),
        (None, "user"),
        (Some(("nobody", "pass")), "permission denied; give the user a role"),
    ] {
        let start = Instant::now();
        let error = Etcd::open(with(user)).await.unwrap_err();
        assert!(matches!(error, StoreError::Refused { .. }) && error.to_string().contains(want), "{error}");
        assert!(start.elapsed() < Duration::from_secs(9), "what will not change is not tried again");
        println!("{error}");
    }
}

#[tokio::test]
async fn an_etcd_that_is_not_there_is_named() {
    // Ports that are closed, and one that accepts and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = format!("http://{}", silent.local_addr().unwrap());
    let endpoints = vec!["http://127.0.0.1:1".to_owned(), silent.clone()];
    let error = Etcd::open(EtcdOptions::new(endpoints, "n".into())).await.unwrap_err();
    println!("{error}");
    let text = error.to_string();
    assert!(matches!(error, StoreError::Unreachable { .. }), "{text}");
    for want in ["http://127.0.0.1:1: ", &silent, "efused", "does it run there"] {
        assert!(text.contains(want), "{text}");
    }
}

#[tokio::test]
async fn a_process_that_was_killed_holds_nothing_up() {
    require!(Server::available());
    let server = Server::start(1).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut options = EtcdOptions { lease: Duration::from_secs(600), ..options(&server, "a") };
    options.lease_file = Some(dir.path().join("lease"));
    let first = Etcd::open(options.clone()).await.unwrap();
    first.announce("row", b"1".to_vec()).await.unwrap();
    let epoch = first.campaign("e", "a").await.unwrap().epoch();
    drop(first);
    let second = Etcd::open(options).await.unwrap();
    assert_eq!(second.get("row").await.unwrap(), None);
    let lead = within("a lead", second.campaign("e", "a")).await.unwrap();
    assert!(lead.epoch() > epoch);
}

const CHILD: &str = "GSYNC_TEST_ETCD_CHILD";

/// Run by the next test in a process of its own: leads, and tells how sure it is whenever it is asked.
#[tokio::test]
async fn child_that_leads() {
    let Some(endpoints) = std::env::var_os(CHILD) else { return };
    let endpoints = endpoints.to_str().unwrap().split(',').map(Into::into).collect();
    let options = EtcdOptions { lease: LEASE, ..EtcdOptions::new(endpoints, "child".into()) };
    let store = Etcd::open(options).await.unwrap();
    let mut lead = store.campaign("e", "child").await.unwrap();
    println!("LEADS {}", lead.epoch());
    let asked = lead.clone();
    std::thread::spawn(move || {
        for _line in std::io::stdin().lines() {
            println!("ASKED {:?}", asked.standing());
        }
    });
    wait_for(&mut lead, Standing::Lost).await;
    println!("TOLD Lost");
    let again = store.campaign("e", "child").await.unwrap();
    println!("LEADS {}", again.epoch());
    std::future::pending::<()>().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_that_slept_too_long_knows_when_it_wakes() {
    require!(Server::available());
    let server = Server::start(1).unwrap();
    let store = open(&server, "other").await;
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "etcd::tests::child_that_leads", "--nocapture", "--test-threads=1"])
        .env(CHILD, server.endpoints().join(","))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let pid = Pid::from_child(&child);
    let mut ask = child.stdin.take().unwrap();
    let (sender, lines) = std::sync::mpsc::channel();
    let reader = BufReader::new(child.stdout.take().unwrap());
    std::thread::spawn(move || reader.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
    // Two threads of the child print, in any order.
    let mut waiting: Vec<String> = Vec::new();
    let mut line = |word: &str| loop {
        if let Some(at) = waiting.iter().position(|line| line.contains(word)) {
            let line = waiting.remove(at);
            return line[line.find(word).unwrap() + word.len()..].trim().to_owned();
        }
        waiting.push(lines.recv_timeout(LIMIT).unwrap_or_else(|_| panic!("no line with '{word}'")));
    };
    let first: u64 = line("LEADS").parse().unwrap();
    writeln!(ask).unwrap();
    assert_eq!(line("ASKED"), "Held");
    let campaign = tokio::spawn(async move { (store.campaign("e", "other").await.unwrap(), store) });
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!campaign.is_finished(), "two lead");
    kill_process(pid, Signal::STOP).unwrap();
    let (lead, store) = within("the other one", campaign).await.unwrap();
    assert!(lead.epoch().0 > first);
    // The question is there before it wakes.
    writeln!(ask).unwrap();
    kill_process(pid, Signal::CONT).unwrap();
    assert_ne!(line("ASKED"), "Held", "a sleeper believes that it leads");
    line("TOLD Lost");
    assert_eq!(lead.standing(), Standing::Held, "the sleeper took the lead back");
    assert_eq!(store.leader("e").await.unwrap().unwrap().candidate, "other");
    store.resign("e", lead.epoch()).await.unwrap();
    let third: u64 = line("LEADS").parse().unwrap();
    assert!(third > lead.epoch().0);
    child.kill().unwrap();
    child.wait().unwrap();
}
