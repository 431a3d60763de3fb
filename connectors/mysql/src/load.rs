//! Loading chunks: rows and mark in one destination transaction, durable as the server's commits are when it ends.
//!
//! The mark is written first and is unique: of two attempts at a chunk the second waits for the first's end, and loads only if
//! nothing of the first stayed. The table's generation is locked (shared) meanwhile, so no load of an older generation can end
//! after the table has been started over. An attempt that is frozen is ended by the one that waits for it.
//!
//! Rows go in by LOAD DATA LOCAL, streamed, or by INSERTs of many rows where the server forbids that. LOAD DATA LOCAL cannot fail for a
//! row: it skips what collides and bends what does not fit, with a warning for each. So a chunk with any warning is given up,
//! and the rows are counted.

use crate::connect::{Dialer, Session};
use crate::errors::{classify, number};
use crate::fit::Fit;
use crate::progress::{self, Home};
use crate::restart::{first_generation, loading};
use crate::sessions::{self, Purpose};
use crate::shape::{self, Shape};
use crate::warnings;
use async_trait::async_trait;
use bytes::Bytes;
use drover_connectors_api::{LoadOutcome, Loader};
use drover_model::error::codes;
use drover_model::plan::RowFormat;
use drover_model::row::take_cell;
use drover_model::{Error, MigrationId, Result, Retry, TablePlan};
use drover_runtime::memory::{Account, Taken};
use drover_runtime::task;
use futures::StreamExt;
use mysql_async::prelude::Queryable;
use std::sync::{Arc, Once};
use tokio::sync::{Mutex, mpsc};

/// How often a lock of another attempt is waited for before it is given up.
const TRIES: u32 = 6;
/// Bytes of one piece on its way to the server, and of all that may wait.
const PIECE: usize = 256 << 10;
const PIECES: usize = 4 * PIECE;
/// Bytes of one INSERT, where LOAD DATA is forbidden; less where the server takes less.
const STATEMENT: usize = 1 << 20;

/// A piece of LOAD DATA, and its bytes of the loader's account until it is on the wire.
type Fed = (Bytes, Taken);

/// A load under way in a task of its own: rows are encoded here while others are on the wire.
struct Infile {
    /// Bounded by the bytes of its pieces.
    feed: mpsc::UnboundedSender<Fed>,
    task: task::Owned<(Session, Result<u64>)>,
}

/// INSERTs, one after the other.
struct Inserts {
    head: String,
    statement: Vec<u8>,
    inserted: u64,
}

enum Way {
    Infile(Infile),
    Inserts(Inserts),
}

struct Chunk {
    plan: TablePlan,
    generation: u32,
    number: u32,
    shape: Shape,
    way: Way,
}

/// A session that loads chunks.
pub struct MyLoader {
    dialer: Dialer,
    migration: MigrationId,
    home: Home,
    /// Away while LOAD DATA runs.
    session: Option<Session>,
    id: u64,
    infile: bool,
    max_packet: usize,
    room: Arc<Account>,
    chunk: Option<Chunk>,
}

impl MyLoader {
    pub async fn open(dialer: &Dialer, migration: MigrationId) -> Result<Self> {
        let (mut session, id) = sessions::open(dialer, migration, Purpose::Load).await?;
        let home = Home::of(&mut session, dialer, migration).await?;
        let what = "cannot prepare a session";
        let (infile, max_packet) = able(&mut session).await?;
        session.run("SET SESSION innodb_lock_wait_timeout = 5", what).await?;
        Ok(MyLoader {
            dialer: dialer.clone(),
            migration,
            home,
            session: Some(session),
            id,
            infile,
            max_packet,
            room: Account::new("load.pieces", PIECES),
            chunk: None,
        })
    }

    fn session(&mut self) -> Result<&mut Session> {
        self.session.as_mut().ok_or_else(|| Error::internal("a loading session is used while it loads"))
    }

    fn chunk_is(&self, plan: &TablePlan, generation: u32, chunk: u32) -> String {
        format!(
            "migration = '{}' AND table_id = {} AND generation = {generation} AND chunk = {chunk}",
            self.migration, plan.id
        )
    }

