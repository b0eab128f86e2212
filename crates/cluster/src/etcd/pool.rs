//! Asking one member of etcd after the other until one answers.
//!
//! A connection to a single member at a time, instead of the client's own balancing over all: that keeps a dead member in
//! its rotation, so that a part of all calls fails. Whoever finds the member silent moves everybody on to the next.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error as _;
use std::future::Future;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use etcd_client::{
    Certificate, Client, ConnectOptions, Error, Identity, KvClient, LeaseClient, TlsOptions, WatchClient,
};
use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, sleep, timeout};

use super::options::EtcdOptions;
use crate::store::StoreError;

/// How long one member may take to answer, connecting included. A member that answers at all does so in milliseconds;
/// while etcd elects a leader, it is better to ask the next one.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(3);

/// How long an operation is tried. A new leader is there after two seconds.
pub(super) const CALL_LIMIT: Duration = Duration::from_secs(10);

/// Between two rounds through all members.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// The largest answer that is accepted: all that is declared, at once. etcd's own limit is for one request.
const ANSWER_MAX_BYTES: usize = 64 << 20;

/// gRPC codes that mean that asking again, or somebody else, changes nothing.
const INVALID_ARGUMENT: i32 = 3;
const NOT_FOUND: i32 = 5;
const PERMISSION_DENIED: i32 = 7;
const RESOURCE_EXHAUSTED: i32 = 8;
const FAILED_PRECONDITION: i32 = 9;
const OUT_OF_RANGE: i32 = 11;
const UNIMPLEMENTED: i32 = 12;
const UNAUTHENTICATED: i32 = 16;

/// A connection to one member.
#[derive(Clone)]
pub(super) struct Connection {
    pub(super) kv: KvClient,
    pub(super) lease: LeaseClient,
    pub(super) watch: WatchClient,
    /// Keeps the connection's endpoint.
    _client: Client,
}

/// The members, and which one is asked now.
pub(super) struct Pool {
    options: EtcdOptions,
    connections: Vec<Mutex<Option<Connection>>>,
    /// Counts the moves; the remainder is the member that is asked.
    moves: watch::Sender<usize>,
    closed: AtomicBool,
}

/// Why nobody answered as was hoped.
#[derive(Debug)]
pub(super) enum Failure {
    /// What was named does not exist: a lease that has ended.
    NotFound,
    /// No member answered in time, or the answer will not change.
    Store(StoreError),
}

impl From<Failure> for StoreError {
    fn from(failure: Failure) -> StoreError {
        match failure {
            Failure::NotFound => StoreError::Unreachable { reason: "it forgot this node just now".into() },
            Failure::Store(error) => error,
        }
    }
}

impl Pool {
    pub(super) fn new(options: EtcdOptions) -> Pool {
        let connections = options.endpoints.iter().map(|_| Mutex::default()).collect();
        Pool { options, connections, moves: watch::Sender::new(0), closed: AtomicBool::new(false) }
    }

    /// Tells of each move to another member, or a new connection to the only one.
    pub(super) fn moves(&self) -> watch::Receiver<usize> {
        self.moves.subscribe()
    }

