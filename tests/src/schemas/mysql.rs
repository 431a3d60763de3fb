//! Types of the MySQL family.

use super::{Kind, kind};
use crate::{Engine, Pair, Release};

const DATES: &[&str] =
    &["'2020-02-29'", "'1000-01-01'", "'9999-12-31'", "'0000-00-00'", "'2021-00-00'", "'1969-12-31'"];
const TIMES: &[&str] = &["'12:34:56'", "'-838:59:59'", "'838:59:59'", "'00:00:00'", "'-00:00:01'"];
const TIMES_6: &[&str] =
    &["'12:34:56.789012'", "'-838:59:59.000000'", "'-00:00:00.000001'", "'00:00:00.100000'", "'-01:02:03.900000'"];
const MOMENTS: &[&str] = &[
    "'2020-02-29 23:59:59'",
    "'1000-01-01 00:00:00'",
    "'9999-12-31 23:59:59'",
    "'0000-00-00 00:00:00'",
    "'1970-01-01 00:00:00'",
];
const MOMENTS_6: &[&str] = &[
    "'2020-02-29 23:59:59.999999'",
    "'1000-01-01 00:00:00.000001'",
    "'9999-12-31 23:59:59.100000'",
    "'0000-00-00 00:00:00.000000'",
];
const STAMPS: &[&str] =
    &["'2020-06-30 12:00:00'", "'1970-01-01 00:00:01'", "'2038-01-19 03:14:07'", "'0000-00-00 00:00:00'"];
const STAMPS_6: &[&str] =
    &["'2020-06-30 12:00:00.123456'", "'1970-01-01 00:00:01.000001'", "'2038-01-19 03:14:07.000000'"];
/// What each character set of the texts has, with what needs care: tabs, backslashes, quotes, blanks at the end, the empty text.
const ASCII: &[&str] = &["'plain'", "''", "'tab\\t \\\\ \\' \"'", "'line\\nend\\r'", "'end  '", "'\\0\\Z'", "'\\\\N'"];
const LATIN: &[&str] = &["'grüße ÿ'", "''", "'Ünder €'", "'tab\\t\\\\'", "'a\\0b'"];
const WIDE: &[&str] = &["'羊 🐑 grüße'", "''", "'tab\\t\\\\'", "'𝄞'", "'e\\u0301'"];
const BMP: &[&str] = &["'羊 grüße'", "''", "'tab\\t\\\\'", "'Ωж'"];
const CYRILLIC: &[&str] = &["'привет'", "''", "'Жж я'", "'tab\\t\\\\'"];
/// Second bytes that are a backslash, or a quote's neighbours.
const JAPANESE: &[&str] = &["'表ソ十'", "''", "'ﾊﾝｶｸ'", "'tab\\t\\\\'"];
const CHINESE: &[&str] = &["'誠許功'", "''", "'蓋'", "'tab\\t\\\\'"];
const BYTES: &[&str] = &["x'00ff5c0a09270d1a'", "''", "x'00'", "x'2020'", "x'ff00'"];
const WORD: &str = "concat('Key ', {})";

