//! Every text of every character set that changes are read in becomes what the servers themselves make of it.

#![allow(clippy::unwrap_used)] // tests may: a panic is their way to fail

use drover_connectors_mysql::charset::Charset;
use drover_harness::{MySql, Release};
use mysql_async::prelude::Queryable;

/// All that [`Charset::of`] knows besides UTF-8 and the wide ones, which the crate's own tests cover, with the longest of their characters in bytes.
const SETS: [(&str, u32); 16] = [
    ("latin1", 1),
    ("latin2", 1),
    ("latin7", 1),
    ("cp1250", 1),
    ("cp1251", 1),
    ("cp1256", 1),
    ("cp1257", 1),
    ("cp866", 1),
    ("koi8r", 1),
    ("koi8u", 1),
    ("greek", 1),
    ("hebrew", 1),
    ("sjis", 2),
    ("cp932", 2),
    ("gbk", 2),
    ("euckr", 2),
];

async fn agrees(release: Release) {
    let server = MySql::start(release, &[]).await.unwrap();
    let mut session = server.connect("mysql").await.unwrap();
    session.query_drop("SET SESSION sql_mode = '', max_error_count = 0").await.unwrap();
    let mut wrong = Vec::new();
    for (name, longest) in SETS {
        let charset = Charset::of(name).unwrap();
        let mut candidates: Vec<Vec<u8>> = (0..=0xffu8).map(|b| vec![b]).collect();
        if longest > 1 {
            let trails = || (0x40..=0xfeu8).chain(0x30..=0x39);
            candidates.extend((0x81..=0xfeu8).flat_map(|lead| trails().map(move |trail| vec![lead, trail])));
        }
        let mut differ = Vec::new();
        for part in candidates.chunks(4000) {
            let rows: Vec<String> = part
                .iter()
                .map(|bytes| {
                    let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
                    format!("SELECT X'{hex}' AS b")
                })
                .collect();
            let sql = format!(
                "SELECT b, CAST(CONVERT(CONVERT(b USING {name}) USING utf8mb4) AS BINARY), CAST(CONVERT(CONVERT(b USING {name}) USING binary) AS BINARY) FROM ({}) t",
                rows.join(" UNION ALL ")
            );
            let found: Vec<(Vec<u8>, Option<Vec<u8>>, Option<Vec<u8>>)> = session.query(sql).await.unwrap();
            for (bytes, theirs, back) in found {
                // What is no text for the server can be in no column; what has no character is shown as a question mark.
                let Some(theirs) =
                    theirs.filter(|t| back.as_ref() == Some(&bytes) && (!t.contains(&b'?') || bytes == b"?"))
                else {
                    continue;
                };
                let mut ours = Vec::new();
                charset.put(&mut ours, &bytes);
                if ours != theirs {
                    let ours = String::from_utf8_lossy(&ours).into_owned();
                    differ.push(format!("{bytes:02x?} is {:?}, read as {ours:?}", String::from_utf8_lossy(&theirs)));
                }
            }
        }
        if !differ.is_empty() {
            wrong.push(format!("{name}: {} differ: {}", differ.len(), differ[..differ.len().min(40)].join("; ")));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn of_mysql_9() {
    agrees(Release::MySql9).await;
}

#[tokio::test]
async fn of_mariadb_11() {
    agrees(Release::MariaDb11).await;
}
