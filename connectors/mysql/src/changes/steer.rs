//! What each event does to the stream: transactions begin and end, tables are described, rows are read, statements are told apart.

use super::pending::Pending;
use super::{Changes, Held, Ids, Open, now};
use crate::binlog::bind::Misfit;
use crate::binlog::event::{self, ARTIFICIAL, Event, Head, MAY_BE_IGNORED, Query, Start, Xid, kind};
use crate::binlog::lex::{Token, tokens};
use crate::binlog::query::{self, Statement, classify};
use crate::binlog::rows::{self, Action, Refused, unpack_mariadb};
use crate::charset::Charset;
use crate::ddl::follow::Written;
use crate::position::Place;
use drover_model::change;
use drover_model::error::codes;
use drover_model::migration::SchemaPolicy;
use drover_model::schema::TableName;
use drover_model::{Error, Result};
use std::borrow::Cow;

impl Changes {
    /// Moves to the end of an event.
    pub(super) fn move_to(&mut self, head: &Head) {
        // A dump from the middle of a file has the file's description ahead.
        let again = head.kind == kind::FORMAT_DESCRIPTION && self.place.offset > 4;
        if head.flags & ARTIFICIAL != 0 || again {
            return;
        }
        self.unplaced += u64::from(head.length);
        // New servers of MariaDB tell the end of a transaction's last event only.
        if head.end != 0 {
            self.move_to_end(head.end);
        }
    }

    /// To an offset of which the lower 32 bits are known, for a file may be larger: the one nearest to where we must be by the events' lengths. Never back.
    fn move_to_end(&mut self, end: u32) {
        let expected = self.place.offset + std::mem::take(&mut self.unplaced);
        let off = end.wrapping_sub(expected as u32) as i32;
        self.place.offset = expected.saturating_add_signed(i64::from(off)).max(self.place.offset);
    }

    /// One event; `inner`: of a compressed transaction, which has moved to its end already.
    pub(super) fn on_event(&mut self, event: &Event<'_>, inner: bool) -> Result<()> {
        let before = if inner { None } else { Some(self.place.offset) };
        if !inner && !matches!(event.head.kind, kind::ROTATE | kind::HEARTBEAT | kind::HEARTBEAT_V2) {
            self.move_to(&event.head);
        }
        let unreadable = |s: &Self| s.fail(codes::INTERNAL, event.bad());
        match event.head.kind {
            rows if rows::is_rows(rows) => self.on_rows(event, before),
            kind::TABLE_MAP => match self.tables.map(event.body, self.table_map_head, self.mariadb) {
                Some(Ok(())) => Ok(()),
                Some(Err(_)) if self.passes_over() => Ok(()),
                Some(Err(no_fit)) => Err(self.changed(&no_fit.table, &no_fit.misfit)),
                None => Err(unreadable(self)),
            },
            kind::GTID | kind::ANONYMOUS_GTID | kind::TAGGED_GTID => {
                let start = event::gtid(event).ok_or_else(|| unreadable(self))?;
                self.on_start(start, before)
            }
            kind::MARIADB_GTID => {
                let start = event::mariadb_gtid(event).ok_or_else(|| unreadable(self))?;
                self.on_start(start, before)
            }
            kind::XID => self.on_commit(&event.head),
            kind::QUERY | kind::EXECUTE_LOAD_QUERY => {
                let query = event::query(event).ok_or_else(|| unreadable(self))?;
                self.on_query(&event.head, &query, before)
            }
            kind::MARIADB_QUERY_COMPRESSED => {
                let query = event::query(event).ok_or_else(|| unreadable(self))?;
                let mut text = Vec::new();
                unpack_mariadb(query.text, &mut text).ok_or_else(|| unreadable(self))?;
                self.on_query(&event.head, &Query { text: &text, ..query }, before)
            }
            kind::XA_PREPARE => {
                let (one_phase, xid) = event::xa_prepare(event.body).ok_or_else(|| unreadable(self))?;
                if one_phase { self.on_commit(&event.head) } else { self.on_prepared(xid) }
            }
            kind::ROTATE => {
                let (file, offset) = event::rotate(event.body).ok_or_else(|| unreadable(self))?;
                self.on_rotate(&event.head, file, offset);
                Ok(())
            }
            kind::FORMAT_DESCRIPTION => self.on_description(event),
            kind::HEARTBEAT | kind::HEARTBEAT_V2 => self.on_heartbeat(event),
            kind::INCIDENT => {
                let (number, message) = event::incident(event.body);
                let what = format!("the source's log lacks changes, as it says itself: {message} (incident {number})");
                Err(self
                    .fail(codes::POSITION_LOST, what)
                    .remedy("begin again: `drover cleanup`, then run the migration anew"))
            }
            kind::STOP
            | kind::INTVAR
            | kind::RAND
            | kind::USER_VAR
            | kind::BEGIN_LOAD_QUERY
            | kind::APPEND_BLOCK
            | kind::DELETE_FILE
            | kind::IGNORABLE
            | kind::ROWS_QUERY
            | kind::PREVIOUS_GTIDS
            | kind::TRANSACTION_CONTEXT
            | kind::VIEW_CHANGE
            | kind::MARIADB_ANNOTATE_ROWS
            | kind::MARIADB_CHECKPOINT
            | kind::MARIADB_GTID_LIST
            | kind::MARIADB_START_ENCRYPTION => Ok(()),
            _ if event.head.flags & MAY_BE_IGNORED != 0 => Ok(()),
            other => {
                let what = format!("an event of kind {other}, which drover cannot read");
                Err(self
                    .fail(codes::UNSUPPORTED, what)
                    .remedy("such events come from servers older or newer than the ones drover knows"))
            }
        }
    }

