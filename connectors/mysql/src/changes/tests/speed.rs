//! How much CPU time reading the log takes. By hand:
//! `cargo test --release -p drover-connectors-mysql --lib speed -- --ignored --nocapture`

use super::*;

/// Nanoseconds that this thread was on a CPU.
fn on_cpu() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    text.split_whitespace().next().unwrap().parse().unwrap()
}

/// Columns, codes and metadata of a table, and a row of it.
struct Table {
    name: &'static str,
    columns: Vec<(&'static str, &'static str)>,
    codes: Vec<u8>,
    meta: Vec<u8>,
    row: fn(u32) -> Vec<u8>,
}

fn short(out: &mut Vec<u8>, text: &[u8]) {
    out.push(text.len() as u8);
    out.extend_from_slice(text);
}

fn tables() -> Vec<Table> {
    let mut item = vec![("id", "int"), ("b", "int"), ("c", "int"), ("d", "int")];
    item.extend([("e", "decimal(15,2)"), ("f", "decimal(15,2)"), ("g", "decimal(15,2)"), ("h", "decimal(15,2)")]);
    item.extend([
        ("i", "char(1) character set latin1"),
        ("j", "char(1) character set latin1"),
        ("k", "date"),
        ("l", "date"),
        ("m", "date"),
    ]);
    item.extend([
        ("n", "char(25) character set latin1"),
        ("o", "char(10) character set latin1"),
        ("p", "varchar(44) character set latin1"),
    ]);
    let long = code::LONG;
    let (dec, chr, var) = (code::NEWDECIMAL, code::STRING, code::VARCHAR);
    vec![
        Table {
            name: "16 mixed columns",
            columns: item,
            codes: vec![
                long,
                long,
                long,
                long,
                dec,
                dec,
                dec,
                dec,
                chr,
                chr,
                code::DATE,
                code::DATE,
                code::DATE,
                chr,
                chr,
                var,
            ],
            meta: vec![15, 2, 15, 2, 15, 2, 15, 2, 254, 1, 254, 1, 254, 25, 254, 10, 44, 0],
            row: |id| {
                let mut row = [id, id * 7, id % 1000, 3].iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<u8>>();
                for n in [17u32, 2_116_823, 4, 2] {
                    row.extend([0x80, 0]);
                    row.extend(n.to_be_bytes());
                    row.push(37);
                }
                short(&mut row, b"N");
                short(&mut row, b"O");
                for day in 10..13u32 {
                    row.extend(&((1996u32 << 9) | (3 << 5) | day).to_le_bytes()[..3]);
                }
                short(&mut row, b"DELIVER IN PERSON");
                short(&mut row, b"TRUCK");
                short(&mut row, b"egular courts above the ironic dep");
                row
            },
        },
        Table {
            name: "4 columns",
            columns: vec![
                ("id", "int"),
                ("k", "int"),
                ("c", "char(120) character set latin1"),
                ("pad", "char(60) character set latin1"),
            ],
            codes: vec![long, long, chr, chr],
            meta: vec![254, 120, 254, 60],
            row: |id| {
                let mut row = [id, id * 7].iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<u8>>();
                short(&mut row, &[b'7'; 119]);
                short(&mut row, &[b'8'; 59]);
                row
            },
        },
    ]
}

#[test]
#[ignore = "a measurement"]
fn speed() {
    const ROWS: u32 = 200_000;
    for table in tables() {
        for (update, rows, events) in [(false, 1, 1), (true, 1, 1), (false, 40, 25), (true, 20, 50)] {
            let mut log = Log::new("8.0.36", true);
            let per = rows * events;
            let mut id = 0;
            let nulls = table.codes.len().div_ceil(8);
            for transaction in 0..ROWS / per {
                let mut gtid = vec![1];
                gtid.extend([9; 16]);
                gtid.extend(u64::from(transaction + 1).to_le_bytes());
                gtid.push(2);
                gtid.extend([0; 16]);
                gtid.extend([1; 7]);
                log.event(kind::GTID, &gtid);
                log.query("d", "BEGIN");
                for _ in 0..events {
                    log.map(8, &table.codes, &table.meta);
                    let mut body = vec![7, 0, 0, 0, 0, 0, 1, 0, 2, 0, table.codes.len() as u8];
                    body.extend(vec![0xff; nulls * if update { 2 } else { 1 }]);
                    for _ in 0..rows {
                        for _ in 0..if update { 2 } else { 1 } {
                            body.extend(vec![0; nulls]);
                            body.extend((table.row)(id));
                        }
                        id += 1;
                    }
                    log.event(if update { kind::UPDATE_ROWS } else { kind::WRITE_ROWS }, &body);
                }
                log.event(kind::XID, &7u64.to_le_bytes());
            }
            let mut stream = log.stream(plan(&table.columns));
            stream.gtids = Some(GtidSet::empty(Flavor::MySql));
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let start = on_cpu();
            let (mut changes, mut bytes) = (0, 0);
            runtime.block_on(async {
                let end = loop {
                    match stream.next().await {
                        Ok(batch) => {
                            changes += batch.changes;
                            bytes += batch.payload.len();
                        }
                        Err(error) => break error,
                    }
                };
                assert!(end.causes.iter().any(|c| c.contains("closed")), "{end}");
            });
            let seconds = (on_cpu() - start) as f64 / 1e9;
            assert_eq!(changes, u64::from(ROWS / per * per));
            let kind = if update { "updates" } else { "inserts" };
            println!(
                "{}, {kind}, {per} rows a transaction: {:.2} CPU-s a million rows ({} bytes of log, {} out, a row)",
                table.name,
                seconds * 1e6 / changes as f64,
                log.packets.len() / changes as usize,
                bytes / changes as usize
            );
        }
    }
}
