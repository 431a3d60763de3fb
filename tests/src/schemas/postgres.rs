//! Types of PostgreSQL, but for BIT, whose changes are not followed.

use super::{Kind, kind};

const KINDS: &[Kind] = &[
    kind("smallint", "{} - 60", &["-32768", "32767", "0"]),
    kind("integer", "{} - 60", &["-2147483648", "2147483647", "0"]),
    kind("bigint", "{} - 60", &["-9223372036854775808", "9223372036854775807", "0"]),
    kind(
        "numeric",
        "{} / 8.0",
        &["'NaN'", "0.000", "-1e100", "123456789012345678901234567890.123456789", "'Infinity'"],
    ),
    kind("numeric(10,3)", "{} / 8.0", &["-9999999.999", "0", "'NaN'"]),
    kind("real", "{} + 0.1", &["'NaN'", "'-Infinity'", "'-0'", "3.4028235e38", "1e-45"]),
    kind("double precision", "{} + 0.1", &["'NaN'", "'Infinity'", "'-0'", "1.7976931348623157e308", "5e-324"]),
    kind("money", "{}::money", &["'-92233720368547758.08'", "'0'", "'1234.56'"]),
    kind("boolean", "", &["true", "false"]),
    kind("char(12)", "'Key ' || {}", &["'plain'", "''", "E'tab\\t \\\\'", "'end  '"]),
    kind("varchar(40)", "'Key ' || {}", &["'plain'", "''", "E'tab\\t \\\\ \\n'", "'羊 🐑'", "'\\N'"]),
    kind("text", "'Key ' || {}", &["'plain'", "''", "E'tab\\t \\\\ \\n'", "'羊 🐑'", "'\\.'"]),
    kind("text COLLATE \"C\"", "'Key ' || {}", &["'plain'", "''", "'羊'"]),
    kind("name", "('Key ' || {})::name", &["'plain'", "''", "'羊'"]),
    kind("\"char\"", "", &["'a'", "''", "'\\200'"]),
    kind("bytea", "decode(lpad(to_hex({}), 4, '0'), 'hex')", &["'\\x00ff5c0a09'", "''", "'\\x'"]),
    kind(
        "date",
        "date '2020-01-01' + {}",
        &["'infinity'", "'-infinity'", "'4713-01-01 BC'", "'5874897-12-31'", "'2020-02-29'"],
    ),
    kind("time", "time '00:00' + {} * interval '1 second'", &["'24:00:00'", "'00:00:00.000001'"]),
    kind("timetz", "timetz '00:00+05:30' + {} * interval '1 second'", &["'24:00:00-15:59'", "'00:00:00.000001+15:59'"]),
    kind(
        "timestamp",
        "timestamp '2020-01-01' + {} * interval '1 second'",
        &["'infinity'", "'4713-01-01 00:00:00 BC'", "'294276-12-31 23:59:59.999999'"],
    ),
    kind(
        "timestamptz",
        "timestamptz '2020-01-01 00:00+00' + {} * interval '1 second'",
        &["'-infinity'", "'2020-06-30 12:00:00.5+02'"],
    ),
    kind(
        "timestamptz(3)",
        "timestamptz '2020-01-01 00:00+00' + {} * interval '1 second'",
        &["'2020-06-30 12:00:00.123+02'"],
    ),
    kind("interval", "{} * interval '1 second'", &["'1 mon -1 day 00:00:00.000001'", "'-178000000 years'", "'0'"]),
    kind(
        "uuid",
        "('00000000-0000-4000-8000-' || lpad({}::text, 12, '0'))::uuid",
        &["'123e4567-e89b-42d3-a456-426655440000'", "'ffffffff-ffff-ffff-ffff-ffffffffffff'"],
    ),
    kind("json", "", &["'{\"a\":  1, \"a\": 2}'", "'null'", "'[]'"]),
    kind("jsonb", "to_jsonb({})", &["'{\"a\":  1, \"b\": [null]}'", "'null'", "'1.000'"]),
    kind("inet", "inet '10.0.0.0' + {}", &["'10.0.0.1/8'", "'2001:db8::1'"]),
    kind("cidr", "('10.0.' || {} || '.0/24')::cidr", &["'10.0.0.0/8'", "'2001:db8::/32'"]),
    kind("macaddr", "('08:00:2b:01:02:' || lpad(to_hex({}), 2, '0'))::macaddr", &["'ff:ff:ff:ff:ff:ff'"]),
    kind("bit varying", "{}::bit(9)::varbit", &["B''", "B'1011'"]),
    kind("int4range", "int4range({}, {} + 5)", &["'empty'", "'(,7]'", "'[1,1]'"]),
    kind("numrange", "numrange({}, {} + 5)", &["'empty'", "'(,)'", "'[1.50,2.5)'"]),
    kind(
        "tstzrange",
        "tstzrange('2020-01-01', timestamptz '2020-01-02' + {} * interval '1 day')",
        &["'empty'", "'(,)'"],
    ),
    kind("int4multirange", "int4multirange(int4range({}, {} + 5))", &["'{}'", "'{[1,3),[5,7)}'"]),
    kind("integer[]", "ARRAY[{}, NULL, 1]", &["'{}'", "'{{1,2},{3,NULL}}'", "'[0:1]={1,2}'"]),
    kind("text[]", "ARRAY['a,b', {}::text]", &["'{}'", "ARRAY['\"', '', NULL, 'NULL', '\\']"]),
    kind("point", "", &["'(1,2)'", "'(-0.1,1e300)'"]),
    kind("box", "", &["'(1,2),(3,4)'"]),
    kind("polygon", "", &["'((0,0),(1,1),(2,0))'"]),
    kind("circle", "", &["'<(0,0),1.5>'"]),
    kind("tsvector", "to_tsvector('simple', 'key' || {})", &["'a:1A fat:2B,4C'", "''"]),
    kind("tsquery", "plainto_tsquery('simple', 'key' || {})", &["'a & b | !c'"]),
    kind("oid", "{}", &["0", "4294967295"]),
    kind("pg_lsn", "pg_lsn '0/0' + {}", &["'FFFFFFFF/FFFFFFFF'", "'0/0'"]),
];

pub fn kinds() -> Vec<Kind> {
    KINDS.to_vec()
}
