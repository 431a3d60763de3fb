//! Every type of the family with its extremes: what a cell holds, and what makes the same value at the server.

use anyhow::{Result, ensure};
use drover_harness::mysql::Release;

use super::{Place, cells};

/// A type, and values of it: the cell's bytes and what makes the same value at the server.
pub struct Case {
    pub kind: &'static str,
    pub values: Vec<(Vec<u8>, String)>,
}

fn case(kind: &'static str, values: &[(&str, &str)]) -> Case {
    Case { kind, values: values.iter().map(|(cell, sql)| (cell.as_bytes().to_vec(), (*sql).to_owned())).collect() }
}

/// Values whose cell is their text.
fn plain(kind: &'static str, values: &[&str]) -> Case {
    Case { kind, values: values.iter().map(|v| (v.as_bytes().to_vec(), format!("'{v}'"))).collect() }
}

/// Values that are bytes.
fn bytes(kind: &'static str, values: &[&[u8]]) -> Case {
    let hex = |v: &[u8]| v.iter().map(|b| format!("{b:02x}")).collect::<String>();
    Case { kind, values: values.iter().map(|v| (v.to_vec(), format!("X'{}'", hex(v)))).collect() }
}

pub fn cases(release: Release) -> Vec<Case> {
    let every: Vec<u8> = (0..=255).collect();
    let latin: Vec<u8> = (1..=255).collect();
    let nines = "9".repeat(35);
    let decimal = format!("-{nines}.{}", "9".repeat(30));
    let bits = "10".repeat(32);
    let point = [&[0u8; 4][..], &[1, 1, 0, 0, 0], &1f64.to_le_bytes(), &(-2f64).to_le_bytes()].concat();
    let utf16: Vec<u8> = "aä😀".encode_utf16().flat_map(u16::to_be_bytes).collect();
    let mut cases = vec![
        plain("tinyint", &["-128", "127", "0"]),
        plain("tinyint unsigned", &["255"]),
        plain("smallint", &["-32768", "32767"]),
        plain("mediumint", &["-8388608", "8388607"]),
        plain("mediumint unsigned zerofill", &["16777215", "7"]),
        plain("int", &["-2147483648", "2147483647"]),
        plain("bigint", &["-9223372036854775808", "9223372036854775807"]),
        plain("bigint unsigned", &["18446744073709551615"]),
        case("decimal(65,30)", &[(&decimal, &decimal), ("0.000000000000000000000000000001", "1e-30")]),
        plain("decimal(5,0)", &["-99999", "0"]),
        case(
            "float",
            &[
                ("0.1", "1e-1"),
                ("3.4028235e38", "3.4028234663852886e38"),
                ("1e-45", "1.401298464324817e-45"),
                ("16777217", "16777216e0"),
                ("-1.1754944e-38", "-1.1754943508222875e-38"),
                // In between two FLOATs as a text, on one of them as a DOUBLE.
                ("7.038531e-26", "7.038530691851209e-26"),
            ],
        ),
        case("float(7,3)", &[("1234.567", "1234.567"), ("-0.001", "-0.001")]),
        case(
            "double",
            &[
                ("1.7976931348623157e308", "1.7976931348623157e308"),
                ("5e-324", "5e-324"),
                ("2.2250738585072014e-308", "2.2250738585072014e-308"),
                ("0.1", "0.1e0"),
                ("-123456789.12345679", "-123456789.12345679e0"),
            ],
        ),
        case("bit(1)", &[("1", "1"), ("0", "0")]),
        case("bit(10)", &[("1000000001", "513"), ("0000001001", "9"), ("0000001010", "10"), ("0001011100", "92")]),
        case("bit(64)", &[(&"1".repeat(64), "18446744073709551615"), (&bits, "12297829382473034410")]),
        plain("year", &["0000", "1901", "2155"]),
        plain("date", &["0000-00-00", "9999-12-31", "2023-02-31", "2023-00-00"]),
        plain("time", &["-838:59:59", "838:59:59"]),
        plain("time(6)", &["-838:59:58.999999", "-00:00:00.000001", "00:00:00.100000"]),
        plain("time(1)", &["-00:00:00.1"]),
        plain("datetime", &["0000-00-00 00:00:00", "9999-12-31 23:59:59"]),
        plain("datetime(6)", &["1000-01-01 00:00:00.000001", "9999-12-31 23:59:59.999999"]),
        plain("timestamp null", &["0000-00-00 00:00:00", "1970-01-01 00:00:01", "2021-03-28 01:30:00"]),
        plain("timestamp(6) null", &["2038-01-19 03:14:07.999999"]),
        bytes("char(20) character set utf8mb4", &["aä😀\\'\"\t\n\r".as_bytes(), b""]),
        bytes("varchar(20) character set utf8mb4", &["aä😀\\'\"\t\n\r\u{1a}\0x ".as_bytes(), b"", b"\\N", b"NULL"]),
        bytes("varchar(255) character set latin1", &[&latin]),
        bytes("varchar(20) character set utf16", &[&utf16, b""]),
        bytes("varchar(20) character set sjis", &[b"\x83\x5c\x95\x5c'"]),
        bytes("varchar(20) character set gbk", &[b"\xbf\x5c'", b"\x95\x5c"]),
        bytes("text character set cp1251", &[b"\xcf\xf0\xe8"]),
        bytes("longtext character set utf8mb4", &["x".repeat(300_000).as_bytes()]),
        bytes("binary(4)", &[b"\0\0\0\0", b"ab\0\0", b"\\\t\n'"]),
        bytes("varbinary(256)", &[&every, b""]),
        bytes("tinyblob", &[&every[..255]]),
        bytes("longblob", &[&every.repeat(1000)]),
        plain("enum('a','b c','') character set utf8mb4", &["a", "b c", ""]),
        case("enum('ä','ö,ü') character set latin1", &[("ä", "'ä'"), ("ö,ü", "2")]),
        plain("enum('a','b') character set utf16", &["b"]),
        plain("set('a','b','c') character set latin1", &["", "a,c", "a,b,c"]),
        case("set('ä','ö') character set latin1", &[("ä,ö", "3")]),
        case(
            "json",
            &[
                (r#"{"a": "ä\"\\"}"#, r#"'{"a": "ä\\"\\\\"}'"#),
                ("[]", "'[]'"),
                ("null", "'null'"),
                ("18446744073709551615", "'18446744073709551615'"),
            ],
        ),
        Case { kind: "geometry", values: vec![(point.clone(), "st_geomfromtext('POINT(1 -2)')".into())] },
    ];
    if release == Release::MySql9 {
        let located = [&4326u32.to_le_bytes()[..], &point[4..]].concat();
        cases.push(Case {
            kind: "point",
            values: vec![(located, "st_geomfromtext('POINT(1 -2)', 4326, 'axis-order=long-lat')".into())],
        });
    }
    if release != Release::MariaDb10 {
        let vector: Vec<u8> = [1f32, -0.5, 3.25].iter().flat_map(|f| f.to_le_bytes()).collect();
        let to_vector = if release == Release::MySql9 { "string_to_vector" } else { "vec_fromtext" };
        cases.push(Case { kind: "vector(3)", values: vec![(vector, format!("{to_vector}('[1,-0.5,3.25]')"))] });
    }
    if release.is_mariadb() {
        cases.push(plain("uuid", &["123e4567-e89b-12d3-a456-426655440000"]));
        cases.push(plain("inet6", &["2001:db8::ff00:42:8329", "::ffff:1.2.3.4"]));
        cases.push(plain("inet4", &["255.255.255.255"]));
    }
    cases
}

/// Creates `wanted` with a row for the n-th values of all types and one of nulls, written by SQL, and empty tables like it. Gives the rows as
/// cells: `id`, then a column for each type.
pub async fn create(place: &Place, cases: &[Case], tables: &[&str]) -> Result<Vec<Vec<u8>>> {
    let columns: Vec<String> = cases.iter().enumerate().map(|(i, c)| format!("c{i} {} default null", c.kind)).collect();
    for table in tables.iter().chain(&["wanted"]) {
        place.exec(&format!("CREATE TABLE {table} (id int primary key, {})", columns.join(", "))).await?;
    }
    let deepest = cases.iter().map(|c| c.values.len()).max().unwrap_or(0);
    let mut rows = Vec::new();
    for n in 0..=deepest {
        let id = n.to_string();
        let values: Vec<Option<&(Vec<u8>, String)>> = cases.iter().map(|c| c.values.get(n)).collect();
        let mut row = vec![Some(id.as_bytes())];
        row.extend(values.iter().map(|v| v.map(|v| &v.0[..])));
        rows.push(cells(&row));
        let sql: Vec<&str> = values.iter().map(|v| v.map_or("null", |v| v.1.as_str())).collect();
        place.exec(&format!("INSERT INTO wanted VALUES ({n}, {})", sql.join(", "))).await?;
    }
    Ok(rows)
}

/// The tables must hold what `wanted` holds, byte by byte as the engine stores it.
pub async fn compare(place: &Place, cases: &[Case], tables: &[&str]) -> Result<()> {
    let release = place.server.release();
    for table in tables {
        for (i, case) in cases.iter().enumerate() {
            let sql = format!(
                "SELECT group_concat(w.id) FROM wanted w JOIN {table} t USING (id) WHERE NOT hex(w.c{i}) <=> hex(t.c{i}) OR NOT w.c{i} <=> t.c{i}"
            );
            let differ = place.text(&sql).await?;
            ensure!(differ.is_none(), "{release:?} {table} {}: rows {differ:?} differ", case.kind);
        }
        let sums = place.rows(&format!("CHECKSUM TABLE wanted, {table}")).await?;
        ensure!(sums[0][1].is_some() && sums[0][1] == sums[1][1], "{release:?} {table}: {sums:?}");
    }
    Ok(())
}
