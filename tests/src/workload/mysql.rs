//! The workload in the SQL of MySQL and MariaDB. Both sides of a pair print the same bytes for the same value: JSON is written in
//! MySQL's own form.

use super::{BALANCE, Options, SPAN};
use crate::server::Dialect;

/// Begins a transaction. READ COMMITTED: no locks on rows that a statement merely passed by.
pub const BEGIN: &str = "SET TRANSACTION ISOLATION LEVEL READ COMMITTED; BEGIN";

/// Statements that create the tables and their first rows.
pub fn create(options: &Options) -> String {
    let Options { writers, accounts, rows, .. } = options;
    let series = |last: i64| Dialect::MySql.series(last.unsigned_abs());
    let writers = i64::from(*writers);
    let own = format!(
        "(SELECT w.i - 1 AS w, (w.i - 1) * {SPAN} + i.i AS id FROM {} w, {} i) s",
        series(writers),
        series(*rows)
    );
    let kinds = kinds("id");
    format!(
        "CREATE TABLE accounts (id bigint PRIMARY KEY, balance bigint NOT NULL, note text);
        CREATE TABLE swap (id bigint PRIMARY KEY, spot bigint NOT NULL UNIQUE, label varchar(40));
        CREATE TABLE parent (id bigint PRIMARY KEY, name text NOT NULL);
        CREATE TABLE child (id bigint NOT NULL AUTO_INCREMENT PRIMARY KEY, parent bigint NOT NULL, amount decimal(12,3) NOT NULL,
            KEY child_parent (parent),
            CONSTRAINT child_of FOREIGN KEY (parent) REFERENCES parent (id) ON UPDATE CASCADE ON DELETE CASCADE);
        CREATE TABLE keyless (owner integer, what varchar(40), amount integer, KEY keyless_owner (owner));
        CREATE TABLE wide (id bigint PRIMARY KEY, small integer NOT NULL, large longtext, other longblob);
        CREATE TABLE words (word varchar(60) CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci PRIMARY KEY, id bigint NOT NULL,
            form integer NOT NULL, latin varchar(60) CHARACTER SET latin1 COLLATE latin1_german1_ci UNIQUE, n bigint);
        CREATE TABLE kinds (id bigint PRIMARY KEY, i1 tinyint, u1 tinyint unsigned, i2 smallint, i3 mediumint, u3 mediumint unsigned,
            i4 integer, u4 integer unsigned, u8 bigint unsigned, n decimal(30,10), f4 float, f8 double, b bit(1), bits bit(17),
            y year, d date, t time, t3 time(3), dt datetime, dt6 datetime(6), ts timestamp NULL, ts3 timestamp(3) NULL,
            c char(7), v varchar(30), l varchar(30) CHARACTER SET latin1, w varchar(30) CHARACTER SET utf16 COLLATE utf16_general_ci,
            vb varbinary(30), bi binary(8), tb tinyblob, tx mediumtext, e enum('klein', 'groß', 'a b'), s set('a', 'b', 'ü'),
            j json, p point);
        CREATE TABLE counter (writer integer PRIMARY KEY, n bigint NOT NULL);
        CREATE TABLE journal (writer integer, n bigint, what text NOT NULL, at timestamp(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6),
            PRIMARY KEY (writer, n));
        INSERT INTO accounts SELECT i, {BALANCE}, concat('account ', i) FROM {all} i;
        INSERT INTO swap SELECT id, -id, concat('spot ', id) FROM {own};
        INSERT INTO parent SELECT id, concat('parent ', id) FROM {own};
        INSERT INTO child (parent, amount) SELECT id, id % 1000 / 8 FROM {own}, {two} i;
        INSERT INTO keyless SELECT w, concat('thing ', id % 7), id % 5 FROM {own};
        INSERT INTO wide SELECT id, 0, concat(repeat(sha2(id, 256), 60), repeat(sha2(-id, 256), 40)), repeat(unhex(sha2(id, 256)), 75) FROM {own};
        INSERT INTO words SELECT concat('word ', id), id, 0, concat('word ', id), 0 FROM {own};
        INSERT INTO kinds SELECT id, {kinds} FROM {own};
        INSERT INTO counter SELECT i - 1, 0 FROM {each} i;",
        all = series(*accounts),
        two = series(2),
        each = series(writers)
    )
}

