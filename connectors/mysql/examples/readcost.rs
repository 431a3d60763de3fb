use async_trait::async_trait;
use bytes::Bytes;
use drover_connectors_api::{BlockSink, ChunkReader};
use drover_connectors_mysql::connect::*;
use drover_connectors_mysql::reader::Reader;
use drover_connectors_mysql::snapshot::{Wanted, take};
use drover_connectors_mysql::{catalog, typemap};
use drover_model::chunk::Bounds;
use drover_model::plan::Operations;
use drover_model::selection::*;
use drover_model::*;
use mysql_async::prelude::Queryable;
struct Sink(u64, u64);
#[async_trait]
impl BlockSink for Sink {
    async fn block(&mut self, rows: u64, data: Bytes) -> Result<()> {
        self.0 += rows;
        self.1 += data.len() as u64;
        Ok(())
    }
}
fn cpu() -> f64 {
    let s = std::fs::read_to_string("/proc/self/stat").unwrap();
    let f: Vec<&str> = s.rsplit(") ").next().unwrap().split(' ').collect();
    (f[11].parse::<f64>().unwrap() + f[12].parse::<f64>().unwrap()) / 100.0
}
fn cpu_of(pid: &str) -> f64 {
    let s = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let f: Vec<&str> = s.rsplit(") ").next().unwrap().split(' ').collect();
    (f[11].parse::<f64>().unwrap() + f[12].parse::<f64>().unwrap()) / 100.0
}
#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let port: u16 = std::env::args().nth(1).unwrap().parse().unwrap();
    let pid = std::env::args().nth(2).unwrap();
    let dialer = Dialer::new(Settings {
        host: "127.0.0.1".into(),
        port,
        user: "drover".into(),
        password: Some("drover".into()),
        database: Some("bench".into()),
        tls: Tls::default(),
        migration: uuid::Uuid::new_v4(),
        fault: Fault::Source,
    });
    let mut s = dialer.session("x").await.unwrap();
    let cat = catalog::read(&mut s, Some("bench")).await.unwrap();
    let known = typemap::Known::read(&mut s).await.unwrap();
    for table in cat.tables.iter().filter(|t| t.name.schema == "bench") {
        let choice = TableChoice {
            source: table.name.clone(),
            schema: table.name.schema.clone(),
            table: table.name.name.clone(),
            columns: table
                .columns
                .iter()
                .map(|c| ColumnChoice { source: c.name.clone(), destination: c.name.clone() })
                .collect(),
            filter: None,
            operations: Operations::ALL,
        };
        let plan = typemap::map_table(&cat, table, &choice, &known).plan;
        let set =
            take(&Wanted { dialer: &dialer, readers: 1, tables: std::slice::from_ref(&plan), lineage: 0, exact: true })
                .await
                .unwrap();
        let hold = set.hold();
        let mut r = Reader::open(&hold.snapshot()).await.unwrap();
        for round in 0..3 {
            let mut sink = Sink(0, 0);
            let (c, d, t) = (cpu(), cpu_of(&pid), std::time::Instant::now());
            r.read(&plan, &Bounds::Keys { from: None, to: None }, &mut sink).await.unwrap();
            println!(
                "lean {} round {round}: {} rows {} MB, client {:.2} CPU-s/M, server {:.2} CPU-s/M, wall {:.2}s",
                plan.source,
                sink.0,
                sink.1 >> 20,
                (cpu() - c) / sink.0 as f64 * 1e6,
                (cpu_of(&pid) - d) / sink.0 as f64 * 1e6,
                t.elapsed().as_secs_f64()
            );
        }
        let (c, t) = (cpu(), std::time::Instant::now());
        let mut n = 0u64;
        let mut bytes = 0usize;
        let mut conn = dialer.session("y").await.unwrap();
        let mut result =
            conn.exec_iter(format!("select * from {}.{}", table.name.schema, table.name.name), ()).await.unwrap();
        while let Some(row) = result.next().await.unwrap() {
            let row: mysql_async::Row = row;
            n += 1;
            for v in row.unwrap_raw() {
                if let Some(mysql_async::Value::Bytes(b)) = v {
                    bytes += b.len();
                }
            }
        }
        println!(
            "mysql_async {}: {n} rows {bytes}, client {:.2} CPU-s/M wall {:.2}",
            plan.source,
            (cpu() - c) / n as f64 * 1e6,
            t.elapsed().as_secs_f64()
        );
    }
}
