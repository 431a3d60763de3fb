//! Disks that are full: drover's own in the state folder, and the destination's. The work stands still, says so, and goes on
//! when there is room again; nothing is lost. A small file system is mounted for each, which takes root.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use drover_tests::scene::SMALL_CHUNKS;
use drover_tests::{Form, Scene, Server, wait};

const SOON: Duration = Duration::from_secs(90);

/// A file system in memory, gone with the value.
struct Small(PathBuf);

impl Small {
    fn mount(at: PathBuf, megabytes: u32) -> Result<Small> {
        std::fs::create_dir_all(&at)?;
        let size = format!("size={megabytes}m");
        let at_text = at.to_str().context("a name that is not UTF-8")?.to_owned();
        call("mount", &["-t", "tmpfs", "-o", &size, "tmpfs", &at_text])?;
        Ok(Small(at))
    }

    fn ballast(&self) -> PathBuf {
        self.0.join("ballast")
    }

    /// Leaves no room.
    fn fill(&self) -> Result<()> {
        let mut file = std::fs::File::create(self.ballast())?;
        let block = [0u8; 4096];
        loop {
            match file.write_all(&block) {
                Ok(()) => {}
                Err(e) if e.kind() == std::io::ErrorKind::StorageFull => return Ok(()),
                Err(e) => return Err(e.into()),
            }
        }
    }

    fn empty(&self) -> Result<()> {
        Ok(std::fs::remove_file(self.ballast())?)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn call(program: &str, arguments: &[&str]) -> Result<()> {
    let done = Command::new(program).args(arguments).output()?;
    ensure!(done.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
    Ok(())
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Waits until drover has said something new, and lives.
async fn says(scene: &mut Scene, what: &str) -> Result<()> {
    let main = scene.drover.main()?;
    wait::until(what, SOON, || {
        let said = main.stderr().contains(what);
        std::future::ready(match main.try_exit() {
            Ok(Some(status)) => Ok(Some(Err(anyhow!("it ended with {status}: {}", main.tail(30))))),
            Ok(None) => Ok(said.then_some(Ok(()))),
            Err(error) => Err(error),
        })
    })
    .await?
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_state_folder_is_waited_for() -> Result<()> {
    if !is_root() {
        println!("left out: mounting a small file system takes root");
        return Ok(());
    }
    let mut scene = Scene::new(Form::InProcess, "").await?;
    let folder = scene.drover.file.parent().map(Path::to_owned).context("a file without a folder")?;
    let disk = Small::mount(folder.join(".drover"), 24)?;
    scene.load().await?;
    scene.drover.start().await?;
    scene.drover.wait_consistent().await?;
    let observer = scene.observe().await?;
    disk.fill()?;
    says(&mut scene, "No space left").await?;
    // The application does not notice.
    scene.advance(60).await?;
    disk.empty()?;
    scene.advance(60).await?;
    scene.finish().await?;
    observer.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_destination_is_waited_for() -> Result<()> {
    if !is_root() {
        println!("left out: mounting a small file system takes root");
        return Ok(());
    }
    let sql = "CREATE TABLE broad (id integer PRIMARY KEY, filler text);
        INSERT INTO broad SELECT i, repeat(md5(i::text), 30) FROM generate_series(1, 8000) i;";
    let mut scene = Scene::new(Form::InProcess, sql).await?;
    let Server::Postgres(destination) = &scene.destination else { bail!("no PostgreSQL") };
    let disk = Small::mount(destination.folder().join("small"), 64)?;
    let place = disk.0.join("tables");
    std::fs::create_dir(&place)?;
    let place = place.to_str().context("a name that is not UTF-8")?;
    call("chown", &["--reference", destination.folder().join("data").to_str().context("a name")?, place])?;
    destination.exec("postgres", &format!("CREATE TABLESPACE small LOCATION '{place}'")).await?;
    destination.exec("postgres", "ALTER DATABASE drover SET default_tablespace = small").await?;
    scene.drover = scene.drover.env("DROVER_CHUNK_BYTES", SMALL_CHUNKS);
    scene.load().await?;
    // Full in the midst of the copy …
    scene.drover.start().await?;
    scene.wait_chunks(3).await?;
    disk.fill()?;
    says(&mut scene, "No space left").await?;
    disk.empty()?;
    scene.drover.wait_consistent().await?;
    let observer = scene.observe().await?;
    // … and of the changes.
    disk.fill()?;
    scene.exec("UPDATE broad SET filler = filler || 'x' WHERE id < 4000").await?;
    scene.advance(30).await?;
    disk.empty()?;
    scene.advance(30).await?;
    scene.finish().await?;
    observer.stop().await?;
    Ok(())
}