const COMMON: &[Kind] = &[
    kind("tinyint", "{}", &["-128", "127", "0", "-1"]),
    kind("tinyint(1)", "{}", &["0", "1", "-128", "127"]),
    kind("tinyint unsigned", "{}", &["0", "255", "128"]),
    kind("smallint", "{} - 60", &["-32768", "32767", "0", "-1"]),
    kind("smallint unsigned", "{}", &["0", "65535", "32768"]),
    kind("mediumint", "{} - 60", &["-8388608", "8388607", "0", "-1"]),
    kind("mediumint unsigned", "{}", &["0", "16777215", "8388608"]),
    kind("int", "{} - 60", &["-2147483648", "2147483647", "0", "-1"]),
    kind("int unsigned", "{} + 4294967000", &["0", "4294967295", "2147483648"]),
    kind("int(8) unsigned zerofill", "{}", &["0", "42", "4294967295"]),
    kind("bigint", "{} - 60", &["-9223372036854775808", "9223372036854775807", "0", "-1"]),
    kind("bigint unsigned", "18446744073709551615 - {}", &["0", "18446744073709551615", "9223372036854775808"]),
    kind("decimal(10,0)", "{} - 60", &["-9999999999", "9999999999", "0"]),
    kind(
        "decimal(65,30)",
        "{} / 8",
        &["-0.000000000000000000000000000001", "99999999999999999999999999999999999", "0"],
    ),
    kind("decimal(5,5)", "{} / 1000", &["0.99999", "-0.99999", "0"]),
    kind("float", "{} + 0.1", &["0.1", "-3.4028234e38", "1.1754944e-38", "16777217", "1e-45"]),
    kind("double", "{} + 0.1", &["0.1", "-1.7976931348623157e308", "2.2250738585072014e-308", "5e-324", "1e15"]),
    kind("float(7,3)", "{} + 0.5", &["1234.567", "-0.001", "0"]),
    kind("double(12,4)", "{} + 0.5", &["12345678.1234", "-0.0001", "0"]),
    kind("bit(1)", "", &["b'0'", "b'1'"]),
    kind("bit(9)", "{}", &["b'0'", "b'111111111'", "b'100000000'"]),
    kind(
        "bit(64)",
        "{}",
        &["b'0'", "18446744073709551615", "b'1000000000000000000000000000000000000000000000000000000000000000'"],
    ),
    kind("year", "1950 + {}", &["1901", "2155", "0", "2000"]),
    kind("date", "'2020-01-01' + INTERVAL {} DAY", DATES),
    kind("time", "sec_to_time({} - 60)", TIMES),
    kind("time(1)", "sec_to_time({} - 60.1)", &["'12:34:56.7'", "'-00:00:00.1'", "'-838:59:59.0'", "'-10:00:00.9'"]),
    kind("time(6)", "sec_to_time({} - 60.000001)", TIMES_6),
    kind("datetime", "'2020-01-01 00:00:00' + INTERVAL {} MINUTE", MOMENTS),
    kind(
        "datetime(3)",
        "'2020-01-01 00:00:00' + INTERVAL {} * 1000 MICROSECOND",
        &["'2020-02-29 23:59:59.999'", "'1000-01-01 00:00:00.001'"],
    ),
    kind("datetime(6)", "'2020-01-01 00:00:00' + INTERVAL {} MICROSECOND", MOMENTS_6),
    kind("timestamp", "'2020-01-01 00:00:00' + INTERVAL {} MINUTE", STAMPS),
    kind("timestamp(6)", "'2020-01-01 00:00:00' + INTERVAL {} MICROSECOND", STAMPS_6),
    kind("char(12)", WORD, ASCII),
    kind("char(12) CHARACTER SET latin1 COLLATE latin1_german1_ci", WORD, LATIN),
    kind("varchar(40) CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci", "concat('Kéy ', {}, ' 🐑')", WIDE),
    kind("varchar(40) CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci", "concat('Kéy ', {})", WIDE),
    kind("varchar(40) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin", WORD, WIDE),
    kind("varchar(40) CHARACTER SET utf8mb3 COLLATE utf8mb3_general_ci", WORD, BMP),
    kind("varchar(40) CHARACTER SET latin1 COLLATE latin1_swedish_ci", "concat('Këy ', {})", LATIN),
    kind("varchar(40) CHARACTER SET latin1 COLLATE latin1_bin", WORD, LATIN),
    kind("varchar(40) CHARACTER SET ascii COLLATE ascii_general_ci", WORD, ASCII),
    kind("varchar(40) CHARACTER SET utf16 COLLATE utf16_general_ci", WORD, WIDE),
    kind("varchar(40) CHARACTER SET utf16le COLLATE utf16le_general_ci", WORD, WIDE),
    kind("varchar(40) CHARACTER SET utf32 COLLATE utf32_general_ci", WORD, WIDE),
    kind("varchar(40) CHARACTER SET ucs2 COLLATE ucs2_general_ci", WORD, BMP),
    kind("varchar(40) CHARACTER SET cp1251 COLLATE cp1251_general_ci", WORD, CYRILLIC),
    kind("varchar(40) CHARACTER SET koi8r COLLATE koi8r_general_ci", WORD, CYRILLIC),
    kind("varchar(40) CHARACTER SET sjis COLLATE sjis_japanese_ci", WORD, JAPANESE),
    kind("varchar(40) CHARACTER SET ujis COLLATE ujis_japanese_ci", WORD, JAPANESE),
    kind("varchar(40) CHARACTER SET gbk COLLATE gbk_chinese_ci", WORD, CHINESE),
    kind("varchar(40) CHARACTER SET big5 COLLATE big5_chinese_ci", WORD, CHINESE),
    kind("tinytext", WORD, ASCII).no_default().prefix("(20)"),
    kind("text CHARACTER SET latin1", WORD, LATIN).no_default().prefix("(20)"),
    kind("mediumtext", "", &["repeat('ä', 70000)", "''", "'羊'"]).no_default(),
    kind("longtext", "", &["repeat('x\\\\', 70000)", "''", "'羊'"]).no_default(),
    kind("binary(8)", "unhex(lpad(hex({}), 4, '0'))", BYTES),
    kind("varbinary(20)", "unhex(lpad(hex({}), 4, '0'))", BYTES),
    kind("tinyblob", "unhex(lpad(hex({}), 4, '0'))", BYTES).no_default().prefix("(20)"),
    kind("blob", "", BYTES).no_default(),
    kind("longblob", "", &["repeat(x'005c0a', 40000)", "''", "x'00'"]).no_default(),
    kind("enum('klein', '', 'groß', 'it''s, a \\\\')", "", &["'klein'", "''", "'groß'", "4"]),
    kind("enum('ä', 'ö') CHARACTER SET latin1", "", &["'ä'", "'ö'"]),
    kind("set('a', 'b c', 'ü', 'd')", "", &["'a'", "''", "'a,b c,ü,d'", "'d,a'"]),
    kind(
        "json",
        "",
        &["'{\"a\": [1, null, \"x\"], \"n\": 5}'", "'[]'", "'null'", "'\"grüße\"'", "'12345678901234567890'"],
    )
    .no_default(),
    kind("point", "", &["point(1, 2)", "point(-180.5, 1e-300)"]).no_default(),
    kind(
        "geometry",
        "",
        &[
            "st_geomfromtext('LINESTRING(0 0, 1 1, 2 0)')",
            "st_geomfromtext('POLYGON((0 0, 4 0, 4 4, 0 0))')",
            "st_geomfromtext('GEOMETRYCOLLECTION(POINT(1 1), LINESTRING(0 0, 1 1))')",
        ],
    )
    .no_default(),
];

