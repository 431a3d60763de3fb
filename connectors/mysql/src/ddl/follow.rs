//! What of a schema change belongs to the migration. Pure. Guarantee: a statement about a table of the migration becomes a [`SchemaChange`] that
//! holds all of it, or an error that names table, statement and reason; only statements about other tables are passed over.
//!
//! Tools that change schemas online (gh-ost, pt-online-schema-change) fill a copy beside the table and exchange the two by RENAME. The copy is known
//! by its name: its structure is followed, its rows are not, and in the exchange the table takes on the structure of the copy.

use super::column::{Env, Texts};
use super::numbers;
use super::parse::{Action, Statement, parse};
use super::shape::{self, Altered};
use super::text::{Modes, plain};
use super::zone::{self, Zone};
use crate::binlog::event::Query;
use crate::binlog::query;
use crate::check;
use crate::typemap;
use crate::types::MyType;
use drover_model::TablePlan;
use drover_model::ddl::{Moves, SchemaChange, Schemas, TableChange, widens};
use drover_model::plan::RowFormat;
use drover_model::schema::{Column, Object, Phase, PlainDefault, PlainForeignKey, Table, TableName};
use drover_model::selection::{Selection, TableChoice};
use std::collections::BTreeMap;

/// Why a schema change cannot be followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// A table of the migration that it is about.
    pub table: TableName,
    pub why: String,
}

/// What the log says of the session that wrote a statement.
#[derive(Debug, Clone, Default)]
pub struct Written {
    pub modes: Modes,
    /// Names of the modes that values are converted by.
    pub sql_mode: String,
    /// When, seconds since the Unix epoch and microseconds.
    pub seconds: u32,
    pub micros: u32,
    pub zone: Option<String>,
    /// See [`Query::steps`].
    pub steps: bool,
    /// See [`Query::explicit_timestamps`].
    pub explicit_timestamps: Option<bool>,
    /// See [`Query::defaults`].
    pub defaults: Vec<u16>,
}

impl Written {
    pub fn of(query: &Query<'_>, seconds: u32) -> Written {
        const REAL_AS_FLOAT: u64 = 1;
        // Modes that decide about values; how texts are written is our own matter.
        const MODES: [(u64, &str); 11] = [
            (0x8_0000, "NO_AUTO_VALUE_ON_ZERO"),
            (0x20_0000, "STRICT_TRANS_TABLES"),
            (0x40_0000, "STRICT_ALL_TABLES"),
            (0x80_0000, "NO_ZERO_IN_DATE"),
            (0x100_0000, "NO_ZERO_DATE"),
            (0x200_0000, "ALLOW_INVALID_DATES"),
            (0x400_0000, "ERROR_FOR_DIVISION_BY_ZERO"),
            (0x20, "ONLY_FULL_GROUP_BY"),
            (0x40, "NO_UNSIGNED_SUBTRACTION"),
            (0x2, "PIPES_AS_CONCAT"),
            (0x4000_0000, "NO_ENGINE_SUBSTITUTION"),
        ];
        let named: Vec<&str> = MODES.iter().filter(|(bit, _)| query.mode & bit != 0).map(|(_, name)| *name).collect();
        Written {
            modes: Modes {
                ansi_quotes: query.ansi_quotes,
                no_backslash: query.no_backslash,
                real_is_float: query.mode & REAL_AS_FLOAT != 0,
            },
            sql_mode: named.join(","),
            seconds,
            micros: query.micros.unwrap_or(0),
            zone: query.zone.map(|z| String::from_utf8_lossy(z).into_owned()),
            steps: query.steps,
            explicit_timestamps: query.explicit_timestamps,
            defaults: query.defaults().collect(),
        }
    }
}

/// Character sets that have every character.
const WHOLE: [&str; 4] = ["utf8mb4", "utf16", "utf16le", "utf32"];

