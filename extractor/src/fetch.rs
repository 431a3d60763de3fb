//! Fetching rows that an apply order owes: their keys are read from the log, the rows on the snapshot, and what was found goes behind the
//! keys into the same partition. Guarantee: an attempt whose last block is in the log has the row, or that there is none, of every key.

use bytes::Bytes;
use drover_connectors_api::ChunkReader;
use drover_log::{Log, Stream};
use drover_model::error::codes;
use drover_model::row::{Cell, put_cell, take_row};
use drover_model::{Error, Fault, MigrationId, Result, Retry, TablePlan};
use drover_proto::order::Owes;
use drover_proto::record::{frame, parse};
use drover_proto::v1::{BulkHead, Compression, Owed};
use drover_runtime::failpoint;

/// Rows are fetched in parts of about so many bytes, a block each.
const PART_BYTES: usize = 1 << 20;
/// Keys of the first part, whose rows may be of any size, and of any part at most.
const PART_KEYS: (usize, usize) = (8, 8192);

/// Fetches what `owes` asks for under the lease of the fetch order; gives the number of rows found. Durable when it returns.
///
/// # Errors
/// LOG when the keys are not in the log any more, TABLE_CHANGED and SNAPSHOT_LOST as the reader says.
pub async fn fetch(
    log: &dyn Log,
    reader: &mut dyn ChunkReader,
    migration: MigrationId,
    plan: &TablePlan,
    owes: &Owes,
    lease: u64,
) -> Result<u64> {
    let keys = match keys(log, migration, plan, owes).await {
        Ok(keys) => keys,
        // Nobody waits: another attempt had answered, and what it paid for was trimmed.
        Err(_) if forgotten(log, owes).await? => return Ok(0),
        Err(error) => return Err(error),
    };
    failpoint("owed-not-fetched");
    let mut head = BulkHead {
        version: 1,
        migration: Bytes::copy_from_slice(migration.as_bytes()),
        table: plan.id,
        lease,
        plan_version: plan.version,
        compression: Compression::None.into(),
        owed: Some(Owed { apply: owes.keys.lease, round: owes.round, last: false }),
        ..BulkHead::default()
    };
    let mut appender = log.appender(Stream::Bulk(owes.keys.partition)).await?;
    let (mut rest, mut rows, mut part) = (&keys[..], 0, PART_KEYS.0);
    while !rest.is_empty() {
        let (now, later) = rest.split_at(part.min(rest.len()));
        rest = later;
        let found = reader.fetch(plan, now).await?;
        let mut payload = Vec::new();
        for (key, row) in now.iter().zip(&found) {
            payload.extend_from_slice(key);
            put_cell(&mut payload, row.as_deref().map_or(Cell::Null, Cell::Value));
        }
        head.rows = found.iter().flatten().count() as u64;
        rows += head.rows;
        if let Some(owed) = &mut head.owed {
            owed.last = rest.is_empty();
        }
        appender.append(frame(&head, &payload)).await?;
        head.sequence += 1;
        // As many as would have filled a part if every key had a row, and at most twice as many as before.
        let room = match (head.rows as usize, found.iter().flatten().map(Bytes::len).sum::<usize>()) {
            (0, _) | (_, 0) => PART_KEYS.1,
            (rows, bytes) => rows * PART_BYTES / bytes,
        };
        part = room.clamp(1, PART_KEYS.1.min(2 * part));
    }
    appender.flush().await?;
    failpoint("fetched-not-reported");
    Ok(rows)
}

/// The log has forgotten the keys, as it does once their rows are paid.
async fn forgotten(log: &dyn Log, owes: &Owes) -> Result<bool> {
    let span = log.span(Stream::Bulk(owes.keys.partition)).await?;
    Ok(owes.keys.records.is_some_and(|(first, _)| first < span.first))
}

