//! Publishing the change stream. Batches go to the log as they come; the source is told to forget only what the log has
//! made durable. A restarted extractor goes on where the log ends; what it publishes twice, readers drop.

use crate::confirm::Confirming;
use async_trait::async_trait;
use bytes::Bytes;
use drover_connectors_api::{Batch, ChangeStream, Followed, Opened, Source, StreamSpec};
use drover_log::{Appender, Log, Offset, Stream};
use drover_model::ddl::SchemaChange;
use drover_model::error::codes;
use drover_model::{Error, Fault, MigrationId, Position, Result, Retry};
use drover_proto::order::Opening;
use drover_proto::record::{frame, parse};
use drover_proto::v1::{ChangesHead, Compression};
use drover_runtime::rate::{Amount, Pair};
use drover_runtime::{CancellationToken, failpoint};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::time::{Interval, MissedTickBehavior};

/// How often to look whether the destination has applied what waits for it.
const HELD: Duration = Duration::from_millis(100);

/// News of the stream, every second or so.
pub struct News {
    pub published: Position,
    /// The end of a transaction of which some pieces are published and some are not.
    pub reaching: Option<Position>,
    pub changes: u64,
    pub bytes: u64,
    pub commit_micros: i64,
    pub log_bytes: u64,
}

/// Where the records of a log end, as the applier's gate takes them: those of an older epoch than one before them do not count. They are
/// late ones, of an extractor that stood still and came back after its work had gone to another.
#[derive(Debug, Default, Clone)]
pub struct End {
    newest: u64,
    end: Option<Position>,
}

impl End {
    /// Takes the next record in, in the log's order.
    ///
    /// # Errors
    /// LOG: its head has no position.
    pub fn take(&mut self, head: &ChangesHead) -> Result<()> {
        if head.epoch >= self.newest {
            self.newest = head.epoch;
            // A transaction whose last piece is missing was not published: it comes again as a whole.
            let to = if head.pieces && !head.last_piece { &head.from } else { &head.to };
            let to = Position::from_bytes(to).map_err(|e| unreadable(&e))?;
            self.end = self.end.take().max(Some(to));
        }
        Ok(())
    }

    /// The position from which the stream has to go on; `None` if there was no record.
    pub fn position(&self) -> Option<&Position> {
        self.end.as_ref()
    }
}

/// So many records are read at first to find where the log ends, and [`MORE`] times as many each time they do not tell.
const BACK: Offset = 64;
const MORE: Offset = 16;

/// Where the log ends: the position from which the stream has to go on, `None` for an empty log. `last` tells how the stream was opened
/// last. Late records of extractors before that one may lie behind its own, any number of them: the search goes back until it meets one
/// of its own, or has seen all that can be. Without `last` the whole log is read.
pub async fn end_of_log(log: &dyn Log, last: Option<&Opening>) -> Result<Option<Position>> {
    let Some(opening) = last else { return newest_end(log).await };
    let mut back = BACK;
    loop {
        let span = log.span(Stream::Changes).await?;
        if span.next < opening.offset {
            // Not the log that the stream was opened over: it was lost, and made anew.
            return newest_end(log).await;
        }
        let least = End { newest: opening.epoch, end: None };
        let all = back >= span.next.saturating_sub(opening.offset.max(span.first));
        match end_from(log, back, least).await? {
            Some(end) => return Ok(Some(end)),
            None if !all => back = back.saturating_mul(MORE),
            // It has published nothing.
            None => return Ok(log.last(Stream::Changes).await?.map(|_| opening.start.clone())),
        }
    }
}

/// A position near the end of the log, to know the source's history by.
pub async fn seen_in_log(log: &dyn Log) -> Result<Option<Position>> {
    end_from(log, BACK, End::default()).await
}

/// The end by all records: heads and bodies of the whole log are read.
async fn newest_end(log: &dyn Log) -> Result<Option<Position>> {
    end_from(log, Offset::MAX, End::default()).await
}

