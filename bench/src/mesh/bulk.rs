//! Bytes in bulk: a backend that sends as many as it is asked for, and a client that takes them.
//!
//! Used by scenario o. Both are threads of this program on the load core, so that nothing but the proxies differs.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;

use crate::load::Seen;
use crate::process::{LOAD_CORE, stay_on};

const MIB: u64 = 1 << 20;
/// Asked for at a time.
const PORTION: u64 = 64 * MIB;
/// Bytes of one system call on both sides.
const CHUNK: usize = 256 << 10;
/// How long nothing may come.
const PATIENCE: Duration = Duration::from_secs(10);

/// Sends to everybody who asks on a port, until the program ends.
///
/// # Errors
/// When the port is taken.
pub(super) fn serve(port: u16) -> anyhow::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).with_context(|| format!("port {port} is taken"))?;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || {
                // Whoever goes away has had enough.
                let _ = answer(stream);
            });
        }
    });
    Ok(())
}

fn answer(mut stream: TcpStream) -> anyhow::Result<()> {
    stay_on(LOAD_CORE)?;
    let chunk: Vec<u8> = (0..CHUNK).map(|at| (at % 251) as u8).collect();
    loop {
        let mut asked = [0; 8];
        stream.read_exact(&mut asked)?;
        let mut left = u64::from_be_bytes(asked);
        while left > 0 {
            let now = left.min(CHUNK as u64);
            stream.write_all(&chunk[..usize::try_from(now)?])?;
            left -= now;
        }
    }
}

/// Takes bytes over one connection for so long; what is counted are MiB.
///
/// # Errors
/// When the connection breaks or stands still.
pub(super) fn take(address: SocketAddr, length: Duration) -> anyhow::Result<Seen> {
    let taking = thread::spawn(move || -> anyhow::Result<(u64, Duration)> {
        stay_on(LOAD_CORE)?;
        let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let (begin, mut buffer, mut taken) = (Instant::now(), vec![0; CHUNK], 0);
        while begin.elapsed() < length {
            stream.write_all(&PORTION.to_be_bytes())?;
            let mut left = PORTION;
            while left > 0 {
                let room = CHUNK.min(usize::try_from(left)?);
                let count = stream.read(&mut buffer[..room])?;
                anyhow::ensure!(count > 0, "the connection was closed");
                left -= count as u64;
            }
            taken += PORTION;
        }
        Ok((taken / MIB, begin.elapsed()))
    });
    let (taken, took) = taking.join().unwrap_or_else(|_| anyhow::bail!("the client panicked"))?;
    Ok(Seen { requests: taken, per_second: taken as f64 / took.as_secs_f64(), middle: None, p99: None })
}