/// Values of all columns of `kinds` but the key, made from a whole number; some are null, some are awkward.
pub fn kinds(n: &str) -> String {
    format!(
        "({n}) % 128 - 64, ({n}) % 256, ({n}) % 65536 - 32768, ({n}) % 16777216 - 8388608, ({n}) % 16777216,
        ({n}) * 31 % 2147483647 - 1073741824, ({n}) * 31 % 4294967296, 18446744073709551615 - ({n}),
        CASE ({n}) % 5 WHEN 0 THEN -0.0000000001 WHEN 1 THEN 0 ELSE ({n}) * 1234567 / 1000 END,
        ({n}) / 3e0, CASE ({n}) % 6 WHEN 0 THEN -0e0 WHEN 1 THEN 1.7976931348623157e308 ELSE ({n}) / 7e0 END,
        CASE ({n}) % 3 WHEN 0 THEN NULL ELSE ({n}) % 2 END, ({n}) % 131072,
        CASE ({n}) % 9 WHEN 0 THEN 0 ELSE 1901 + ({n}) % 255 END, '1890-01-01' + INTERVAL ({n}) % 80000 DAY,
        sec_to_time(({n}) % 6000000 - 3000000), sec_to_time((({n}) % 600000 - 300000) / 1000),
        '1970-01-01 00:00:00' + INTERVAL ({n}) SECOND, '2020-01-01 00:00:00' - INTERVAL ({n}) * 1001 MICROSECOND,
        from_unixtime(({n}) % 2000000000 + 1), '2020-01-01 00:00:00' + INTERVAL ({n}) * 1000 MICROSECOND, concat('c', ({n}) % 100),
        CASE ({n}) % 4 WHEN 0 THEN '' WHEN 1 THEN 'tab\\t\\\\ line\\nend' WHEN 2 THEN 'grüße, 羊 🐑' ELSE NULL END,
        CASE ({n}) % 3 WHEN 0 THEN 'grüße ÿ' WHEN 1 THEN ' ' ELSE NULL END, CASE ({n}) % 2 WHEN 0 THEN '羊 🐑' ELSE '' END,
        left(unhex(sha2(({n}), 256)), 16), unhex(lpad(hex(({n}) % 256), 4, '0')), CASE ({n}) % 2 WHEN 0 THEN '' ELSE x'00ff5c0a09' END,
        repeat('ä', ({n}) % 300), elt(({n}) % 3 + 1, 'klein', 'groß', 'a b'), make_set(({n}) % 8, 'a', 'b', 'ü'),
        json_object('a', json_array(1, NULL, 'x'), 'n', ({n})), point(({n}) % 180, ({n}) % 90 / 7e0)"
    )
}

/// An assignment to some columns of `kinds`.
pub fn kinds_change(n: i64) -> String {
    format!("i4 = {n}, n = {n} / 64.0, b = NULL, v = 'v{n}', j = '[{n}]', e = NULL, i3 = -{n}, dt6 = NULL, s = ''")
}

/// A large text, of `size` times 32 characters.
pub fn large(salt: i64, size: i64) -> String {
    format!("concat(repeat(sha2({salt}, 256), {}), repeat(sha2(-{salt}, 256), {}))", size / 4, size / 2 - size / 4)
}

/// Large bytes.
pub fn bytes(salt: i64) -> String {
    format!("repeat(unhex(sha2({salt}, 256)), 80)")
}

/// The condition, with what makes it one of those rows that satisfy it.
pub fn one_of(condition: &str) -> String {
    format!("{condition} LIMIT 1")
}

/// The same for the first of a parent's children.
pub fn first_child(parent: i64) -> String {
    format!("parent = {parent} ORDER BY id LIMIT 1")
}

/// A reading of what [`super::check`] judges: one statement, so one snapshot.
pub const CHECK: &str = "SELECT (SELECT CAST(coalesce(sum(balance), 0) AS SIGNED) FROM accounts),
    (SELECT group_concat('writer ', c.writer, ': counter ', c.n, ', ', coalesce(j.many, 0), ' journal rows, last ',
            coalesce(j.latest, 0) SEPARATOR '; ')
       FROM counter c LEFT JOIN (SELECT writer, count(*) AS many, max(n) AS latest FROM journal GROUP BY writer) j USING (writer)
      WHERE c.n <> coalesce(j.many, 0) OR c.n <> coalesce(j.latest, 0)),
    (SELECT count(*) FROM child LEFT JOIN parent ON parent.id = child.parent WHERE parent.id IS NULL),
    (SELECT count(*) FROM swap WHERE spot > 0), (SELECT count(*) FROM swap),
    (SELECT count(DISTINCT spot) FROM swap), (SELECT count(*) FROM words), (SELECT count(DISTINCT id) FROM words),
    (SELECT count(*) FROM counter)";
