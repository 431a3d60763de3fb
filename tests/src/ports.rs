//! Free TCP ports that stay ours. A port is reserved by a lock on a file of its number, which all processes that use this
//! harness respect, and which the kernel releases when the process ends; so a server that is down between two starts finds
//! its port free again. Ports lie below 32768: a client that retries against a port above may be given that very port for its
//! own end and connect to itself.

use std::fs::{File, OpenOptions};
use std::hash::{BuildHasher, RandomState};
use std::net::TcpListener;
use std::path::Path;

use anyhow::{Context, Result, bail};

const FIRST: u16 = 15_000;
const LAST: u16 = 31_999;

/// A port of 127.0.0.1 that no other test is given as long as this value lives.
#[derive(Debug)]
pub struct Port {
    number: u16,
    _lock: File,
}

impl Port {
    /// Reserves a port on which nothing listens.
    pub fn reserve() -> Result<Port> {
        // Not the temporary folder of this run: ports are the machine's.
        let folder = Path::new("/tmp").join(format!("drover-ports-{}", rustix::process::getuid().as_raw()));
        std::fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
        let span = u64::from(LAST - FIRST) + 1;
        let start = RandomState::new().hash_one(std::process::id()) % span;
        for step in 0..span {
            let number = FIRST + u16::try_from((start + step) % span)?;
            let lock =
                OpenOptions::new().create(true).truncate(false).write(true).open(folder.join(number.to_string()))?;
            if lock.try_lock().is_err() {
                continue;
            }
            if TcpListener::bind(("127.0.0.1", number)).is_ok() {
                return Ok(Port { number, _lock: lock });
            }
        }
        bail!("no free port between {FIRST} and {LAST}")
    }

    /// Its number.
    pub fn number(&self) -> u16 {
        self.number
    }
}
