//! Planning and reading chunks against a real server: every row once, whatever the key.
#![allow(clippy::unwrap_used)]

mod bench;

use bench::Bench;
use bytes::Bytes;
use drover_connectors_api::ChunkReader;
use drover_connectors_suite::world::{Blocks, chunk, encoded, known_rows};
use drover_model::chunk::Bounds;
use drover_model::error::codes;
use drover_model::plan::RowFormat;

type Row = Vec<Option<String>>;

/// What the server itself shows of a table, sorted.
async fn shown(bench: &Bench, sql: &str) -> Vec<Row> {
    let mut rows = Vec::new();
    for message in bench.sql.simple_query(sql).await.unwrap() {
        if let tokio_postgres::SimpleQueryMessage::Row(row) = message {
            rows.push((0..row.len()).map(|i| row.get(i).map(str::to_owned)).collect());
        }
    }
    rows.sort();
    rows
}

/// Plans a table in chunks of `target` bytes and reads them all; gives rows (sorted) and bounds.
async fn all(
    reader: &mut dyn ChunkReader,
    bench: &Bench,
    table: &str,
    target: u64,
    keyed: bool,
) -> (Vec<Row>, Vec<Bounds>) {
    let plan = bench.plan(table);
    let chunks = reader.plan(plan, target, keyed).await.unwrap();
    let mut rows = Vec::new();
    for c in &chunks {
        rows.extend(chunk(reader, plan, &c.bounds).await.unwrap());
    }
    rows.sort();
    (rows, chunks.into_iter().map(|c| c.bounds).collect())
}

async fn reader(bench: &Bench) -> (Box<dyn drover_connectors_api::Hold>, Box<dyn ChunkReader>) {
    let hold = bench.source.new_snapshot(&[]).await.unwrap();
    let reader = bench.source.reader(&hold.snapshot()).await.unwrap();
    (hold, reader)
}

const KEYS: &str = "create collation odd (provider = icu, locale = 'und-u-kn-true');
    create type mood as enum ('sad', 'fair', 'glad'); create domain short as varchar(20);
    create table k_int (id int primary key, v text);
    create table k_negative (id bigint primary key, v text);
    create table k_pair (a int, b text, v text, primary key (b, a));
    create table k_text (id text primary key, v text);
    create table k_icu (id text collate odd primary key, v text);
    create table k_char (id char(12) primary key, v text);
    create table k_domain (id short primary key, v text);
    create table k_uuid (id uuid primary key, v text);
    create table k_time (id timestamptz primary key, v text);
    create table k_numeric (id numeric primary key, v text);
    create table k_bytes (id bytea primary key, v text);
    create table k_enum (m mood, n int, v text, primary key (m, n));
    create table k_inet (id inet primary key, v text);
    create table k_bool (b bool, n int, v text, primary key (b, n));
    create table \"Odd \"\"Name\" (\"Id's\" int primary key, v text);
    insert into k_int select i, md5(i::text) from generate_series(1, 3000) i;
    insert into k_negative select (i - 1500)::int8 * 1000000007, md5(i::text) from generate_series(1, 3000) i;
    insert into k_pair select i % 7, 'b' || i % 500, md5(i::text) from generate_series(1, 3000) i on conflict do nothing;
    insert into k_text select case i % 4 when 0 then 'Ä' when 1 then 'a''\\' when 2 then 'B' else ' ' end || i, md5(i::text) from generate_series(1, 3000) i;
    insert into k_icu select case i % 3 when 0 then 'x' when 1 then 'X' else 'é' end || i, md5(i::text) from generate_series(1, 3000) i;
    insert into k_char select 'c' || i, md5(i::text) from generate_series(1, 3000) i;
    insert into k_domain select 'd' || i, md5(i::text) from generate_series(1, 3000) i;
    insert into k_uuid select md5(i::text)::uuid, md5(i::text) from generate_series(1, 3000) i;
    insert into k_time select '2020-01-01'::timestamptz + i * interval '1.000001 hours', md5(i::text) from generate_series(1, 3000) i;
    insert into k_numeric select i / 7.0, md5(i::text) from generate_series(1, 3000) i;
    insert into k_bytes select decode(md5(i::text), 'hex'), md5(i::text) from generate_series(1, 3000) i;
    insert into k_enum select (array['glad', 'sad', 'fair'])[i % 3 + 1]::mood, i, md5(i::text) from generate_series(1, 3000) i;
    insert into k_inet select '10.0.0.0'::inet + i, md5(i::text) from generate_series(1, 3000) i;
    insert into k_bool select i % 2 = 0, i, md5(i::text) from generate_series(1, 3000) i;
    insert into \"Odd \"\"Name\" select i, md5(i::text) from generate_series(1, 3000) i;
    analyze";