const MARIADB: &[Kind] = &[
    kind(
        "uuid",
        "concat('00000000-0000-4000-8000-', lpad({}, 12, '0'))",
        &["'123e4567-e89b-42d3-a456-426655440000'", "'ffffffff-ffff-4fff-bfff-ffffffffffff'"],
    ),
    kind("inet6", "concat('2001:db8::', hex({}))", &["'::'", "'2001:db8::ff'", "'::ffff:10.0.0.1'"]),
    kind("inet4", "concat('10.0.0.', {})", &["'0.0.0.0'", "'255.255.255.255'"]),
];
const MYSQL: &[Kind] = &[kind("vector(3)", "", &["to_vector('[1, 2, -3.5]')", "to_vector('[0, 0, 0]')"]).no_default()];
const MARIADB_11: &[Kind] =
    &[kind("vector(3)", "", &["vec_fromtext('[1, 2, -3.5]')", "vec_fromtext('[0, 0, 0]')"]).no_default()];

pub fn kinds(pair: Pair) -> Vec<Kind> {
    let mut kinds = COMMON.to_vec();
    if matches!(pair.destination, Engine::Postgres(_)) {
        // Changes in these cannot be converted exactly; they are refused.
        kinds.retain(|kind| !["ujis", "big5"].iter().any(|set| kind.sql.contains(set)));
    }
    let all = |has: &dyn Fn(Release) -> bool| {
        // Whatever the family's types become elsewhere.
        [pair.source, pair.destination].iter().all(|engine| match engine {
            Engine::MySql(release) => has(*release),
            Engine::Postgres(_) => true,
        })
    };
    if all(&Release::is_mariadb) {
        kinds.extend(MARIADB);
    }
    if all(&|r| r == Release::MySql9) {
        kinds.extend(MYSQL);
    }
    if all(&|r| r == Release::MariaDb11) {
        kinds.extend(MARIADB_11);
    }
    kinds
}
