//! The two large tables that all measurements use, filled on the server from `generate_series`, the same rows each time.
//!
//! - `li`, after TPC-H's lineitem: 16 columns of mixed types, some 150 bytes a row as text, primary key of two columns.
//! - `sb`, after sysbench: 4 columns, some 197 bytes a row, integer primary key, secondary index.

use anyhow::{Context, Result};
use tokio_postgres::Client;

/// The definition of `li` without its primary key.
pub const LI: &str = "CREATE TABLE li (
    l_orderkey bigint NOT NULL, l_partkey integer NOT NULL, l_suppkey integer NOT NULL, l_linenumber integer NOT NULL,
    l_quantity numeric(15,2) NOT NULL, l_extendedprice numeric(15,2) NOT NULL, l_discount numeric(15,2) NOT NULL,
    l_tax numeric(15,2) NOT NULL, l_returnflag char(1) NOT NULL, l_linestatus char(1) NOT NULL,
    l_shipdate date NOT NULL, l_commitdate date NOT NULL, l_receiptdate timestamp NOT NULL,
    l_shipinstruct char(25) NOT NULL, l_shipmode char(10) NOT NULL, l_comment varchar(44))";

/// What is added to `li` once its rows are in.
pub const LI_KEYS: &str = "ALTER TABLE li ADD PRIMARY KEY (l_orderkey, l_linenumber)";

/// The definition of `sb` without its primary key and index.
pub const SB: &str = "CREATE TABLE sb (id integer NOT NULL, k integer NOT NULL DEFAULT 0,
    c char(120) NOT NULL DEFAULT '', pad char(60) NOT NULL DEFAULT '')";

/// What is added to `sb` once its rows are in.
pub const SB_KEYS: &str = "ALTER TABLE sb ADD PRIMARY KEY (id); CREATE INDEX sb_k ON sb (k)";

/// Creates `li` in schema public with so many rows, four to an order.
pub async fn create_li(client: &Client, rows: u64) -> Result<()> {
    // Multiplications by odd constants scatter the values; they need no state and repeat exactly.
    let fill = format!(
        "INSERT INTO li SELECT (i + 3) / 4, h % 200000, h / 7 % 10000, (i + 3) % 4 + 1,
            h % 50 + 1, (h % 9000000 + 90000) / 100.0, (h % 11) / 100.0, (h / 3 % 9) / 100.0,
            substr('ANR', (h % 3)::int + 1, 1), substr('OF', (h / 2 % 2)::int + 1, 1),
            date '1992-01-02' + (h % 2500)::int, date '1992-01-31' + (h / 5 % 2466)::int,
            timestamp '1992-01-04' + (h % 218160000) * interval '1 second',
            (ARRAY['DELIVER IN PERSON', 'COLLECT COD', 'NONE', 'TAKE BACK RETURN'])[(h / 11 % 4)::int + 1],
            (ARRAY['REG AIR', 'AIR', 'RAIL', 'SHIP', 'TRUCK', 'MAIL', 'FOB'])[(h / 13 % 7)::int + 1],
            CASE WHEN h % 50 = 0 THEN NULL ELSE left(md5(h::text), 10 + (h % 23)::int) END
        FROM (SELECT i, i * 2654435761 % 4294967291 AS h FROM generate_series(1, {rows}::bigint) i) s"
    );
    fill_table(client, "li", &[LI, &fill, LI_KEYS]).await
}

/// Creates `sb` in schema public with so many rows.
pub async fn create_sb(client: &Client, rows: u64) -> Result<()> {
    let fill = format!(
        "INSERT INTO sb SELECT i, i::bigint * 2654435761 % {rows} + 1,
            left(concat_ws('-', a, reverse(a), md5(a), b), 119), left(b || '-' || a, 59)
        FROM (SELECT i, md5(i::text) AS a, translate(md5((-i)::text), 'abcdef', '012345') AS b
              FROM generate_series(1, {rows}::integer) i) s"
    );
    fill_table(client, "sb", &[SB, &fill, SB_KEYS]).await
}

async fn fill_table(client: &Client, name: &str, steps: &[&str]) -> Result<()> {
    for sql in steps {
        client.batch_execute(sql).await.with_context(|| (*sql).to_owned())?;
    }
    Ok(client.batch_execute(&format!("VACUUM ANALYZE {name}")).await?)
}
