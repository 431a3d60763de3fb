//! Logs of servers that are not to be had here (MySQL before 9), and damaged ones, made of bytes.

mod speed;

use super::open::Start;
use super::*;
use crate::binlog::bind::Shape;
use crate::binlog::event::{HEAD, kind};
use crate::binlog::table_map::code;
use drover_model::change::{Item, Reader};
use drover_model::plan::{PlanColumn, RowFormat};
use drover_model::row::{Cell, cells};
use drover_model::schema::{DataType, TableName};
use drover_model::{Position, TablePlan};
use proptest::prelude::*;

fn plan(columns: &[(&str, &str)]) -> TablePlan {
    let column = |(name, kind): &(&str, &str)| PlanColumn::new(*name, DataType::Other, *kind);
    TablePlan {
        key: vec![0],
        format: RowFormat::Native(crate::CELLS.into()),
        ..TablePlan::new(0, TableName::new("d", "t"), columns.iter().map(column).collect())
    }
}

/// A log that is written event by event.
struct Log {
    packets: Vec<u8>,
    offset: u64,
    checksums: bool,
    born: u32,
}

impl Log {
    /// Of a server of this version, as a dump from the beginning of `binlog.000001` gives it.
    fn new(version: &str, checksums: bool) -> Log {
        let mut log = Log { packets: Vec::new(), offset: 4, checksums: false, born: 1000 };
        log.rotate_to("binlog.000001");
        log.describe(version, checksums, 8);
        log
    }