/// Another kind of database converts nothing as this one does: values have to stay what they are.
fn keeps(change: &TableChange, plan: &TablePlan, now: &Table) -> Result<(), String> {
    let Some(before) = change.before.as_ref().filter(|_| !change.apart) else { return Ok(()) };
    for new in now.columns.iter().filter(|c| plan.columns.iter().any(|p| p.source == c.name)) {
        let renamed = change.renamed.iter().find(|(_, to)| *to == new.name).map(|(from, _)| from);
        let old = before.column(renamed.unwrap_or(&new.name)).filter(|_| !change.anew.contains(&new.name));
        // A set that lacks characters of the one before: the server may have made question marks of them.
        let set = |c: &Column| MyType::parse(&c.origin_type).filter(MyType::is_text).and_then(|t| t.charset);
        let poorer = |old: &Column| {
            let (was, is) = (set(old), set(new));
            was != is && was.as_deref() != Some("ascii") && is.is_some_and(|s| !WHOLE.contains(&s.as_str()))
        };
        if let Some(old) = old.filter(|old| !widens(&old.data_type, &new.data_type) || poorer(old)) {
            return Err(format!(
                "column {} was converted from {} to {}: what became of its values is not told to another kind of database",
                new.name, old.origin_type, new.origin_type
            ));
        }
    }
    Ok(())
}

/// At a destination of the same family the table gets the same engine; without transactions its rows would be doubled when drover is killed.
fn transactional(change: &TableChange) -> Result<(), String> {
    let engine = |t: &Table| t.options.get("engine").cloned().unwrap_or_else(|| "InnoDB".to_owned());
    match change.after.as_ref().filter(|_| !change.apart).map(engine) {
        Some(now) if !check::transactional(&now) && change.before.as_ref().map(engine).as_ref() != Some(&now) => {
            Err(format!("the table gets the engine {now}, which has no transactions"))
        }
        _ => Ok(()),
    }
}

/// Foreign keys that tables keep follow the names of what they refer to.
fn refer(changes: &mut [TableChange]) {
    let moves = Moves::of(changes);
    for change in changes {
        let (Some(before), Some(after)) = (&change.before, &mut change.after) else { continue };
        for key in &mut after.plain_foreign_keys {
            let same =
                |k: &PlainForeignKey| (&k.name, &k.parent, &k.references) == (&key.name, &key.parent, &key.references);
            if before.plain_foreign_keys.iter().any(same) {
                moves.refer(key);
            }
        }
    }
}

/// Rows that are written without a word of this column need not agree in it.
fn computed(column: &Column) -> bool {
    let expression = column.default.as_ref().is_some_and(|d| !d.eq_ignore_ascii_case("null"))
        && !matches!(column.plain_default, Some(PlainDefault::Value(_)));
    column.identity.is_some() || column.generated.is_none() && expression
}

/// The option of a helper table that keeps which of its columns had other names when it was made: a JSON list of pairs.
const RENAMED: &str = "drover.renamed";

/// Follows the structures of the migration's tables, statement by statement.
#[derive(Debug, Clone)]
pub struct Follower {
    pub schemas: Schemas,
    selection: Selection,
    env: Env,
    /// The server's names have no case.
    folds: bool,
}

/// Tables while a statement is worked off: by their present names.
struct Scene {
    tables: Vec<Actor>,
}

#[derive(Clone)]
struct Actor {
    id: Option<u32>,
    /// As it was before the statement.
    before: Option<Table>,
    now: Table,
    renamed: Vec<(String, String)>,
    anew: Vec<String>,
    clauses: Vec<String>,
    touched: bool,
    dropped: bool,
}

impl Follower {
    pub fn new(schemas: Schemas, selection: Selection, env: Env, folds: bool) -> Follower {
        Follower { schemas, selection, env, folds }
    }

    fn same(&self, a: &TableName, b: &TableName) -> bool {
        if self.folds {
            a.schema.eq_ignore_ascii_case(&b.schema) && a.name.eq_ignore_ascii_case(&b.name)
        } else {
            a == b
        }
    }

    fn known(&self, name: &TableName) -> Option<&Table> {
        self.schemas.catalog.tables.iter().find(|t| self.same(&t.name, name))
    }