#[tokio::test]
async fn ranges_of_any_key_cover_every_row_once() {
    let bench = Bench::new(KEYS, &[]).await;
    let (_hold, mut reader) = reader(&bench).await;
    for plan in &bench.plans {
        let table = &plan.source.name;
        let wanted = shown(&bench, &format!("select * from \"{}\"", table.replace('"', "\"\""))).await;
        assert!(wanted.len() > 2000, "{table}");
        for keyed in [true, false] {
            let (rows, bounds) = all(&mut *reader, &bench, table, 20_000, keyed).await;
            assert!(bounds.len() > 5, "{table}: {} chunks", bounds.len());
            assert!(!keyed || bounds.iter().all(Bounds::outlives_snapshot), "{table}");
            assert!(
                rows == wanted,
                "{table}: {} rows in {} chunks instead of {}",
                rows.len(),
                bounds.len(),
                wanted.len()
            );
        }
    }
}

#[tokio::test]
async fn places_cover_a_table_without_a_key() {
    let ddl = "create table loose (a int, v text); insert into loose select i / 2, md5((i / 2)::text) from generate_series(1, 5000) i;
        create table scattered (id uuid primary key, v text);
        insert into scattered select md5(i::text)::uuid, repeat('x', 200) from generate_series(1, 5000) i; analyze";
    let bench = Bench::new(ddl, &[]).await;
    let (_hold, mut reader) = reader(&bench).await;
    // Rows that come and move later are not on the snapshot, and do not shift the others.
    let wanted = [shown(&bench, "select * from loose").await, shown(&bench, "select * from scattered").await];
    bench.run("update loose set a = a + 100000 where a % 3 = 0; delete from loose where a % 7 = 0; insert into loose select 1, 'late' from generate_series(1, 5000)").await;
    bench.run("delete from scattered").await;
    for (table, wanted) in ["loose", "scattered"].iter().zip(&wanted) {
        let (rows, bounds) = all(&mut *reader, &bench, table, 30_000, false).await;
        // Before 14 a range of places would read the whole table each time.
        if bench::version() >= 14 {
            assert!(bounds.len() > 5 && bounds.iter().all(|b| matches!(b, Bounds::Physical { .. })), "{bounds:?}");
        }
        assert!(rows == *wanted, "{table}: {} rows instead of {}", rows.len(), wanted.len());
    }
}

#[tokio::test]
async fn a_filter_holds_in_every_chunk() {
    let ddl = "create table t (id int primary key, v text); insert into t select i, md5(i::text) from generate_series(1, 3000) i; analyze";
    let bench = Bench::filtered(ddl, &[], Some("id % 3 = 0 or v < '1'")).await;
    let wanted = shown(&bench, "select * from t where id % 3 = 0 or v < '1'").await;
    let (_hold, mut reader) = reader(&bench).await;
    let (rows, bounds) = all(&mut *reader, &bench, "t", 20_000, false).await;
    assert!(bounds.len() > 5 && rows == wanted && rows.len() < 3000, "{} rows", rows.len());
    if bench::version() < 15 {
        let error = bench.refused(bench.spec(None)).await;
        assert!(error.code == codes::UNSUPPORTED && error.to_string().contains("public.t"), "{error}");
        return;
    }
    // And in the stream: rows enter and leave the selection.
    let mut follower = bench.follow(None).await;
    bench.run("insert into t values (9001, 'x'), (9003, 'x'); update t set v = 'y' where id = 9003; update t set id = 9004 where id = 9003").await;
    bench.run("update t set id = 9006 where id = 9004").await;
    let seen: Vec<_> = bench.changes(&mut follower).await.into_iter().flat_map(|t| t.changes).collect();
    use drover_connectors_suite::world::Change;
    let kinds: Vec<char> = seen
        .iter()
        .map(|c| match c {
            Change::Insert { .. } => 'i',
            Change::Update { .. } => 'u',
            Change::Delete { .. } => 'd',
            Change::Truncate { .. } => 't',
        })
        .collect();
    assert_eq!(kinds, ['i', 'u', 'd', 'i'], "{seen:?}");
}