    fn raw(&mut self, kind: u8, flags: u16, placed: bool, body: &[u8], summed: bool) {
        let length = HEAD + body.len() + if summed { 4 } else { 0 };
        let mut bytes = self.born.to_le_bytes().to_vec();
        bytes.push(kind);
        bytes.extend(1u32.to_le_bytes());
        bytes.extend((length as u32).to_le_bytes());
        if placed {
            self.offset += length as u64;
        }
        bytes.extend(if placed { self.offset as u32 } else { 0 }.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes.extend_from_slice(body);
        if summed {
            let sum = crc32fast::hash(&bytes);
            bytes.extend(sum.to_le_bytes());
        }
        self.packet(&bytes);
    }

    fn packet(&mut self, event: &[u8]) {
        self.packets.extend(((event.len() + 1) as u32).to_le_bytes());
        self.packets.push(0);
        self.packets.extend_from_slice(event);
    }

    fn event(&mut self, kind: u8, body: &[u8]) {
        self.raw(kind, 0, true, body, self.checksums);
    }

    fn rotate_to(&mut self, file: &str) {
        let body = [&4u64.to_le_bytes()[..], file.as_bytes()].concat();
        self.raw(kind::ROTATE, 0x20, false, &body, self.checksums);
        self.offset = 4;
    }

    fn describe(&mut self, version: &str, checksums: bool, table_map_head: u8) {
        let mut body = 4u16.to_le_bytes().to_vec();
        let mut name = version.as_bytes().to_vec();
        name.resize(50, 0);
        body.extend(name);
        body.extend(self.born.to_le_bytes());
        body.push(HEAD as u8);
        let mut lengths = vec![0u8; 40];
        lengths[usize::from(kind::TABLE_MAP) - 1] = table_map_head;
        body.extend(lengths);
        let states = !version.starts_with("5.1") && !version.starts_with("5.5");
        if states {
            body.push(u8::from(checksums));
        }
        self.raw(kind::FORMAT_DESCRIPTION, 0, true, &body, states);
        self.checksums = checksums;
    }

    fn query(&mut self, database: &str, text: &str) {
        let mut body = vec![0; 8];
        body.push(database.len() as u8);
        body.extend([0, 0, 0, 0]);
        body.extend_from_slice(database.as_bytes());
        body.push(0);
        body.extend_from_slice(text.as_bytes());
        self.event(kind::QUERY, &body);
    }

    /// A statement as a client with this collation wrote it.
    fn statement(&mut self, collation: u16, text: &[u8]) {
        let mut body = vec![0; 8];
        body.extend([1, 0, 0, 7, 0, 4]);
        body.extend(collation.to_le_bytes());
        body.extend([8, 0, 8, 0, b'd', 0]);
        body.extend_from_slice(text);
        self.event(kind::QUERY, &body);
    }

    fn map(&mut self, head: u8, codes: &[u8], meta: &[u8]) {
        let mut body = vec![7, 0, 0, 0];
        body.extend(if head == 6 { vec![] } else { vec![0, 0] });
        body.extend([1, 0]);
        body.extend(b"\x01d\0\x01t\0");
        body.push(codes.len() as u8);
        body.extend_from_slice(codes);
        body.push(meta.len() as u8);
        body.extend_from_slice(meta);
        body.extend(vec![0xff; codes.len().div_ceil(8)]);
        self.event(kind::TABLE_MAP, &body);
    }

    /// One inserted row of all columns, in the first version of such events.
    fn insert(&mut self, head: u8, columns: usize, row: &[u8]) {
        let mut body = vec![7, 0, 0, 0];
        body.extend(if head == 6 { vec![] } else { vec![0, 0] });
        body.extend([1, 0]);
        body.push(columns as u8);
        body.extend(vec![0xff; columns.div_ceil(8)]);
        body.extend(vec![0; columns.div_ceil(8)]);
        body.extend_from_slice(row);
        self.event(kind::WRITE_ROWS_V1, &body);
    }

    /// A transaction that inserts a row into the table with the one column `id int`.
    fn simple(&mut self, id: u32) {
        self.query("d", "BEGIN");
        self.map(8, &[code::LONG], &[]);
        self.insert(8, 1, &id.to_le_bytes());
        self.event(kind::XID, &7u64.to_le_bytes());
    }

    fn stream(&self, plan: TablePlan) -> Changes {
        let place = Place::new("binlog.000001", 4);
        let resume = Resume {
            flavor: Flavor::MySql,
            server: "id:1".into(),
            place: place.clone(),
            born: None,
            gtids: None,
            reread: None,
            held: vec![],
            passing: None,
        };
        self.resumed(plan, &position::position(0, &resume).unwrap(), place)
    }

    fn resumed(&self, plan: TablePlan, from: &Position, read: Place) -> Changes {
        let resume = position::resume_of(from).unwrap();
        let folder = std::env::temp_dir();
        let dump = Dump::over(Box::pin(std::io::Cursor::new(self.packets.clone())), &folder);
        let behind = (read != resume.place).then(|| resume.place.clone());
        let start = Start { lineage: 0, read, behind, born: resume.born, known: None, passing: None, gtids: None };
        let collations = [(1, "big5"), (8, "latin1"), (28, "gbk"), (33, "utf8mb3"), (63, "binary")];
        let collations = collations.map(|(number, charset)| (number, charset.to_owned())).into();
        let tables = Tables::new(vec![Shape::new(plan, None, None).unwrap()], collations, false);
        let room = Room::new(folder, 1 << 20);
        Changes::new(dump, from.clone(), Flavor::MySql, "id:1".into(), start, tables, room, 0, resume.place)
    }
}

/// Everything until the connection ends: rows and truncations by transaction, the place of the end, and the error.
fn read(mut stream: Changes) -> (Vec<Vec<String>>, Position, Error) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut out = Vec::new();
        let mut at = stream.start().clone();
        loop {
            let batch = match stream.next().await {
                Ok(batch) => batch,
                Err(error) => return (out, at, error),
            };
            at = batch.to.clone();
            let widths = Wide(stream.tables.plan(0).map_or(1, |p| p.columns.len()));
            let mut reader = Reader::new(&batch.payload, &widths);
            while let Some(item) = reader.next_item().unwrap() {
                let text = |row: &[u8]| {
                    let cell = |c: Cell<'_>| match c {
                        Cell::Value(v) => String::from_utf8_lossy(v).into_owned(),
                        other => format!("{other:?}"),
                    };
                    cells(row).map(cell).collect::<Vec<_>>().join("|")
                };
                match item {
                    Item::Begin(_) => out.push(Vec::new()),
                    Item::Insert { new, .. } => out.last_mut().unwrap().push(text(new)),
                    Item::Truncate { .. } => out.last_mut().unwrap().push("truncate".into()),
                    Item::End => {}
                    other => panic!("{other:?}"),
                }
            }
        }
    })
}

struct Wide(usize);
impl change::Widths for Wide {
    fn widths(&self, _: u32) -> Option<(usize, usize)> {
        Some((self.0, 1))
    }
}

fn one(ids: &[&str]) -> Vec<Vec<String>> {
    ids.iter().map(|id| vec![(*id).to_owned()]).collect()
}

const INT: &[(&str, &str)] = &[("id", "int(11)")];