    fn on_rotate(&mut self, head: &Head, file: String, offset: u64) {
        let real = head.end != 0 && head.flags & ARTIFICIAL == 0;
        if self.place.file != file {
            self.place = Place { file, offset: offset.max(4) };
            self.born = None;
        }
        if real && self.open.is_none() {
            self.reach(self.place.clone());
        }
    }

    fn on_description(&mut self, event: &Event<'_>) -> Result<()> {
        let description = event::Description::parse(event.body).filter(|d| d.version == 4);
        let description = description.ok_or_else(|| {
            let what = "the log is in a form that drover cannot read";
            self.fail(codes::UNSUPPORTED, what).remedy("servers before MySQL 5.1 have it")
        })?;
        self.checksums = description.checksums(event.body);
        self.table_map_head = description.table_map_head;
        self.mariadb = description.mariadb;
        self.tables.forget();
        // A transaction that was cut off by a crash: the server has rolled it back.
        self.open = None;
        self.born = Some(event.head.timestamp);
        if let Some(expected) = self.expected_born.take()
            && expected != event.head.timestamp
        {
            let what = format!(
                "{} is another file than the one that was read before: the source's log was reset",
                self.place.file
            );
            return Err(self
                .fail(codes::POSITION_LOST, what)
                .remedy("begin again: `drover cleanup`, then run the migration anew"));
        }
        Ok(())
    }

    /// Nothing is under way at the source: its log ends where the heartbeat says.
    fn on_heartbeat(&mut self, event: &Event<'_>) -> Result<()> {
        self.beats = true;
        let (file, offset) = event::heartbeat(event).ok_or_else(|| self.fail(codes::INTERNAL, event.bad()))?;
        if self.open.is_some() || self.payload.is_some() {
            return Ok(());
        }
        if file == self.place.file {
            match offset {
                Some(offset) => self.place.offset = self.place.offset.max(offset),
                None => self.move_to_end(event.head.end),
            }
        }
        self.reach(self.place.clone());
        self.alive = true;
        self.commit_micros = self.commit_micros.max(now() + self.skew);
        Ok(())
    }

    /// Whether the transaction that is open is behind what was resumed from.
    fn passes_over(&self) -> bool {
        self.open.as_ref().is_some_and(|o| o.behind && o.xid.is_none())
    }

