use crate::bench::Bench;
use drover_connectors_mysql::binlog::dump::{Arrived, Dump};
use drover_connectors_mysql::binlog::event::{Checksums, Event};
use drover_connectors_mysql::wire::Wire;
use drover_harness::mysql::Release;

#[tokio::test]
async fn probe() {
    let release = match std::env::var("PROBE_R").as_deref() {
        Ok("10") => Release::MariaDb10,
        Ok("11") => Release::MariaDb11,
        _ => Release::MySql9,
    };
    let settings = std::env::var("PROBE_SET").unwrap_or_default();
    let settings: Vec<(&str, &str)> = settings.split(';').filter_map(|s| s.split_once('=')).collect();
    let ddl = std::env::var("PROBE_DDL").unwrap_or_default();
    let sql = std::env::var("PROBE_SQL").unwrap_or_default();
    let mut bench = Bench::new(release, &ddl, &settings).await;
    let at = bench.here().await;
    let mut wire = Wire::connect(&bench.dialer, "stream").await.unwrap();
    wire.run("SET @master_heartbeat_period = 1000000000, @source_heartbeat_period = 1000000000, @mariadb_slave_capability = 4, @master_binlog_checksum = @@GLOBAL.binlog_checksum, @source_binlog_checksum = @@GLOBAL.binlog_checksum", "x").await.unwrap();
    let (file, offset) = at.text.split_once(':').unwrap();
    let mut dump = Dump::begin(wire, 77, file, offset.parse().unwrap(), std::path::Path::new("/tmp")).await.unwrap();
    for one in sql.split(";;") {
        if let Err(e) = mysql_async::prelude::Queryable::query_drop(&mut bench.sql, one).await {
            println!("SQL {one}: {e}");
        }
    }
    let mut n = 0;
    loop {
        let Ok(Arrived::Block(block)) = dump.next().await else { panic!() };
        let mut off = 0;
        while let Some((bytes, next)) = block.event_at(off).unwrap() {
            off = next;
            let e = Event::parse(bytes, Checksums::Unknown).unwrap();
            let text: String = e.body.iter().map(|b| if (32..127).contains(b) { *b as char } else { '.' }).collect();
            println!(
                "kind {:3} end {:8} flags {:04x} ts {} len {} {}\n      {}",
                e.head.kind,
                e.head.end,
                e.head.flags,
                e.head.timestamp,
                e.head.length,
                text.chars().take(300).collect::<String>(),
                e.body.iter().take(200).map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(" ")
            );
            if e.head.kind == 27 {
                n += 1;
            }
        }
        if n > 1 {
            return;
        }
    }
}