    /// Refuses everything from now on and ends all watches.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.moves.send_modify(|now| *now = now.wrapping_add(1));
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Asks until somebody answers, at most for `limit`. What is asked must be harmless when done twice.
    pub(super) async fn call<T, F>(&self, limit: Duration, ask: impl Fn(Connection) -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let deadline = Instant::now() + limit;
        let (mut reasons, mut pause, mut tries) = (BTreeMap::new(), PAUSE_MIN, 0);
        let mut refused = BTreeSet::new();
        loop {
            if self.is_closed() {
                return Err(Failure::Store(StoreError::Closed));
            }
            let move_number = *self.moves.borrow();
            let at = move_number % self.connections.len();
            let attempt = async { ask(self.connection(at).await?).await };
            let left = deadline.saturating_duration_since(Instant::now());
            match timeout(left.min(ATTEMPT_LIMIT), attempt).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) => {
                    if let Some(failure) = self.final_failure(at, &error) {
                        return Err(failure);
                    }
                    tracing::debug!(endpoint = self.options.endpoints[at], %error, "no answer");
                    reasons.insert(at, reason(&error));
                    if is_tls(&error) {
                        refused.insert(at);
                    }
                }
                Err(_) => {
                    reasons.entry(at).or_insert_with(|| "no answer in time".to_owned());
                }
            }
            self.leave(move_number).await;
            tries += 1;
            if refused.len() == self.connections.len() {
                let reason = format!("{}; look at ca, cert and key", self.said(&reasons));
                return Err(Failure::Store(StoreError::Refused { reason }));
            }
            if Instant::now() + pause >= deadline {
                return Err(Failure::Store(StoreError::Unreachable { reason: self.describe(&reasons) }));
            }
            if tries % self.connections.len() == 0 {
                sleep(pause).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
        }
    }

    /// The connection to the member that is asked now, made if there is none, and which move that was.
    pub(super) async fn current(&self) -> Result<(Connection, usize), Error> {
        let move_number = *self.moves.borrow();
        let connection = self.connection(move_number % self.connections.len());
        match timeout(ATTEMPT_LIMIT, connection).await {
            Ok(connection) => Ok((connection?, move_number)),
            Err(_) => Err(io::Error::from(io::ErrorKind::TimedOut).into()),
        }
    }

    /// Moves on, unless somebody else did meanwhile.
    pub(super) async fn leave(&self, move_number: usize) {
        let is_first = self.moves.send_if_modified(|now| {
            let is_first = *now == move_number;
            *now = now.wrapping_add(usize::from(is_first));
            is_first
        });
        if is_first {
            // A half-dead connection would stay so; a new one costs little.
            *self.connections[move_number % self.connections.len()].lock().await = None;
        }
    }

    async fn connection(&self, at: usize) -> Result<Connection, Error> {
        let mut place = self.connections[at].lock().await;
        if let Some(connection) = &*place {
            return Ok(connection.clone());
        }
        let client = Client::connect([&self.options.endpoints[at]], Some(self.connect_options())).await?;
        let connection = Connection {
            kv: client.kv_client().max_decoding_message_size(ANSWER_MAX_BYTES),
            lease: client.lease_client(),
            watch: client.watch_client().max_decoding_message_size(ANSWER_MAX_BYTES),
            _client: client,
        };
        Ok(place.insert(connection).clone())
    }

    fn connect_options(&self) -> ConnectOptions {
        // No HTTP/2 pings: etcd drops a connection that pings a lot. The lease is renewed often enough to notice.
        let mut options = ConnectOptions::new()
            .with_connect_timeout(ATTEMPT_LIMIT)
            .with_require_leader(true)
            .with_auto_token_refresh(true);
        if let Some(files) = &self.options.tls {
            let mut tls = TlsOptions::new().ca_certificate(Certificate::from_pem(&files.ca));
            if let Some((certificate, key)) = &files.identity {
                tls = tls.identity(Identity::from_pem(certificate, key));
            }
            options = options.with_tls(tls);
        }
        if let Some((name, password)) = &self.options.user {
            options = options.with_user(name, password);
        }
        options
    }

    fn final_failure(&self, at: usize, error: &Error) -> Option<Failure> {
        let refused = |why: &str, look: &str| {
            let reason = format!("{}: {why}; {look}", self.options.endpoints[at]);
            Some(Failure::Store(StoreError::Refused { reason }))
        };
        let Error::GRpcStatus(status) = error else {
            return match error {
                Error::InvalidArgs(_) | Error::InvalidUri(_) | Error::InvalidMetadataValue(_) => {
                    refused(&error.to_string(), "look at the endpoints")
                }
                Error::TransportError(_) => refused(&with_causes(error), "look at the endpoints, ca, cert and key"),
                _ => None,
            };
        };
        match i32::from(status.code()) {
            NOT_FOUND => Some(Failure::NotFound),
            INVALID_ARGUMENT | UNAUTHENTICATED | FAILED_PRECONDITION => {
                refused(status.message(), "look at user and password-file")
            }
            PERMISSION_DENIED => refused(status.message(), "give the user a role that may read and write the prefix"),
            RESOURCE_EXHAUSTED | OUT_OF_RANGE | UNIMPLEMENTED => refused(status.message(), "look at etcd's own log"),
            _ => None,
        }
    }

    fn describe(&self, reasons: &BTreeMap<usize, String>) -> String {
        let certificate = if self.options.tls.is_some() { " does it take our certificate," } else { "" };
        format!("{}; does it run there,{certificate} and is it let through?", self.said(reasons))
    }

    fn said(&self, reasons: &BTreeMap<usize, String>) -> String {
        let said = reasons.iter().map(|(&at, reason)| format!("{}: {reason}", self.options.endpoints[at]));
        said.collect::<Vec<_>>().join(", ")
    }
}

/// What went wrong, without the wrapping of three libraries.
fn reason(error: &Error) -> String {
    match error {
        Error::GRpcStatus(status) => match deepest(status) {
            Some(cause) => cause,
            None => status.message().to_owned(),
        },
        other => with_causes(other),
    }
}

/// Whether one of both sides does not like the other's certificate: that comes as data that is not valid.
fn is_tls(error: &Error) -> bool {
    let Error::GRpcStatus(status) = error else { return false };
    let mut cause = status.source();
    while let Some(source) = cause {
        if source.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::InvalidData) {
            return true;
        }
        cause = source.source();
    }
    false
}

/// The innermost cause is the one that tells.
fn deepest(status: &(dyn std::error::Error + 'static)) -> Option<String> {
    let mut cause = status.source()?;
    while let Some(source) = cause.source() {
        cause = source;
    }
    Some(cause.to_string())
}

fn with_causes(error: &Error) -> String {
    let source = match error {
        Error::TransportError(error) => error.source(),
        other => other.source(),
    };
    let mut text = error.to_string();
    let mut cause = source;
    while let Some(source) = cause {
        text = format!("{text}: {source}");
        cause = source.source();
    }
    text
}
