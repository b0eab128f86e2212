//! A TCP proxy before an sshd: counts every byte both ways, and can refuse as a dead host does.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::wait;

/// How often it looks for new connections and orders.
const INTERVAL: Duration = Duration::from_millis(5);

/// How long an order may take.
const ORDER_LIMIT: Duration = Duration::from_secs(10);

/// What one connection carries at a time.
const CHUNK_BYTES: usize = 256 << 10;

/// A running proxy on 127.0.0.1; its connections end with it.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    /// What is wanted, and what is.
    refuse: AtomicBool,
    refusing: AtomicBool,
    up: AtomicU64,
    down: AtomicU64,
    connections: Mutex<Vec<TcpStream>>,
}

/// Payload bytes of TCP: everything that ssh sends, its own packets included; TCP and IP headers are not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wire {
    /// To the secondary.
    pub up_bytes: u64,
    /// From the secondary.
    pub down_bytes: u64,
}

impl Wire {
    /// Both ways.
    pub fn total(&self) -> u64 {
        self.up_bytes + self.down_bytes
    }

    /// What was carried since `before`.
    pub fn since(&self, before: Wire) -> Wire {
        Wire { up_bytes: self.up_bytes - before.up_bytes, down_bytes: self.down_bytes - before.down_bytes }
    }
}

impl Proxy {
    /// Starts one that leads to `target` on 127.0.0.1.
    ///
    /// # Errors
    /// What the system says.
    pub fn start(target: u16) -> io::Result<Proxy> {
        let listener = listen(0)?;
        let port = listener.local_addr()?.port();
        let shared = Arc::new(Shared::default());
        let working = shared.clone();
        let thread = std::thread::spawn(move || working.serve(port, target, listener));
        Ok(Proxy { port, shared, thread: Some(thread) })
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// What it carried so far.
    pub fn wire(&self) -> Wire {
        let load = |counter: &AtomicU64| counter.load(Ordering::SeqCst);
        Wire { up_bytes: load(&self.shared.up), down_bytes: load(&self.shared.down) }
    }

    /// Breaks all connections and refuses new ones, until [`Proxy::allow`].
    pub fn refuse(&self) {
        self.order(true);
    }

    /// Lets connections through again.
    pub fn allow(&self) {
        self.order(false);
    }

    fn order(&self, refuse: bool) {
        self.shared.refuse.store(refuse, Ordering::SeqCst);
        let done = || self.shared.refusing.load(Ordering::SeqCst) == refuse;
        wait::wait_until("the proxy", ORDER_LIMIT, done);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        self.shared.cut();
    }
}

impl Shared {
    fn serve(self: Arc<Self>, port: u16, target: u16, listener: TcpListener) {
        let mut listener = Some(listener);
        while !self.stop.load(Ordering::SeqCst) {
            if self.refuse.load(Ordering::SeqCst) {
                listener = None;
                self.cut();
            } else if listener.is_none() {
                listener = listen(port).ok();
            }
            self.refusing.store(listener.is_none(), Ordering::SeqCst);
            match listener.as_ref().map(TcpListener::accept) {
                Some(Ok((stream, _))) => {
                    let _ = self.clone().connect(stream, target);
                }
                _ => std::thread::sleep(INTERVAL),
            }
        }
    }

    fn connect(self: Arc<Self>, near: TcpStream, target: u16) -> io::Result<()> {
        near.set_nonblocking(false)?;
        let far = TcpStream::connect((Ipv4Addr::LOCALHOST, target))?;
        near.set_nodelay(true)?;
        far.set_nodelay(true)?;
        let mut connections = self.connections.lock().unwrap_or_else(|e| e.into_inner());
        connections.extend([near.try_clone()?, far.try_clone()?]);
        drop(connections);
        let (near_again, far_again) = (near.try_clone()?, far.try_clone()?);
        let other = self.clone();
        std::thread::spawn(move || carry(near, far, &self.up));
        std::thread::spawn(move || carry(far_again, near_again, &other.down));
        Ok(())
    }

    fn cut(&self) {
        for stream in self.connections.lock().unwrap_or_else(|e| e.into_inner()).drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn listen(port: u16) -> io::Result<TcpListener> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn carry(mut from: TcpStream, mut to: TcpStream, counter: &AtomicU64) {
    let mut chunk = vec![0; CHUNK_BYTES];
    while let Ok(length @ 1..) = from.read(&mut chunk) {
        counter.fetch_add(length as u64, Ordering::SeqCst);
        if to.write_all(&chunk[..length]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_counted_and_a_refusal_is_one() {
        let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let proxy = Proxy::start(server.local_addr().unwrap().port()).unwrap();
        let mut client = TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port())).unwrap();
        let (mut served, _) = server.accept().unwrap();
        client.write_all(&[1; 1000]).unwrap();
        served.read_exact(&mut [0; 1000]).unwrap();
        served.write_all(&[2; 10]).unwrap();
        client.read_exact(&mut [0; 10]).unwrap();
        assert_eq!(proxy.wire(), Wire { up_bytes: 1000, down_bytes: 10 });
        proxy.refuse();
        assert_eq!(client.read(&mut [0; 1]).unwrap_or(0), 0);
        let refused = TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port())).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        proxy.allow();
        TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port())).unwrap();
    }
}