    fn is_behind(&mut self, start: &Place, gtid: Option<&crate::gtid::Gtid>) -> bool {
        if let Some(behind) = &self.behind {
            if start.order() < behind.order() {
                return true;
            }
            self.behind = None;
        }
        let Some(gtid) = gtid else { return false };
        if let Some(known) = &self.known {
            return known.holds(gtid);
        }
        self.passing.as_ref().is_some_and(|passing| passing.holds(gtid))
    }

    fn begin_at(&mut self, before: Option<u64>) -> Place {
        Place { file: self.place.file.clone(), offset: before.unwrap_or(self.place.offset) }
    }

    fn on_start(&mut self, start: Start, before: Option<u64>) -> Result<()> {
        if let Some(open) = self.open.take() {
            // Before 5.6 nothing else marks a statement's end; afterwards this would be a bug of ours or the server's.
            if open.begun {
                return Err(self.fail(codes::INTERNAL, "a transaction without an end"));
            }
            self.end_without(open);
        }
        let place = self.begin_at(before);
        self.tables.trim();
        let behind = self.is_behind(&place, start.gtid.as_ref());
        if place.offset <= u64::from(u32::MAX) {
            self.near = place.offset;
        }
        self.open = Some(Open {
            pending: Pending::new(std::mem::take(&mut self.spare)),
            gtid: start.gtid,
            micros: start.micros,
            start: place,
            begun: start.begins,
            half: start.half,
            xid: start.xid,
            behind,
            schema: None,
        });
        Ok(())
    }

    /// The open transaction; servers before 5.6 begin them without saying so.
    fn opened(&mut self, before: Option<u64>) -> Result<&mut Open> {
        if self.open.is_none() {
            self.on_start(Start::unmarked(), before)?;
        }
        self.open.as_mut().ok_or_else(|| Error::internal("a transaction that is not open"))
    }

    /// A transaction ended that has nothing for us.
    fn end_without(&mut self, open: Open) {
        self.note(Ids { gtid: open.gtid, xid: None });
        self.reach(self.place.clone());
        self.spare = open.pending.buffer;
        self.spare.clear();
    }

    fn on_commit(&mut self, head: &Head) -> Result<()> {
        let Some(open) = self.open.take() else {
            self.reach(self.place.clone());
            return Ok(());
        };
        if open.behind {
            self.end_without(open);
            return Ok(());
        }
        let micros = open.micros.unwrap_or(i64::from(head.timestamp) * 1_000_000);
        let ids = Ids { gtid: open.gtid, xid: None };
        match open.schema {
            Some(change) => {
                self.spare = open.pending.buffer;
                self.spare.clear();
                self.give_schema(change, self.place.clone(), micros, ids)
            }
            None => self.give(open.pending, self.place.clone(), micros, ids),
        }
    }

    fn on_prepared(&mut self, xid: Xid) -> Result<()> {
        let Some(open) = self.open.take() else {
            return Err(self.fail(codes::INTERNAL, "a preparation without a transaction"));
        };
        let mut pending = open.pending;
        pending.park(&mut self.room)?;
        self.note(Ids { gtid: open.gtid.clone(), xid: None });
        self.held.insert(xid, Held { pending, start: open.start, gtid: open.gtid });
        self.reach(self.place.clone());
        Ok(())
    }

    fn on_xa_end(&mut self, head: &Head, xid: &Xid, commits: bool, before: Option<u64>) -> Result<()> {
        self.opened(before)?;
        let Some(open) = self.open.take() else { return Ok(()) };
        let micros = open.micros.unwrap_or(i64::from(head.timestamp) * 1_000_000);
        let ids = Ids { gtid: open.gtid, xid: Some(xid.clone()) };
        let held = self.held.get_mut(xid).map(|held| std::mem::replace(&mut held.pending, Pending::new(Vec::new())));
        match held {
            Some(pending) if commits && !open.behind => self.give(pending, self.place.clone(), micros, ids),
            None if commits && !open.behind => {
                let what =
                    format!("the XA transaction {xid} was prepared before the stream began: its changes are not known");
                Err(self.fail(codes::POSITION_LOST, what).remedy(
                    "run the migration anew while no XA transaction is prepared, or grant XA_RECOVER_ADMIN so that drover can wait for that",
                ))
            }
            _ => {
                self.note(ids);
                self.reach(self.place.clone());
                Ok(())
            }
        }
    }

