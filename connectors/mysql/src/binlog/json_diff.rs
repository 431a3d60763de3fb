//! Partial updates of JSON (`binlog_row_value_options = PARTIAL_JSON`): the row carries what changed inside of a document, to be applied to the document
//! of the row's old image. Format: the server's `sql-common/json_diff.cc`.

use super::bytes::Fields;
use super::json::{Budget, Container, put_scalar, put_string, scalar_length};

/// The server allows 100.
const DEPTH: usize = 120;

/// A document taken apart. Objects have their members in the server's order: by the key's length, then by its bytes.
#[derive(Debug, Clone, PartialEq)]
enum Node<'a> {
    Scalar(u8, &'a [u8]),
    Array(Vec<Node<'a>>),
    Object(Vec<(Vec<u8>, Node<'a>)>),
}

/// Appends the text of `base` (a binary document) with the differences applied. `None` if either is damaged, or they do not belong together.
pub fn put_text(out: &mut Vec<u8>, base: &[u8], differences: &[u8]) -> Option<()> {
    const NULL: &[u8] = &[4, 0];
    let base = if base.is_empty() { NULL } else { base };
    let mut document = read(base)?;
    let mut f = Fields(differences);
    while !f.is_empty() {
        let operation = f.u8()?;
        let path = path(f.counted()?)?;
        let value = match operation {
            0 | 1 => Some(read(f.counted()?)?),
            2 => None,
            _ => return None,
        };
        apply(&mut document, operation, &path, value)?;
    }
    put(out, &document, 0)
}

fn read(document: &[u8]) -> Option<Node<'_>> {
    let (&tag, data) = document.split_first()?;
    node(tag, data, &mut Budget::new(document.len()), 0)
}

fn node<'a>(tag: u8, data: &'a [u8], budget: &mut Budget, depth: usize) -> Option<Node<'a>> {
    let Some(container) = Container::open(tag, data)? else {
        let used = scalar_length(tag, data)?;
        budget.spend(used)?;
        return Some(Node::Scalar(tag, &data[..used]));
    };
    if depth > DEPTH {
        return None;
    }
    let mut values = Vec::new();
    let mut members = Vec::new();
    for i in 0..container.count {
        let (tag, data) = container.value(i)?;
        budget.spend(usize::from(!container.inlined(tag)))?;
        let value = node(tag, data, budget, depth + 1)?;
        if container.object {
            let key = container.key(i)?;
            budget.spend(key.len())?;
            members.push((key.to_vec(), value));
        } else {
            values.push(value);
        }
    }
    Some(if container.object { Node::Object(members) } else { Node::Array(values) })
}

fn put(out: &mut Vec<u8>, node: &Node<'_>, depth: usize) -> Option<()> {
    if depth > 2 * DEPTH {
        return None;
    }
    match node {
        Node::Scalar(tag, data) => put_scalar(out, *tag, data).map(|_| ()),
        Node::Array(values) => {
            out.push(b'[');
            for (i, value) in values.iter().enumerate() {
                if i > 0 {
                    out.extend_from_slice(b", ");
                }
                put(out, value, depth + 1)?;
            }
            out.push(b']');
            Some(())
        }
        Node::Object(members) => {
            out.push(b'{');
            for (i, (key, value)) in members.iter().enumerate() {
                if i > 0 {
                    out.extend_from_slice(b", ");
                }
                put_string(out, key);
                out.extend_from_slice(b": ");
                put(out, value, depth + 1)?;
            }
            out.push(b'}');
            Some(())
        }
    }
}

/// A step of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Leg {
    Member(Vec<u8>),
    Cell(usize),
}

/// Reads `$.a."b c"[3]`. Names that are no plain identifiers are quoted as JSON texts.
fn path(text: &[u8]) -> Option<Vec<Leg>> {
    let mut rest = text.strip_prefix(b"$")?;
    let mut legs = Vec::new();
    while let Some((&first, after)) = rest.split_first() {
        match first {
            b'.' if after.first() == Some(&b'"') => {
                let (name, after) = unquote(&after[1..])?;
                legs.push(Leg::Member(name));
                rest = after;
            }
            b'.' => {
                let end = after.iter().position(|b| matches!(b, b'.' | b'[')).unwrap_or(after.len());
                legs.push(Leg::Member(after[..end].to_vec()));
                rest = &after[end..];
            }
            b'[' => {
                let end = after.iter().position(|&b| b == b']')?;
                legs.push(Leg::Cell(std::str::from_utf8(&after[..end]).ok()?.parse().ok()?));
                rest = &after[end + 1..];
            }
            _ => return None,
        }
    }
    Some(legs)
}

/// A JSON text behind its opening quote, and what follows its end.
fn unquote(text: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut at = 0;
    while *text.get(at)? != b'"' {
        at += if text[at] == b'\\' { 2 } else { 1 };
    }
    let quoted = [b"\"", &text[..at], b"\""].concat();
    let name: String = serde_json::from_slice(&quoted).ok()?;
    Some((name.into_bytes(), &text[at + 1..]))
}

