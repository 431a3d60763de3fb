//! What a column's values are, from PostgreSQL's own types, and whether they are built in (recursively): only then may native
//! bytes pass undecoded.

use drover_model::schema::DataType;
use std::collections::HashMap;
use tokio_postgres::Row;

struct Type {
    name: String,
    kind: String,
    element: u32,
    base: u32,
    base_typmod: i32,
    portable: bool,
    labels: Option<Vec<String>>,
    is_array: bool,
}

/// All types of a database by number.
pub(super) struct Types(HashMap<u32, Type>);

impl Types {
    pub(super) fn from_rows(rows: &[Row]) -> Result<Self, tokio_postgres::Error> {
        let mut types = HashMap::with_capacity(rows.len());
        for r in rows {
            types.insert(
                r.try_get("oid")?,
                Type {
                    name: r.try_get("name")?,
                    kind: r.try_get("kind")?,
                    element: r.try_get("element")?,
                    base: r.try_get("base")?,
                    base_typmod: r.try_get("base_typmod")?,
                    portable: r.try_get("portable")?,
                    labels: r.try_get("labels")?,
                    is_array: r.try_get("is_array")?,
                },
            );
        }
        Ok(Types(types))
    }

    /// Whether bytes of this type mean the same on every server.
    pub(super) fn builtin(&self, oid: u32) -> bool {
        match self.0.get(&oid) {
            Some(t) if t.is_array => t.portable && self.builtin(t.element),
            Some(t) => t.portable && matches!(t.kind.as_str(), "b" | "r" | "m"),
            None => false,
        }
    }

    /// The values of this type. Domains are what they are made of.
    pub(super) fn data_type(&self, oid: u32, typmod: i32) -> DataType {
        let Some(t) = self.0.get(&oid) else { return DataType::Other };
        if t.kind == "d" {
            return self.data_type(t.base, if t.base_typmod >= 0 { t.base_typmod } else { typmod });
        }
        if t.kind == "e" {
            return DataType::Enum { labels: t.labels.clone().unwrap_or_default() };
        }
        if t.is_array {
            return DataType::Array(Box::new(self.data_type(t.element, typmod)));
        }
        if oid >= 10_000 {
            return DataType::Other;
        }
        simple(&t.name, typmod)
    }
}

/// Precision of a time: six digits unless it says otherwise.
fn fraction(typmod: i32) -> u8 {
    if (0..=6).contains(&typmod) { typmod as u8 } else { 6 }
}

/// What the values of a built-in type are, by its name in `pg_type` and its modifier (-1: none).
pub fn simple(name: &str, typmod: i32) -> DataType {
    let length = (typmod >= 4).then(|| (typmod - 4) as u32);
    let bits = (typmod >= 0).then_some(typmod as u32);
    match name {
        "bool" => DataType::Bool,
        "int2" => DataType::Int { bytes: 2, unsigned: false },
        "int4" => DataType::Int { bytes: 4, unsigned: false },
        "int8" => DataType::Int { bytes: 8, unsigned: false },
        "oid" => DataType::Int { bytes: 4, unsigned: true },
        "float4" => DataType::Float { bytes: 4 },
        "float8" => DataType::Float { bytes: 8 },
        "numeric" if typmod >= 4 => {
            let m = typmod - 4;
            // Eleven bits, signed: since version 15 a scale may be negative.
            let scale = ((m & 0x7ff) ^ 1024) - 1024;
            DataType::Decimal { precision: Some(((m >> 16) & 0xffff) as u32), scale: Some(scale) }
        }
        "numeric" => DataType::Decimal { precision: None, scale: None },
        "text" => DataType::Text { max: None, padded: false },
        "varchar" => DataType::Text { max: length, padded: false },
        "bpchar" => DataType::Text { max: length, padded: true },
        "name" => DataType::Text { max: Some(63), padded: false },
        "bytea" => DataType::Bytes { max: None },
        "date" => DataType::Date,
        "time" => DataType::Time { precision: fraction(typmod), zone: false },
        "timetz" => DataType::Time { precision: fraction(typmod), zone: true },
        "timestamp" => DataType::Timestamp { precision: fraction(typmod), zone: false },
        "timestamptz" => DataType::Timestamp { precision: fraction(typmod), zone: true },
        "interval" => DataType::Interval,
        "uuid" => DataType::Uuid,
        "jsonb" => DataType::Json,
        "json" => DataType::JsonText,
        "bit" => DataType::Bit { max: bits, varying: false },
        "varbit" => DataType::Bit { max: bits, varying: true },
        _ => DataType::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn type_modifiers() {
        assert_eq!(simple("numeric", 4 + (10 << 16) + 2), DataType::Decimal { precision: Some(10), scale: Some(2) });
        assert_eq!(
            simple("numeric", 4 + (3 << 16) + (-2 & 0x7ff)),
            DataType::Decimal { precision: Some(3), scale: Some(-2) }
        );
        assert_eq!(simple("varchar", 24), DataType::Text { max: Some(20), padded: false });
        assert_eq!(simple("timestamptz", 3), DataType::Timestamp { precision: 3, zone: true });
        assert_eq!(simple("varbit", 7), DataType::Bit { max: Some(7), varying: true });
    }
}
