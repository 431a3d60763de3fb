//! One session of the workload and what it does.

use anyhow::{Context, Result, bail, ensure};

use super::{Options, SPAN, mysql, postgres};
use crate::random::Random;
use crate::server::{Dialect, Session, deadlock};

/// One session and what it knows of its own rows.
pub struct Writer {
    session: Session,
    options: Options,
    number: i32,
    random: Random,
    /// Keys of its rows in swap, parent, wide, kinds and words; changed only when a transaction commits.
    keys: Keys,
    next_key: i64,
    committed: i64,
    /// Transactions that the server rolled back to end a circle of waiting.
    deadlocks: i64,
}

#[derive(Clone)]
struct Keys {
    swap: Vec<i64>,
    parent: Vec<i64>,
    wide: Vec<i64>,
    kinds: Vec<i64>,
    /// Key and form of each word.
    words: Vec<(i64, i64)>,
}

/// Forms of the word of a key. Collations that ignore case and accents take them for equal.
const FORMS: [&str; 4] = ["word", "WORD", "wörd", "Word"];

fn word(id: i64, form: i64) -> String {
    format!("{} {id}", FORMS[usize::try_from(form).unwrap_or_default() % FORMS.len()])
}

impl Writer {
    pub async fn new(mut session: Session, number: u32, options: Options) -> Result<Writer> {
        let settings = match session.dialect() {
            Dialect::Postgres => format!("SET application_name = 'workload {number}'"),
            // Both are what a session of an application usually has, whatever the server's settings.
            Dialect::MySql => {
                "SET time_zone = '+00:00', sql_mode = 'STRICT_TRANS_TABLES,ERROR_FOR_DIVISION_BY_ZERO'".into()
            }
        };
        session.run(&settings).await?;
        let number = i32::try_from(number)?;
        let first = i64::from(number) * SPAN;
        let own = format!("WHERE id >= {first} AND id < {} ORDER BY id", first + SPAN);
        // A second workload on the same database goes on where the first ended.
        let mut lists = Vec::new();
        for table in ["swap", "parent", "wide", "kinds"] {
            let rows = session.numbers(&format!("SELECT id FROM {table} {own}")).await?;
            lists.push(rows.iter().map(|row| row[0]).collect::<Vec<i64>>());
        }
        let words = session.numbers(&format!("SELECT id, form FROM words {own}")).await?;
        let words: Vec<(i64, i64)> = words.iter().map(|row| (row[0], row[1])).collect();
        let used = lists.iter().flatten().chain(words.iter().map(|(id, _)| id));
        let highest = used.copied().max().unwrap_or(first);
        let committed = session.number(&format!("SELECT n FROM counter WHERE writer = {number}")).await?;
        let [swap, parent, wide, kinds] =
            <[Vec<i64>; 4]>::try_from(lists).map_err(|_| anyhow::anyhow!("four tables"))?;
        let keys = Keys { swap, parent, wide, kinds, words };
        // A state of zero would stay zero.
        let random = Random::of_state(
            (options.seed ^ (u64::from(number.unsigned_abs()) + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15)) | 1,
        );
        Ok(Writer { session, options, number, random, keys, next_key: highest + 1, committed, deadlocks: 0 })
    }

    /// Transactions a second that it begins.
    pub fn rate(&self) -> Option<f64> {
        self.options.rate
    }

