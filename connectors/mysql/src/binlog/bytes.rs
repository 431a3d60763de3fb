//! Reading fields off the front of a byte slice. `None` when it ends early; never a panic, nothing is allocated.

/// What is left to read.
#[derive(Debug, Clone, Copy)]
pub struct Fields<'a>(pub &'a [u8]);

impl<'a> Fields<'a> {
    #[inline]
    pub fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (front, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(front)
    }
    /// An unsigned little-endian number of 1 to 8 bytes.
    #[inline]
    pub fn uint(&mut self, bytes: usize) -> Option<u64> {
        Some(little(self.take(bytes)?))
    }
    #[inline]
    pub fn u8(&mut self) -> Option<u8> {
        let (&b, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(b)
    }
    #[inline]
    pub fn u16(&mut self) -> Option<u16> {
        self.uint(2).map(|n| n as u16)
    }
    #[inline]
    pub fn u32(&mut self) -> Option<u32> {
        self.uint(4).map(|n| n as u32)
    }
    #[inline]
    pub fn u64(&mut self) -> Option<u64> {
        self.uint(8)
    }
    /// The protocol's length-encoded integer.
    #[inline]
    pub fn length(&mut self) -> Option<u64> {
        match self.u8()? {
            n @ 0..=250 => Some(u64::from(n)),
            252 => self.uint(2),
            253 => self.uint(3),
            254 => self.uint(8),
            _ => None,
        }
    }
    /// Bytes with their length ahead, length-encoded.
    #[inline]
    pub fn counted(&mut self) -> Option<&'a [u8]> {
        let n = usize::try_from(self.length()?).ok()?;
        self.take(n)
    }
    /// Bytes with their length ahead in one byte.
    #[inline]
    pub fn short(&mut self) -> Option<&'a [u8]> {
        let n = self.u8()?;
        self.take(usize::from(n))
    }
    /// Bytes up to a zero, which is taken too.
    pub fn zero_ended(&mut self) -> Option<&'a [u8]> {
        let end = self.0.iter().position(|&b| b == 0)?;
        let text = self.take(end)?;
        self.0 = self.0.get(1..)?;
        Some(text)
    }
    /// A number of MySQL's serialization library: as many ones at the low end of the first byte as bytes follow.
    pub fn varlen(&mut self) -> Option<u64> {
        let more = self.0.first()?.trailing_ones() as usize;
        if more == 8 {
            self.u8()?;
            return self.u64();
        }
        Some(self.uint(more + 1)? >> (more + 1))
    }
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// An unsigned little-endian number of up to 8 bytes.
#[inline]
pub fn little(bytes: &[u8]) -> u64 {
    let mut n = [0; 8];
    let len = bytes.len().min(8);
    n[..len].copy_from_slice(&bytes[..len]);
    u64::from_le_bytes(n)
}

/// An unsigned big-endian number of up to 8 bytes.
#[inline]
pub fn big(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |n, &b| n << 8 | u64::from(b))
}

/// A signed little-endian number of 1 to 8 bytes.
#[inline]
pub fn little_signed(bytes: &[u8]) -> i64 {
    let unused = 64 - 8 * bytes.len().clamp(1, 8) as u32;
    (little(bytes) << unused) as i64 >> unused
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        assert_eq!(little_signed(&[0xff, 0xff, 0x7f]), 8_388_607);
        assert_eq!(little_signed(&[0x00, 0x00, 0x80]), -8_388_608);
        assert_eq!(little_signed(&[0xff]), -1);
        assert_eq!(big(&[1, 2, 3]), 0x01_02_03);
        let mut f = Fields(&[0xfc, 0x01, 0x02, 250, 0xfb]);
        assert_eq!((f.length(), f.length(), f.length()), (Some(0x0201), Some(250), None));
        // 5 in one byte; 0x1234 in two bytes: (n << 2) | 1, little-endian.
        let two = ((0x1234u16 << 2) | 1).to_le_bytes();
        let mut f = Fields(&[5 << 1, two[0], two[1]]);
        assert_eq!((f.varlen(), f.varlen(), f.varlen()), (Some(5), Some(0x1234), None));
    }
}
