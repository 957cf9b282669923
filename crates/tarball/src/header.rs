//! The fields of one 512-byte header block, and of extended headers.

use std::borrow::Cow;

/// The unit of a tar archive.
pub(crate) const BLOCK: usize = 512;

/// What a header block tells before extended headers are applied.
pub(crate) struct Header<'a>(pub &'a [u8; BLOCK]);

type Parsed<T> = Result<T, String>;

/// Whether a block can be the first one of an archive.
pub fn is_header(block: &[u8; BLOCK]) -> bool {
    let header = Header(block);
    !header.is_zero() && header.checksum_fits()
}

impl<'a> Header<'a> {
    /// Whether the block is all zeros, as the end of an archive is marked.
    pub fn is_zero(&self) -> bool {
        self.0.iter().all(|&byte| byte == 0)
    }

    /// Whether the checksum fits, summed as unsigned or (as some old programs did) signed bytes.
    pub fn checksum_fits(&self) -> bool {
        let Ok(told) = octal(&self.0[148..156]) else {
            return false;
        };
        let (mut unsigned, mut signed) = (0i64, 0i64);
        for (at, &byte) in self.0.iter().enumerate() {
            let byte = if (148..156).contains(&at) { b' ' } else { byte };
            unsigned += i64::from(byte);
            signed += i64::from(byte.cast_signed());
        }
        told == unsigned || told == signed
    }

    pub fn kind(&self) -> u8 {
        self.0[156]
    }

    /// The path, with the prefix that POSIX and star archives have.
    pub fn path(&self) -> Cow<'a, [u8]> {
        let name = text(&self.0[..100]);
        let is_ustar = &self.0[257..263] == b"ustar\0";
        let is_star = is_ustar && &self.0[508..512] == b"tar\0";
        let prefix = match (is_star, is_ustar) {
            (true, _) => text(&self.0[345..476]),
            (false, true) => text(&self.0[345..500]),
            (false, false) => b"",
        };
        match prefix.is_empty() {
            true => Cow::Borrowed(name),
            false => Cow::Owned([prefix, b"/", name].concat()),
        }
    }

    pub fn link(&self) -> &'a [u8] {
        text(&self.0[157..257])
    }

    pub fn mode(&self) -> Parsed<i64> {
        number(&self.0[100..108])
    }

    pub fn uid(&self) -> Parsed<i64> {
        number(&self.0[108..116])
    }

    pub fn gid(&self) -> Parsed<i64> {
        number(&self.0[116..124])
    }

    pub fn size(&self) -> Parsed<i64> {
        number(&self.0[124..136])
    }

    pub fn mtime(&self) -> Parsed<i64> {
        number(&self.0[136..148])
    }

    /// Device numbers; archives older than POSIX have none.
    pub fn device(&self) -> Parsed<(i64, i64)> {
        match &self.0[257..262] == b"ustar" {
            true => Ok((number(&self.0[329..337])?, number(&self.0[337..345])?)),
            false => Ok((0, 0)),
        }
    }
}

/// The bytes before the first NUL.
pub(crate) fn text(field: &[u8]) -> &[u8] {
    let end = field.iter().position(|&byte| byte == 0).unwrap_or(field.len());
    &field[..end]
}

/// A number in octal digits, or in base 256 where the first bit is set (GNU).
pub(crate) fn number(field: &[u8]) -> Parsed<i64> {
    if field.first().is_none_or(|first| first & 0x80 == 0) {
        return octal(field);
    }
    let negative = field[0] & 0x40 != 0;
    let mut value: i128 = if negative { -1 } else { 0 };
    for (at, &byte) in field.iter().enumerate() {
        // The first bit only marks the encoding; the next is the sign.
        let byte = match (at, negative) {
            (0, false) => byte & 0x7f,
            _ => byte,
        };
        value = value << 8 | i128::from(byte);
        if value > i128::from(i64::MAX) || value < i128::from(i64::MIN) {
            return Err("a number is out of range".to_owned());
        }
    }
    i64::try_from(value).map_err(|_| "a number is out of range".to_owned())
}

/// Octal digits among spaces and NULs; nothing at all is 0.
fn octal(field: &[u8]) -> Parsed<i64> {
    let digits = field.trim_ascii_start();
    let end = digits.iter().position(|&byte| byte == 0 || byte == b' ').unwrap_or(digits.len());
    let mut value: i64 = 0;
    for &digit in &digits[..end] {
        if !(b'0'..=b'7').contains(&digit) {
            return Err("a number has other than octal digits".to_owned());
        }
        value = value.checked_mul(8).and_then(|value| value.checked_add(i64::from(digit - b'0'))).ok_or("a number is out of range")?;
    }
    Ok(value)
}

