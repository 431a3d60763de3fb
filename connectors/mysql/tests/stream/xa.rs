//! Prepared transactions: their changes come where they commit, also if the stream was opened again meanwhile.

use crate::bench::{Bench, inserted};
use drover_connectors_mysql::position;
use drover_harness::mysql::Release;

const TABLE: &str = "create table t (id int primary key, a varchar(20))";

async fn prepare(bench: &Bench, name: &str, sql: &str) {
    // A prepared transaction belongs to nobody once its session is gone.
    bench.server.exec("d", &format!("xa start '{name}'; {sql}; xa end '{name}'; xa prepare '{name}'")).await.unwrap();
}

#[tokio::test]
async fn changes_come_at_the_commit() {
    for release in Release::ALL {
        let mut bench = Bench::new(release, TABLE, &[]).await;
        bench.batch_bytes = 300;
        let from = bench.here().await;
        let mut follower = bench.follow(&from).await;
        let rows: Vec<String> = (1..=10).chain(100..140).map(|i| format!("({i}, repeat('x', 20))")).collect();
        prepare(&bench, "one", &format!("insert into t values {}", rows.join(", "))).await;
        prepare(&bench, "two", "insert into t values (20, 'a')").await;
        prepare(&bench, "three", "insert into t values (30, 'a')").await;
        bench.run("insert into t values (40, 'a')").await;
        bench.run("xa rollback 'two'").await;
        bench.run("insert into t values (50, 'a'); flush binary logs; insert into t values (60, 'a')").await;
        let first = bench.changes(&mut follower).await;
        assert_eq!(inserted(&first), [vec![40], vec![50], vec![60]], "{release:?}");
        // The stream is taken over while two are open.
        let mut follower = bench.follow(&follower.at).await;
        bench.run("xa commit 'one'; insert into t values (70, 'a')").await;
        bench.run("xa start 'four'; insert into t values (80, 'a'); xa end 'four'; xa commit 'four' one phase").await;
        let second = bench.changes(&mut follower).await;
        assert_eq!(inserted(&second), [(1..=10).chain(100..140).collect(), vec![70], vec![80]], "{release:?}");
        assert!(follower.pieces > 1, "{release:?}");
        let mut follower = bench.follow(&follower.at).await;
        bench.run("xa commit 'three'").await;
        assert_eq!(inserted(&bench.changes(&mut follower).await), [vec![30]], "{release:?}");
        let resume = position::resume_of(&follower.at).unwrap();
        assert_eq!((resume.reread, resume.held.len()), (None, 0));
        assert_eq!(bench.spilled(), 0);
    }
}

/// What is prepared when the stream begins is read from before.
#[tokio::test]
async fn prepared_before_the_beginning() {
    for release in Release::ALL {
        let mut bench = Bench::new(release, TABLE, &[]).await;
        prepare(&bench, "old", "insert into t values (1, 'a')").await;
        let mut session = bench.dialer.session("test").await.unwrap();
        let before = position::before(&mut session).await.unwrap();
        // Too old: it lies before anything that will be read.
        let error = position::here(&mut session, Some(&before), 0).await.unwrap_err();
        assert!(error.message.contains("old") && error.retry == drover_model::Retry::Other, "{release:?}: {error}");
        let unaware = bench.here().await;
        bench.run("xa commit 'old'").await;
        let before = position::before(&mut session).await.unwrap();
        prepare(&bench, "new", "insert into t values (2, 'a')").await;
        bench.run("insert into t values (3, 'a')").await;
        let from = position::here(&mut session, Some(&before), 0).await.unwrap();
        bench.run("insert into t values (4, 'a'); xa commit 'new'").await;
        let mut follower = bench.follow(&from).await;
        assert_eq!(inserted(&bench.changes(&mut follower).await), [vec![4], vec![2]], "{release:?}");
        // Who began behind the preparation of one cannot know what it did.
        let mut follower = bench.follow(&unaware).await;
        let (_, error) = bench.end(&mut follower).await;
        assert_eq!(error.code, drover_model::error::codes::POSITION_LOST, "{release:?}: {error}");
        assert!(error.message.contains("6f6c64"), "{error}");
    }
}