    fn id_of(&self, name: &TableName) -> Option<u32> {
        self.schemas.plans.iter().find(|p| !p.is_gone() && self.same(&p.source, name)).map(|p| p.id)
    }

    /// Whether the selection takes a table of this name.
    fn selects(&self, name: &TableName) -> bool {
        !matches!(self.selection.decide(&name.schema, &name.name, &[]), Ok(None)) && self.helped(name).is_none()
    }

    /// The table that a helper table of an online tool belongs to, by its name.
    fn helped(&self, name: &TableName) -> Option<&Table> {
        const ENDS: [&str; 5] = ["_gho", "_ghc", "_del", "_new", "_old"];
        let inner = name.name.strip_prefix('_')?;
        let end = ENDS.iter().find(|e| inner.ends_with(**e))?;
        let inner = inner[..inner.len() - end.len()].trim_start_matches('_');
        self.schemas.catalog.tables.iter().find(|t| {
            let stamped = inner.strip_prefix(&t.name.name).is_some_and(|s| {
                s.is_empty() || s.strip_prefix('_').is_some_and(|s| s.chars().all(|c| c.is_ascii_digit()))
            });
            t.name.schema == name.schema && stamped && self.id_of(&t.name).is_some()
        })
    }

    /// Whether a statement is about the migration at all: what is not need not be understood.
    pub fn concerns(&self, change: &query::SchemaChange) -> bool {
        let gone =
            |d: &String| self.schemas.plans.iter().any(|p| !p.is_gone() && p.source.schema.eq_ignore_ascii_case(d));
        change.drops_database.as_ref().is_some_and(gone) || change.tables.iter().any(|t| self.concerns_table(t))
    }

    /// Whether a table of this name belongs to the migration, or would if it were made.
    pub fn concerns_table(&self, name: &TableName) -> bool {
        self.known(name).is_some() || self.helped(name).is_some() || self.selects(name)
    }

    /// A table of the migration that a statement is about, for messages.
    pub fn table_of(&self, change: &query::SchemaChange) -> Option<TableName> {
        let of_database = || {
            let database = change.drops_database.as_ref()?;
            self.schemas.plans.iter().find(|p| !p.is_gone() && p.source.schema == *database).map(|p| p.source.clone())
        };
        let known = change.tables.iter().find(|t| self.id_of(t).is_some());
        known.or(change.tables.first()).cloned().or_else(of_database)
    }

    /// What a statement does to the migration; `None`: nothing.
    ///
    /// # Errors
    /// It cannot be followed.
    pub fn follow(&self, change: &query::SchemaChange, written: &Written) -> Result<Option<SchemaChange>, Refused> {
        if !self.concerns(change) {
            return Ok(None);
        }
        let name = self.table_of(change).unwrap_or_else(|| TableName::new(change.database.clone(), ""));
        self.followed(change, written).map_err(|why| Refused { table: name, why })
    }

