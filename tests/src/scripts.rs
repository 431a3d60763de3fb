//! The shell scripts under `deploy/servers`, which know how servers are fetched, prepared and started. Tests and the demo share
//! them.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// The repository's root folder.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

/// The path of the script `name`.
pub fn path(name: &str) -> PathBuf {
    repository().join("deploy/servers").join(name)
}

/// Runs the script `name` to its end and returns its standard output without the last line feed. Standard error passes through on failure.
pub async fn output(name: &str, arguments: &[&str]) -> Result<String> {
    let mut command = Command::new(path(name));
    command.args(arguments).stdin(Stdio::null());
    let shown = format!("{name} {}", arguments.join(" "));
    let done = tokio::task::spawn_blocking(move || command.output()).await?.with_context(|| shown.clone())?;
    if !done.status.success() {
        bail!("{shown}: {}\n{}", done.status, String::from_utf8_lossy(&done.stderr));
    }
    Ok(String::from_utf8_lossy(&done.stdout).trim_end().to_owned())
}

/// A temporary folder that servers of another user may enter.
pub(crate) fn folder(name: &str) -> Result<tempfile::TempDir> {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::Builder::new().prefix(&format!("drover-{name}-")).tempdir()?;
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755))?;
    Ok(folder)
}