    /// One transaction of one to four steps; whether it was committed (some are rolled back on purpose).
    pub async fn transaction(&mut self) -> Result<bool> {
        let before = self.keys.clone();
        match self.attempt().await {
            Ok(true) => Ok(true),
            Ok(false) => {
                self.keys = before;
                Ok(false)
            }
            Err(error) if deadlock(&error) => {
                self.keys = before;
                self.deadlocks += 1;
                ensure!(
                    self.deadlocks < 20 + self.committed / 2,
                    "every second transaction waits in a circle: {error:#}"
                );
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    async fn attempt(&mut self) -> Result<bool> {
        self.session.run(self.pick_sql(postgres::BEGIN, mysql::BEGIN)).await?;
        let mut what = String::new();
        // The shared rows first, once: no circle of waiting.
        if self.below(2) == 0 {
            self.transfer().await.context("transfer")?;
            what.push_str("transfer ");
        }
        for _ in 0..self.below(3) + 1 {
            let undone = self.below(8) == 0;
            let keys = self.keys.clone();
            if undone {
                self.session.run("SAVEPOINT s").await?;
            }
            let step = self.step().await?;
            if undone {
                self.session.run("ROLLBACK TO SAVEPOINT s").await?;
                self.keys = keys;
                what.push_str("undone-");
            }
            what.push_str(step);
            what.push(' ');
        }
        if self.below(12) == 0 {
            self.session.run("ROLLBACK").await?;
            return Ok(false);
        }
        let n = self.committed + 1;
        self.one(&format!("UPDATE counter SET n = {n} WHERE writer = {} AND n = {}", self.number, n - 1), 1).await?;
        self.one(
            &format!("INSERT INTO journal (writer, n, what) VALUES ({}, {n}, '{}')", self.number, what.trim_end()),
            1,
        )
        .await?;
        self.session.run("COMMIT").await?;
        self.committed = n;
        Ok(true)
    }

    /// Runs a statement that must touch exactly `rows` rows.
    async fn one(&mut self, sql: &str, rows: u64) -> Result<()> {
        let touched = self.some(sql).await?;
        if touched != rows {
            bail!("{touched} rows in place of {rows}: {sql}");
        }
        Ok(())
    }

    /// Runs a statement and returns how many rows it touched.
    async fn some(&mut self, sql: &str) -> Result<u64> {
        self.session.execute(sql).await
    }

    /// What is for this engine.
    fn pick_sql<T>(&self, postgres: T, mysql: T) -> T {
        match self.session.dialect() {
            Dialect::Postgres => postgres,
            Dialect::MySql => mysql,
        }
    }

    /// At least 0 and below `end`, which is positive.
    fn below(&mut self, end: i64) -> i64 {
        i64::try_from(self.random.below(end.unsigned_abs())).unwrap_or_default()
    }

    fn fresh(&mut self) -> i64 {
        self.next_key += 1;
        self.next_key
    }

    /// A place in a list of keys.
    fn pick(&mut self, of: usize) -> usize {
        usize::try_from(self.below(i64::try_from(of).unwrap_or(1))).unwrap_or_default()
    }

    async fn transfer(&mut self) -> Result<()> {
        let from = self.below(self.options.accounts) + 1;
        let to = self.below(self.options.accounts) + 1;
        if from == to {
            return self
                .one(&format!("UPDATE accounts SET note = 'idle {}' WHERE id = {from}", self.committed), 1)
                .await;
        }
        let amount = self.below(50) + 1;
        let mut both = [(from, -amount), (to, amount)];
        both.sort_unstable();
        for (id, change) in both {
            self.one(&format!("UPDATE accounts SET balance = balance + {change} WHERE id = {id}"), 1).await?;
        }
        Ok(())
    }

    async fn step(&mut self) -> Result<&'static str> {
        let step = self.below(15);
        match step {
            0 | 1 => self.swap_spots().await.context("swap"),
            2 => self.move_key("swap").await.context("key of swap"),
            3 => self.move_key("wide").await.context("key of wide"),
            4 => self.parent().await.context("parent"),
            5 | 6 => self.child().await.context("child"),
            7 | 8 => self.keyless().await.context("keyless"),
            9 | 10 => self.wide().await.context("wide"),
            11 | 12 => self.words().await.context("words"),
            _ => self.kinds().await.context("kinds"),
        }
    }

    /// Two or three rows exchange the values of a unique column by way of a value that nobody else has.
    async fn swap_spots(&mut self) -> Result<&'static str> {
        let count = if self.below(3) == 0 { 3 } else { 2 };
        let start = self.pick(self.keys.swap.len());
        let rows: Vec<i64> = (0..count).map(|i| self.keys.swap[(start + i) % self.keys.swap.len()]).collect();
        let list = rows.iter().map(i64::to_string).collect::<Vec<_>>().join(", ");
        let found = self.session.numbers(&format!("SELECT id, spot FROM swap WHERE id IN ({list})")).await?;
        let spot = |id: i64| found.iter().find(|row| row[0] == id).map(|row| row[1]);
        let spots: Vec<i64> = rows.iter().filter_map(|id| spot(*id)).collect();
        if spots.len() != rows.len() {
            bail!("rows {list} are not all there");
        }
        let aside = i64::from(self.number) + 1;
        self.one(&format!("UPDATE swap SET spot = {aside} WHERE id = {}", rows[0]), 1).await?;
        for i in 1..rows.len() {
            self.one(&format!("UPDATE swap SET spot = {} WHERE id = {}", spots[i - 1], rows[i]), 1).await?;
        }
        self.one(
            &format!(
                "UPDATE swap SET spot = {}, label = 'swap {}' WHERE id = {}",
                spots[rows.len() - 1],
                self.committed,
                rows[0]
            ),
            1,
        )
        .await?;
        Ok("swap")
    }

    /// A row's primary key changes; its large values do not, so the log leaves them out.
    async fn move_key(&mut self, table: &str) -> Result<&'static str> {
        let new = self.fresh();
        let keys = if table == "swap" { self.keys.swap.len() } else { self.keys.wide.len() };
        let place = self.pick(keys);
        let keys = if table == "swap" { &mut self.keys.swap } else { &mut self.keys.wide };
        let old = std::mem::replace(&mut keys[place], new);
        self.one(&format!("UPDATE {table} SET id = {new} WHERE id = {old}"), 1).await?;
        // The key that was left is taken again at once, now and then: order within the transaction decides.
        if self.below(3) == 0 {
            self.one(&format!("UPDATE {table} SET id = {old} WHERE id = {new}"), 1).await?;
            let keys = if table == "swap" { &mut self.keys.swap } else { &mut self.keys.wide };
            keys[place] = old;
        }
        Ok("key")
    }

