//! The program under test. It is found beside the test executable (`target/<profile>/drover`), or where `DROVER_BIN` says. Cargo
//! builds it before the tests only when the whole workspace is built: `cargo build -p drover-cli` brings it up to date.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::process::Process;

/// The path of the program.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("DROVER_BIN") {
        return Ok(PathBuf::from(path));
    }
    let own = std::env::current_exe()?;
    let found = own.ancestors().skip(1).take(3).map(|folder| folder.join("drover")).find(|path| path.is_file());
    found.with_context(|| format!("no program drover above {}: build it with cargo build -p drover-cli", own.display()))
}

/// How a run ended.
#[derive(Debug)]
pub struct Finished {
    /// Exit status; `None` when a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Finished {
    /// Takes any exit status but `code` for an error that carries the output.
    pub fn expect(self, code: i32) -> Result<Finished> {
        if self.code != Some(code) {
            bail!(
                "exit {:?} in place of {code}\n--- stdout:\n{}\n--- stderr:\n{}",
                self.code,
                self.stdout,
                self.stderr
            );
        }
        Ok(self)
    }

    /// Standard output as the one JSON document that it must be.
    pub fn json(&self) -> Result<serde_json::Value> {
        serde_json::from_str(&self.stdout).with_context(|| format!("not one JSON document: {}", self.stdout))
    }
}

/// A folder in which drover is run: migration files, states and output lie there. Removed when dropped.
#[derive(Debug)]
pub struct Drover {
    folder: TempDir,
    environment: Vec<(String, String)>,
}

impl Drover {
    /// A new folder.
    pub fn new() -> Result<Drover> {
        Ok(Drover { folder: crate::scripts::folder("run")?, environment: Vec::new() })
    }

    /// Sets an environment variable for all later runs.
    pub fn env(mut self, name: &str, value: &str) -> Drover {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Writes a file (a migration file, say) into the folder and returns its path.
    pub fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text)?;
        Ok(path)
    }

    /// Starts drover with `arguments` in the folder. It gets SIGKILL when the value is dropped, or the test process ends.
    pub fn spawn<A: AsRef<OsStr>>(&self, arguments: &[A]) -> Result<Process> {
        self.spawn_env(arguments, &[])
    }

    /// The same with environment variables for this run alone.
    pub fn spawn_env<A: AsRef<OsStr>>(&self, arguments: &[A], environment: &[(&str, &str)]) -> Result<Process> {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(binary()?).args(arguments).current_dir(self.folder.path());
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.envs(environment.iter().copied());
        let name = arguments.first().map(|verb| verb.as_ref().to_string_lossy().into_owned()).unwrap_or_default();
        Process::spawn(&format!("drover-{name}"), command, self.folder.path())
    }

    /// Runs drover to its end. An error only when it does not end `within` that time (it is killed then): the exit status is
    /// the caller's to judge.
    pub async fn run<A: AsRef<OsStr>>(&self, arguments: &[A], within: Duration) -> Result<Finished> {
        let mut process = self.spawn(arguments)?;
        let code = process.wait_exit(within).await?.code();
        Ok(Finished { code, stdout: process.stdout(), stderr: process.stderr() })
    }
}