fn order(a: &[u8], b: &[u8]) -> std::cmp::Ordering {
    a.len().cmp(&b.len()).then_with(|| a.cmp(b))
}

fn step<'n, 'a>(node: &'n mut Node<'a>, leg: &Leg) -> Option<&'n mut Node<'a>> {
    match (node, leg) {
        (Node::Object(members), Leg::Member(name)) => members.iter_mut().find(|(key, _)| key == name).map(|(_, v)| v),
        (Node::Array(values), Leg::Cell(i)) => values.get_mut(*i),
        _ => None,
    }
}

/// 0 replaces, 1 inserts, 2 removes.
fn apply<'a>(document: &mut Node<'a>, operation: u8, path: &[Leg], value: Option<Node<'a>>) -> Option<()> {
    let Some((last, parents)) = path.split_last() else {
        *document = value.filter(|_| operation == 0)?;
        return Some(());
    };
    let mut parent = document;
    for leg in parents {
        parent = step(parent, leg)?;
    }
    match operation {
        0 => *step(parent, last)? = value?,
        1 => match (parent, last) {
            (Node::Object(members), Leg::Member(name)) => {
                let at = members.partition_point(|(key, _)| order(key, name).is_lt());
                if members.get(at).is_some_and(|(key, _)| key == name) {
                    return None;
                }
                members.insert(at, (name.clone(), value?));
            }
            (Node::Array(values), Leg::Cell(i)) => values.insert((*i).min(values.len()), value?),
            _ => return None,
        },
        _ => match (parent, last) {
            (Node::Object(members), Leg::Member(name)) => {
                let at = members.iter().position(|(key, _)| key == name)?;
                members.remove(at);
            }
            (Node::Array(values), Leg::Cell(i)) if *i < values.len() => {
                values.remove(*i);
            }
            _ => return None,
        },
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// {"a": 1, "bc": [true, "x"]}
    const DOCUMENT: &[u8] =
        b"\x00\x02\x00\x21\x00\x12\x00\x01\x00\x13\x00\x02\x00\x05\x01\x00\x02\x15\x00abc\x02\x00\x0c\x00\x04\x01\x00\x0c\x0a\x00\x01x";

    fn one(operation: u8, path: &str, value: Option<&[u8]>) -> Vec<u8> {
        let mut out = vec![operation, path.len() as u8];
        out.extend_from_slice(path.as_bytes());
        if let Some(value) = value {
            out.push(value.len() as u8);
            out.extend_from_slice(value);
        }
        out
    }

    fn applied(differences: &[Vec<u8>]) -> Option<String> {
        let mut out = Vec::new();
        put_text(&mut out, DOCUMENT, &differences.concat())?;
        Some(String::from_utf8(out).unwrap())
    }

    const TEN: &[u8] = &[5, 10, 0];

    #[test]
    fn differences() {
        assert_eq!(applied(&[]).unwrap(), r#"{"a": 1, "bc": [true, "x"]}"#);
        assert_eq!(applied(&[one(0, "$.a", Some(TEN))]).unwrap(), r#"{"a": 10, "bc": [true, "x"]}"#);
        assert_eq!(applied(&[one(1, "$.b", Some(TEN))]).unwrap(), r#"{"a": 1, "b": 10, "bc": [true, "x"]}"#);
        assert_eq!(
            applied(&[one(1, "$.\"Q \\\"\"", Some(TEN))]).unwrap(),
            r#"{"a": 1, "bc": [true, "x"], "Q \"": 10}"#
        );
        assert_eq!(applied(&[one(1, "$.bc[1]", Some(TEN))]).unwrap(), r#"{"a": 1, "bc": [true, 10, "x"]}"#);
        assert_eq!(applied(&[one(1, "$.bc[9]", Some(TEN))]).unwrap(), r#"{"a": 1, "bc": [true, "x", 10]}"#);
        let both = [one(2, "$.bc[0]", None), one(2, "$.a", None)];
        assert_eq!(applied(&both).unwrap(), r#"{"bc": ["x"]}"#);
        assert_eq!(applied(&[one(0, "$", Some(DOCUMENT))]).unwrap(), r#"{"a": 1, "bc": [true, "x"]}"#);
        for wrong in [one(0, "$.z", Some(TEN)), one(1, "$.a", Some(TEN)), one(2, "$.bc[5]", None), one(7, "$", None)] {
            assert_eq!(applied(&[wrong]), None);
        }
    }

    proptest! {
        #[test]
        fn garbage_is_refused(bytes in prop::collection::vec(any::<u8>(), 0..100), differences in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = put_text(&mut Vec::new(), &bytes, &differences);
            let _ = put_text(&mut Vec::new(), DOCUMENT, &differences);
        }
    }
}
