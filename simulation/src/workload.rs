//! The application at the source: a small schema with all that makes changes hard, and transactions at random on it.

use crate::{note, sim};
use drover_connectors_memory::{Database, ForeignKey, Row, Transaction, Value};
use drover_model::schema::{Column, DataType, Effect, OldImage, Table, TableName, UniqueKey, Unlogged};
use drover_model::{Error, Result};

/// The schema of all tables.
const SCHEMA: &str = "shop";

fn name(table: &str) -> TableName {
    TableName::new(SCHEMA, table)
}

/// All tables, moved by one migration or by two.
pub fn migrations(n: usize) -> Vec<(String, Vec<TableName>)> {
    let all = ["account", "entry", "heap", "pair", "whole"].map(name);
    match n {
        1 => vec![("shop".into(), all.to_vec())],
        _ => vec![("shop".into(), all[..3].to_vec()), ("stock".into(), all[3..].to_vec())],
    }
}

fn table(table: &str, columns: &[&str], keys: &[(&str, &[&str])], old_image: OldImage, large: &str) -> Table {
    let column = |c: &&str| Column::new(*c, DataType::Text { max: None, padded: false }, "text");
    let key = |(i, (name, columns)): (usize, &(&str, &[&str]))| UniqueKey {
        name: (*name).into(),
        primary: i == 0,
        columns: columns.iter().map(|c| (*c).into()).collect(),
        identifies: i == 0,
    };
    Table {
        keys: keys.iter().enumerate().map(key).collect(),
        physical: format!("{table} as created"),
        options: (!large.is_empty()).then(|| ("large".into(), large.into())).into_iter().collect(),
        ..Table::new(name(table), columns.iter().map(column).collect(), old_image)
    }
}

/// Creates the schema.
pub fn create(db: &Database) {
    // A source such as InnoDB logs whole rows, and nothing of what its foreign keys do.
    let logged = sim::chance(700_000);
    let key = if logged { OldImage::Key } else { OldImage::Full };
    db.create(table(
        "account",
        &["id", "email", "nick", "balance", "note"],
        &[("account_pk", &["id"]), ("account_email", &["email"]), ("account_nick", &["nick"])],
        key,
        "note",
    ));
    let effect = if sim::chance(700_000) { Effect::Cascade } else { Effect::SetNull };
    let foreign = ForeignKey {
        child: name("entry"),
        columns: vec!["account".into()],
        parent: name("account"),
        references: vec!["id".into()],
        effect,
        logged,
    };
    let unlogged = Unlogged {
        name: "entry_account".into(),
        parent: foreign.parent.clone(),
        columns: foreign.columns.clone(),
        references: foreign.references.clone(),
        on_delete: Some(effect),
        on_update: Some(effect),
    };
    let entry = table(
        "entry",
        &["id", "account", "number", "text"],
        &[("entry_pk", &["id"]), ("entry_number", &["account", "number"])],
        key,
        "text",
    );
    db.create(Table { unlogged: if logged { Vec::new() } else { vec![unlogged] }, ..entry });
    db.create(table("heap", &["a", "b"], &[], OldImage::Full, ""));
    db.create(table("pair", &["x", "y", "value"], &[("pair_pk", &["x", "y"])], key, ""));
    db.create(table(
        "whole",
        &["id", "code", "value"],
        &[("whole_pk", &["id"]), ("whole_code", &["code"])],
        OldImage::Full,
        "",
    ));
    db.add_foreign_key(foreign);
}

fn text(n: u64) -> Value {
    Some(n.to_string().into_bytes())
}

fn filler(most: u64) -> Value {
    let n = sim::below(most) as usize;
    let letter = b'a' + sim::below(26) as u8;
    Some(vec![letter; n])
}

/// How the application is.
#[derive(Debug, Clone, Copy)]
pub struct Habits {
    /// Keys that rows move among: few, so that they meet.
    pub ids: u64,
    /// Statements of a transaction at most.
    pub statements: u64,
    /// Bytes of small values at most.
    pub bytes: u64,
    /// Many a transaction touches nothing but the one table that bears a blurred snapshot.
    pub apart: bool,
}

struct Work<'a> {
    tx: &'a mut Transaction,
    ids: u64,
    large: u64,
}

