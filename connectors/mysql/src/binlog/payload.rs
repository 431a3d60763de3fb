//! Compressed transactions of MySQL (TRANSACTION_PAYLOAD): one event that holds a transaction's events, unpacked one by one as they are read, so that memory holds
//! one of them. Format: the server's `libs/mysql/binlog/event/codecs`.

use super::event::{Event, HEAD, Head};
use bytes::{Buf, Bytes};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};

/// The events inside of one.
pub struct Payload {
    reader: Box<dyn BufRead + Send>,
    event: Vec<u8>,
}

fn bad(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// A length-encoded integer.
fn length(reader: &mut dyn Read) -> io::Result<u64> {
    let mut first = [0; 1];
    reader.read_exact(&mut first)?;
    let bytes = match first[0] {
        n @ 0..=250 => return Ok(u64::from(n)),
        252 => 2,
        253 => 3,
        254 => 8,
        _ => return Err(bad("a length that is none")),
    };
    let mut n = [0; 8];
    reader.read_exact(&mut n[..bytes])?;
    Ok(u64::from_le_bytes(n))
}

impl Payload {
    /// From the event's body, without checksum.
    pub fn of_bytes(body: Bytes) -> io::Result<Payload> {
        Self::open(Box::new(body.reader()))
    }

    pub fn of_file(file: File) -> io::Result<Payload> {
        Self::open(Box::new(BufReader::with_capacity(256 << 10, file)))
    }

    fn open(mut body: Box<dyn BufRead + Send>) -> io::Result<Payload> {
        const SIZE: u64 = 1;
        const COMPRESSION: u64 = 2;
        const ZSTD: u64 = 0;
        const NONE: u64 = 255;
        let (mut compression, mut size) = (NONE, None);
        loop {
            let field = length(&mut body)?;
            if field == 0 {
                break;
            }
            let bytes = length(&mut body)?;
            let mut value = (&mut body).take(bytes);
            match field {
                SIZE => size = Some(length(&mut value)?),
                COMPRESSION => compression = length(&mut value)?,
                _ => {}
            }
            io::copy(&mut value, &mut io::sink())?;
        }
        let body = body.take(size.unwrap_or(u64::MAX));
        let reader: Box<dyn BufRead + Send> = match compression {
            ZSTD => Box::new(BufReader::with_capacity(64 << 10, zstd::stream::read::Decoder::with_buffer(body)?)),
            NONE => Box::new(body),
            _ => return Err(bad("an unknown compression")),
        };
        Ok(Payload { reader, event: Vec::new() })
    }

    /// The next event; `None` at the end. It has no checksum: that of the whole covers it.
    pub fn event(&mut self) -> io::Result<Option<Event<'_>>> {
        if self.reader.fill_buf()?.is_empty() {
            return Ok(None);
        }
        self.event.resize(HEAD, 0);
        self.reader.read_exact(&mut self.event[..])?;
        let head = Head::parse(&self.event).ok_or_else(|| bad("an event without a head"))?;
        let rest = (head.length as usize).checked_sub(HEAD).ok_or_else(|| bad("an event that is too short"))?;
        // Room grows with what is really there.
        let read = (&mut self.reader).take(rest as u64).read_to_end(&mut self.event)?;
        if read != rest {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Event::inner(&self.event).map(Some).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
    }

    /// Bytes of the event that was last given.
    pub fn last_length(&self) -> usize {
        self.event.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn event(kind: u8, body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; HEAD];
        bytes[4] = kind;
        bytes[9..13].copy_from_slice(&((HEAD + body.len()) as u32).to_le_bytes());
        bytes.extend_from_slice(body);
        bytes
    }

    fn all(mut payload: Payload) -> io::Result<Vec<(u8, Vec<u8>)>> {
        let mut out = Vec::new();
        while let Some(event) = payload.event()? {
            out.push((event.head.kind, event.body.to_vec()));
        }
        Ok(out)
    }

    #[test]
    fn events_come_out_compressed_or_not() {
        let inside = [event(2, b"BEGIN"), event(30, &[7; 100_000]), event(16, &[])].concat();
        let packed = zstd::bulk::compress(&inside, 3).unwrap();
        for (compression, data) in [(0u8, &packed), (255, &inside)] {
            let mut body = vec![2, if compression == 255 { 3 } else { 1 }];
            body.extend(if compression == 255 { vec![252, 255, 0] } else { vec![0] });
            let size = (data.len() as u32).to_le_bytes();
            body.extend([1, 4, 253, size[0], size[1], size[2]]);
            body.extend([9, 2, 1, 1]);
            body.push(0);
            body.extend_from_slice(data);
            let events = all(Payload::of_bytes(body.clone().into()).unwrap()).unwrap();
            assert_eq!(events, [(2, b"BEGIN".to_vec()), (30, vec![7; 100_000]), (16, vec![])]);
            for cut in [0, 5, body.len() / 2, body.len() - 1] {
                let short = Payload::of_bytes(body[..cut].to_vec().into()).and_then(all);
                assert!(short.is_err(), "cut at {cut}");
            }
        }
    }

    proptest! {
        #[test]
        fn garbage_is_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Payload::of_bytes(bytes.into()).and_then(all);
        }
    }
}
