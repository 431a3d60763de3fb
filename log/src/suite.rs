//! What every log promises, as tests. An implementation gives a [`Factory`] for each case and runs [`all`]; a broken promise panics with
//! the name of the case in the output.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use drover_model::error::codes;
use drover_model::{MigrationId, Result};

use crate::{Log, Offset, Reader, Stream};

/// Opens logs in one place that is empty at first.
#[async_trait]
pub trait Factory: Send + Sync {
    /// The log of a migration in this place. What was opened before has been dropped: it is as after a restart.
    async fn log(&self, migration: MigrationId) -> Result<Arc<dyn Log>>;
    /// Whether bulk streams outlive a restart.
    fn bulk_outlives(&self) -> bool;
}

/// Nothing here may take longer than this, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
const BULK: Stream = Stream::Bulk(1);

/// Runs all cases; `factory` makes a new place under a name.
pub async fn all<F, M>(factory: F) -> Result<()>
where
    F: Fn(&'static str) -> M,
    M: Future<Output = Arc<dyn Factory>>,
{
    macro_rules! cases {
        ($($case:ident),* $(,)?) => {$(
            let begun = Instant::now();
            let place = factory(stringify!($case)).await;
            tokio::time::timeout(PATIENCE * 2, $case(place))
                .await
                .unwrap_or_else(|_| panic!("{} does not end", stringify!($case)))?;
            println!("{:<40} {:?}", stringify!($case), begun.elapsed());
        )*};
    }
    cases!(
        order,
        survives,
        from_the_middle,
        wakes,
        large,
        trimmed,
        last_and_span,
        two_readers,
        foreign_migration,
        concurrent,
        cancelled,
        many_small,
        empty,
        two_appenders,
        durable_counts,
        removed,
    );
    Ok(())
}

/// A record that tells its number and would show any change.
pub fn record(number: u64, len: usize) -> Bytes {
    let mut out = Vec::with_capacity(len.max(8));
    out.extend_from_slice(&number.to_le_bytes());
    let mut x = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    while out.len() < len {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        out.extend_from_slice(&x.to_le_bytes());
    }
    out.truncate(len.max(8));
    out.into()
}

async fn opened(place: &Arc<dyn Factory>, migration: MigrationId) -> Result<Arc<dyn Log>> {
    let log = place.log(migration).await?;
    log.open(3).await?;
    Ok(log)
}

/// Appends `record(n, len)` for the numbers and flushes.
pub async fn fill(
    log: &dyn Log,
    stream: Stream,
    numbers: std::ops::Range<u64>,
    len: usize,
) -> Result<(Offset, Offset)> {
    let mut appender = log.appender(stream).await?;
    for n in numbers {
        appender.append(record(n, len)).await?;
    }
    Ok(appender.flush().await?.unwrap_or_else(|| panic!("nothing was flushed")))
}

/// Reads the records of these numbers in this order; gives their offsets.
pub async fn expect(reader: &mut dyn Reader, numbers: std::ops::Range<u64>, len: usize) -> Result<Vec<Offset>> {
    let mut offsets: Vec<Offset> = Vec::new();
    for n in numbers {
        let (offset, got) = next(reader).await?;
        assert!(got == record(n, len), "record {n} at {offset}: {} bytes, begins {:?}", got.len(), got.get(..8));
        assert!(offsets.last().is_none_or(|o| *o < offset), "offset {offset} does not rise");
        offsets.push(offset);
    }
    Ok(offsets)
}

async fn next(reader: &mut dyn Reader) -> Result<(Offset, Bytes)> {
    tokio::time::timeout(PATIENCE, reader.next()).await.unwrap_or_else(|_| panic!("no record came"))
}

async fn start(log: &dyn Log, stream: Stream) -> Result<Box<dyn Reader>> {
    let first = log.span(stream).await?.first;
    log.reader(stream, first).await
}

async fn order(place: Arc<dyn Factory>) -> Result<()> {
    let log = opened(&place, MigrationId::new_v4()).await?;
    for stream in [Stream::Changes, Stream::Bulk(0), BULK] {
        let mut appender = log.appender(stream).await?;
        let mut offsets = Vec::new();
        for part in 0..5 {
            for n in part * 20..(part + 1) * 20 {
                appender.append(record(n, 1000 + n as usize)).await?;
            }
            offsets.push(appender.flush().await?.unwrap_or_else(|| panic!("nothing was flushed")));
        }
        assert_eq!(appender.flush().await?, None, "nothing was appended since");
        assert_eq!(appender.durable(), 100);
        let mut reader = start(&*log, stream).await?;
        let mut read = Vec::new();
        for n in 0..100 {
            read.extend(expect(&mut *reader, n..n + 1, 1000 + n as usize).await?);
        }
        for (part, (first, last)) in offsets.into_iter().enumerate() {
            assert_eq!((first, last), (read[part * 20], read[part * 20 + 19]), "flush tells offsets");
        }
    }
    Ok(())
}

async fn survives(place: Arc<dyn Factory>) -> Result<()> {
    let id = MigrationId::new_v4();
    let log = opened(&place, id).await?;
    fill(&*log, Stream::Changes, 0..50, 3000).await?;
    let lost = fill(&*log, BULK, 0..5, 3000).await?;
    drop(log);
    let log = opened(&place, id).await?;
    fill(&*log, Stream::Changes, 50..60, 3000).await?;
    expect(&mut *start(&*log, Stream::Changes).await?, 0..60, 3000).await?;
    if place.bulk_outlives() {
        expect(&mut *start(&*log, BULK).await?, 0..5, 3000).await?;
    } else {
        // An old order must not meet new records.
        fill(&*log, BULK, 5..10, 3000).await?;
        let error = log.reader(BULK, lost.0).await.err().unwrap_or_else(|| panic!("lost records are read"));
        assert_eq!(error.code, codes::LOG);
        expect(&mut *start(&*log, BULK).await?, 5..10, 3000).await?;
    }
    Ok(())
}

async fn from_the_middle(place: Arc<dyn Factory>) -> Result<()> {
    let id = MigrationId::new_v4();
    let mut log = opened(&place, id).await?;
    for stream in [Stream::Changes, BULK] {
        fill(&*log, stream, 0..200, 20_000).await?;
        let offsets = expect(&mut *start(&*log, stream).await?, 0..200, 20_000).await?;
        for n in [1usize, 37, 150, 199] {
            let mut reader = log.reader(stream, offsets[n]).await?;
            assert_eq!(expect(&mut *reader, n as u64..200, 20_000).await?, &offsets[n..]);
        }
        if stream == Stream::Changes {
            drop(log);
            log = opened(&place, id).await?;
            assert_eq!(expect(&mut *log.reader(stream, offsets[99]).await?, 99..200, 20_000).await?, &offsets[99..]);
        }
    }
    Ok(())
}

async fn wakes(place: Arc<dyn Factory>) -> Result<()> {
    let log = opened(&place, MigrationId::new_v4()).await?;
    for stream in [Stream::Changes, BULK] {
        let mut reader = start(&*log, stream).await?;
        let mut appender = log.appender(stream).await?;
        for n in 0..20 {
            let waiting = async { expect(&mut *reader, n..n + 1, 100).await };
            let acting = async {
                tokio::task::yield_now().await;
                appender.append(record(n, 100)).await?;
                appender.flush().await
            };
            tokio::try_join!(waiting, acting)?;
        }
    }
    Ok(())
}

async fn large(place: Arc<dyn Factory>) -> Result<()> {
    let id = MigrationId::new_v4();
    let log = opened(&place, id).await?;
    for stream in [Stream::Changes, BULK] {
        let sizes = [10, 5 << 20, 40 << 20, 4 << 20, (4 << 20) + 1, 8];
        let mut appender = log.appender(stream).await?;
        for (n, len) in sizes.iter().enumerate() {
            appender.append(record(n as u64, *len)).await?;
        }
        assert!(appender.flush().await?.is_some());
        let mut reader = start(&*log, stream).await?;
        let mut offsets = Vec::new();
        for (n, len) in sizes.iter().enumerate() {
            offsets.extend(expect(&mut *reader, n as u64..n as u64 + 1, *len).await?);
        }
        // What one resumes with: the offset after a record, or the record's own.
        let mut reader = log.reader(stream, offsets[1] + 1).await?;
        expect(&mut *reader, 2..3, 40 << 20).await?;
        let mut reader = log.reader(stream, offsets[2]).await?;
        assert_eq!(expect(&mut *reader, 2..3, 40 << 20).await?, [offsets[2]]);
        // A large record that is last; and trimming up to it must not cut into it.
        let (_, last) = fill(&*log, stream, 9..10, 9 << 20).await?;
        let (offset, whole) = log.last(stream).await?.unwrap_or_else(|| panic!("no last record"));
        assert!(offset == last && whole == record(9, 9 << 20));
        log.trim(stream, last).await?;
        let mut reader = log.reader(stream, last).await?;
        expect(&mut *reader, 9..10, 9 << 20).await?;
    }
    Ok(())
}

async fn trimmed(place: Arc<dyn Factory>) -> Result<()> {
    let id = MigrationId::new_v4();
    let mut log = opened(&place, id).await?;
    for stream in [BULK, Stream::Changes] {
        let mut appender = log.appender(stream).await?;
        for n in 0..300 {
            appender.append(record(n, 30_000)).await?;
        }
        appender.flush().await?;
        drop(appender);
        let offsets = expect(&mut *start(&*log, stream).await?, 0..300, 30_000).await?;
        let before = log.bytes(stream).await?;
        assert!((4_500_000..90_000_000).contains(&before), "{before} bytes are no estimate of 9,000,000");
        log.trim(stream, offsets[200]).await?;
        let span = log.span(stream).await?;
        assert!(span.first > offsets[0] && span.first <= offsets[200], "{span:?} after trimming to {}", offsets[200]);
        assert!(log.bytes(stream).await? < before);
        let error = log.reader(stream, offsets[0]).await.err().unwrap_or_else(|| panic!("trimmed records are read"));
        assert_eq!(error.code, codes::LOG, "{error}");
        expect(&mut *log.reader(stream, offsets[200]).await?, 200..300, 30_000).await?;
        let first = offsets.iter().position(|o| *o >= span.first).unwrap_or(0);
        expect(&mut *start(&*log, stream).await?, first as u64..300, 30_000).await?;
        // Trimming never hurts what comes later, even if all is trimmed.
        log.trim(stream, span.next).await?;
        let (first, _) = fill(&*log, stream, 300..310, 100).await?;
        expect(&mut *log.reader(stream, first).await?, 300..310, 100).await?;
        if stream == Stream::Changes {
            drop(log);
            log = opened(&place, id).await?;
            expect(&mut *log.reader(stream, first).await?, 300..310, 100).await?;
            assert!(log.reader(stream, offsets[0]).await.is_err());
        }
    }
    Ok(())
}

async fn last_and_span(place: Arc<dyn Factory>) -> Result<()> {
    let id = MigrationId::new_v4();
    let mut log = opened(&place, id).await?;
    for n in 0..20 {
        let (first, last) = fill(&*log, Stream::Changes, n..n + 1, 5000).await?;
        assert_eq!(first, last);
        assert_eq!(log.last(Stream::Changes).await?, Some((last, record(n, 5000))));
        assert_eq!(log.span(Stream::Changes).await?.next, last + 1);
        let (_, last) = fill(&*log, BULK, n..n + 1, 5000).await?;
        assert_eq!(log.last(BULK).await?, Some((last, record(n, 5000))));
        if n == 10 {
            drop(log);
            log = opened(&place, id).await?;
            assert_eq!(log.last(Stream::Changes).await?.map(|l| l.1), Some(record(n, 5000)));
        }
    }
    let next = log.span(Stream::Changes).await?.next;
    let error = match log.reader(Stream::Changes, next + 1000).await {
        Ok(mut reader) => reader.next().await.err(),
        Err(error) => Some(error),
    };
    assert_eq!(error.map(|e| e.code).as_deref(), Some(codes::LOG), "a log that is shorter than what was applied");
    Ok(())
}

async fn two_readers(place: Arc<dyn Factory>) -> Result<()> {
    let log = opened(&place, MigrationId::new_v4()).await?;
    for stream in [Stream::Changes, BULK] {
        let (mut a, mut b) = (start(&*log, stream).await?, start(&*log, stream).await?);
        fill(&*log, stream, 0..100, 50_000).await?;
        expect(&mut *a, 0..100, 50_000).await?;
        expect(&mut *b, 0..50, 50_000).await?;
        drop(a);
        expect(&mut *b, 50..100, 50_000).await?;
    }
    Ok(())
}

async fn foreign_migration(place: Arc<dyn Factory>) -> Result<()> {
    let id = MigrationId::new_v4();
    let log = opened(&place, id).await?;
    let error = {
        drop(log);
        match place.log(MigrationId::new_v4()).await {
            Ok(log) => log.open(3).await.err(),
            Err(error) => Some(error),
        }
    };
    assert_eq!(error.map(|e| e.code).as_deref(), Some(codes::LOG), "an empty log of another migration is refused");
    let log = opened(&place, id).await?;
    fill(&*log, Stream::Changes, 0..10, 100).await?;
    let next = log.span(Stream::Changes).await?.next;
    log.trim(Stream::Changes, next).await?;
    drop(log);
    let error = match place.log(MigrationId::new_v4()).await {
        Ok(log) => log.open(3).await.err(),
        Err(error) => Some(error),
    };
    assert_eq!(error.map(|e| e.code).as_deref(), Some(codes::LOG), "a trimmed log of another migration is refused");
    let log = opened(&place, id).await?;
    assert_eq!(log.span(Stream::Changes).await?.next, next);
    Ok(())
}

async fn concurrent(place: Arc<dyn Factory>) -> Result<()> {
    let log = opened(&place, MigrationId::new_v4()).await?;
    let streams = [Stream::Changes, Stream::Bulk(0), BULK, Stream::Bulk(2)];
    let works = streams.map(|stream| {
        let log = log.clone();
        async move {
            let (mut reader, mut appender) = (start(&*log, stream).await?, log.appender(stream).await?);
            let appending = async {
                for n in 0..300 {
                    appender.append(record(n, 40_000)).await?;
                    if n % 70 == 0 {
                        appender.flush().await?;
                    }
                }
                appender.flush().await
            };
            tokio::try_join!(appending, expect(&mut *reader, 0..300, 40_000)).map(|_| ())
        }
    });
    futures::future::try_join_all(works).await?;
    Ok(())
}

async fn cancelled(place: Arc<dyn Factory>) -> Result<()> {
    let log = opened(&place, MigrationId::new_v4()).await?;
    for stream in [Stream::Changes, BULK] {
        let mut reader = start(&*log, stream).await?;
        let appending = async {
            for n in 0..200 {
                fill(&*log, stream, n..n + 1, 10_000).await?;
                // Appending may never wait; the reader shall.
                tokio::task::yield_now().await;
            }
            Ok(())
        };
        let reading = async {
            let (mut n, mut cancelled) = (0, 0u64);
            while n < 200 {
                // Given up at ever other places: at once, after a few turns, after up to two milliseconds.
                let given_up = async {
                    for _ in 0..cancelled % 4 {
                        tokio::task::yield_now().await;
                    }
                    if cancelled % 2 == 1 {
                        tokio::time::sleep(Duration::from_micros(cancelled % 40 * 50)).await;
                    }
                };
                tokio::select! {
                    biased;
                    got = reader.next() => {
                        assert!(got?.1 == record(n, 10_000), "record {n} after {cancelled} cancellations");
                        n += 1;
                    }
                    () = given_up => cancelled += 1,
                }
            }
            assert!(cancelled > 0, "nothing was cancelled");
            Ok::<_, drover_model::Error>(())
        };
        tokio::try_join!(appending, reading)?;
    }
    Ok(())
}

async fn many_small(place: Arc<dyn Factory>) -> Result<()> {
    let log = opened(&place, MigrationId::new_v4()).await?;
    for stream in [Stream::Changes, BULK] {
        let begun = Instant::now();
        fill(&*log, stream, 0..20_000, 100).await?;
        let appended = begun.elapsed();
        expect(&mut *start(&*log, stream).await?, 0..20_000, 100).await?;
        println!("  20,000 records of 100 bytes on {stream:?}: append {appended:?}, all {:?}", begun.elapsed());
        assert!(begun.elapsed() < PATIENCE, "far too slow");
    }
    Ok(())
}

async fn empty(place: Arc<dyn Factory>) -> Result<()> {
    let id = MigrationId::new_v4();
    let log = opened(&place, id).await?;
    // Opening again and for more partitions is harmless.
    log.open(3).await?;
    log.open(5).await?;
    for stream in [Stream::Changes, Stream::Bulk(4)] {
        assert_eq!(log.last(stream).await?, None);
        assert_eq!(log.appender(stream).await?.flush().await?, None);
        let span = log.span(stream).await?;
        let mut reader = log.reader(stream, span.next).await?;
        assert!(tokio::time::timeout(Duration::from_millis(300), reader.next()).await.is_err(), "something was read");
        log.trim(stream, span.next).await?;
        let (first, last) = fill(&*log, stream, 0..1, 0).await?;
        assert!(first == last && first >= span.next);
        expect(&mut *reader, 0..1, 0).await?;
        // An empty record is a record.
        let mut appender = log.appender(stream).await?;
        appender.append(Bytes::new()).await?;
        assert!(appender.flush().await?.is_some());
        assert_eq!(next(&mut *reader).await?.1, Bytes::new());
    }
    Ok(())
}

/// A former epoch's appender still lives: both are read whole, each in its own order.
async fn two_appenders(place: Arc<dyn Factory>) -> Result<()> {
    let log = opened(&place, MigrationId::new_v4()).await?;
    for stream in [Stream::Changes, BULK] {
        let mut appenders = [log.appender(stream).await?, log.appender(stream).await?];
        for n in 0..40u64 {
            let len = if n % 10 == 3 { 6 << 20 } else { 1000 };
            for (i, appender) in appenders.iter_mut().enumerate() {
                appender.append(record(n * 2 + i as u64, len)).await?;
            }
        }
        for appender in &mut appenders {
            appender.flush().await?;
            assert_eq!(appender.durable(), 40);
        }
        let mut reader = start(&*log, stream).await?;
        let mut expected = [0u64, 1];
        for _ in 0..80 {
            let (_, got) = next(&mut *reader).await?;
            let number = got.first_chunk().map_or(u64::MAX, |b| u64::from_le_bytes(*b));
            let len = if number / 2 % 10 == 3 { 6 << 20 } else { 1000 };
            assert!(got == record(number, len), "record {number} is whole");
            let of = &mut expected[number as usize % 2];
            assert_eq!(number, *of);
            *of += 2;
        }
    }
    Ok(())
}

async fn durable_counts(place: Arc<dyn Factory>) -> Result<()> {
    let log = opened(&place, MigrationId::new_v4()).await?;
    let mut appender = log.appender(Stream::Changes).await?;
    assert_eq!(appender.durable(), 0);
    for n in 0..1000 {
        appender.append(record(n, 2000)).await?;
    }
    let mut seen = 0;
    while seen < 1000 {
        let now = appender.durable_beyond(seen).await?;
        assert!(now > seen && now <= 1000, "{now} after {seen}");
        seen = now;
    }
    assert_eq!(appender.durable(), 1000);
    let waiting = tokio::time::timeout(Duration::from_millis(100), appender.durable_beyond(1000)).await;
    assert!(waiting.is_err(), "nothing more can become durable");
    assert!(appender.flush().await?.is_some());
    Ok(())
}

async fn removed(place: Arc<dyn Factory>) -> Result<()> {
    let log = opened(&place, MigrationId::new_v4()).await?;
    fill(&*log, Stream::Changes, 0..10, 1000).await?;
    fill(&*log, BULK, 0..10, 1000).await?;
    log.remove().await?;
    log.remove().await?;
    drop(log);
    // Nothing of the former owner is left.
    let log = opened(&place, MigrationId::new_v4()).await?;
    assert_eq!(log.last(Stream::Changes).await?, None);
    assert_eq!(log.last(BULK).await?, None);
    fill(&*log, Stream::Changes, 0..3, 1000).await?;
    expect(&mut *start(&*log, Stream::Changes).await?, 0..3, 1000).await?;
    Ok(())
}