    /// Opens the transaction with mark and generation lock. `Some`: there is nothing to load.
    async fn mark(
        &mut self,
        plan: &TablePlan,
        generation: u32,
        chunk: u32,
    ) -> Result<Option<LoadOutcome>, mysql_async::Error> {
        let (migration, id) = (self.migration, self.id);
        let (chunks, tables) = (self.home.table("drover_chunk"), self.home.table("drover_table"));
        let Some(session) = self.session.as_mut() else { return Ok(None) };
        session.query_drop("START TRANSACTION").await?;
        // The mark first: who holds the generation's lock can be found by it.
        let sql = format!(
            "INSERT INTO {chunks} (migration, table_id, generation, chunk, session) \
             VALUES ('{migration}', {}, {generation}, {chunk}, {id})",
            plan.id
        );
        match session.query_drop(sql).await {
            Err(e) if number(&e) == Some(1062) => return Ok(Some(LoadOutcome::AlreadyLoaded)),
            other => other?,
        }
        let sql = format!(
            "SELECT generation FROM {tables} WHERE migration = '{migration}' AND table_id = {} LOCK IN SHARE MODE",
            plan.id
        );
        let current: Option<u32> = session.query_first(sql).await?;
        Ok((current != Some(generation)).then_some(LoadOutcome::OldGeneration))
    }

    /// Gives the transaction up, or the session if it cannot be had back at once.
    async fn undo(&mut self) -> Result<()> {
        self.chunk = None;
        match self.session.as_mut() {
            Some(session) => match session.query_drop("ROLLBACK").await {
                Ok(()) => Ok(()),
                Err(_) => self.reconnect().await,
            },
            // It is in the middle of a load, in a task that has just been dropped with it: the server ends it as soon as it sees that.
            None => self.reconnect().await,
        }
    }

    /// Ends what is left of the session at the server, and begins a new one.
    async fn reconnect(&mut self) -> Result<()> {
        let mut fresh = MyLoader::open(&self.dialer, self.migration).await?;
        let old = self.id;
        let migration = self.migration;
        sessions::end(fresh.session()?, migration, Purpose::Load, &[old]).await?;
        *self = fresh;
        Ok(())
    }

    /// The outcome of a commit whose answer was lost: the old session is ended, then the mark tells.
    async fn resolve(&mut self, of: &str, rows: u64, lost: Error) -> Result<LoadOutcome> {
        self.reconnect().await?;
        let sql = format!("SELECT `rows` FROM {} WHERE {of}", self.home.table("drover_chunk"));
        let marked: Option<Option<u64>> =
            self.session()?.first(sql, "cannot find out whether a chunk was loaded").await?;
        match marked {
            Some(n) if n == Some(rows) => Ok(LoadOutcome::Loaded { rows }),
            Some(_) => Ok(LoadOutcome::AlreadyLoaded),
            None => Err(lost.with_retry(Retry::Connection)),
        }
    }

    /// Waits for the end of LOAD DATA and takes the session back. Gives the rows that were loaded.
    async fn land(&mut self, infile: Infile) -> Result<u64> {
        let Infile { feed, mut task } = infile;
        drop(feed);
        let (session, loaded) = task.join().await.map_err(|e| Error::internal("a load's task ended").cause(e))?;
        self.session = Some(session);
        loaded
    }
}

/// Whether LOAD DATA LOCAL is allowed, and the largest statement.
pub(crate) async fn able(session: &mut Session) -> Result<(bool, usize)> {
    static SAID: Once = Once::new();
    let sql = "SELECT @@local_infile, @@max_allowed_packet";
    let able: Option<(bool, u64)> = session.first(sql, "cannot prepare a session").await?;
    let (infile, packet) = able.ok_or_else(|| Error::internal("the server gave no settings"))?;
    if !infile {
        SAID.call_once(|| {
            tracing::warn!(
                "the destination forbids LOAD DATA LOCAL: rows are written by INSERT, which costs it more; `SET GLOBAL local_infile = 1` allows it"
            );
        });
    }
    Ok((infile, usize::try_from(packet).unwrap_or(usize::MAX)))
}