/// Fills the tables, so that there is something to copy.
pub fn fill(db: &Database, habits: Habits, transactions: u64) {
    for _ in 0..transactions {
        // What is refused is passed over.
        let _ = db.transact(|tx| {
            let mut work = Work { tx, ids: habits.ids, large: habits.bytes };
            (0..4).try_for_each(|_| match sim::below(8) {
                0..3 => work.attempt(Work::insert_account),
                3 => work.attempt(Work::heap),
                4 => work.attempt(Work::pair),
                5 => work.attempt(Work::whole),
                _ => work.attempt(Work::entry),
            })
        });
    }
}

/// One transaction of the application, sometimes rolled back. Says whether it was committed.
pub fn transact(db: &Database, habits: Habits) -> bool {
    let statements = sim::between(1, habits.statements + 1);
    let apart = habits.apart && sim::chance(600_000);
    let done = db.transact(|tx| {
        let mut work = Work { tx, ids: habits.ids, large: habits.bytes };
        for _ in 0..statements {
            if apart { work.attempt(Work::pair)? } else { work.statement()? }
        }
        if sim::chance(50_000) { Err(Error::internal("rolled back")) } else { Ok(()) }
    });
    note!("the application {} at {}", if done.is_ok() { "commits" } else { "rolls back" }, db.position().text);
    done.is_ok()
}