/// By those from so many records before the last one on that count for `least`.
async fn end_from(log: &dyn Log, back: Offset, least: End) -> Result<Option<Position>> {
    loop {
        let first = log.span(Stream::Changes).await?.first;
        let read = read_end(log, first, back, least.clone()).await;
        if !trimmed_meanwhile(log, first, &read).await? {
            return read;
        }
    }
}

async fn read_end(log: &dyn Log, first: Offset, back: Offset, mut end: End) -> Result<Option<Position>> {
    let Some((last, _)) = log.last(Stream::Changes).await? else { return Ok(None) };
    let mut reader = log.reader(Stream::Changes, last.saturating_sub(back).max(first)).await?;
    loop {
        let (offset, record) = reader.next().await?;
        let (head, _) = parse::<ChangesHead>(record).map_err(|e| unreadable(&e))?;
        end.take(&head)?;
        if offset >= last {
            return Ok(end.end);
        }
    }
}

/// Whether a log that began at `first` could not be read because the applier has trimmed it since: then it is to be read anew.
async fn trimmed_meanwhile<T: Sync>(log: &dyn Log, first: Offset, read: &Result<T>) -> Result<bool> {
    match read {
        Err(e) if e.code == codes::LOG => Ok(log.span(Stream::Changes).await?.first > first),
        _ => Ok(false),
    }
}

/// From where on the log has changes; `None` for an empty log.
pub async fn begin_of_log(log: &dyn Log) -> Result<Option<Position>> {
    loop {
        let first = log.span(Stream::Changes).await?.first;
        let read = read_begin(log, first).await;
        if !trimmed_meanwhile(log, first, &read).await? {
            return read;
        }
    }
}

async fn read_begin(log: &dyn Log, first: Offset) -> Result<Option<Position>> {
    if log.last(Stream::Changes).await?.is_none() {
        return Ok(None);
    }
    let (_, record) = log.reader(Stream::Changes, first).await?.next().await?;
    let (head, _) = parse::<ChangesHead>(record).map_err(|e| unreadable(&e))?;
    Position::from_bytes(&head.from).map(Some).map_err(|e| unreadable(&e))
}

fn unreadable(e: &dyn std::error::Error) -> Error {
    Error::new(codes::LOG, Fault::Log, Retry::Never, format!("a change record cannot be read: {e}"))
}

/// What `run` publishes with.
pub struct Publisher<'a> {
    pub log: &'a dyn Log,
    pub migration: MigrationId,
    pub epoch: u64,
    pub revision: u64,
    /// Bytes of unapplied changes beyond which the reader waits.
    pub budget: u64,
    pub limits: Arc<Pair>,
    /// Stores schema changes before they go into the log.
    pub register: Arc<dyn Register>,
    /// What the tables look like at a position (`None`: where the migration begins).
    pub followed: &'a (dyn Fn(Option<&Position>) -> Result<Followed> + Send + Sync),
}

/// Keeps schema changes where every worker finds them.
#[async_trait]
pub trait Register: Send + Sync {
    /// Returns when it is stored; `false`: the order is not ours any more.
    async fn schema_changed(&self, position: &Position, change: &SchemaChange) -> bool;
}

/// Between two signs of life while nothing is read.
const ALIVE: Duration = Duration::from_secs(2);

/// What was appended, is durable, and is confirmed.
struct Books {
    appender: Box<dyn Appender>,
    appended: u64,
    durable: u64,
    confirming: Confirming,
    /// Schema changes so far.
    schema_version: u64,
    /// When the source hears the next time that we are there, while nothing is read.
    alive: Interval,
    /// The operator was told that the log's budget will not last.
    warned: bool,
}

/// From this part of the log's budget on the operator is warned; below that one the warning is over.
const NEAR: (u64, u64) = (80, 70);

