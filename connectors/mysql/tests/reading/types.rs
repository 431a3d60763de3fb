//! Types with extreme and odd values.

use drover_harness::Release;

/// A column: its type, values to insert, and what the server shows of `c` that the cell must be.
pub struct Column {
    pub definition: &'static str,
    pub values: &'static [&'static str],
    pub shown: &'static str,
}

const fn column(definition: &'static str, shown: &'static str, values: &'static [&'static str]) -> Column {
    Column { definition, values, shown }
}

const PLAIN: &str = "c";
/// A FLOAT as the server sees it when it computes.
const WIDENED: &str = "c + 0e0";

pub const COLUMNS: &[Column] = &[
    column("tinyint", PLAIN, &["-128", "127", "0"]),
    column("tinyint(1)", PLAIN, &["-1", "1", "0"]),
    column("tinyint unsigned", PLAIN, &["255", "0"]),
    column("smallint", PLAIN, &["-32768", "32767"]),
    column("smallint unsigned", PLAIN, &["65535"]),
    column("mediumint", PLAIN, &["-8388608", "8388607", "-1"]),
    column("mediumint unsigned", PLAIN, &["16777215"]),
    column("int", PLAIN, &["-2147483648", "2147483647"]),
    column("int unsigned", PLAIN, &["4294967295"]),
    column("int(8) unsigned zerofill", "c + 0", &["42", "0", "4294967295"]),
    column("bigint", PLAIN, &["-9223372036854775808", "9223372036854775807"]),
    column("bigint unsigned", PLAIN, &["18446744073709551615", "9223372036854775808"]),
    column(
        "decimal(65,30)",
        PLAIN,
        &[
            "-99999999999999999999999999999999999.999999999999999999999999999999",
            "0",
            "0.000000000000000000000000000001",
        ],
    ),
    column("decimal(10)", PLAIN, &["-9999999999", "7"]),
    column("decimal(5,5)", PLAIN, &["-0.99999", "0.5", "0"]),
    column("decimal(12,2) zerofill", "c + 0", &["42.5", "0"]),
    column("float", WIDENED, &["-3.402823466e38", "1.175494351e-38", "0.1", "16777217", "0", "-0.0", "1.17549e-45"]),
    column("float(7,3)", WIDENED, &["1234.567", "-0.001"]),
    column(
        "double",
        PLAIN,
        &[
            "-1.7976931348623157e308",
            "2.2250738585072014e-308",
            "0.1",
            "1e15",
            "123456789012345678",
            "5e-324",
            "0.30000000000000004",
        ],
    ),
    column("double unsigned", PLAIN, &["3.14"]),
    column("bit(1)", "LPAD(BIN(c), 1, '0')", &["b'0'", "b'1'"]),
    column("bit(11)", "LPAD(BIN(c), 11, '0')", &["b'11111111111'", "b'1'"]),
    column("bit(64)", "LPAD(BIN(c), 64, '0')", &["18446744073709551615", "1"]),
    column("year", PLAIN, &["1901", "2155", "0"]),
    column(
        "date",
        PLAIN,
        &[
            "'0000-00-00'",
            "'9999-12-31'",
            "'2024-00-00'",
            "'2024-02-00'",
            "'1000-01-01'",
            "'0001-01-01'",
            "'2023-02-31'",
        ],
    ),
    column("time", PLAIN, &["'-838:59:59'", "'838:59:59'", "'-00:00:01'", "'0'", "'101:00:00'"]),
    column("time(6)", PLAIN, &["'-838:59:58.999999'", "'-00:00:00.000001'", "'12:34:56.5'", "'0'"]),
    column("time(3)", PLAIN, &["'-01:02:03.004'", "'23:59:59.999'"]),
    column(
        "datetime",
        PLAIN,
        &["'0000-00-00 00:00:00'", "'9999-12-31 23:59:59'", "'1000-01-01 00:00:00'", "'2024-02-30 12:00:00'"],
    ),
    column(
        "datetime(6)",
        PLAIN,
        &["'9999-12-31 23:59:59.999999'", "'2024-01-01 00:00:00.000001'", "'2024-01-01'", "'0000-00-00'"],
    ),
    column("datetime(2)", PLAIN, &["'2024-01-01 10:20:30.05'"]),
    column("timestamp NULL", PLAIN, &["'1970-01-01 00:00:01'", "'2038-01-19 03:14:07'", "'0000-00-00 00:00:00'"]),
    column(
        "timestamp(6) NULL",
        PLAIN,
        &["'1970-01-01 00:00:01.000001'", "'2038-01-19 03:14:07.999999'", "'2024-10-27 00:30:00'"],
    ),
    column("char(10) CHARACTER SET latin1", PLAIN, &["'h\u{e9}llo'", "''", "'  a'", "'0'"]),
    column("char(10) CHARACTER SET utf8mb4", PLAIN, &["'\u{1f600}'", "'a  '"]),
    column(
        "varchar(50) CHARACTER SET utf8mb4",
        PLAIN,
        &["'\u{1f600} \u{8a9e}'", "''", "'a  '", r#"'\\ '' \" \n \0 \Z'"#],
    ),
    column("varchar(50) CHARACTER SET utf16", PLAIN, &["'\u{1f600}a'", "''"]),
    column("varchar(50) CHARACTER SET cp1251", PLAIN, &["'\u{0416}'"]),
    column("varchar(50) CHARACTER SET ucs2", PLAIN, &["'ab'"]),
    column("tinytext CHARACTER SET latin1", PLAIN, &["REPEAT('x', 255)"]),
    column("text", PLAIN, &["REPEAT('\u{e9}', 30000)", "''"]),
    column("mediumtext", PLAIN, &["REPEAT('ab', 100000)"]),
    column("longtext", PLAIN, &["REPEAT('ab', 9000000)"]),
    column("binary(5)", PLAIN, &["'a'", "X'00ff00ff00'", "''"]),
    column("varbinary(300)", PLAIN, &["X'00'", "''", "REPEAT(X'fe', 300)"]),
    column("tinyblob", PLAIN, &["REPEAT(X'fb', 251)"]),
    column("longblob", PLAIN, &["REPEAT(X'00ff', 40000)", "''"]),
    column(
        "enum('', 'a', 'h\u{e9}', 'it''s', 'x,y') CHARACTER SET latin1",
        "CONVERT(c USING utf8mb4)",
        &["1", "2", "3", "4", "5"],
    ),
    column("enum('one', 'two')", PLAIN, &["'TWO'"]),
    column(
        "set('a', 'b', '\u{e9}', 'd e') CHARACTER SET latin1",
        "CONVERT(c USING utf8mb4)",
        &["''", "15", "'d e,a'", "4"],
    ),
    column("geometry", PLAIN, &["ST_GeomFromText('POINT(1 -2.5)')", "ST_GeomFromText('POLYGON((0 0,0 1,1 1,0 0))')"]),
];

const OF_MYSQL: &[Column] = &[
    column(
        "json",
        PLAIN,
        &[
            r#"'{"b": [1, 2.50, null, true], "a": "\\u00e9\\ud83d\\ude00"}'"#,
            "'null'",
            "'[]'",
            "'18446744073709551615'",
            "CAST(CAST('2024-01-01' AS date) AS json)",
        ],
    ),
    column("vector(3)", PLAIN, &["STRING_TO_VECTOR('[1,-2.5,3e10]')"]),
    column("geometry SRID 4326", PLAIN, &["ST_GeomFromText('POINT(10 20)', 4326)"]),
];

const OF_MARIADB: &[Column] = &[
    column("uuid", PLAIN, &["'123e4567-e89b-12d3-a456-426655440000'", "'ffffffff-ffff-ffff-ffff-fffffffffffe'"]),
    column("inet4", PLAIN, &["'255.0.0.1'", "'0.0.0.0'"]),
    column("inet6", PLAIN, &["'::'", "'2001:db8::ff00:42:8329'", "'::ffff:10.0.0.1'"]),
    column("json", PLAIN, &[r#"'{"b":1,  "a":2.50}'"#]),
];

pub fn columns(release: Release) -> Vec<&'static Column> {
    let own = if release.is_mariadb() { OF_MARIADB } else { OF_MYSQL };
    COLUMNS.iter().chain(own).collect()
}
