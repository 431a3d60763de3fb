//! Framing of log records: `u32` length of the head, the head, the payload. Reading slices the record; nothing is copied.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message;

/// Bytes that are no record of ours.
#[derive(Debug, thiserror::Error)]
pub enum BadRecord {
    #[error("a log record of {0} bytes is too short")]
    Short(usize),
    #[error("a log record's head cannot be read")]
    Head(#[source] prost::DecodeError),
}

/// Head and payload in one buffer.
pub fn frame(head: &impl Message, payload: &[u8]) -> Bytes {
    let len = head.encoded_len();
    let mut out = BytesMut::with_capacity(4 + len + payload.len());
    out.put_u32_le(len as u32);
    // A BytesMut grows, so encoding into it cannot fail.
    let _ = head.encode(&mut out);
    out.extend_from_slice(payload);
    out.freeze()
}

/// Splits a record into head and payload.
pub fn parse<H: Message + Default>(mut record: Bytes) -> Result<(H, Bytes), BadRecord> {
    let whole = record.len();
    if whole < 4 {
        return Err(BadRecord::Short(whole));
    }
    let len = record.get_u32_le() as usize;
    if record.len() < len {
        return Err(BadRecord::Short(whole));
    }
    let head = H::decode(record.split_to(len)).map_err(BadRecord::Head)?;
    Ok((head, record))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1::BulkHead;

    #[test]
    fn a_record_comes_back_and_short_ones_are_refused() {
        let head = BulkHead { table: 7, rows: 3, ..Default::default() };
        let record = frame(&head, b"payload");
        let (back, payload) = parse::<BulkHead>(record.clone()).unwrap();
        assert_eq!((back, &payload[..]), (head, &b"payload"[..]));
        assert!(parse::<BulkHead>(record.slice(..5)).is_err());
        assert!(parse::<BulkHead>(Bytes::from_static(b"abc")).is_err());
    }
}
