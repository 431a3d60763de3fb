//! A child process: its output in files, its signals, its memory and CPU. It is killed when the value is dropped.
//!
//! Children whose command asks for a signal at their parent's death (`setpriv --pdeathsig`) get it when the *thread* that
//! started them ends. A test's thread ends with the test, so one thread that lasts as long as the process starts them all.

use std::fs::OpenOptions;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use rustix::process::{Pid, Signal};

use crate::wait;

type Order = (Command, Sender<std::io::Result<Child>>);

/// Starts `command` from the lasting thread.
fn start(command: Command) -> Result<Child> {
    static STARTER: OnceLock<Mutex<Sender<Order>>> = OnceLock::new();
    let starter = STARTER.get_or_init(|| {
        let (sender, orders): (Sender<Order>, Receiver<Order>) = channel();
        std::thread::spawn(move || {
            for (mut command, answer) in orders {
                let _ = answer.send(command.spawn());
            }
        });
        Mutex::new(sender)
    });
    let (sender, answer) = channel();
    let shown = format!("start {}", command.get_program().to_string_lossy());
    starter
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .send((command, sender))
        .map_err(|_| anyhow!("the thread that starts processes has ended"))?;
    answer.recv().context("the thread that starts processes has ended")?.context(shown)
}

/// A running or ended child process.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    exit: Option<ExitStatus>,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Process {
    /// Starts `command`; its output goes to two new files in `logs` that carry `name`.
    pub fn spawn(name: &str, mut command: Command, logs: &Path) -> Result<Process> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let file = |kind: &str| logs.join(format!("{name}-{count}.{kind}"));
        let (stdout, stderr) = (file("out"), file("err"));
        let open = |path: &Path| {
            let opened = OpenOptions::new().create(true).append(true).open(path);
            opened.with_context(|| format!("open {}", path.display()))
        };
        command.stdin(Stdio::null()).stdout(open(&stdout)?).stderr(open(&stderr)?);
        Ok(Process { name: name.to_owned(), child: start(command)?, exit: None, stdout, stderr })
    }

    /// What it was called at its start.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, `None` while it runs.
    pub fn try_exit(&mut self) -> Result<Option<ExitStatus>> {
        if self.exit.is_none() {
            self.exit = self.child.try_wait()?;
        }
        Ok(self.exit)
    }

    /// Whether it still runs (a stopped process runs).
    pub fn running(&mut self) -> bool {
        matches!(self.try_exit(), Ok(None))
    }

    /// Waits for its end. When `within` has passed the error carries the end of its output; the process goes on.
    pub async fn wait_exit(&mut self, within: Duration) -> Result<ExitStatus> {
        let what = format!("end of {}", self.name);
        let exit = &mut self.exit;
        let child = &mut self.child;
        let ended = wait::until(&what, within, || {
            let polled = if exit.is_some() { Ok(*exit) } else { child.try_wait() };
            if let Ok(Some(status)) = &polled {
                *exit = Some(*status);
            }
            std::future::ready(polled.map_err(Into::into))
        })
        .await;
        ended.with_context(|| self.tail(30))
    }

    /// Waits for its end and takes any exit status but `code` for an error that carries the end of its output.
    pub async fn expect_exit(&mut self, within: Duration, code: i32) -> Result<()> {
        let status = self.wait_exit(within).await?;
        if status.code() != Some(code) {
            bail!("{} ended with {status} in place of {code}\n{}", self.name, self.tail(30));
        }
        Ok(())
    }

    /// Waits for its end by SIGABRT, as at a failpoint; any other is an error that carries the end of its output.
    pub async fn expect_abort(&mut self, within: Duration) -> Result<()> {
        let status = self.wait_exit(within).await?;
        if status.signal() != Some(Signal::ABORT.as_raw()) {
            bail!("{} ended with {status} in place of SIGABRT\n{}", self.name, self.tail(30));
        }
        Ok(())
    }

    /// SIGKILL, and waits until it is gone. Nothing happens to a process that has ended.
    pub fn kill9(&mut self) -> Result<()> {
        if self.try_exit()?.is_none() {
            self.child.kill()?;
            self.exit = Some(self.child.wait()?);
        }
        Ok(())
    }

    /// SIGSTOP: it stands still and keeps its locks and connections, as after a long pause of a virtual machine.
    pub fn freeze(&mut self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// SIGCONT: it goes on as if no time had passed.
    pub fn thaw(&mut self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    /// Whether it stands still now: it was frozen, or froze itself at a failpoint.
    pub fn frozen(&self) -> bool {
        stat(self.pid()).is_some_and(|fields| fields.first().is_some_and(|state| state == "T"))
    }

    /// SIGINT, as Ctrl-C.
    pub fn interrupt(&mut self) -> Result<()> {
        self.signal(Signal::INT)
    }

    /// SIGTERM, as a service manager.
    pub fn terminate(&mut self) -> Result<()> {
        self.signal(Signal::TERM)
    }

    /// Sends any signal; an error when the process has ended already.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        if let Some(status) = self.try_exit()? {
            bail!("{} has ended before {signal:?}: {status}\n{}", self.name, self.tail(30));
        }
        Ok(rustix::process::kill_process(Pid::from_child(&self.child), signal)?)
    }

    /// What it has written to standard output so far.
    pub fn stdout(&self) -> String {
        read(&self.stdout)
    }

    /// What it has written to standard error so far.
    pub fn stderr(&self) -> String {
        read(&self.stderr)
    }

    /// What it answers over HTTP at the address that it logs, status line and all.
    pub async fn answer(&self, path: &str) -> Result<String> {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let log = self.stderr();
        let address = log.split("serves /metrics").nth(1).and_then(|rest| rest.split("address=").nth(1));
        let address = address.and_then(|rest| rest.split_whitespace().next());
        let address = address.with_context(|| format!("no address in {log}"))?;
        let mut socket = tokio::net::TcpStream::connect(address).await?;
        let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
        socket.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await?;
        Ok(answer)
    }

    /// The last `lines` lines of both outputs, for messages.
    pub fn tail(&self, lines: usize) -> String {
        let last = |kind: &str, text: String| {
            let all: Vec<&str> = text.lines().collect();
            let shown = all[all.len().saturating_sub(lines)..].join("\n");
            if shown.is_empty() { String::new() } else { format!("--- {} {kind}:\n{shown}\n", self.name) }
        };
        format!("{}{}", last("stdout", self.stdout()), last("stderr", self.stderr()))
    }

    /// Memory resident now, in KiB.
    pub fn rss_kib(&self) -> Result<u64> {
        memory(self.pid(), "VmRSS:")
    }

    /// The most memory that was ever resident, in KiB. Readable as long as the process runs.
    pub fn peak_kib(&self) -> Result<u64> {
        memory(self.pid(), "VmHWM:")
    }

    /// CPU seconds of it and its children so far.
    pub fn cpu_seconds(&self) -> Result<f64> {
        cpu_seconds(self.pid())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.kill9();
    }
}

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned()
}