    async fn parent(&mut self) -> Result<&'static str> {
        let place = self.pick(self.keys.parent.len());
        let old = self.keys.parent[place];
        let new = self.fresh();
        match self.below(3) {
            0 => {
                self.one(&format!("INSERT INTO parent VALUES ({new}, 'parent {new}')"), 1).await?;
                self.one(&format!("INSERT INTO child (parent, amount) VALUES ({new}, 1.5), ({new}, 2.125)"), 2).await?;
                self.keys.parent.push(new);
            }
            1 if i64::try_from(self.keys.parent.len())? > self.options.rows / 2 => {
                self.one(&format!("DELETE FROM parent WHERE id = {old}"), 1).await?;
                self.keys.parent.swap_remove(place);
            }
            _ => {
                self.one(
                    &format!("UPDATE parent SET id = {new}, name = 'parent {new} (was {old})' WHERE id = {old}"),
                    1,
                )
                .await?;
                self.keys.parent[place] = new;
            }
        }
        Ok("parent")
    }

    async fn child(&mut self) -> Result<&'static str> {
        let (one, two) = (self.pick(self.keys.parent.len()), self.pick(self.keys.parent.len()));
        let (one, two) = (self.keys.parent[one], self.keys.parent[two]);
        let amount = self.below(1000);
        let first = self.pick_sql(postgres::first_child(one), mysql::first_child(one));
        match self.below(4) {
            0 => self.some(&format!("DELETE FROM child WHERE {first}")).await?,
            1 => self.some(&format!("UPDATE child SET parent = {two} WHERE {first}")).await?,
            2 => self.some(&format!("UPDATE child SET amount = amount + 0.125 WHERE parent = {one}")).await?,
            _ => self.some(&format!("INSERT INTO child (parent, amount) VALUES ({one}, {amount})")).await?,
        };
        Ok("child")
    }

    /// Rows that are equal in all columns come and go; statements touch all or one of them.
    async fn keyless(&mut self) -> Result<&'static str> {
        let (owner, what, amount) = (self.number, self.below(7), self.below(5));
        let other = self.below(5);
        let row = format!("owner = {owner} AND what = 'thing {what}' AND amount = {amount}");
        let one = self.pick_sql(postgres::one_of("keyless", &row), mysql::one_of(&row));
        match self.below(5) {
            0 => self.some(&format!("UPDATE keyless SET amount = {other} WHERE {row}")).await?,
            1 => self.some(&format!("UPDATE keyless SET what = NULL WHERE {one}")).await?,
            2 => self.some(&format!("DELETE FROM keyless WHERE {one}")).await?,
            3 => self.some(&format!("DELETE FROM keyless WHERE owner = {owner} AND what IS NULL")).await?,
            _ => {
                let value = format!("({owner}, 'thing {what}', {amount})");
                let twice = if self.below(2) == 0 { value.clone() } else { format!("{value}, {value}") };
                let sql = format!("INSERT INTO keyless VALUES {twice}");
                self.some(&sql).await?
            }
        };
        Ok("keyless")
    }

    /// Mostly the small column alone changes: the log then carries no large value.
    async fn wide(&mut self) -> Result<&'static str> {
        let place = self.pick(self.keys.wide.len());
        let id = self.keys.wide[place];
        let (salt, size) = (self.below(1 << 40), self.below(1200));
        let large = self.pick_sql(postgres::large(salt, size), mysql::large(salt, size));
        let bytes = self.pick_sql(postgres::bytes(salt), mysql::bytes(salt));
        match self.below(10) {
            0 => self.one(&format!("UPDATE wide SET large = {large} WHERE id = {id}"), 1).await?,
            1 => self.one(&format!("UPDATE wide SET other = {bytes}, small = small + 1 WHERE id = {id}"), 1).await?,
            2 => self.one(&format!("UPDATE wide SET large = NULL WHERE id = {id}"), 1).await?,
            3 => {
                let new = self.fresh();
                self.one(&format!("DELETE FROM wide WHERE id = {id}"), 1).await?;
                self.one(&format!("INSERT INTO wide VALUES ({new}, 1, {large}, NULL)"), 1).await?;
                self.keys.wide[place] = new;
            }
            _ => self.one(&format!("UPDATE wide SET small = small + 1 WHERE id = {id}"), 1).await?,
        }
        Ok("wide")
    }

    async fn kinds(&mut self) -> Result<&'static str> {
        let place = self.pick(self.keys.kinds.len());
        let (id, n) = (self.keys.kinds[place], self.below(2_000_000));
        let values = self.pick_sql(postgres::kinds(&n.to_string()), mysql::kinds(&n.to_string()));
        match self.below(4) {
            0 => {
                let new = self.fresh();
                self.one(&format!("INSERT INTO kinds SELECT {new}, {values}"), 1).await?;
                self.keys.kinds.push(new);
            }
            1 if i64::try_from(self.keys.kinds.len())? > self.options.rows / 2 => {
                self.one(&format!("DELETE FROM kinds WHERE id = {id}"), 1).await?;
                self.keys.kinds.swap_remove(place);
            }
            2 => {
                self.one(&format!("DELETE FROM kinds WHERE id = {id}"), 1).await?;
                self.one(&format!("INSERT INTO kinds SELECT {id}, {values}"), 1).await?;
            }
            _ => {
                let change = self.pick_sql(postgres::kinds_change(n), mysql::kinds_change(n));
                let sql = format!("UPDATE kinds SET {change} WHERE id = {id}");
                self.one(&sql, 1).await?;
            }
        }
        Ok("kinds")
    }

    /// A text key changes its case or an accent, is freed and taken again in another form, or is left alone.
    async fn words(&mut self) -> Result<&'static str> {
        let place = self.pick(self.keys.words.len());
        let (id, form) = self.keys.words[place];
        let (old, form) = (word(id, form), (form + 1 + self.below(3)) % 4);
        let new = word(id, form);
        match self.below(5) {
            0 => self.one(&format!("UPDATE words SET word = '{new}', form = {form} WHERE word = '{old}'"), 1).await?,
            1 => {
                let sql =
                    format!("UPDATE words SET word = '{new}', form = {form}, latin = '{new}' WHERE word = '{old}'");
                self.one(&sql, 1).await?;
            }
            2 => {
                self.one(&format!("DELETE FROM words WHERE word = '{old}'"), 1).await?;
                self.one(&format!("INSERT INTO words VALUES ('{new}', {id}, {form}, '{new}', 0)"), 1).await?;
            }
            3 => {
                let other = self.fresh();
                let new = word(other, form);
                self.one(&format!("DELETE FROM words WHERE word = '{old}'"), 1).await?;
                self.one(&format!("INSERT INTO words VALUES ('{new}', {other}, {form}, NULL, NULL)"), 1).await?;
                self.keys.words[place] = (other, form);
                return Ok("words");
            }
            _ => {
                self.one(&format!("UPDATE words SET n = coalesce(n, 0) + 1 WHERE word = '{old}'"), 1).await?;
                return Ok("words");
            }
        }
        self.keys.words[place] = (id, form);
        Ok("words")
    }
}
