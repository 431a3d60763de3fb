//! Transactions of every kind come once, whole, in order.

use crate::bench::{Bench, inserted, val};
use drover_connectors_suite::world::{Before, Change};
use drover_harness::mysql::Release;

const TABLE: &str = "create table t (id int primary key, a varchar(20), b int)";

#[tokio::test]
async fn rows_of_each_kind() {
    for release in Release::ALL {
        let mut bench = Bench::new(release, TABLE, &[]).await;
        let from = bench.here().await;
        let mut follower = bench.follow(&from).await;
        bench.run("insert into t values (1, 'x', null), (2, null, -7)").await;
        bench.run("update t set a = 'y', id = 3 where id = 1").await;
        bench.run("delete from t where id = 2").await;
        bench.run("replace into t values (3, 'z', 1)").await;
        bench.run("truncate t").await;
        let found = bench.changes(&mut follower).await;
        let table = bench.plan("t").id;
        let row = |id: &str, a: Option<&str>, b: Option<&str>| {
            let known = |v: Option<&str>| drover_connectors_suite::world::Val::Known(v.map(Into::into));
            vec![val(id), known(a), known(b)]
        };
        let changes: Vec<_> = found.iter().map(|t| t.changes.clone()).collect();
        assert_eq!(
            changes,
            [
                vec![
                    Change::Insert { table, new: row("1", Some("x"), None) },
                    Change::Insert { table, new: row("2", None, Some("-7")) },
                ],
                vec![Change::Update {
                    table,
                    old: Before::Full(row("1", Some("x"), None)),
                    new: row("3", Some("y"), None)
                }],
                vec![Change::Delete { table, old: Before::Full(row("2", None, Some("-7"))) }],
                vec![Change::Update {
                    table,
                    old: Before::Full(row("3", Some("y"), None)),
                    new: row("3", Some("z"), Some("1"))
                }],
                vec![Change::Truncate { tables: vec![table] }],
            ],
            "{release:?}"
        );
    }
}

#[tokio::test]
async fn what_rolls_back_never_comes() {
    for release in Release::ALL {
        let mut bench = Bench::new(release, TABLE, &[]).await;
        let from = bench.here().await;
        let mut follower = bench.follow(&from).await;
        bench.run("begin; insert into t values (1, 'a', 1); rollback").await;
        bench.run("begin; insert into t values (2, 'a', 1); savepoint s; insert into t values (3, 'a', 1); rollback to s; insert into t values (4, 'a', 1); commit").await;
        // Something that cannot be rolled back makes the server log savepoints instead of forgetting what followed them.
        bench
            .run(
                "create temporary table m (a int) engine = myisam; \
                  begin; insert into t values (5, 'a', 1); savepoint s; insert into t values (6, 'a', 1); \
                  drop temporary table m; rollback to s; insert into t values (7, 'a', 1); commit",
            )
            .await;
        bench.run("insert into t values (8, 'a', 1)").await;
        let found = bench.changes(&mut follower).await;
        assert_eq!(inserted(&found), [vec![2, 4], vec![5, 7], vec![8]], "{release:?}");
    }
}
