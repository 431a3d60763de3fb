//! JSON in one form: keys in order, no blanks, numbers by their value, characters as they are.

use crate::cells::double_text;
use serde_json::Value;

/// The normal form of a text; `None` if it is no JSON (or nested deeper than any of the servers takes).
pub fn normal(text: &[u8]) -> Option<String> {
    let value: Value = serde_json::from_slice(text).ok()?;
    let mut out = String::with_capacity(text.len());
    put(&value, &mut out);
    Some(out)
}

fn put(value: &Value, out: &mut String) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(b) => out.push_str(if *b { "true" } else { "false" }),
        Value::Number(n) => match (n.as_u64(), n.as_i64(), n.as_f64()) {
            (Some(n), _, _) => out.push_str(&n.to_string()),
            (_, Some(n), _) => out.push_str(&n.to_string()),
            (_, _, Some(n)) => {
                let text = double_text(n);
                out.push_str(&String::from_utf8_lossy(text.as_bytes()));
            }
            _ => out.push_str(&n.to_string()),
        },
        Value::String(s) => quoted(s, out),
        Value::Array(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                put(item, out);
            }
            out.push(']');
        }
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_unstable_by_key(|(key, _)| key.as_str());
            out.push('{');
            for (i, (key, item)) in entries.into_iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                quoted(key, out);
                out.push(':');
                put(item, out);
            }
            out.push('}');
        }
    }
}

fn quoted(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c => out.push(c),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::normal;

    #[test]
    fn one_form_for_one_document() {
        let same = [
            (r#"{"b": 1, "aa": [1.50, 2]}"#, r#"{"aa":[1.5,2],"b":1}"#),
            (r#""\u00e9\ud83d\ude00""#, "\"\u{e9}\u{1f600}\""),
            ("18446744073709551615", "18446744073709551615"),
            ("-9223372036854775808", "-9223372036854775808"),
            ("1.0", "1"),
            ("1e2", "100"),
            ("18446744073709551616", "1.8446744073709552e19"),
            (" [ ] ", "[]"),
        ];
        for (text, wanted) in same {
            assert_eq!(normal(text.as_bytes()).as_deref(), Some(wanted));
        }
        assert_eq!(normal(b"{"), None);
        assert_ne!(normal(br#""a\nb""#), normal(br#""a\\nb""#));
        assert_ne!(normal(b"\"1\""), normal(b"1"));
    }
}