    fn on_rows(&mut self, event: &Event<'_>, before: Option<u64>) -> Result<()> {
        let rows = rows::parse(event, self.table_map_head).ok_or_else(|| self.fail(codes::INTERNAL, event.bad()))?;
        // Old servers do not enclose changes of tables without transactions.
        self.opened(before)?;
        self.take_rows(event, &rows)?;
        if rows.ends { self.end_statement(&event.head) } else { Ok(()) }
    }

    fn take_rows(&mut self, event: &Event<'_>, rows: &rows::Rows<'_>) -> Result<()> {
        let binding = match self.tables.binding(rows.id) {
            Some(Some(binding)) => binding.clone(),
            Some(None) => return Ok(()),
            // The end of a statement can come as an event without rows and table.
            None if rows.body.is_empty() || self.passes_over() => return Ok(()),
            None => return Err(self.fail(codes::INTERNAL, "rows of a table that the log has not described")),
        };
        let wanted = match rows.action {
            Action::Insert => binding.operations.insert,
            Action::Update => binding.operations.update,
            Action::Delete => binding.operations.delete,
        };
        if !wanted || self.passes_over() {
            return Ok(());
        }
        let Some(mut open) = self.open.take() else { return Ok(()) };
        let mut packed = std::mem::take(&mut self.packed);
        let outcome = match rows.bytes(&mut packed) {
            Some(bytes) => self.read_rows(rows, &binding, bytes, &mut open.pending),
            None => Err(self.fail(codes::INTERNAL, event.bad())),
        };
        self.packed = packed;
        self.open = Some(open);
        outcome
    }

    fn read_rows(
        &mut self,
        rows: &rows::Rows<'_>,
        binding: &crate::binlog::bind::Binding,
        bytes: &[u8],
        pending: &mut Pending,
    ) -> Result<()> {
        let mut at = 0;
        let mut unwritten = 0;
        while at < bytes.len() {
            let length = pending.buffer.len();
            let put = rows::put_change(rows, binding, bytes, at, &mut self.scratch, &mut pending.buffer);
            at = put.map_err(|refused| self.refused(binding.table, refused))?;
            unwritten += u64::from(pending.buffer.len() > length);
            // Not after each of many small rows.
            if pending.buffer.len() >= self.room.batch_bytes {
                pending.added(std::mem::take(&mut unwritten), &mut self.room)?;
            }
        }
        pending.added(unwritten, &mut self.room)
    }

    fn refused(&self, table: u32, refused: Refused) -> Error {
        let error = match refused {
            Refused::Damaged => self.fail(codes::INTERNAL, "a row that cannot be read"),
            Refused::Partial(action) => {
                let verb = match action {
                    Action::Insert => "an inserted row of which the log has not all columns",
                    Action::Update => "an updated row that the log does not name by the key that drover goes by",
                    Action::Delete => "a deleted row that the log does not name by the key that drover goes by",
                };
                self.fail(codes::UNSUPPORTED, verb)
                    .remedy("set binlog_row_image = FULL at the source, for sessions that exist too, and migrate the table again")
            }
            Refused::Untold => self
                .fail(codes::UNSUPPORTED, "a changed row whose condition (where) the log does not tell")
                .remedy("set binlog_row_image = FULL at the source, for sessions that exist too, and migrate the table again"),
            Refused::NoBase => self
                .fail(codes::UNSUPPORTED, "a partial update of a JSON document that the log has not")
                .remedy("set binlog_row_image = FULL or binlog_row_value_options = '' at the source, and migrate the table again"),
        };
        match self.tables.plan(table) {
            Some(plan) => error.table(&plan.source),
            None => error,
        }
    }

