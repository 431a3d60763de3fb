//! Transactions larger than memory should have to hold, compressed or not.

use crate::bench::{Bench, inserted};
use drover_connectors_api::ChangeStream;
use drover_harness::mysql::Release;
use drover_model::change::{Item, Reader};

/// Memory is the process's: one test at a time.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

const TABLE: &str = "create table t (id int primary key, a longblob)";

/// Peak memory of this process, in bytes.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmHWM")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

fn forget_peak() {
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
}

/// A transaction of `rows` rows of `bytes` random bytes, read piece by piece; gives the most that memory grew.
async fn huge(bench: &mut Bench, rows: u64, bytes: u64) -> u64 {
    let from = bench.here().await;
    let before = bench.spilled();
    bench.run("begin").await;
    let value = if bytes > 1024 {
        format!("repeat(random_bytes(1024), {})", bytes / 1024)
    } else {
        format!("random_bytes({bytes})")
    };
    for i in 0..rows {
        bench.run(&format!("insert into t values ({i}, {value})")).await;
    }
    bench
        .run("savepoint s; insert into t values (-1, 'x'); rollback to s; commit; insert into t values (-2, 'y')")
        .await;
    let mark = bench.here().await;
    let mut stream = bench.open(&from).await.unwrap();
    forget_peak();
    let start = peak();
    let (mut found, mut pieces, mut largest) = (0, 0, 0);
    loop {
        let batch = stream.next().await.unwrap();
        let mut reader = Reader::new(&batch.payload, &bench.plans[..]);
        while let Some(item) = reader.next_item().unwrap() {
            found += u64::from(matches!(item, Item::Insert { .. }));
        }
        pieces += u32::from(batch.piece.is_some());
        largest = largest.max(batch.payload.len());
        if batch.to >= mark && batch.piece.is_none_or(|p| p.last) {
            break;
        }
    }
    assert_eq!(found, rows + 1);
    assert!(pieces > 3, "{pieces} pieces");
    assert!(largest < 4 * bench.batch_bytes + bytes as usize * 2, "a piece of {largest}");
    drop(stream);
    assert_eq!(bench.spilled(), before, "spill files stay behind");
    bench.run("truncate t").await;
    peak() - start
}

#[tokio::test]
async fn large_transactions_go_through_a_file() {
    let _alone = ALONE.lock().await;
    for (release, settings) in [
        (Release::MySql9, &[][..]),
        (Release::MariaDb10, &[][..]),
        (Release::MariaDb11, &[("log-bin-compress", "ON")][..]),
    ] {
        let mut bench = Bench::new(release, TABLE, settings).await;
        bench.batch_bytes = 1 << 20;
        let grown = huge(&mut bench, 2000, 50 << 10).await;
        assert!(grown < 24 << 20, "{release:?}: memory grew by {} KiB for 100 MiB", grown >> 10);
    }
}

/// 100 MiB that compress to a few: and ones that compress to more than a packet holds.
#[tokio::test]
async fn large_compressed_transactions_too() {
    let _alone = ALONE.lock().await;
    let settings = [
        ("binlog-transaction-compression", "ON"),
        ("max-allowed-packet", "256M"),
        ("binlog-transaction-compression-level-zstd", "1"),
    ];
    let mut bench = Bench::new(Release::MySql9, TABLE, &settings).await;
    bench.batch_bytes = 1 << 20;
    let grown = huge(&mut bench, 2000, 50 << 10).await;
    assert!(grown < 40 << 20, "memory grew by {} KiB for 100 MiB in 2", grown >> 10);
    let grown = huge(&mut bench, 60_000, 1000).await;
    assert!(grown < 60 << 20, "memory grew by {} KiB for 60 MiB in 60", grown >> 10);
}

/// A row larger than a packet of the protocol, and small compressed transactions among others.
#[tokio::test]
async fn large_rows_and_small_compressed_ones() {
    let _alone = ALONE.lock().await;
    for (release, compression) in [
        (Release::MySql9, "binlog-transaction-compression"),
        (Release::MariaDb10, "log-bin-compress"),
        (Release::MariaDb11, "log-bin-compress"),
    ] {
        let settings = [(compression, "ON"), ("max-allowed-packet", "256M"), ("innodb-log-file-size", "512M")];
        let settings = if release == Release::MySql9 { &settings[..2] } else { &settings[..] };
        let mut bench = Bench::new(release, TABLE, settings).await;
        let from = bench.here().await;
        let mut follower = bench.follow(&from).await;
        for i in 0..5 {
            bench.run(&format!("insert into t values ({i}, repeat('abc', 1000))")).await;
        }
        bench.run("begin; insert into t values (5, repeat('x', 20000000)); insert into t values (6, repeat(random_bytes(1000), 17000)); commit").await;
        bench.run("update t set a = 'y' where id = 5; delete from t where id = 5").await;
        let found = bench.changes(&mut follower).await;
        assert_eq!(inserted(&found[..6]), [vec![0], vec![1], vec![2], vec![3], vec![4], vec![5, 6]], "{release:?}");
        assert_eq!(found.len(), 8);
    }
}
