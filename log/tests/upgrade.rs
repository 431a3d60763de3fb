//! The files that an earlier drover left in a log's folder are understood by this one, which goes on behind them; those of a newer one are refused by name.
//!
//! When the form of the files changes: write one more fixture, by the name of the day's version,
//! `DROVER_FIXTURE=0.2 cargo test -p drover-log --test upgrade -- --ignored`; those that are there stay.

#![allow(clippy::unwrap_used)] // tests may: a panic is their way to fail

use drover_log::local::{LocalLog, LocalOptions};
use drover_log::suite::{expect, fill};
use drover_log::{Log, Stream};
use drover_model::error::codes;
use drover_model::{Fault, MigrationId};
use std::fs;
use std::path::{Path, PathBuf};

const MIGRATION: MigrationId = MigrationId::from_u128(0x5115_0000_dead_4bee_8000_0123_4567_89ab);
/// Records of each fixture, and their bytes. The first few are trimmed.
const RECORDS: u64 = 40;
const BYTES: usize = 100;

fn options() -> LocalOptions {
    LocalOptions { segment_bytes: 1000, ..LocalOptions::default() }
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let place = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &place);
        } else {
            fs::copy(&path, &place).unwrap();
        }
    }
}

#[tokio::test]
#[ignore = "writes a fixture"]
async fn write() {
    let version = std::env::var("DROVER_FIXTURE").unwrap_or_else(|_| env!("CARGO_PKG_VERSION").to_owned());
    let folder = fixtures().join(version);
    let log = LocalLog::open(&folder, MIGRATION, options()).await.unwrap();
    log.open(1).await.unwrap();
    fill(&log, Stream::Changes, 0..RECORDS, BYTES).await.unwrap();
    log.trim(Stream::Changes, 10).await.unwrap();
    drop(log);
    // The lock, and what does not outlive the process.
    fs::remove_file(folder.join("lock")).unwrap();
    fs::remove_dir_all(folder.join("bulk")).ok();
}

#[tokio::test]
async fn what_an_earlier_drover_wrote_is_read_and_gone_on_behind() {
    let mut versions = 0;
    for version in fs::read_dir(fixtures()).unwrap() {
        let version = version.unwrap().path();
        versions += 1;
        let folder = tempfile::tempdir().unwrap();
        copy(&version, folder.path());
        let life = fs::read(folder.path().join("life")).unwrap();
        let log = LocalLog::open(folder.path(), MIGRATION, options()).await.unwrap();
        log.open(1).await.unwrap();
        let span = log.span(Stream::Changes).await.unwrap();
        assert!(span.first > 0 && span.first <= 10 && span.next == RECORDS, "{version:?}: {span:?}");
        let mut reader = log.reader(Stream::Changes, span.first).await.unwrap();
        expect(&mut *reader, span.first..RECORDS, BYTES).await.unwrap();
        fill(&log, Stream::Changes, RECORDS..RECORDS + 20, BYTES).await.unwrap();
        expect(&mut *reader, RECORDS..RECORDS + 20, BYTES).await.unwrap();
        // Offsets of bulk streams never come back: this life is another.
        assert_ne!(fs::read(folder.path().join("life")).unwrap(), life, "{version:?}");
        drop((reader, log));
        let other = LocalLog::open(folder.path(), MigrationId::from_u128(1), options()).await.err().unwrap();
        assert!(other.message.contains("another migration"), "{other}");
    }
    assert!(versions > 0, "no fixture");
}

/// A segment of a newer drover is neither damage nor an unfinished file that may go.
#[tokio::test]
async fn what_a_newer_drover_wrote_is_refused_and_left_alone() {
    for whole in [true, false] {
        let folder = tempfile::tempdir().unwrap();
        let log = LocalLog::open(folder.path(), MIGRATION, options()).await.unwrap();
        fill(&log, Stream::Changes, 0..RECORDS, BYTES).await.unwrap();
        drop(log);
        let changes = folder.path().join("changes");
        let mut segments: Vec<_> = fs::read_dir(&changes).unwrap().map(|e| e.unwrap().path()).collect();
        segments.retain(|p| p.extension().is_some_and(|e| e == "seg"));
        segments.sort();
        let newer = if whole { segments.pop().unwrap() } else { changes.join(format!("{:020}.seg", RECORDS)) };
        let mut bytes = if whole { fs::read(&newer).unwrap() } else { vec![0; 12] };
        bytes[..8].copy_from_slice(b"drvrlog2");
        fs::write(&newer, &bytes).unwrap();
        let error = LocalLog::open(folder.path(), MIGRATION, options()).await.err().unwrap();
        assert_eq!((error.code.as_ref(), error.fault), (codes::LOG, Fault::User), "{error}");
        assert!(error.message.contains("has the format 2, this drover knows 1"), "{error}");
        assert!(error.remedy.as_deref().is_some_and(|r| r.contains("newer")), "{error:?}");
        assert_eq!(fs::read(&newer).unwrap(), bytes);
    }
}