    fn changed(&self, table: &TableName, misfit: &Misfit) -> Error {
        let error = if misfit.unreadable {
            self.fail(codes::UNSUPPORTED, &misfit.how).remedy(
                "rebuild the table at the source (ALTER TABLE … FORCE; on MariaDB with mysql56_temporal_format = ON) and migrate it again, \
                 or leave it out",
            )
        } else {
            self.fail(codes::TABLE_CHANGED, format!("the table's columns changed: {}", misfit.how)).remedy(REMEDY)
        };
        let error = error.table(table);
        match &misfit.column {
            Some(column) => error.column(column),
            None => error,
        }
    }

    fn on_query(&mut self, head: &Head, query: &Query<'_>, before: Option<u64>) -> Result<()> {
        // Names of databases are UTF-8 whatever the client writes in.
        let (database, text) = (String::from_utf8_lossy(query.database), self.decoded(query, query.text));
        match classify(query, &database, &text) {
            Statement::Begin => {
                self.opened(before)?.begun = true;
                Ok(())
            }
            Statement::Commit => self.on_commit(head),
            Statement::Rollback => {
                if let Some(open) = self.open.take() {
                    self.end_without(Open { pending: Pending::new(Vec::new()), ..open });
                }
                Ok(())
            }
            Statement::Savepoint(name) => {
                self.opened(before)?.pending.savepoint(name);
                Ok(())
            }
            Statement::RollbackTo(name) => {
                if self.opened(before)?.pending.roll_back_to(&name) || self.passes_over() {
                    return Ok(());
                }
                Err(self.fail(codes::INTERNAL, format!("a rollback to the savepoint {name}, which was never set")))
            }
            Statement::XaStart(xid) => {
                let open = self.opened(before)?;
                open.begun = true;
                open.xid = Some(xid);
                Ok(())
            }
            Statement::XaCommit(xid) => self.on_xa_end(head, &xid, true, before),
            Statement::XaRollback(xid) => self.on_xa_end(head, &xid, false, before),
            Statement::Truncate(table) => {
                self.readable(query, std::slice::from_ref(&table), &text)?;
                self.on_truncate(head, &table, before)
            }
            Statement::Schema(change) => {
                self.opened(before)?;
                self.readable(query, &change.tables, &text)?;
                let written = Written::of(query, head.timestamp);
                self.on_schema_change(change, &written)?;
                self.end_statement(head)
            }
            Statement::Rows { verb, names } => {
                self.opened(before)?;
                self.on_statement(&verb, &names, &text, "a change in statement form")?;
                self.end_statement(head)
            }
            Statement::Unknown { verb, names } => {
                self.opened(before)?;
                self.on_statement(&verb, &names, &text, "a statement that drover does not know")?;
                self.end_statement(head)
            }
            Statement::Object { kind, name } => {
                self.opened(before)?;
                let written = Written::of(query, head.timestamp);
                self.on_object(kind, &name, &text, &written)?;
                self.end_statement(head)
            }
            Statement::Database { name, charset, collation } => {
                self.opened(before)?;
                let written = Written::of(query, head.timestamp);
                let name = name.unwrap_or_else(|| database.clone().into_owned());
                let behind = self.open.as_ref().is_none_or(|o| o.behind || o.half || o.begun);
                let follower = self.follower.as_ref().filter(|_| !behind);
                match follower.and_then(|f| f.database(&name, charset, collation, &text, &written)) {
                    Some(change) => self.altered(change)?,
                    None => self.skipped.schema += 1,
                }
                self.end_statement(head)
            }
            Statement::Other { .. } => {
                self.opened(before)?;
                self.skipped.schema += 1;
                self.end_statement(head)
            }
            Statement::Nothing => {
                self.opened(before)?;
                self.end_statement(head)
            }
        }
    }

    /// A statement that is a transaction of its own ends it, unless one was begun.
    fn end_statement(&mut self, head: &Head) -> Result<()> {
        if self.open.as_ref().is_some_and(|o| !o.begun) { self.on_commit(head) } else { Ok(()) }
    }