/// `LOAD DATA` for rows of this shape, with fields as [`crate::encode::Encoder::put_field`] writes them.
pub(crate) fn load_data(shape: &Shape) -> String {
    let mut columns = Vec::with_capacity(shape.columns.len());
    let mut set = Vec::new();
    for (i, column) in shape.columns.iter().enumerate() {
        if column.encoder.converts() {
            columns.push(format!("@c{i}"));
            set.push(format!("{} = {}", column.name, column.encoder.value(&format!("@c{i}"))));
        } else {
            columns.push(column.name.clone());
        }
    }
    let set = if set.is_empty() { String::new() } else { format!(" SET {}", set.join(", ")) };
    format!(
        "LOAD DATA LOCAL INFILE 'drover' INTO TABLE {} CHARACTER SET binary \
         FIELDS TERMINATED BY '\\t' ENCLOSED BY '' ESCAPED BY '\\\\' LINES STARTING BY '' TERMINATED BY '\\n' ({}){set}",
        shape.table,
        columns.join(", ")
    )
}

/// `INSERT INTO t (…) VALUES `.
pub(crate) fn insert_head(shape: &Shape) -> String {
    let names: Vec<&str> = shape.columns.iter().map(|c| c.name.as_str()).collect();
    format!("INSERT INTO {} ({}) VALUES ", shape.table, names.join(", "))
}

/// Appends a row as a line of LOAD DATA; takes it off the front of `rows`.
pub(crate) fn put_line(out: &mut Vec<u8>, shape: &Shape, rows: &mut &[u8]) -> Result<()> {
    let row = *rows;
    for (i, column) in shape.columns.iter().enumerate() {
        if i > 0 {
            out.push(b'\t');
        }
        let cell = take_cell(rows).ok_or_else(|| Error::internal("a damaged row"))?;
        column.encoder.put_field(out, cell).map_err(|e| shape.of_row(e, row))?;
    }
    out.push(b'\n');
    shape.written(row);
    Ok(())
}

/// Appends a row as `(…)`; takes it off the front of `rows`.
pub(crate) fn put_values(out: &mut Vec<u8>, shape: &Shape, rows: &mut &[u8]) -> Result<()> {
    let row = *rows;
    for (i, column) in shape.columns.iter().enumerate() {
        out.push(if i == 0 { b'(' } else { b',' });
        let cell = take_cell(rows).ok_or_else(|| Error::internal("a damaged row"))?;
        column.encoder.put_value(out, cell).map_err(|e| shape.of_row(e, row))?;
    }
    out.push(b')');
    shape.written(row);
    Ok(())
}

/// What the client may send in one packet of at most `most` bytes each, without copying: a line may be longer.
pub(crate) fn packets(mut piece: Bytes, most: usize) -> impl Iterator<Item = Bytes> {
    std::iter::from_fn(move || {
        let size = piece.len().min(most);
        (size > 0).then(|| piece.split_to(size))
    })
}

/// Runs LOAD DATA with what comes out of the queue. Gives the rows that the server counted.
async fn fill(
    session: &mut Session,
    statement: String,
    queue: mpsc::UnboundedReceiver<Fed>,
    shape: &Shape,
    most: usize,
) -> Result<u64> {
    let queue = Arc::new(Mutex::new(queue));
    let shared = queue.clone();
    session.set_infile_handler(async move {
        let next = |queue: Arc<Mutex<mpsc::UnboundedReceiver<Fed>>>| async move {
            let piece = queue.lock().await.recv().await;
            piece.map(|b| (b, queue))
        };
        let pieces = futures::stream::unfold(shared, next);
        let sent = move |(piece, taken): Fed| {
            futures::stream::iter(packets(piece, most).map(move |packet| {
                let _until_the_last = &taken;
                Ok(packet)
            }))
        };
        Ok(pieces.flat_map(sent).boxed())
    });
    let loaded = session.query_drop(statement).await;
    // A handler that was not asked for stays in the session with its end of the queue: whoever feeds must not wait for it.
    {
        let mut queue = queue.lock().await;
        queue.close();
        while queue.try_recv().is_ok() {}
    }
    loaded.map_err(|e| classify(&e, session.fault, "cannot load rows"))?;
    let rows = session.affected_rows();
    if session.get_warnings() > 0 {
        warnings::refuse(session, shape).await?;
    }
    Ok(rows)
}