/// The records of a PAX extended header: `length key=value\n`.
pub(crate) fn pax_records(mut body: &[u8]) -> Parsed<Vec<(&[u8], &[u8])>> {
    let bad = || "a PAX header is malformed".to_owned();
    let mut records = Vec::new();
    while !body.is_empty() {
        // Old tars pad the body with NULs.
        if body.iter().all(|&byte| byte == 0) {
            break;
        }
        let space = body.iter().take(20).position(|&byte| byte == b' ').ok_or_else(bad)?;
        let length = decimal(&body[..space]).and_then(|length| usize::try_from(length).ok()).ok_or_else(bad)?;
        if length <= space + 1 || length > body.len() || body[length - 1] != b'\n' {
            return Err(bad());
        }
        let record = &body[space + 1..length - 1];
        let equals = record.iter().position(|&byte| byte == b'=').ok_or_else(bad)?;
        let (key, value) = (&record[..equals], &record[equals + 1..]);
        let may_be_binary = key.starts_with(b"SCHILY.xattr.") || key.starts_with(b"LIBARCHIVE.xattr.");
        if key.is_empty() || key.contains(&0) || (value.contains(&0) && !may_be_binary) {
            return Err(bad());
        }
        records.push((key, value));
        body = &body[length..];
    }
    Ok(records)
}

/// A number in decimal digits alone.
pub(crate) fn decimal(text: &[u8]) -> Option<u64> {
    match text.is_empty() || text.len() > 20 || !text.iter().all(u8::is_ascii_digit) {
        true => None,
        false => std::str::from_utf8(text).ok()?.parse().ok(),
    }
}

/// Seconds with an optional fraction and sign, as seconds and nanoseconds (0 to 999,999,999).
pub(crate) fn seconds(text: &[u8]) -> Option<(i64, u32)> {
    let (negative, unsigned) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (whole, fraction) = match unsigned.iter().position(|&byte| byte == b'.') {
        Some(dot) => (&unsigned[..dot], &unsigned[dot + 1..]),
        None => (unsigned, &b""[..]),
    };
    let whole = i64::try_from(decimal(whole)?).ok()?;
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let nanos = (0..9).fold(0u32, |nanos, at| nanos * 10 + fraction.get(at).map_or(0, |digit| u32::from(digit - b'0')));
    match (negative, nanos) {
        (false, _) => Some((whole, nanos)),
        (true, 0) => Some((-whole, 0)),
        (true, _) => Some((-whole - 1, 1_000_000_000 - nanos)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_in_every_encoding() {
        assert_eq!(number(b"0000644\0"), Ok(0o644));
        assert_eq!(number(b"   644 \0"), Ok(0o644));
        assert_eq!(number(b"\0\0\0\0\0\0\0\0"), Ok(0));
        assert_eq!(number(b"\x80\0\0\0\0\0\0\x05"), Ok(5));
        assert_eq!(number(b"\x80\0\0\0\0\x20\0\0"), Ok(1 << 21));
        assert_eq!(number(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"), Ok(-1));
        assert!(number(b"\x80\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff").is_err());
        assert!(number(b"00008\0\0\0").is_err());
    }

    #[test]
    fn times_have_fractions_and_signs() {
        assert_eq!(seconds(b"12.5"), Some((12, 500_000_000)));
        assert_eq!(seconds(b"12"), Some((12, 0)));
        assert_eq!(seconds(b"-1.25"), Some((-2, 750_000_000)));
        assert_eq!(seconds(b"1.0000000019"), Some((1, 1)));
        assert_eq!(seconds(b"x"), None);
        assert_eq!(seconds(b""), None);
    }

    #[test]
    fn pax_records_are_read_strictly() {
        assert_eq!(pax_records(b"12 path=a/b\n9 uid=70\n").expect("reads"), [(&b"path"[..], &b"a/b"[..]), (b"uid", b"70")]);
        for bad in [
            &b"5 a=b\n"[..],
            b"99 a=b\n",
            b"0 a=b\n",
            b"6 a=b\0",
            b"x a=b\n",
            b"6  =b\n\n",
            b"6 abc\n",
            b"99999999999999999999 a=b\n",
            b"8 a=b\0c\n",
        ] {
            assert!(pax_records(bad).is_err(), "{}", String::from_utf8_lossy(bad));
        }
    }
}