#[tokio::test]
async fn a_partitioned_table_is_read_with_its_partitions() {
    let ddl = "create table p (id int, v text, primary key (id)) partition by range (id);
        create table p_1 partition of p for values from (minvalue) to (1000); create table p_2 partition of p for values from (1000) to (2000);
        create table p_3 partition of p default partition by hash (id); create table p_31 partition of p_3 for values with (modulus 2, remainder 0);
        create table p_32 partition of p_3 for values with (modulus 2, remainder 1);
        create table q (a int, v text) partition by list (a); create table q_1 partition of q default;
        create table heir_of (id int primary key, v text); create table heir (w int) inherits (heir_of);
        insert into p select i, md5(i::text) from generate_series(1, 4000) i; insert into q select i % 9, md5(i::text) from generate_series(1, 2000) i;
        insert into heir_of values (1, 'parent'); insert into heir values (2, 'child', 7); analyze";
    let bench = Bench::new(ddl, &[]).await;
    let (_hold, mut reader) = reader(&bench).await;
    for (table, sql) in [
        ("p", "select * from p"),
        ("q", "select * from q"),
        ("heir_of", "select * from only heir_of"),
        ("heir", "select * from heir"),
    ] {
        for target in [20_000, 1 << 30] {
            let (rows, bounds) = all(&mut *reader, &bench, table, target, false).await;
            assert!(table != "p" || (bounds.len() > 5) == (target == 20_000), "{table}: {bounds:?}");
            assert!(rows == shown(&bench, sql).await, "{table}: {} rows", rows.len());
        }
    }
    // Changes of partitions come as changes of the table, moves between partitions too.
    let mut follower = bench.follow(None).await;
    bench.run("update p set v = 'x' where id = 1; update p set id = 1500000 where id = 2; delete from p where id = 1500; truncate p").await;
    let seen = bench.changes(&mut follower).await;
    let id = bench.plan("p").id;
    use drover_connectors_suite::world::Change;
    let ours = |c: &Change| match c {
        Change::Insert { table, .. } | Change::Update { table, .. } | Change::Delete { table, .. } => *table == id,
        Change::Truncate { tables } => *tables == [id],
    };
    let all: Vec<_> = seen.iter().flat_map(|t| &t.changes).collect();
    assert!(all.iter().all(|c| ours(c)) && all.len() == 5, "{all:?}");
}

#[tokio::test]
async fn empty_tables_and_native_rows_are_counted() {
    let ddl = "create table e (id int primary key, v text); create table el (a int); create table nothing ();
        create table full_one (id int primary key, v text); insert into full_one select i, repeat('x', 3000) from generate_series(1, 2000) i; analyze";
    let bench = Bench::new(ddl, &[]).await;
    let (_hold, mut reader) = reader(&bench).await;
    for plan in &bench.plans {
        for format in
            [RowFormat::Canonical, RowFormat::Native(drover_connectors_postgres::snapshot::COPY_BINARY.into())]
        {
            let native = format != RowFormat::Canonical;
            let plan = drover_model::TablePlan { format, ..plan.clone() };
            let mut rows = 0;
            for c in reader.plan(&plan, 1 << 20, false).await.unwrap() {
                let mut blocks = Blocks::default();
                let read = reader.read(&plan, &c.bounds, &mut blocks).await.unwrap();
                assert_eq!(read.rows, blocks.rows);
                assert_eq!(read.bytes, blocks.data.iter().map(|b| b.len() as u64).sum::<u64>());
                assert!(blocks.data.iter().all(|b| b.len() < 2 << 20));
                if native {
                    let whole = blocks.data.concat();
                    assert!(whole.starts_with(b"PGCOPY\n") && whole.ends_with(&[0xff, 0xff]), "a whole COPY stream");
                }
                rows += read.rows;
            }
            let wanted = if plan.source.name == "full_one" { 2000 } else { 0 };
            assert_eq!(rows, wanted, "{} native {native}", plan.source);
        }
    }
}