    fn on_truncate(&mut self, head: &Head, table: &TableName, before: Option<u64>) -> Result<()> {
        self.opened(before)?;
        let found = self.tables.selected(table).map(|p| (p.id, p.operations.truncate));
        if let (Some((id, true)), Some(open)) = (found, &mut self.open)
            && !open.behind
        {
            change::put_truncate(&mut open.pending.buffer, &[id]);
            open.pending.added(1, &mut self.room)?;
        }
        self.end_statement(head)
    }

    /// A schema change of tables of the migration becomes an item of the stream; what cannot be followed ends it, or is treated as the policy says.
    fn on_schema_change(&mut self, change: query::SchemaChange, written: &Written) -> Result<()> {
        let Some(follower) = &self.follower else { return self.on_unfollowed(change) };
        if self.open.as_ref().is_some_and(|o| o.behind || o.half) {
            return Ok(());
        }
        if self.policy == SchemaPolicy::Stop && (change.deep || change.drops_database.is_some()) {
            if follower.concerns(&change) {
                return self.on_unfollowed(change);
            }
            self.skipped.schema += 1;
            return Ok(());
        }
        match follower.follow(&change, written) {
            Ok(None) => {
                self.skipped.schema += 1;
                tracing::debug!(statement = change.text, "a schema change that does not concern the migration");
                Ok(())
            }
            Ok(Some(followed)) => self.altered(followed),
            Err(refused) => {
                if self.policy == SchemaPolicy::StopTable
                    && let Some(stopped) = follower.stopped(&change, &refused.why)
                {
                    tracing::error!(table = %refused.table, why = refused.why, statement = change.text, "the table is not followed any more");
                    return self.altered(stopped);
                }
                let what = format!("a schema change cannot be carried over ({}): {}", refused.why, short(&change.text));
                Err(self.fail(codes::TABLE_CHANGED, what).table(&refused.table).remedy(REMEDY))
            }
        }
    }

    /// A view or a routine of a database that is selected as a whole.
    fn on_object(&mut self, kind: &'static str, name: &TableName, text: &str, written: &Written) -> Result<()> {
        let behind = self.open.as_ref().is_none_or(|o| o.behind || o.half || o.begun);
        let carried = self.policy != SchemaPolicy::Stop && !behind;
        let change = self.follower.as_ref().filter(|_| carried).and_then(|f| f.object(kind, name, text, written));
        match change {
            Some(change) => self.altered(change),
            None => {
                self.skipped.schema += 1;
                Ok(())
            }
        }
    }

    /// What follows is read with the new shapes.
    fn altered(&mut self, change: drover_model::ddl::SchemaChange) -> Result<()> {
        let Some(follower) = &mut self.follower else { return Ok(()) };
        follower.apply(&change);
        self.tables.reshape(super::open::followed_shapes(follower)?);
        match &mut self.open {
            Some(open) if !open.begun => {
                open.schema = Some(Box::new(change));
                Ok(())
            }
            // A MariaDB writes the rows of CREATE TABLE … SELECT behind it.
            _ => {
                let statement = short(change.statement.as_deref().unwrap_or_default());
                let what = format!(
                    "a schema change cannot be carried over (rows follow in the same transaction): {statement}"
                );
                let error = self.fail(codes::TABLE_CHANGED, what).remedy(REMEDY);
                Err(match change.table() {
                    Some(table) => error.table(table),
                    None => error,
                })
            }
        }
    }

    /// Without anything to follow with, a schema change that concerns columns or rows ends the stream.
    fn on_unfollowed(&mut self, change: query::SchemaChange) -> Result<()> {
        let dropped = change.drops_database.as_deref().and_then(|d| self.tables.of_database(d).next());
        let table = change.tables.iter().find_map(|t| self.tables.selected(t)).map(|p| &p.source).or(dropped);
        let Some(table) = table.cloned() else {
            self.skipped.schema += 1;
            return Ok(());
        };
        if self.open.as_ref().is_some_and(|o| o.behind || o.half) {
            return Ok(());
        }
        if !change.deep {
            tracing::info!(%table, statement = change.text, "a schema change that leaves columns and rows alone is not carried over");
            self.skipped.schema += 1;
            self.last_schema_change = Some(change);
            return Ok(());
        }
        let error = self
            .fail(codes::TABLE_CHANGED, format!("the table was changed by {}: {}", change.verb, short(&change.text)));
        self.last_schema_change = Some(change);
        Err(error.table(table).remedy(REMEDY))
    }