/// The keys that are asked for.
async fn keys(log: &dyn Log, migration: MigrationId, plan: &TablePlan, owes: &Owes) -> Result<Vec<Bytes>> {
    let lost = |how: String| {
        let text = format!("the keys of rows that are owed cannot be read from the log: {how}");
        Error::new(codes::LOG, Fault::Log, Retry::Other, text).table(&plan.source)
    };
    let Some((first, last)) = owes.keys.records else { return Ok(Vec::new()) };
    let mut keys = Vec::with_capacity(owes.keys.rows as usize);
    let mut reader = log.reader(Stream::Bulk(owes.keys.partition), first).await?;
    loop {
        let (offset, record) = reader.next().await?;
        if offset > last {
            break;
        }
        let (head, payload) = parse::<BulkHead>(record).map_err(|e| lost("a record is broken".into()).cause(e))?;
        let of = head.owed.as_ref().map(|o| (o.apply, o.round));
        let ours = head.migration == migration.as_bytes()[..]
            && head.lease == owes.keys.lease
            && of == Some((owes.keys.lease, owes.round))
            && head.table == plan.id;
        if ours {
            let mut rest = &payload[..];
            while !rest.is_empty() {
                let key = take_row(&mut rest, plan.key.len()).ok_or_else(|| lost("half a key".into()))?;
                keys.push(payload.slice_ref(key));
            }
        }
        if offset == last {
            break;
        }
    }
    if keys.len() as u64 != owes.keys.rows {
        return Err(lost(format!("{} of {} are there", keys.len(), owes.keys.rows)));
    }
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;
    use async_trait::async_trait;
    use drover_connectors_api::{BlockSink, ChunkRead};
    use drover_log::local::{LocalLog, LocalOptions};
    use drover_model::chunk::{Bounds, Chunk};
    use drover_model::row::cells;
    use drover_model::schema::TableName;
    use drover_proto::order::Extent;

    const ID: MigrationId = MigrationId::from_u128(3);

    /// Even keys have rows of so many bytes.
    struct Rows {
        bytes: usize,
        parts: Vec<usize>,
    }

    #[async_trait]
    impl ChunkReader for Rows {
        async fn plan(&mut self, _: &TablePlan, _: u64, _: bool) -> Result<Vec<Chunk>> {
            Err(Error::internal("not needed"))
        }
        async fn read(&mut self, _: &TablePlan, _: &Bounds, _: &mut dyn BlockSink) -> Result<ChunkRead> {
            Err(Error::internal("not needed"))
        }
        async fn fetch(&mut self, _: &TablePlan, keys: &[Bytes]) -> Result<Vec<Option<Bytes>>> {
            self.parts.push(keys.len());
            let even = |key: &Bytes| key.last().is_some_and(|digit| digit % 2 == 0);
            Ok(keys.iter().map(|key| even(key).then(|| Bytes::from(vec![9; self.bytes]))).collect())
        }
    }

    fn plan() -> TablePlan {
        TablePlan { key: vec![0], ..TablePlan::new(4, TableName::new("s", "t"), Vec::new()) }
    }

    fn key(n: usize) -> Vec<u8> {
        let mut out = Vec::new();
        put_cell(&mut out, Cell::Value(n.to_string().as_bytes()));
        out
    }

    /// Keys of two rounds in one partition, block by block in turns; what is owed is the second.
    async fn asked(log: &LocalLog, count: usize) -> Owes {
        let mut appender = log.appender(Stream::Bulk(0)).await.unwrap();
        let (mut first, mut last) = (None, 0);
        for n in 0..count {
            for round in [0, 1] {
                let owed = Some(Owed { apply: 5, round, last: false });
                let migration = Bytes::copy_from_slice(ID.as_bytes());
                let head = BulkHead { version: 1, migration, table: 4, lease: 5, owed, ..BulkHead::default() };
                appender.append(frame(&head, &key(if round == 1 { n } else { n + 1_000_000 }))).await.unwrap();
                last = appender.flush().await.unwrap().unwrap().1;
                first = first.or((round == 1).then_some(last));
            }
        }
        let records = first.map(|first| (first, last));
        Owes { table: 4, round: 1, keys: Extent { partition: 0, records, rows: count as u64, bytes: 0, lease: 5 } }
    }

    #[tokio::test]
    async fn every_key_is_answered_in_parts_of_bounded_size() {
        let dir = tempfile::tempdir().unwrap();
        let log = LocalLog::open(dir.path(), ID, LocalOptions::default()).await.unwrap();
        log.open(1).await.unwrap();
        for (bytes, most) in [(10, PART_KEYS.1), (60_000, 34), (3 << 20, 2)] {
            let count = if bytes > 1 << 20 { 70 } else { 500 };
            let owes = asked(&log, count).await;
            let mut rows = Rows { bytes, parts: Vec::new() };
            let found = fetch(&log, &mut rows, ID, &plan(), &owes, 80).await.unwrap();
            assert_eq!(found as usize, count / 2);
            assert!(rows.parts.iter().skip(1).all(|p| *p <= most), "{:?}", rows.parts);
            let mut reader = log.reader(Stream::Bulk(0), owes.keys.records.unwrap().1 + 1).await.unwrap();
            let mut answered = Vec::new();
            for sequence in 0.. {
                let (_, record) = reader.next().await.unwrap();
                let (head, payload) = parse::<BulkHead>(record).unwrap();
                assert_eq!((head.table, head.lease, head.sequence), (4, 80, sequence));
                let all: Vec<Cell<'_>> = cells(&payload).collect();
                for pair in all.chunks(2) {
                    let n: usize = std::str::from_utf8(pair[0].value().unwrap()).unwrap().parse().unwrap();
                    assert_eq!(pair[1].value().map(<[u8]>::len), n.is_multiple_of(2).then_some(bytes));
                    answered.push(n);
                }
                if head.owed == Some(Owed { apply: 5, round: 1, last: true }) {
                    break;
                }
            }
            assert_eq!(answered, (0..count).collect::<Vec<_>>());
        }
    }

    #[tokio::test]
    async fn what_the_log_has_forgotten_is_paid() {
        let dir = tempfile::tempdir().unwrap();
        let log = LocalLog::open(dir.path(), ID, LocalOptions::default()).await.unwrap();
        log.open(1).await.unwrap();
        let owes = asked(&log, 3).await;
        let mut rows = Rows { bytes: 10, parts: Vec::new() };
        let less = Owes { keys: Extent { rows: 4, ..owes.keys }, ..owes };
        let error = fetch(&log, &mut rows, ID, &plan(), &less, 80).await.unwrap_err();
        assert_eq!((error.code.as_str(), rows.parts.len()), (codes::LOG, 0), "not all keys are there: {error}");
        log.trim(Stream::Bulk(0), owes.keys.records.unwrap().0 + 1).await.unwrap();
        assert_eq!(fetch(&log, &mut rows, ID, &plan(), &owes, 81).await, Ok(0));
        assert!(rows.parts.is_empty(), "nobody waits for it");
    }
}