impl Work<'_> {
    fn rows(&self, table: &str) -> Result<Vec<Row>> {
        self.tx.rows(&name(table))
    }

    fn some(&self, table: &str) -> Result<Option<Row>> {
        Ok(sim::pick(&self.rows(table)?).cloned())
    }

    /// What the database refuses is passed over, as an application does that carries on.
    fn attempt(&mut self, statement: fn(&mut Self) -> Result<()>) -> Result<()> {
        let before = self.tx.savepoint();
        if statement(self).is_err() {
            self.tx.rollback_to(before);
        }
        Ok(())
    }

    fn statement(&mut self) -> Result<()> {
        self.attempt(match sim::below(200) {
            0..40 => Work::insert_account,
            40..64 => Work::update_account,
            64..84 => Work::swap,
            84..100 => Work::move_account,
            100..110 => Work::delete_account,
            110..136 => Work::entry,
            136..160 => Work::heap,
            160..176 => Work::pair,
            176..194 => Work::whole,
            194..195 => Work::truncate,
            195..197 => Work::rotate,
            _ => Work::many,
        })
    }

    fn insert_account(&mut self) -> Result<()> {
        let id = sim::below(self.ids);
        let nick = if sim::chance(300_000) { None } else { text(sim::below(self.ids)) };
        let row = vec![text(id), text(sim::below(self.ids)), nick, text(sim::below(1000)), filler(self.large * 4)];
        self.tx.insert(&name("account"), row)
    }

    fn update_account(&mut self) -> Result<()> {
        let Some(row) = self.some("account")? else { return Ok(()) };
        let set: (&str, Value) = match sim::below(4) {
            0 => ("email", text(sim::below(self.ids))),
            1 => ("nick", if sim::chance(400_000) { None } else { text(sim::below(self.ids)) }),
            2 => ("note", filler(self.large * 4)),
            _ => ("balance", text(sim::below(1000))),
        };
        self.tx.update(&name("account"), &row[..1], &[set])
    }

    /// Two rows exchange a unique value, by way of a third one.
    fn swap(&mut self) -> Result<()> {
        let (Some(a), Some(b)) = (self.some("account")?, self.some("account")?) else { return Ok(()) };
        if a[0] == b[0] {
            return Ok(());
        }
        let account = name("account");
        let (column, i) = if sim::chance(500_000) { ("email", 1) } else { ("nick", 2) };
        let between = if i == 2 { None } else { Some(b"between".to_vec()) };
        self.tx.update(&account, &a[..1], &[(column, between)])?;
        self.tx.update(&account, &b[..1], &[(column, a[i].clone())])?;
        self.tx.update(&account, &a[..1], &[(column, b[i].clone())])
    }

    /// A row gets another key; its entries follow.
    fn move_account(&mut self) -> Result<()> {
        let Some(row) = self.some("account")? else { return Ok(()) };
        self.tx.update(&name("account"), &row[..1], &[("id", text(sim::below(self.ids)))])
    }

    fn delete_account(&mut self) -> Result<()> {
        let Some(row) = self.some("account")? else { return Ok(()) };
        self.tx.delete(&name("account"), &row[..1])
    }

    fn entry(&mut self) -> Result<()> {
        let entry = name("entry");
        match sim::below(5) {
            0..3 => {
                let Some(account) = self.some("account")? else { return Ok(()) };
                let row = vec![
                    text(sim::below(3 * self.ids)),
                    account[0].clone(),
                    text(sim::below(6)),
                    filler(self.large * 8),
                ];
                self.tx.insert(&entry, row)
            }
            3 => {
                let Some(row) = self.some("entry")? else { return Ok(()) };
                let set = match sim::below(3) {
                    0 => ("id", text(sim::below(3 * self.ids))),
                    1 => ("number", text(sim::below(6))),
                    _ => ("text", filler(self.large * 8)),
                };
                self.tx.update(&entry, &row[..1], &[set])
            }
            _ => {
                let Some(row) = self.some("entry")? else { return Ok(()) };
                self.tx.delete(&entry, &row[..1])
            }
        }
    }

    /// A table without a key: equal rows are many rows.
    fn heap(&mut self) -> Result<()> {
        let heap = name("heap");
        let some = self.some("heap")?;
        match (sim::below(4), some) {
            (0, Some(row)) => self.tx.delete(&heap, &row),
            (1, Some(row)) => self.tx.update(&heap, &row, &[("b", text(sim::below(3)))]),
            _ => self.tx.insert(&heap, vec![text(sim::below(8)), text(sim::below(3))]),
        }
    }

    fn pair(&mut self) -> Result<()> {
        let pair = name("pair");
        let some = self.some("pair")?;
        match (sim::below(5), some) {
            (0, Some(row)) => self.tx.delete(&pair, &row[..2]),
            (1, Some(row)) => self.tx.update(&pair, &row[..2], &[("x", text(sim::below(8)))]),
            (2, Some(row)) => self.tx.update(&pair, &row[..2], &[("value", filler(self.large))]),
            _ => self.tx.insert(&pair, vec![text(sim::below(8)), text(sim::below(8)), filler(self.large)]),
        }
    }

    fn whole(&mut self) -> Result<()> {
        let whole = name("whole");
        let some = self.some("whole")?;
        match (sim::below(6), some) {
            (0, Some(row)) => self.tx.delete(&whole, &row[..1]),
            (1, Some(row)) => self.tx.update(&whole, &row[..1], &[("id", text(sim::below(self.ids)))]),
            (2, Some(row)) => self.tx.update(&whole, &row[..1], &[("code", text(sim::below(self.ids)))]),
            (3, Some(row)) => self.tx.update(&whole, &row[..1], &[("value", filler(self.large))]),
            _ => {
                let code = if sim::chance(200_000) { None } else { text(sim::below(self.ids)) };
                self.tx.insert(&whole, vec![text(sim::below(self.ids)), code, filler(self.large)])
            }
        }
    }

    fn truncate(&mut self) -> Result<()> {
        let emptied = match sim::below(4) {
            0 => vec![name("heap")],
            1 => vec![name("entry")],
            2 => vec![name("pair"), name("whole")],
            _ => vec![name("account"), name("entry")],
        };
        self.tx.truncate(&emptied)
    }

    /// Unique values go round among all rows.
    fn rotate(&mut self) -> Result<()> {
        let whole = name("whole");
        let rows = self.rows("whole")?;
        for row in &rows {
            self.tx.update(&whole, &row[..1], &[("code", None)])?;
        }
        for (i, row) in rows.iter().enumerate() {
            let code = rows[(i + 1) % rows.len()][1].clone();
            self.tx.update(&whole, &row[..1], &[("code", code)])?;
        }
        Ok(())
    }

    /// A large transaction: it comes in pieces.
    fn many(&mut self) -> Result<()> {
        for _ in 0..sim::between(30, 120) {
            self.attempt(match sim::below(4) {
                0 => Work::heap,
                1 => Work::entry,
                2 => Work::insert_account,
                _ => Work::update_account,
            })?;
        }
        Ok(())
    }
}