    /// A statement of which the log should have rows, or of which it is not known what it does.
    fn on_statement(&mut self, verb: &str, names: &[TableName], text: &str, what: &str) -> Result<()> {
        self.skipped.statements += 1;
        if self.open.as_ref().is_some_and(|o| o.behind && o.xid.is_none()) {
            return Ok(());
        }
        // A function called by a SELECT may change any table.
        let called = verb == "SELECT" || verb == "DO" || verb == "CALL";
        let table = names.iter().find_map(|n| self.tables.selected(n)).map(|p| p.source.clone());
        if table.is_none() && !called {
            tracing::debug!(verb, "a statement in the log that names no selected table");
            return Ok(());
        }
        let error = self.fail(codes::UNSUPPORTED, format!("{what}: {}", short(text))).remedy(
            "set binlog_format = ROW at the source, for sessions that exist too, and migrate the tables that it changed again",
        );
        Err(match table {
            Some(table) => error.table(table),
            None => error,
        })
    }

    /// A statement's text, from the character set that the client wrote in. What is no character of it, and all beyond ASCII of a character set that
    /// cannot be read, becomes [`UNREAD`].
    fn decoded<'q>(&self, query: &Query<'_>, bytes: &'q [u8]) -> Cow<'q, str> {
        if bytes.is_ascii() {
            return String::from_utf8_lossy(bytes);
        }
        let charset = match query.collation.and_then(|c| self.tables.charset(c)) {
            // Names are UTF-8 then, and so are texts that become a column's.
            None | Some("binary") => Charset::Utf8,
            Some(name) => Charset::of(name).unwrap_or(Charset::Ascii),
        };
        if charset == Charset::Utf8 {
            return String::from_utf8_lossy(bytes);
        }
        let mut text = Vec::with_capacity(bytes.len() * 2);
        charset.put(&mut text, bytes);
        Cow::Owned(String::from_utf8_lossy(&text).into_owned())
    }

    /// Refuses a change of tables of the migration whose names or texts could not be read; comments do not count.
    fn readable(&self, query: &Query<'_>, tables: &[TableName], text: &str) -> Result<()> {
        let unread = |t: &Token<'_>| match t {
            Token::Word(text) | Token::Text(text) => text.contains(UNREAD),
            Token::Name(name) => name.contains(UNREAD),
            Token::Mark(mark) => *mark == UNREAD,
        };
        if !text.contains(UNREAD)
            || self.open.as_ref().is_some_and(|o| o.behind)
            || !tokens(text, query.ansi_quotes, query.no_backslash).iter().any(unread)
        {
            return Ok(());
        }
        let ours = |t: &&TableName| {
            let hidden = t.name.contains(UNREAD) && self.tables.of_database(&t.schema).next().is_some();
            let selected = self.follower.as_ref().is_some_and(|f| f.concerns_table(t));
            hidden || selected || t.schema.contains(UNREAD) || self.tables.selected(t).is_some()
        };
        let Some(table) = tables.iter().find(ours) else { return Ok(()) };
        let charset = query.collation.and_then(|c| self.tables.charset(c)).unwrap_or("utf8mb4");
        let what = format!("a schema change has characters that drover cannot read as {charset}: {}", short(text));
        Err(self
            .fail(codes::TABLE_CHANGED, what)
            .table(table)
            .remedy("migrate the table again; make such changes in a session with SET NAMES utf8mb4"))
    }
}

/// Stands in a statement's text for what could not be read.
const UNREAD: char = char::REPLACEMENT_CHARACTER;

const REMEDY: &str =
    "make the change in another way (see the guide's page on schema changes) or undo it, and migrate the table again";

/// The beginning of a statement, for messages.
fn short(text: &str) -> String {
    const MOST: usize = 300;
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