    fn followed(&self, change: &query::SchemaChange, written: &Written) -> Result<Option<SchemaChange>, String> {
        if change.drops_database.is_some() {
            return Err("the whole database is dropped".into());
        }
        let env = self.env_of(written);
        let text = plain(&change.text, written.modes);
        let statement = parse(&text, &change.database).map_err(|e| e.to_string())?;
        let mut scene = Scene { tables: Vec::new() };
        for table in &self.schemas.catalog.tables {
            scene.tables.push(Actor {
                id: self.id_of(&table.name),
                before: Some(table.clone()),
                now: table.clone(),
                renamed: Vec::new(),
                anew: Vec::new(),
                clauses: Vec::new(),
                touched: false,
                dropped: false,
            });
        }
        match statement {
            Statement::Alter { table, actions, .. } => {
                if let Some(at) = self.find(&scene, &table) {
                    alter(&mut scene.tables[at], &actions, &env)?;
                }
                let to = actions.iter().find_map(|a| match a {
                    Action::RenameTable(to) => Some(to),
                    _ => None,
                });
                if let Some(to) = to {
                    self.rename(&mut scene, &[(table, to.clone())])?;
                }
            }
            Statement::Create { table, lenient, replaces, body } => {
                if self.makes(&mut scene, &table, lenient, replaces)? {
                    if body.rows_follow {
                        return Err("the new table is filled by the same statement".into());
                    }
                    let made = shape::create(&table, &body, &self.texts(&table.schema)?, &env)?;
                    scene.tables.push(Actor::new(made));
                }
            }
            Statement::CreateLike { table, lenient, replaces, like } => {
                if self.makes(&mut scene, &table, lenient, replaces)? {
                    let like = self.known(&like).ok_or_else(|| format!("{like} is not part of the migration"))?;
                    scene.tables.push(Actor::new(shape::like(like, &table, &env)));
                }
            }
            Statement::Drop { tables, .. } => {
                for table in &tables {
                    if let Some(at) = self.find(&scene, table) {
                        scene.tables[at].dropped = true;
                    }
                }
            }
            Statement::Rename { pairs, .. } => self.rename(&mut scene, &pairs)?,
        }
        let mut tables = self.changes(scene)?;
        if tables.is_empty() {
            return Ok(None);
        }
        let (zone, mut context) = (self.zone(written), self.context(&change.database, written));
        for table in tables.iter().filter(|t| !t.apart && t.id.is_some()) {
            let foreign = table.plan.as_ref().is_some_and(|p| p.format == RowFormat::Canonical);
            numbers::told(table, written.steps)?;
            if !foreign {
                transactional(table)?;
            }
            if zone::needed(table, &zone, foreign)? {
                context.insert(zone::NEEDED.to_owned(), "1".to_owned());
            }
        }
        // Rows of a table that takes another's place were written at other times.
        let stays = |c: &&mut TableChange| {
            change.verb == "ALTER TABLE" && c.before.as_ref().map(|b| &b.name) == c.after.as_ref().map(|a| &a.name)
        };
        for table in tables.iter_mut().filter(stays) {
            table.filled = zone::moments(table, written, &zone);
        }
        Ok(Some(SchemaChange {
            verb: change.verb.to_owned(),
            statement: Some(change.text.clone()),
            context,
            tables,
            objects: Vec::new(),
        }))
    }

    /// What definitions mean in the session that wrote a statement.
    fn env_of(&self, written: &Written) -> Env {
        let mut env = Env { modes: written.modes, ..self.env.clone() };
        // These servers say what differs from the collations that character sets came with, and nothing where none does.
        if self.env.known.version.mariadb(110_201) {
            for charset in ["utf8mb3", "utf8mb4", "ucs2", "utf16", "utf32"] {
                env.known.defaults.insert(charset.to_owned(), format!("{charset}_general_ci"));
            }
        }
        for collation in written.defaults.iter().filter_map(|number| self.env.names.get(number)) {
            let charset = env.charset_of(collation, "");
            env.known.defaults.insert(charset, collation.clone());
        }
        env.explicit_timestamps = written.explicit_timestamps.unwrap_or(env.explicit_timestamps);
        env
    }

    /// What the statement's meaning depends on, for the destination's session.
    fn context(&self, database: &str, written: &Written) -> BTreeMap<String, String> {
        let mut context = BTreeMap::from([
            ("database".to_owned(), database.to_owned()),
            ("sql_mode".to_owned(), written.sql_mode.clone()),
            ("timestamp".to_owned(), format!("{}.{:06}", written.seconds, written.micros)),
        ]);
        context.extend(self.zone(written).setting().map(|zone| ("time_zone".to_owned(), zone)));
        context
    }

    /// The zone of the session that wrote a statement.
    fn zone(&self, written: &Written) -> Zone {
        let option =
            |name: &str| self.schemas.catalog.objects.iter().find_map(|o| o.options.get(name)?.parse::<i64>().ok());
        Zone::of(written, option("server.zone_seconds"), option("server.zone_until"))
    }

    fn find(&self, scene: &Scene, name: &TableName) -> Option<usize> {
        scene.tables.iter().position(|a| !a.dropped && self.same(&a.now.name, name))
    }

