//! The log in one process: the suite, and what a crash or a bad disk does to its files.

// Helpers of tests are tests.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use drover_log::local::{LocalLog, LocalOptions, is_bulk_lost};
use drover_log::suite::{Factory, all, expect, fill, record};
use drover_log::{Log, Stream};
use drover_model::error::codes;
use drover_model::{MigrationId, Result};

struct Place {
    dir: tempfile::TempDir,
    options: LocalOptions,
}

#[async_trait]
impl Factory for Place {
    async fn log(&self, migration: MigrationId) -> Result<Arc<dyn Log>> {
        Ok(Arc::new(LocalLog::open(self.dir.path(), migration, self.options.clone()).await?))
    }
    fn bulk_outlives(&self) -> bool {
        false
    }
}

async fn suite_with(options: LocalOptions) {
    all(|_| async {
        Arc::new(Place { dir: tempfile::tempdir().unwrap(), options: options.clone() }) as Arc<dyn Factory>
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn suite_with_small_segments() {
    suite_with(LocalOptions { segment_bytes: 1 << 20, ..Default::default() }).await;
}

/// Everything goes by the disk.
#[tokio::test(flavor = "multi_thread")]
async fn suite_without_memory() {
    suite_with(LocalOptions {
        segment_bytes: 100_000,
        recent: 0,
        bulk_memory: 0,
        in_flight: 100_000,
        ..Default::default()
    })
    .await;
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(dir.join("changes")).unwrap().map(|e| e.unwrap().path());
    let mut segments: Vec<_> = files.filter(|p| p.extension().is_some_and(|e| e == "seg")).collect();
    segments.sort();
    segments
}

fn small() -> LocalOptions {
    LocalOptions { segment_bytes: 100_000, recent: 0, ..Default::default() }
}

/// A log with a hundred records of 10,000 bytes in segments of about ten, closed.
async fn filled(dir: &Path, id: MigrationId) {
    let log = LocalLog::open(dir, id, small()).await.unwrap();
    log.open(1).await.unwrap();
    fill(&log, Stream::Changes, 0..100, 10_000).await.unwrap();
    assert!(segments(dir).len() > 5);
}

#[tokio::test]
async fn a_torn_tail_is_cut_and_the_rest_is_whole() {
    let (dir, id) = (tempfile::tempdir().unwrap(), MigrationId::new_v4());
    for tail in [&b"x"[..], &[0; 19], &[0; 5000], &record(77, 4000)] {
        let place = dir.path().join(tail.len().to_string());
        filled(&place, id).await;
        let last = segments(&place).pop().unwrap();
        let mut bytes = fs::read(&last).unwrap();
        let whole = bytes.len();
        bytes.extend_from_slice(tail);
        fs::write(&last, bytes).unwrap();
        let log = LocalLog::open(&place, id, small()).await.unwrap();
        assert_eq!(fs::metadata(&last).unwrap().len() as usize, whole);
        fill(&log, Stream::Changes, 100..110, 10_000).await.unwrap();
        expect(&mut *log.reader(Stream::Changes, 0).await.unwrap(), 0..110, 10_000).await.unwrap();
    }
}

#[tokio::test]
async fn an_unfinished_segment_is_made_again() {
    let (dir, id) = (tempfile::tempdir().unwrap(), MigrationId::new_v4());
    filled(dir.path(), id).await;
    fs::write(dir.path().join("changes/00000000000000000100.seg"), b"drvr").unwrap();
    let log = LocalLog::open(dir.path(), id, small()).await.unwrap();
    fill(&log, Stream::Changes, 100..130, 10_000).await.unwrap();
    expect(&mut *log.reader(Stream::Changes, 0).await.unwrap(), 0..130, 10_000).await.unwrap();
}

#[tokio::test]
async fn a_durable_record_that_is_damaged_or_missing_is_an_error() {
    let (dir, id) = (tempfile::tempdir().unwrap(), MigrationId::new_v4());
    let damage: [(&str, fn(&Path)); 4] = [
        ("bit in the last segment", |place| {
            let last = segments(place).pop().unwrap();
            let mut bytes = fs::read(&last).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 4;
            fs::write(last, bytes).unwrap();
        }),
        ("end of the last segment", |place| {
            let last = segments(place).pop().unwrap();
            let bytes = fs::read(&last).unwrap();
            fs::write(last, &bytes[..bytes.len() - 1]).unwrap();
        }),
        ("last segment", |place| fs::remove_file(segments(place).pop().unwrap()).unwrap()),
        ("all segments", |place| segments(place).iter().for_each(|s| fs::remove_file(s).unwrap())),
    ];
    for (what, break_it) in damage {
        let place = dir.path().join(what);
        filled(&place, id).await;
        break_it(&place);
        let error = LocalLog::open(&place, id, small()).await.err().unwrap();
        assert_eq!(error.code, codes::LOG, "{what}: {error}");
    }
}

#[tokio::test]
async fn damage_in_an_older_segment_stops_the_reader_there() {
    let (dir, id) = (tempfile::tempdir().unwrap(), MigrationId::new_v4());
    for (what, at) in
        [("payload", 40 + 4 * 10_020 + 500), ("length", 40 + 4 * 10_020 + 1), ("offset", 40 + 4 * 10_020 + 9)]
    {
        let place = dir.path().join(what);
        filled(&place, id).await;
        let second = &segments(&place)[1];
        let base: u64 = second.file_stem().unwrap().to_str().unwrap().parse().unwrap();
        let mut bytes = fs::read(second).unwrap();
        bytes[at] ^= 1;
        fs::write(second, bytes).unwrap();
        let log = LocalLog::open(&place, id, small()).await.unwrap();
        let mut reader = log.reader(Stream::Changes, 0).await.unwrap();
        expect(&mut *reader, 0..base + 4, 10_000).await.unwrap();
        let error = reader.next().await.unwrap_err();
        assert_eq!(error.code, codes::LOG, "{error}");
        assert!(reader.next().await.is_err(), "it stays an error");
    }
    let place = dir.path().join("missing");
    filled(&place, id).await;
    fs::remove_file(&segments(&place)[2]).unwrap();
    let log = LocalLog::open(&place, id, small()).await.unwrap();
    let mut reader = log.reader(Stream::Changes, 0).await.unwrap();
    let mut read = 0;
    let error = loop {
        match reader.next().await {
            Ok((_, got)) => {
                assert_eq!(got, record(read, 10_000));
                read += 1;
            }
            Err(error) => break error,
        }
    };
    assert!(read >= 10 && error.code == codes::LOG, "{error} after {read}");
}

/// Dropped in the midst of appending: a prefix is there, and all that was said to be durable.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_durable_survives_a_drop_midway() {
    let (dir, id) = (tempfile::tempdir().unwrap(), MigrationId::new_v4());
    let (mut written, mut durable) = (0, 0);
    for _ in 0..5 {
        let log = LocalLog::open(dir.path(), id, small()).await.unwrap();
        let kept = log.span(Stream::Changes).await.unwrap().next;
        assert!(kept >= durable && kept <= written, "{kept} of {written} are there, {durable} were durable");
        let mut reader = log.reader(Stream::Changes, 0).await.unwrap();
        expect(&mut *reader, 0..kept, 5000).await.unwrap();
        let mut appender = log.appender(Stream::Changes).await.unwrap();
        for n in kept..kept + 200 {
            appender.append(record(n, 5000)).await.unwrap();
        }
        durable = kept + appender.durable();
        written = kept + 200;
    }
}

#[tokio::test]
async fn bulk_is_shared_in_memory_and_spills_beyond_it() {
    let (dir, id) = (tempfile::tempdir().unwrap(), MigrationId::new_v4());
    let options = LocalOptions { bulk_memory: 1 << 20, ..Default::default() };
    let log = LocalLog::open(dir.path(), id, options).await.unwrap();
    log.open(2).await.unwrap();
    let mut appender = log.appender(Stream::Bulk(0)).await.unwrap();
    let first = record(0, 300_000);
    appender.append(first.clone()).await.unwrap();
    for n in 1..20 {
        appender.append(record(n, 300_000)).await.unwrap();
    }
    let (from, last) = appender.flush().await.unwrap().unwrap();
    let mut reader = log.reader(Stream::Bulk(0), from).await.unwrap();
    assert_eq!(reader.next().await.unwrap().1.as_ptr(), first.as_ptr(), "the very buffer");
    expect(&mut *reader, 1..20, 300_000).await.unwrap();
    let spilled: u64 =
        fs::read_dir(dir.path().join("bulk")).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).sum();
    assert_eq!(spilled, 17 * 300_000);
    // Memory that was trimmed is used again, files go.
    log.trim(Stream::Bulk(0), last + 1).await.unwrap();
    assert_eq!(fs::read_dir(dir.path().join("bulk")).unwrap().count(), 0);
    appender.append(record(20, 300_000)).await.unwrap();
    assert_eq!(fs::read_dir(dir.path().join("bulk")).unwrap().count(), 0);
    assert!(is_bulk_lost(&log.reader(Stream::Bulk(0), from).await.err().unwrap()));
}

/// Beyond the budget an appender waits, until something is trimmed.
#[tokio::test(flavor = "multi_thread")]
async fn the_budget_holds_appenders_back() {
    let (dir, id) = (tempfile::tempdir().unwrap(), MigrationId::new_v4());
    let options = LocalOptions { budget: 800_000, recent: 0, in_flight: 50_000, ..Default::default() };
    let log = LocalLog::open(dir.path(), id, options).await.unwrap();
    let mut appender = log.appender(Stream::Changes).await.unwrap();
    let mut reader = log.reader(Stream::Changes, 0).await.unwrap();
    let appending = async {
        for n in 0..500 {
            appender.append(record(n, 10_000)).await?;
        }
        appender.flush().await
    };
    let reading = async {
        for n in 0..500 {
            let offset = expect(&mut *reader, n..n + 1, 10_000).await?[0];
            let bytes = log.bytes(Stream::Changes).await?;
            assert!(bytes <= 800_000 + 100_000 + 2 * 50_000 + 10_020, "{bytes} bytes");
            if bytes > 700_000 {
                log.trim(Stream::Changes, offset).await?;
            }
        }
        Ok(())
    };
    tokio::try_join!(appending, reading).unwrap();
}

#[tokio::test]
async fn one_process_at_a_time() {
    let (dir, id) = (tempfile::tempdir().unwrap(), MigrationId::new_v4());
    let log = LocalLog::open(dir.path(), id, small()).await.unwrap();
    let (second, ()) = tokio::join!(LocalLog::open(dir.path(), id, small()), async {
        // The second waits for the first to end.
        tokio::task::yield_now().await;
        drop(log);
    });
    second.unwrap();
}