impl Publisher<'_> {
    /// Opens the stream; sees that it continues where the log ends.
    /// Gives the number of schema changes before it, too.
    pub async fn open(&self, source: &dyn Source, mut spec: StreamSpec) -> Result<(Opened, u64)> {
        loop {
            match self.open_at(source, spec.clone()).await {
                // Where the log seems to end the source has nothing any more: does it really end there? Whoever had the stream before may
                // publish, and confirm, until this call has come to the source: the log has grown then, each time.
                Err(error) if error.code == codes::POSITION_LOST && spec.resume.is_some() => {
                    let end = newest_end(self.log).await?;
                    if end <= spec.resume {
                        return Err(error);
                    }
                    spec.resume = end;
                }
                other => return other,
            }
        }
    }

    async fn open_at(&self, source: &dyn Source, mut spec: StreamSpec) -> Result<(Opened, u64)> {
        let resume = spec.resume.clone();
        let followed = (self.followed)(resume.as_ref())?;
        let version = followed.schemas.version;
        spec.tables = followed.schemas.live();
        spec.schemas = Some(Arc::new(followed));
        let found = source.open_stream(spec).await?;
        match resume.filter(|r| *r < found.start) {
            None => Ok((found, version)),
            Some(resume) => Err(Error::new(
                codes::POSITION_LOST,
                Fault::Source,
                Retry::Never,
                format!("the log ends at {resume}, but the source's log begins at {} only", found.start),
            )
            .remedy("begin again: `drover cleanup`, then run the migration anew")),
        }
    }

    /// Publishes until cancelled; then everything published is durable.
    pub async fn run(
        &self,
        stream: &mut dyn ChangeStream,
        start: Position,
        schema_version: u64,
        news: impl Fn(News) + Send + Sync,
        cancel: &CancellationToken,
    ) -> Result<()> {
        let appender = self.log.appender(Stream::Changes).await?;
        let mut alive = tokio::time::interval(ALIVE);
        alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let confirming = Confirming::default();
        let mut books = Books { appender, appended: 0, durable: 0, confirming, schema_version, alive, warned: false };
        self.publish(stream, &mut books, start, &news, cancel).await?;
        books.appender.flush().await.map(drop)
    }

    async fn publish(
        &self,
        stream: &mut dyn ChangeStream,
        books: &mut Books,
        start: Position,
        news: &(impl Fn(News) + Send + Sync),
        cancel: &CancellationToken,
    ) -> Result<()> {
        let mut last = News { published: start, reaching: None, changes: 0, bytes: 0, commit_micros: 0, log_bytes: 0 };
        let mut told = Instant::now();
        loop {
            let batch = tokio::select! {
                () = cancel.cancelled() => return Ok(()),
                now = books.appender.durable_beyond(books.durable), if books.appended > books.durable => {
                    let now = now?;
                    self.durable(now, books, stream).await?;
                    continue;
                }
                // The destination catches up while the source is silent. A source that shuts down waits for this.
                () = tokio::time::sleep(HELD), if books.confirming.holds() => {
                    self.confirm(&mut books.confirming, stream).await?;
                    continue;
                }
                batch = stream.next() => batch?,
            };
            let amount = Amount { rows: batch.changes, bytes: batch.payload.len() as u64, queries: 0 };
            if !self.held_up(self.limits.incremental.take(amount), books, stream, cancel).await? {
                return Ok(());
            }
            // A sign of life is news, but no record.
            let moved = batch.from != batch.to;
            if moved {
                if let Some(change) = &batch.schema {
                    // Stored first: whoever meets it in the log can rely on finding it.
                    if !self.register.schema_changed(&batch.to, change).await {
                        return Ok(());
                    }
                    failpoint("schema-change-stored");
                }
                books.appender.append(self.record(&batch, books.schema_version)).await?;
                books.schema_version += u64::from(batch.schema.is_some());
                books.appended += 1;
            }
            last.changes += batch.changes;
            last.bytes += batch.payload.len() as u64;
            last.commit_micros = batch.commit_micros;
            last.reaching = batch.piece.filter(|p| !p.last).map(|_| batch.to.clone());
            if moved && batch.piece.is_none_or(|p| p.last) {
                last.published = batch.to.clone();
                books.confirming.appended(books.appended, batch.to);
            }
            self.confirm(&mut books.confirming, stream).await?;
            if told.elapsed() > Duration::from_millis(500) {
                told = Instant::now();
                last.log_bytes = self.log.bytes(Stream::Changes).await?;
                news(News { published: last.published.clone(), reaching: last.reaching.clone(), ..last });
                self.keep_budget(last.log_bytes, books, stream, cancel).await?;
            }
        }
    }

    async fn durable(&self, records: u64, books: &mut Books, stream: &mut dyn ChangeStream) -> Result<()> {
        books.durable = records;
        books.confirming.durable(records, Instant::now());
        self.confirm(&mut books.confirming, stream).await
    }

    /// Waits for what holds the stream up, without reading on; what becomes durable meanwhile is confirmed, and the source hears
    /// that somebody is there. `false`: cancelled.
    async fn held_up(
        &self,
        what: impl Future<Output = ()>,
        books: &mut Books,
        stream: &mut dyn ChangeStream,
        cancel: &CancellationToken,
    ) -> Result<bool> {
        let mut what = std::pin::pin!(what);
        loop {
            tokio::select! {
                biased;
                () = cancel.cancelled() => return Ok(false),
                () = &mut what => return Ok(true),
                now = books.appender.durable_beyond(books.durable), if books.appended > books.durable => {
                    let now = now?;
                    self.durable(now, books, stream).await?;
                }
                () = tokio::time::sleep(HELD), if books.confirming.holds() => {
                    self.confirm(&mut books.confirming, stream).await?;
                }
                _ = books.alive.tick() => stream.alive().await?,
            }
        }
    }

    async fn confirm(&self, confirming: &mut Confirming, stream: &mut dyn ChangeStream) -> Result<()> {
        if let Some(position) = confirming.due(self.log.applied().as_ref(), Instant::now()) {
            failpoint("published-not-confirmed");
            stream.confirm(&position).await?;
        }
        Ok(())
    }

    /// Nearing the budget warns, beyond it reading waits: the source then keeps its log itself.
    async fn keep_budget(
        &self,
        mut held: u64,
        books: &mut Books,
        stream: &mut dyn ChangeStream,
        cancel: &CancellationToken,
    ) -> Result<()> {
        let budget = self.budget;
        if budget == 0 {
            return Ok(());
        }
        let part = |percent: u64| budget / 100 * percent;
        if held < part(NEAR.1) {
            books.warned = false;
        } else if held >= part(NEAR.0) && !std::mem::replace(&mut books.warned, true) {
            tracing::warn!(
                held,
                budget,
                "the log's budget is nearly used up by changes that are not applied yet: then the source has to keep them"
            );
        }
        let mut told = false;
        while held >= budget && !cancel.is_cancelled() {
            if !std::mem::replace(&mut told, true) {
                tracing::warn!(held, budget, "the log's budget is used up: the source's changes wait at the source");
            }
            self.held_up(tokio::time::sleep(Duration::from_secs(1)), books, stream, cancel).await?;
            held = self.log.bytes(Stream::Changes).await?;
        }
        if told {
            tracing::info!(held, budget, "the log has room again");
        }
        Ok(())
    }

    fn record(&self, batch: &Batch, schema_version: u64) -> Bytes {
        let head = ChangesHead {
            version: 1,
            migration: Bytes::copy_from_slice(self.migration.as_bytes()),
            epoch: self.epoch,
            from: batch.from.to_bytes().into(),
            to: batch.to.to_bytes().into(),
            pieces: batch.piece.is_some(),
            piece: batch.piece.map_or(0, |p| p.index),
            last_piece: batch.piece.is_some_and(|p| p.last),
            transactions: batch.transactions,
            changes: batch.changes,
            commit_micros: batch.commit_micros,
            plans_version: self.revision,
            compression: Compression::None.into(),
            schema: batch.schema.is_some(),
            schema_version,
        };
        frame(&head, &batch.payload)
    }
}
