use proptest::prelude::*;

use super::*;

/// Messages recorded from a server (see `tests/replication.rs`), each with whether it stands within a stream block.
fn recorded() -> Vec<(Vec<u8>, bool)> {
    let mut all = Vec::new();
    for mut rest in [
        &include_bytes!("../../testdata/rows.bin")[..],
        include_bytes!("../../testdata/large.bin"),
        include_bytes!("../../testdata/rollback.bin"),
        include_bytes!("../../testdata/streamed.bin"),
    ] {
        let mut decoder = Decoder::new();
        while let Some((length, behind)) = rest.split_first_chunk::<4>() {
            let (message, behind) = behind.split_at(u32::from_be_bytes(*length) as usize);
            all.push((message.to_vec(), decoder.in_stream()));
            decoder.decode(message).unwrap();
            rest = behind;
        }
    }
    all
}

/// Walks everything that a message shows.
fn walk(message: Message<'_>) -> usize {
    let old = |old: Old<'_>| match old {
        Old::None => 0,
        Old::Key(t) | Old::Full(t) => t.iter().count(),
    };
    match message {
        Message::Relation(r) => r.columns.iter().count(),
        Message::Insert { new, .. } => new.iter().count(),
        Message::Update { old: o, new, .. } => old(o) + new.iter().count(),
        Message::Delete { old: o, .. } => old(o),
        Message::Truncate { oids, .. } => oids.iter().count(),
        _ => 0,
    }
}

#[test]
fn each_truncation_is_an_error_within_the_bytes() {
    let mut kinds = std::collections::BTreeSet::new();
    for (bytes, in_stream) in recorded() {
        if !kinds.insert((bytes[0], in_stream)) {
            continue;
        }
        for length in 0..bytes.len() {
            let error = decode(&bytes[..length], in_stream).unwrap_err();
            assert!(error.offset <= length, "{error} in {length} bytes");
        }
        let longer = [&bytes[..], &[0]].concat();
        let error = decode(&longer, in_stream).unwrap_err();
        assert_eq!(error, DecodeError { offset: bytes.len(), kind: DecodeErrorKind::Trailing(1) });
    }
    assert!(kinds.len() > 12, "{kinds:?}");
}

#[test]
fn errors_say_what_and_where() {
    let error = |bytes: &[u8], in_stream| decode(bytes, in_stream).unwrap_err().to_string();
    assert_eq!(error(b"", false), "at byte 0: 1 bytes are needed and 0 are left");
    assert_eq!(error(b"?", false), "at byte 0: unknown message '?' (0x3f)");
    assert_eq!(error(b"E", false), "at byte 0: message 'E' (0x45) outside of a stream block");
    assert_eq!(error(b"S", true), "at byte 0: message 'S' (0x53) within a stream block");
    assert_eq!(error(b"I\0\0\0\x01X", false), "at byte 5: unexpected tuple 'X' (0x58)");
    assert_eq!(error(b"I\0\0\0\x01N\0\x01q", false), "at byte 8: unknown kind of value 'q' (0x71)");
    assert_eq!(error(b"I\0\0\0\x01N\0\x01t\xff\xff\xff\xff", false), "at byte 9: a negative length -1");
    assert_eq!(error(b"T\x7f\xff\xff\xff\0", false), "at byte 6: 8589934588 bytes are needed and 0 are left");
}

#[test]
fn times_count_from_the_unix_epoch() {
    let bytes = [&b"B"[..], &7u64.to_be_bytes(), &1i64.to_be_bytes(), &9u32.to_be_bytes()].concat();
    let expected = Message::Begin { final_lsn: Lsn(7), commit_time: 946_684_800_000_001, xid: 9 };
    assert_eq!(decode(&bytes, false), Ok(expected));
}

proptest! {
    #[test]
    fn random_bytes_never_panic(
        tag in prop::sample::select(&b"BCORYIUDTMSEcA?"[..]),
        body in prop::collection::vec(any::<u8>(), 0..120),
        in_stream: bool,
    ) {
        let bytes = [&[tag][..], &body].concat();
        match decode(&bytes, in_stream) {
            Ok(message) => { walk(message); }
            Err(error) => prop_assert!(error.offset <= bytes.len()),
        }
    }

    #[test]
    fn damaged_messages_never_panic(
        pick in any::<prop::sample::Index>(), at in any::<prop::sample::Index>(), byte: u8, cut in any::<prop::sample::Index>()
    ) {
        thread_local!(static ALL: Vec<(Vec<u8>, bool)> = recorded());
        let (mut bytes, in_stream) = ALL.with(|all| pick.get(all).clone());
        let whole = decode(&bytes, in_stream).map(walk);
        prop_assert!(whole.is_ok());
        let at = at.index(bytes.len());
        bytes[at] = byte;
        bytes.truncate(1 + cut.index(bytes.len()));
        match decode(&bytes, in_stream) {
            Ok(message) => { walk(message); }
            Err(error) => prop_assert!(error.offset <= bytes.len()),
        }
    }
}