    /// Whether a table of this name is to be made: it belongs to the migration, and is not there.
    fn makes(&self, scene: &mut Scene, name: &TableName, lenient: bool, replaces: bool) -> Result<bool, String> {
        if let Some(at) = self.find(scene, name) {
            if !replaces {
                return if lenient { Ok(false) } else { Err(format!("{name} is there already")) };
            }
            scene.tables[at].dropped = true;
        }
        Ok(self.selects(name) || self.helped(name).is_some())
    }

    /// Character set and collation of a database.
    fn texts(&self, database: &str) -> Result<Texts, String> {
        let objects = &self.schemas.catalog.objects;
        let found = objects.iter().find(|o| o.kind == "database" && o.name.eq_ignore_ascii_case(database));
        let option = |name: &str| found.and_then(|o| o.options.get(name)).cloned();
        match (option("charset"), option("collation")) {
            (Some(charset), Some(collation)) => Ok(Texts { charset: self.env.charset(&charset), collation }),
            _ => Err(format!("the default character set of {database} is not known")),
        }
    }

    fn rename(&self, scene: &mut Scene, pairs: &[(TableName, TableName)]) -> Result<(), String> {
        for (from, to) in pairs {
            match self.find(scene, from) {
                Some(at) => {
                    let actor = &mut scene.tables[at];
                    actor.now = shape::renamed(&actor.now, to);
                    actor.touched = true;
                    for (i, other) in scene.tables.iter_mut().enumerate() {
                        if let Some(referring) = shape::referring(&other.now, from, to)
                            && i != at
                        {
                            other.now = referring;
                            other.touched = true;
                        }
                    }
                }
                None if self.selects(to) => {
                    return Err(format!("{from}, whose rows were never copied, becomes {to}"));
                }
                None => {}
            }
        }
        self.exchange(scene)?;
        for actor in scene.tables.iter().filter(|a| a.touched && !a.dropped) {
            let name = &actor.now.name;
            let was = actor.before.as_ref().map_or(name, |b| &b.name);
            match actor.id {
                Some(_) if !self.selects(name) && !self.same(was, name) => {
                    return Err(format!("{was} becomes {name}, which is not selected"));
                }
                None if self.selects(name) => {
                    return Err(format!("{was}, whose rows were never copied, becomes {name}"));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// A helper table that took the name of its table becomes that table: the number, and with it the rows, stay with the name.
    fn exchange(&self, scene: &mut Scene) -> Result<(), String> {
        for at in 0..scene.tables.len() {
            let actor = &scene.tables[at];
            let Some(before) = actor.before.as_ref().filter(|_| actor.id.is_some() && !actor.dropped) else { continue };
            if self.same(&before.name, &actor.now.name) || self.helped(&actor.now.name).is_none() {
                continue;
            }
            let name = before.name.clone();
            let helper = scene.tables.iter().position(|h| {
                h.id.is_none()
                    && !h.dropped
                    && self.same(&h.now.name, &name)
                    && h.before.as_ref().and_then(|b| self.helped(&b.name)).is_some_and(|t| self.same(&t.name, &name))
            });
            let Some(helper) = helper else { continue };
            let mut new = scene.tables[helper].now.clone();
            if new.options.remove(RENAMED).is_some() {
                return Err(format!(
                    "{} takes the place of {name} with columns under other names: whether their values came along is not told",
                    scene.tables[helper].before.as_ref().map_or(&name, |b| &b.name)
                ));
            }
            if let Some(column) = new.columns.iter().find(|c| before.column(&c.name).is_none() && computed(c)) {
                return Err(format!(
                    "{} takes the place of {name} with the new column {}, whose values were computed row by row: they are not told",
                    scene.tables[helper].before.as_ref().map_or(&name, |b| &b.name),
                    column.name
                ));
            }
            new.options.remove("auto_increment");
            // Triggers of the helper were never made, those of the table stay with what is dropped.
            let old = std::mem::replace(&mut scene.tables[at].now, new);
            let actor = &mut scene.tables[at];
            actor.touched = true;
            scene.tables[helper].now = old;
            scene.tables[helper].touched = true;
        }
        Ok(())
    }

    /// The changes of all tables that were touched.
    fn changes(&self, scene: Scene) -> Result<Vec<TableChange>, String> {
        let mut out = Vec::new();
        let mut next = self.schemas.plans.len() as u32;
        for actor in scene.tables {
            let Actor { id, before, now, renamed, anew, clauses, touched, dropped } = actor;
            if !touched && !dropped {
                continue;
            }
            let mut change = TableChange {
                id,
                before,
                after: None,
                plan: None,
                renamed,
                anew,
                filled: Vec::new(),
                clauses,
                apart: false,
                stopped: None,
            };
            let old = id.and_then(|id| self.schemas.plans.get(id as usize));
            change.apart = old.is_some_and(|p| !p.operations.ddl);
            if dropped {
                out.push(change);
                continue;
            }
            if change.before.is_none() && self.selects(&now.name) {
                change.id = Some(next);
                next += 1;
            }
            if let Some(id) = change.id {
                let plan = self.plan(id, old, &now, &change.renamed)?;
                if plan.format == RowFormat::Canonical {
                    keeps(&change, &plan, &now)?;
                }
                change.apart |= !plan.operations.ddl;
                change.plan = Some(plan);
                if change.before.is_none() && change.apart {
                    // A new table without its creation has no place at the destination.
                    next -= 1;
                    continue;
                }
            }
            change.after = Some(now);
            out.push(change);
        }
        refer(&mut out);
        Ok(out)
    }

    /// The plan of a table as it is now.
    fn plan(
        &self,
        id: u32,
        old: Option<&TablePlan>,
        table: &Table,
        renamed: &[(String, String)],
    ) -> Result<TablePlan, String> {
        let names: Vec<&str> = table.columns.iter().map(|c| c.name.as_str()).collect();
        let choice = match self.selection.decide_again(&table.name.schema, &table.name.name, &names) {
            Ok(Some(choice)) => choice,
            Ok(None) => return Err(format!("{} is not selected", table.name)),
            Err(errors) => return Err(errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")),
        };
        let choice = match old.filter(|p| !p.operations.ddl) {
            Some(old) => choice.kept(old, renamed),
            None => choice,
        };
        // As the other tables are read, whatever this server would do by itself.
        let model = old.or(self.schemas.plans.first());
        let choice = TableChoice { floats: choice.floats.or(model.map(|p| p.floats)), ..choice };
        let mapped = typemap::map_table(&self.schemas.catalog, table, &choice, &self.env.known);
        let mut plan = mapped.plan;
        for column in &mut plan.columns {
            column.ordinal = table.columns.iter().position(|c| c.name == column.source).map(|i| i as u16);
        }
        plan.id = id;
        plan.version = old.map_or(1, |p| p.version + 1);
        plan.format = match model {
            Some(other) => other.format.clone(),
            None => RowFormat::Native(crate::CELLS.into()),
        };
        if let Some(old) = old {
            plan.physical.clone_from(&old.physical);
            if !old.operations.ddl {
                plan.destination = old.destination.clone();
            }
        }
        Ok(plan)
    }

    /// A view or routine as a change of the migration; `None`: its database is not selected as a whole.
    pub fn object(&self, kind: &'static str, name: &TableName, text: &str, written: &Written) -> Option<SchemaChange> {
        if !self.selection.selects_object(&name.schema, &name.name) || written.modes.ansi_quotes {
            return None;
        }
        let context = self.context(&name.schema, written);
        let object = Object {
            kind: kind.to_owned(),
            schema: name.schema.clone(),
            name: name.name.clone(),
            phase: Phase::Base,
            definition: text.to_owned(),
            options: BTreeMap::new(),
            needs: Vec::new(),
        };
        Some(SchemaChange {
            verb: format!("CREATE {}", kind.to_uppercase()),
            statement: Some(text.to_owned()),
            context,
            tables: Vec::new(),
            objects: vec![object],
        })
    }

    /// Other defaults of a database: new tables of it have them from here on. `None`: it is not known, or they stay.
    pub fn database(
        &self,
        name: &str,
        charset: Option<String>,
        collation: Option<String>,
        text: &str,
        written: &Written,
    ) -> Option<SchemaChange> {
        let same = |o: &Object| if self.folds { o.name.eq_ignore_ascii_case(name) } else { o.name == name };
        let mut object = self.schemas.catalog.objects.iter().find(|o| o.kind == "database" && same(o))?.clone();
        let env = self.env_of(written);
        let collation = collation.map(|c| env.collation(&c)).filter(|c| c != "default");
        let charset = charset.map(|c| env.charset(&c)).filter(|c| c != "default");
        let charset = match (charset, &collation) {
            (Some(charset), _) => charset,
            (None, Some(collation)) => env.charset_of(collation, object.options.get("charset")?),
            (None, None) => return None,
        };
        let collation = collation.unwrap_or_else(|| env.known.default_collation(&charset));
        let before = object.options.clone();
        object.options.extend([("charset".to_owned(), charset), ("collation".to_owned(), collation)]);
        (object.options != before).then(|| SchemaChange {
            verb: "ALTER DATABASE".to_owned(),
            statement: Some(text.to_owned()),
            context: self.context(name, written),
            tables: Vec::new(),
            objects: vec![object],
        })
    }

    /// The tables of a statement are not followed any more. `None`: it is about none that is.
    pub fn stopped(&self, change: &query::SchemaChange, why: &str) -> Option<SchemaChange> {
        let of_database = |t: &&Table| change.drops_database.as_ref().is_some_and(|d| *d == t.name.schema);
        let named = |t: &&Table| change.tables.iter().any(|name| self.same(name, &t.name));
        let tables = self.schemas.catalog.tables.iter().filter(|t| named(t) || of_database(t));
        let tables: Vec<TableChange> = tables
            .filter_map(|t| {
                Some(TableChange {
                    id: Some(self.id_of(&t.name)?),
                    before: Some(t.clone()),
                    after: None,
                    plan: None,
                    renamed: Vec::new(),
                    anew: Vec::new(),
                    filled: Vec::new(),
                    clauses: Vec::new(),
                    apart: true,
                    stopped: Some(format!("{why}: {}", change.text.chars().take(300).collect::<String>())),
                })
            })
            .collect();
        (!tables.is_empty()).then(|| SchemaChange {
            verb: change.verb.to_owned(),
            statement: Some(change.text.clone()),
            context: BTreeMap::new(),
            tables,
            objects: Vec::new(),
        })
    }

    /// Takes a change in: what follows is read with it.
    pub fn apply(&mut self, change: &SchemaChange) {
        self.schemas.apply(change);
    }
}

impl Actor {
    fn new(table: Table) -> Actor {
        Actor {
            id: None,
            before: None,
            now: table,
            renamed: Vec::new(),
            anew: Vec::new(),
            clauses: Vec::new(),
            touched: true,
            dropped: false,
        }
    }
}

fn alter(actor: &mut Actor, actions: &[Action], env: &Env) -> Result<(), String> {
    let Altered { mut table, renamed, anew, clauses } = shape::alter(&actor.now, actions, env)?;
    if actor.id.is_none() {
        // A helper: its columns' names before are wanted when it takes its table's place.
        let known = table.options.get(RENAMED).and_then(|json| serde_json::from_str(json).ok());
        let mut all: Vec<(String, String)> = known.unwrap_or_default();
        for (old, new) in &renamed {
            match all.iter_mut().find(|(_, now)| now == old) {
                Some((_, now)) => now.clone_from(new),
                None => all.push((old.clone(), new.clone())),
            }
        }
        if !all.is_empty() {
            table.options.insert(RENAMED.into(), serde_json::to_string(&all).unwrap_or_default());
        }
        if !clauses.is_empty() {
            return Err(format!("a helper table is changed by {}", clauses.join(", ")));
        }
    }
    actor.now = table;
    actor.renamed = renamed;
    actor.anew = anew;
    actor.clauses = clauses;
    actor.touched = true;
    Ok(())
}

#[cfg(test)]
#[path = "follow_tests.rs"]
mod tests;