impl Inserts {
    /// Sends the statement that has been gathered.
    async fn send(&mut self, session: &mut Session, shape: &Shape, max_packet: usize) -> Result<()> {
        if self.statement.is_empty() {
            return Ok(());
        }
        // The server would end the session without a word.
        if self.statement.len() >= max_packet - 1024 {
            return Err(crate::apply::too_large(self.statement.len(), session.fault));
        }
        let sent = session.query_drop(&self.statement[..]).await;
        sent.map_err(|e| classify(&e, session.fault, "cannot load rows"))?;
        self.inserted += session.affected_rows();
        self.statement.clear();
        if session.get_warnings() > 0 {
            warnings::refuse(session, shape).await?;
        }
        Ok(())
    }
}

#[async_trait]
impl Loader for MyLoader {
    async fn begin(&mut self, plan: &TablePlan, generation: u32, chunk: u32) -> Result<Option<LoadOutcome>> {
        if self.chunk.is_some() {
            return Err(Error::internal("a chunk was begun before the one before had ended"));
        }
        match &plan.format {
            RowFormat::Canonical => {}
            RowFormat::Native(name) if name == crate::CELLS => {}
            RowFormat::Native(name) => return Err(Error::internal(format!("rows in the unknown format {name}"))),
        }
        if self.session.is_none() {
            self.reconnect().await?;
        }
        let (migration, home, fault) = (self.migration, self.home.clone(), self.dialer.fault());
        let failed =
            |e: mysql_async::Error| classify(&e, fault, format!("cannot load chunk {chunk}")).table(&plan.destination);
        let sql = format!(
            "SELECT 1 FROM {} WHERE migration = '{migration}' AND table_id = {}",
            home.table("drover_table"),
            plan.id
        );
        let session = self.session()?;
        let known: Option<u8> = session.first(sql, "cannot read the generation of a table").await?;
        if known.is_none() {
            first_generation(session, &home, migration, plan.id, generation).await?;
        }
        for tries in 1.. {
            match self.mark(plan, generation, chunk).await {
                Ok(None) => break,
                Ok(Some(outcome)) => {
                    self.undo().await?;
                    return Ok(Some(outcome));
                }
                Err(e) if number(&e) == Some(1205) && tries < TRIES => {
                    self.undo().await?;
                    // Another attempt at this very chunk: given up by whoever gave it to us, slow or frozen.
                    let same = self.chunk_is(plan, generation, chunk);
                    let session = self.session()?;
                    let others = loading(session, &home, &same).await?;
                    sessions::end(session, migration, Purpose::Load, &others).await?;
                }
                Err(e) => {
                    let error = failed(e);
                    // The error that counts is the first.
                    let _ = self.undo().await;
                    return Err(error);
                }
            }
        }
        let shape = match shape::load(self.session()?, plan).await {
            Ok(shape) => shape,
            Err(error) => {
                let _ = self.undo().await;
                return Err(error);
            }
        };
        let way = if self.infile {
            let (feed, queue) = mpsc::unbounded_channel();
            let (statement, known, most) = (load_data(&shape), shape.clone(), PIECE.min(self.max_packet / 2));
            let Some(mut session) = self.session.take() else {
                return Err(Error::internal("a load without a session"));
            };
            let task = task::spawn("load", async move {
                let loaded = fill(&mut session, statement, queue, &known, most).await;
                (session, loaded)
            });
            Way::Infile(Infile { feed, task })
        } else {
            Way::Inserts(Inserts { head: insert_head(&shape), statement: Vec::new(), inserted: 0 })
        };
        self.chunk = Some(Chunk { plan: plan.clone(), generation, number: chunk, shape, way });
        Ok(None)
    }