/// MySQL 5.1 and 5.5: no checksums, no ids, nothing that marks where transactions begin but BEGIN; dates and times in their old forms.
#[test]
fn servers_before_5_6() {
    for (version, head) in [("5.1.5-beta-log", 6), ("5.1.73-log", 8), ("5.5.62-log", 8)] {
        let mut log = Log::new(version, false);
        log.packets.clear();
        log.rotate_to("binlog.000001");
        log.describe(version, false, head);
        let columns = [
            ("id", "int(11)"),
            ("a", "time"),
            ("b", "datetime"),
            ("c", "timestamp"),
            ("e", "date"),
            ("y", "year(4)"),
            ("n", "decimal(4,1)"),
        ];
        let codes = [code::LONG, code::TIME, code::DATETIME, code::TIMESTAMP, code::DATE, code::YEAR, code::NEWDECIMAL];
        log.query("d", "BEGIN");
        log.map(head, &codes, &[4, 1]);
        let row = [
            &5u32.to_le_bytes()[..],
            &(-123_456i32).to_le_bytes()[..3],
            &20_240_229_235_959u64.to_le_bytes(),
            &1_709_251_199u32.to_le_bytes(),
            &((2024u32 << 9) | (2 << 5) | 29).to_le_bytes()[..3],
            &[124],
            &[0x80, 0x7b, 0x04],
        ]
        .concat();
        log.insert(head, codes.len(), &row);
        log.event(kind::XID, &7u64.to_le_bytes());
        // Statements of their own, and a table of an engine without transactions.
        log.query("d", "create table other (a int)");
        log.query("d", "BEGIN");
        log.map(head, &codes, &[4, 1]);
        log.insert(head, codes.len(), &[&6u32.to_le_bytes()[..], &row[4..]].concat());
        log.query("d", "COMMIT");
        log.query("d", "TRUNCATE TABLE t");
        // Some versions enclose such changes in nothing at all.
        log.map(head, &codes, &[4, 1]);
        log.insert(head, codes.len(), &[&7u32.to_le_bytes()[..], &row[4..]].concat());
        let (found, at, error) = read(log.stream(plan(&columns)));
        let rest = "-12:34:56|2024-02-29 23:59:59|2024-02-29 23:59:59|2024-02-29|2024|123.4";
        assert_eq!(
            found,
            [
                vec![format!("5|{rest}")],
                vec![format!("6|{rest}")],
                vec!["truncate".to_owned()],
                vec![format!("7|{rest}")]
            ],
            "{version}"
        );
        assert_eq!(at.text, format!("binlog.000001:{}", log.offset));
        assert_eq!(error.code, codes::CONNECTION);
    }
}

/// 5.6: checksums, the new forms of dates and times, ids without times; and the second version of row events.
#[test]
fn a_server_of_5_6() {
    let mut log = Log::new("5.6.51-log", true);
    let mut gtid = vec![1];
    gtid.extend([9; 16]);
    gtid.extend(77u64.to_le_bytes());
    log.event(kind::GTID, &gtid);
    log.query("d", "BEGIN");
    log.map(8, &[code::LONG, code::TIME2], &[1]);
    let mut rows = vec![7, 0, 0, 0, 0, 0, 1, 0];
    // Two bytes of extra data.
    rows.extend([4, 0, 0xaa, 0xbb]);
    rows.extend([2, 0xff, 0, 1, 0, 0, 0]);
    rows.extend([0x7f, 0xff, 0xff, 0xce]);
    log.event(kind::WRITE_ROWS, &rows);
    log.event(kind::XID, &7u64.to_le_bytes());
    let mut stream = log.stream(plan(&[("id", "int(11)"), ("a", "time(1)")]));
    stream.gtids = Some(GtidSet::empty(Flavor::MySql));
    let (found, at, _) = read(stream);
    // -1 second and a half, upwards from -2 (as a hundredth: 0xce is 206 of 256 below).
    assert_eq!(found, [["1|-00:00:00.5"]]);
    let gtids = position::resume_of(&at).unwrap().gtids.unwrap();
    assert_eq!(gtids, "09090909-0909-0909-0909-090909090909:77");
}

/// Files follow one another; a transaction that a crash cut off is not carried over; each place is one to go on from.
#[test]
fn files_and_what_a_crash_cut_off() {
    let mut log = Log::new("8.0.36", true);
    log.simple(1);
    log.query("d", "BEGIN");
    log.map(8, &[code::LONG], &[]);
    log.insert(8, 1, &2u32.to_le_bytes());
    let half = log.offset;
    log.born = 2000;
    log.rotate_to("binlog.000002");
    log.describe("8.0.36", true, 8);
    log.simple(3);
    let (found, at, _) = read(log.stream(plan(INT)));
    assert_eq!(found, one(&["1", "3"]));
    assert!(half > 4);
    assert_eq!(at.text, format!("binlog.000002:{}", log.offset));
    assert_eq!(position::resume_of(&at).unwrap().born, Some(2000));
}