fn memory(pid: u32, field: &str) -> Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(field));
    let line = line.with_context(|| format!("process {pid} has ended: no {field}"))?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

/// The fields of `/proc/PID/stat` behind the command's name (proc(5)), the state being number 0. `None` when it is gone.
fn stat(pid: u32) -> Option<Vec<String>> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(text.rsplit_once(')')?.1.split_whitespace().map(str::to_owned).collect())
}

/// Whether the process lives; a zombie does not.
pub fn alive(pid: u32) -> bool {
    stat(pid).is_some_and(|fields| fields.first().is_some_and(|state| state != "Z" && state != "X"))
}

/// `pid` and all its descendants that live now, parents before their children.
pub fn tree(pid: u32) -> Vec<u32> {
    let mut parents = Vec::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        if let Some(id) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok())
            && let Some(parent) = stat(id).and_then(|fields| fields.get(1)?.parse::<u32>().ok())
        {
            parents.push((id, parent));
        }
    }
    let mut found = vec![pid];
    let mut next = 0;
    while let Some(&parent) = found.get(next) {
        found.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(id, _)| *id));
        next += 1;
    }
    found
}

/// CPU seconds, user and system, that `pid`, its living descendants and those that have ended have used.
pub fn cpu_seconds(pid: u32) -> Result<f64> {
    if !alive(pid) {
        bail!("process {pid} has ended: its CPU time is gone");
    }
    let mut ticks = 0_u64;
    for id in tree(pid) {
        // utime, stime, and of children that have ended and were waited for: cutime, cstime
        for field in stat(id).unwrap_or_default().iter().skip(11).take(4) {
            ticks += field.parse::<u64>().unwrap_or_default();
        }
    }
    Ok(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// Sends `signal` to `pid`; one that has gone is none of our business any more.
pub(crate) fn send(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = rustix::process::kill_process(pid, signal);
    }
}