    async fn block(&mut self, data: Bytes) -> Result<()> {
        let chunk = self.chunk.as_mut().ok_or_else(|| Error::internal("a block came without a chunk"))?;
        let mut rows = &data[..];
        match &mut chunk.way {
            Way::Infile(infile) => {
                let mut piece = Vec::with_capacity(PIECE + (PIECE >> 3));
                while !rows.is_empty() {
                    if let Err(error) = put_line(&mut piece, &chunk.shape, &mut rows) {
                        let error = error.table(&chunk.plan.destination);
                        let _ = self.undo().await;
                        return Err(error);
                    }
                    if piece.len() >= PIECE || rows.is_empty() {
                        let full = std::mem::replace(&mut piece, Vec::with_capacity(PIECE + (PIECE >> 3)));
                        // A load that has ended takes nothing more, and what it has not taken still counts.
                        let taken = tokio::select! {
                            taken = self.room.hold(full.len()) => taken,
                            () = infile.feed.closed() => break,
                        };
                        if infile.feed.send((Bytes::from(full), taken)).is_err() {
                            break;
                        }
                    }
                }
                if !infile.feed.is_closed() {
                    return Ok(());
                }
            }
            Way::Inserts(inserts) => {
                let most = STATEMENT.min(self.max_packet / 2);
                let Some(session) = self.session.as_mut() else {
                    return Err(Error::internal("a load without a session"));
                };
                let sent: Result<()> = async {
                    while !rows.is_empty() {
                        let separator = if inserts.statement.is_empty() { inserts.head.as_bytes() } else { b"," };
                        inserts.statement.extend_from_slice(separator);
                        put_values(&mut inserts.statement, &chunk.shape, &mut rows)?;
                        if inserts.statement.len() >= most {
                            inserts.send(session, &chunk.shape, self.max_packet).await?;
                        }
                    }
                    Ok(())
                }
                .await;
                let Err(error) = sent else { return Ok(()) };
                let error = error.table(&chunk.plan.destination);
                let _ = self.undo().await;
                return Err(error);
            }
        }
        // The server ended the load; its reason comes with the answer.
        let Some(Chunk { plan, way: Way::Infile(infile), number, .. }) = self.chunk.take() else { return Ok(()) };
        let error = match self.land(infile).await {
            Err(e) => e,
            Ok(_) => Error::internal(format!("the server ended the load of chunk {number} by itself")),
        };
        let _ = self.undo().await;
        Err(error.table(&plan.destination))
    }

    async fn finish(&mut self, rows: u64) -> Result<LoadOutcome> {
        let fault = self.dialer.fault();
        let chunk = self.chunk.take().ok_or_else(|| Error::internal("a chunk was ended that was not begun"))?;
        let Chunk { plan, generation, number, shape, way } = chunk;
        let what = format!("cannot load chunk {number}");
        let loaded = match way {
            Way::Infile(infile) => self.land(infile).await,
            Way::Inserts(mut inserts) => {
                let max_packet = self.max_packet;
                let sent = inserts.send(self.session()?, &shape, max_packet).await;
                sent.map(|()| inserts.inserted)
            }
        };
        let loaded = match loaded {
            Ok(loaded) => loaded,
            Err(error) => {
                let _ = self.undo().await;
                return Err(error.table(&plan.destination));
            }
        };
        if loaded != rows {
            self.undo().await?;
            let what = format!("chunk {number} has {rows} rows, but {loaded} arrived at the destination");
            return Err(Error::new(codes::ROW_COUNT, fault, Retry::Other, what).table(&plan.destination));
        }
        let of = self.chunk_is(&plan, generation, number);
        let sql = format!("UPDATE {} SET `rows` = {rows} WHERE {of}", self.home.table("drover_chunk"));
        let (home, migration) = (self.home.clone(), self.migration);
        let session = self.session()?;
        let mut statements = vec![sql];
        for (i, column) in shape.columns.iter().enumerate() {
            if let (count @ 1.., example) = column.encoder.replaced() {
                statements.push(progress::count_misfits(&home, migration, &plan, i, count, example));
                let values = column.encoder.changing().map(Fit::take).unwrap_or_default();
                statements.extend(progress::name_misfits(&home, migration, &plan, i, &values));
            }
        }
        for sql in statements {
            if let Err(error) = session.run(sql, &what).await {
                let _ = self.undo().await;
                return Err(error.table(&plan.destination));
            }
        }
        let session = self.session()?;
        match session.query_drop("COMMIT").await {
            Ok(()) => Ok(LoadOutcome::Loaded { rows }),
            Err(e) => self.resolve(&of, rows, classify(&e, fault, what).table(&plan.destination)).await,
        }
    }

    async fn abort(&mut self) -> Result<()> {
        // Dropping the task drops its session in the middle of the load, which ends it.
        self.undo().await
    }
}