#[tokio::test]
async fn snapshot_and_fetched_rows_have_the_streams_form() {
    let ddl = "create type pair as (a int, b text);
        create table f (k bool, i inet, b bool, c char(5), n inet, m cidr, o \"char\", p pair, x xml, j jsonb, a bool[], t time, y bytea, primary key (k, i));";
    let bench = Bench::new(ddl, &[]).await;
    let mut follower = bench.follow(None).await;
    bench.run("insert into f values (true, '10.0.0.1', false, 'ab', '10.0.0.1', '10.0.0.0/8', 'q', row(null, null), '<a/>', '{\"a\": 1}', '{t,f}', '1:02', '\\x0041'), \
        (false, '10.0.0.2', null, null, null, null, null, null, null, null, null, null, null)").await;
    let (_hold, mut reader) = reader(&bench).await;
    let plan = bench.plan("f");
    let mut streamed = Vec::new();
    for c in bench.changes(&mut follower).await.into_iter().flat_map(|t| t.changes) {
        let drover_connectors_suite::world::Change::Insert { new, .. } = c else { panic!("{c:?}") };
        streamed.push(
            new.into_iter()
                .map(|v| match v {
                    drover_connectors_suite::world::Val::Known(v) => v,
                    v => panic!("{v:?}"),
                })
                .collect::<Row>(),
        );
    }
    streamed.sort();
    let read = chunk(&mut *reader, plan, &Bounds::Whole).await.unwrap();
    assert_eq!(read, streamed);
    assert!(read.iter().any(|r| r.contains(&Some("\0A".to_owned()))), "bytes are bytes: {read:?}");
    let keys: Vec<Bytes> = streamed.iter().map(|r| Bytes::from(encoded(&r[..2]))).collect();
    let found = reader.fetch(plan, &keys).await.unwrap();
    let all: Vec<u8> = found.into_iter().flat_map(Option::unwrap).collect();
    assert_eq!(known_rows(&all, plan.columns.len()).unwrap(), streamed, "in the order of the keys");
}

#[tokio::test]
async fn rows_are_fetched_by_any_key_in_its_order() {
    // Columns that are called as drover's own list is, a key of several types, and a filter that leaves a row out.
    let ddl = "create table w (k1 numeric(6,2), n text, drover_keys bool, v text, primary key (n, k1));
        insert into w values (1.50, 'a b', true, 'one'), (2, 'NULL', null, 'two'), (3, '{}', false, 'three')";
    let bench = Bench::new(ddl, &[]).await;
    let mut plan = bench.plan("w").clone();
    plan.filter = Some("v <> 'three' -- not that one".into());
    let (_hold, mut reader) = reader(&bench).await;
    let key = |n: &str, k: &str| Bytes::from(encoded(&[Some(n.into()), Some(k.into())]));
    let keys = [key("{}", "3.00"), key("NULL", "2"), key("a b", "1.5"), key("a", "1.50")];
    let found = reader.fetch(&plan, &keys).await.unwrap();
    let there: Vec<bool> = found.iter().map(Option::is_some).collect();
    assert_eq!(there, [false, true, true, false]);
    let all: Vec<u8> = found.into_iter().flatten().flatten().collect();
    let row = |cells: [Option<&str>; 4]| cells.map(|c| c.map(str::to_owned)).to_vec();
    let wanted = [
        row([Some("2.00"), Some("NULL"), None, Some("two")]),
        row([Some("1.50"), Some("a b"), Some("t"), Some("one")]),
    ];
    assert_eq!(known_rows(&all, 4).unwrap(), wanted);
    // The snapshot would show no row at all.
    bench.run("truncate w").await;
    let error = reader.fetch(&plan, &keys).await.unwrap_err();
    assert_eq!((error.code.as_str(), error.table.as_deref()), (codes::TABLE_CHANGED, Some("public.w")), "{error}");
}

#[tokio::test]
async fn a_rewritten_table_is_noticed() {
    let ddl = "create table t (id int primary key, v text); insert into t select i, 'x' from generate_series(1, 100) i;
        create table p (id int primary key) partition by range (id); create table p_1 partition of p default";
    let bench = Bench::new(ddl, &[]).await;
    let (_hold, mut reader) = reader(&bench).await;
    // Neither planning nor reading nor fetching leaves a lock behind that the application's DDL would wait for.
    let plan = bench.plan("t");
    assert!(reader.plan(plan, 100, true).await.unwrap().len() > 3);
    let keys = ["7", "700", "8"].map(|k| Bytes::from(encoded(&[Some(k.into())])));
    let there: Vec<bool> = reader.fetch(plan, &keys).await.unwrap().iter().map(Option::is_some).collect();
    assert_eq!(there, [true, false, true]);
    reader.read(plan, &Bounds::Whole, &mut Blocks::default()).await.unwrap();
    bench.run("set lock_timeout = '1s'").await;
    for (table, change) in [
        ("t", "alter table t alter id type bigint"),
        ("t", "truncate t"),
        ("p", "truncate p_1"),
        ("p", "drop table p_1"),
    ] {
        let plan = bench.plan(table);
        let before = reader.read(plan, &Bounds::Whole, &mut Blocks::default()).await.unwrap().physical;
        bench.run(change).await;
        let after = reader.read(plan, &Bounds::Whole, &mut Blocks::default()).await;
        assert!(after.map_or_else(|e| !e.code.is_empty(), |r| r.physical != before), "{change} went unnoticed");
        (_, reader) = self::reader(&bench).await;
    }
    bench.run("drop table t").await;
    let error = reader.plan(bench.plan("t"), 1 << 20, false).await.unwrap_err();
    assert_eq!((error.code.as_str(), error.table.as_deref()), (codes::TABLE_CHANGED, Some("public.t")), "{error}");
}