/// A transaction that lies across 4 GiB of a file: its end is known, and a dump that goes on behind it begins before.
#[test]
fn offsets_beyond_4_gib() {
    let near = u64::from(u32::MAX) - 500;
    let mut log = Log::new("8.0.36", false);
    log.offset = near;
    log.query("d", "create table other (a int)");
    let before = log.offset;
    log.query("d", "BEGIN");
    log.map(8, &[code::LONG], &[]);
    for id in 10..40u32 {
        log.insert(8, 1, &id.to_le_bytes());
    }
    log.event(kind::XID, &7u64.to_le_bytes());
    assert!(log.offset > u64::from(u32::MAX));
    let beyond = log.offset;
    log.simple(50);
    let start = Place::new("binlog.000001", near);
    let first = Resume { place: start.clone(), ..position::resume_of(log.stream(plan(INT)).start()).unwrap() };
    let (found, at, _) = read(log.resumed(plan(INT), &position::position(0, &first).unwrap(), start));
    assert_eq!(found.iter().map(Vec::len).collect::<Vec<_>>(), [30, 1]);
    assert_eq!(at.text, format!("binlog.000001:{}", log.offset));
    let resume = position::resume_of(&at).unwrap();
    assert_eq!(resume.reread, Some(Place::new("binlog.000001", before)));
    // Goes on behind the large one: it is read again, and passed over.
    let from = position::position(0, &Resume { place: Place::new("binlog.000001", beyond), ..resume.clone() }).unwrap();
    let mut again = Log { packets: Vec::new(), offset: 4, checksums: false, born: 1000 };
    again.rotate_to("binlog.000001");
    again.describe("8.0.36", false, 8);
    again.offset = before;
    again.query("d", "BEGIN");
    again.map(8, &[code::LONG], &[]);
    for id in 10..40u32 {
        again.insert(8, 1, &id.to_le_bytes());
    }
    again.event(kind::XID, &7u64.to_le_bytes());
    again.simple(50);
    let mut stream = again.resumed(plan(INT), &from, Place::new("binlog.000001", before));
    stream.expected_born = None;
    let (found, at, _) = read(stream);
    assert_eq!(found, one(&["50"]));
    assert_eq!(at.text, format!("binlog.000001:{}", again.offset));
}

/// What ends a stream, after what came before it.
#[test]
fn events_that_end_it() {
    let ends = |add: &dyn Fn(&mut Log)| {
        let mut log = Log::new("8.0.36", true);
        log.simple(1);
        add(&mut log);
        log.simple(2);
        let (found, _, error) = read(log.stream(plan(INT)));
        assert_eq!(found[0], ["1"]);
        (found.len(), error.code)
    };
    let lost = |code: &str| (1, code.to_owned());
    assert_eq!(ends(&|l| l.event(kind::INCIDENT, b"\x01\x00\x04lost")), lost(codes::POSITION_LOST));
    assert_eq!(ends(&|l| l.event(21, &[0; 20])), lost(codes::UNSUPPORTED));
    assert_eq!(ends(&|l| l.event(99, b"new")), lost(codes::UNSUPPORTED));
    assert_eq!(ends(&|l| l.raw(99, 0x80, true, b"new", true)), (2, codes::CONNECTION.to_owned()));
    // Damage: of the body, of the length.
    let damage = |at_end: usize| {
        move |l: &mut Log| {
            l.event(kind::ROWS_QUERY, b"\x05hello");
            let n = l.packets.len();
            l.packets[n - at_end] ^= 1;
        }
    };
    assert_eq!(ends(&damage(6)), lost(codes::CONNECTION));
    assert_eq!(ends(&damage(1)), lost(codes::CONNECTION));
    // LOAD DATA in statement form.
    let load = |l: &mut Log| {
        let mut body = vec![0; 8];
        body.extend([1, 0, 0, 0, 0]);
        body.extend([0; 13]);
        body.extend(b"d\0LOAD DATA INFILE 'x' INTO TABLE t");
        l.event(kind::EXECUTE_LOAD_QUERY, &body);
    };
    assert_eq!(ends(&load), lost(codes::UNSUPPORTED));
    // Rows of a table that was not described.
    assert_eq!(
        ends(&|l| {
            l.query("d", "BEGIN");
            l.insert(8, 1, &[1, 0, 0, 0]);
        }),
        (2, codes::CONNECTION.to_owned())
    );
    let other = |l: &mut Log| {
        l.query("d", "BEGIN");
        let mut body = vec![9, 0, 0, 0, 0, 0, 1, 0, 1, 1, 0];
        body.extend(1u32.to_le_bytes());
        l.event(kind::WRITE_ROWS_V1, &body);
    };
    assert_eq!(ends(&other), lost(codes::INTERNAL));
    // A table that has another shape than its plan.
    let shape = |codes: &'static [u8], meta: &'static [u8]| {
        move |l: &mut Log| {
            l.query("d", "BEGIN");
            l.map(8, codes, meta);
        }
    };
    assert_eq!(ends(&shape(&[code::LONGLONG], &[])), lost(codes::TABLE_CHANGED));
    assert_eq!(ends(&shape(&[code::LONG, code::LONG], &[])), lost(codes::TABLE_CHANGED));
}

