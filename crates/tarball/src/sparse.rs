//! Maps of sparse files: where in the file the stored parts belong.

use super::header::{BLOCK, decimal, number};

/// How many parts a file may have.
const PARTS_MAX: usize = 1 << 20;

/// A stored part of a sparse file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// Where it begins in the file.
    pub offset: u64,
    /// How long it is.
    pub len: u64,
}

/// The map and the file's whole length.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sparse {
    /// The stored parts, in order.
    pub parts: Vec<Part>,
    /// The file's whole length.
    pub len: u64,
}

type Parsed<T> = Result<T, String>;

impl Sparse {
    /// Checks that the parts follow each other within the file and add up to what is stored.
    pub(crate) fn checked(self, stored: u64) -> Parsed<Self> {
        let (mut end, mut sum) = (0u64, 0u64);
        for part in &self.parts {
            if part.offset < end {
                return Err("the parts of a sparse file overlap".to_owned());
            }
            end = part.offset.checked_add(part.len).filter(|&end| end <= self.len).ok_or("a part of a sparse file lies beyond its end")?;
            sum += part.len;
        }
        match sum == stored && i64::try_from(self.len).is_ok() {
            true => Ok(self),
            false => Err("the parts of a sparse file do not add up to what is stored".to_owned()),
        }
    }

    fn push(&mut self, offset: u64, len: u64) -> Parsed<()> {
        if self.parts.len() >= PARTS_MAX {
            return Err("a sparse file has too many parts".to_owned());
        }
        self.parts.push(Part { offset, len });
        Ok(())
    }

    /// The map in the header block of old GNU archives; the flag tells whether more blocks of it follow.
    pub(crate) fn from_gnu_header(block: &[u8; BLOCK]) -> Parsed<(Self, bool)> {
        let mut sparse = Self { parts: Vec::new(), len: unsigned(&block[483..495])? };
        sparse.add_gnu_parts(&block[386..482])?;
        Ok((sparse, block[482] != 0))
    }

    /// One of the blocks that continue it.
    pub(crate) fn add_gnu_block(&mut self, block: &[u8; BLOCK]) -> Parsed<bool> {
        self.add_gnu_parts(&block[..504])?;
        Ok(block[504] != 0)
    }

    fn add_gnu_parts(&mut self, fields: &[u8]) -> Parsed<()> {
        for field in fields.chunks_exact(24) {
            if field[0] == 0 {
                break;
            }
            self.push(unsigned(&field[..12])?, unsigned(&field[12..])?)?;
        }
        Ok(())
    }

    /// The map of a PAX header of version 0.0 or 0.1: pairs of numbers.
    pub(crate) fn from_pairs<'a>(numbers: impl Iterator<Item = &'a [u8]>, len: u64) -> Parsed<Self> {
        let mut sparse = Self { parts: Vec::new(), len };
        let mut offset = None;
        for text in numbers {
            let value = decimal(text).ok_or("the map of a sparse file is malformed")?;
            match offset.take() {
                None => offset = Some(value),
                Some(offset) => sparse.push(offset, value)?,
            }
        }
        match offset {
            None => Ok(sparse),
            Some(_) => Err("the map of a sparse file is malformed".to_owned()),
        }
    }

    /// The map of version 1.0, which stands before the data: lines of decimal numbers, padded to whole blocks. `next` reads a block.
    /// Answers the map and how many bytes it took.
    pub(crate) fn from_data<E: From<String>>(len: u64, mut next: impl FnMut() -> Result<[u8; BLOCK], E>) -> Result<(Self, u64), E> {
        let bad = || E::from("the map of a sparse file is malformed".to_owned());
        let mut sparse = Self { parts: Vec::new(), len };
        let (mut text, mut at, mut taken) = (Vec::new(), 0, 0u64);
        let mut line = |taken: &mut u64| -> Result<u64, E> {
            loop {
                if let Some(end) = text[at..].iter().position(|&byte| byte == b'\n') {
                    let value = decimal(&text[at..at + end]).ok_or_else(bad)?;
                    at += end + 1;
                    return Ok(value);
                }
                if text.len() - at > 20 {
                    return Err(bad());
                }
                text.drain(..at);
                at = 0;
                text.extend_from_slice(&next()?);
                *taken += BLOCK as u64;
            }
        };
        let count = line(&mut taken)?;
        if count > PARTS_MAX as u64 {
            return Err(bad());
        }
        for _ in 0..count {
            let (offset, len) = (line(&mut taken)?, line(&mut taken)?);
            sparse.push(offset, len)?;
        }
        Ok((sparse, taken))
    }
}

fn unsigned(field: &[u8]) -> Parsed<u64> {
    u64::try_from(number(field)?).map_err(|_| "a sparse file has a negative length".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_are_checked() {
        let sparse = |parts: &[(u64, u64)], len| Sparse { parts: parts.iter().map(|&(offset, len)| Part { offset, len }).collect(), len };
        assert!(sparse(&[(0, 5), (10, 5)], 20).checked(10).is_ok());
        assert!(sparse(&[], 20).checked(0).is_ok());
        assert!(sparse(&[(0, 5), (4, 5)], 20).checked(10).is_err());
        assert!(sparse(&[(16, 5)], 20).checked(5).is_err());
        assert!(sparse(&[(u64::MAX, 5)], u64::MAX).checked(5).is_err());
        assert!(sparse(&[(0, 5)], 20).checked(6).is_err());
    }

    #[test]
    fn a_map_before_the_data_is_read() {
        let mut block = [0; BLOCK];
        block[..8].copy_from_slice(b"1\n512\n7\n");
        let read: Result<_, String> = Sparse::from_data(1024, || Ok(block));
        assert_eq!(read, Ok((Sparse { parts: vec![Part { offset: 512, len: 7 }], len: 1024 }, 512)));
        let endless: Result<_, String> = Sparse::from_data(1024, || Ok([b'1'; BLOCK]));
        assert!(endless.is_err());
    }
}