#[test]
fn statements_are_read_in_the_character_set_of_their_client() {
    let told = |collation: u16, text: &[u8]| {
        let mut log = Log::new("8.0.36", true);
        log.statement(collation, text);
        log.simple(2);
        let (found, _, error) = read(log.stream(plan(INT)));
        if found.is_empty() { error.to_string() } else { "passed over".to_owned() }
    };
    let add = |bytes: &[u8]| [&b"alter table t add c varchar(9) default '"[..], bytes, b"'"].concat();
    for (collation, bytes, text) in [
        (8, &b"\x80 \xe4"[..], "€ ä"),
        // Bytes that would be UTF-8, too.
        (8, "ü".as_bytes(), "Ã¼"),
        (28, "ü".as_bytes(), "眉"),
        // The second byte of a character is no backslash.
        (28, b"\x95\x5c", "昞"),
        (33, "ü".as_bytes(), "ü"),
        (63, "ü".as_bytes(), "ü"),
    ] {
        let error = told(collation, &add(bytes));
        assert!(
            error.contains(&format!(
                "the table was changed by ALTER TABLE: alter table t add c varchar(9) default '{text}'"
            )),
            "{error}"
        );
    }
    for (collation, bytes) in [(1, &b"\xa4\xa4"[..]), (33, b"\xe4"), (28, b"\x81"), (63, b"\xff")] {
        let error = told(collation, &add(bytes));
        assert!(error.contains("cannot read as") && error.contains("DR0009"), "{error}");
    }
    // A name that may be anyone's, and what does not matter.
    assert!(told(1, b"truncate table \xa4\xa4").contains("cannot read as big5"));
    assert_eq!(told(1, b"truncate table other.\xa4\xa4"), "passed over");
    assert_eq!(told(1, b"alter table u add c varchar(9) default '\xa4\xa4'"), "passed over");
    assert!(told(1, b"/* \xa4\xa4 */ drop table t").contains("was changed by DROP TABLE"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    /// Whatever a server sends: an error in the end, no panic.
    #[test]
    fn garbage(events in prop::collection::vec((0u8..45, prop::collection::vec(any::<u8>(), 0..60)), 0..12), checksums in any::<bool>()) {
        let mut log = Log::new("8.0.36", checksums);
        log.simple(1);
        for (kind, body) in &events {
            // Some that are nearly right.
            match kind {
                0 => log.simple(2),
                1 => log.query("d", &String::from_utf8_lossy(body)),
                4 | 15 => log.map(8, &[code::LONG], &[]),
                20..=22 => log.insert(8, 1, body),
                kind => log.event(*kind, body),
            }
        }
        let _ = read(log.stream(plan(INT)));
        let mut raw = Log::new("8.0.36", false);
        for (_, body) in &events {
            raw.packet(body);
        }
        let _ = read(raw.stream(plan(INT)));
    }

    /// A good log in which something is turned over.
    #[test]
    fn damage(at in any::<prop::sample::Index>(), bit in 0u8..8) {
        let mut log = Log::new("8.0.36", false);
        log.simple(1);
        log.query("d", "alter table u add a int");
        log.simple(2);
        let at = at.index(log.packets.len());
        log.packets[at] ^= 1 << bit;
        let _ = read(log.stream(plan(INT)));
    }
}
