//! As much of the DNS messages (RFC 1035) as answering and handing on takes: one question in, addresses or a name out.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub const KIND_A: u16 = 1;
pub const KIND_PTR: u16 = 12;
pub const KIND_AAAA: u16 = 28;
pub const CLASS_IN: u16 = 1;

/// What an answer says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    NoError = 0,
    Malformed = 1,
    Failed = 2,
    NoSuchName = 3,
    NotImplemented = 4,
    Refused = 5,
}

/// The longest answer in a datagram to who did not ask for more.
pub const DATAGRAM_LEN_MAX: usize = 512;
/// What a TCP message may have.
pub const MESSAGE_LEN_MAX: usize = 65_535;

const HEADER_LEN: usize = 12;
const NAME_LEN_MAX: usize = 255;
const LABEL_LEN_MAX: u8 = 63;
/// Seconds that an answer may be kept, as Docker says.
const TTL: u32 = 600;
const RESPONSE: u16 = 0x8000;
const OPCODE: u16 = 0x7800;
const AUTHORITATIVE: u16 = 0x0400;
const TRUNCATED: u16 = 0x0200;
const RECURSION_DESIRED: u16 = 0x0100;
const RECURSION_AVAILABLE: u16 = 0x0080;

/// The question of a query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// In small letters, labels separated by dots, none at the end. What is no letter of a host name is the replacement character.
    pub name: String,
    pub kind: u16,
    pub class: u16,
    /// Where it ends in the message.
    end: usize,
}

/// What an answer consists of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    Address(IpAddr),
    Name(String),
}

/// Reads a query. An error is what to answer; `None`: nothing.
pub fn parse(message: &[u8]) -> Result<Question, Option<Code>> {
    let flags = number(message, 2).ok_or(None)?;
    if message.len() < HEADER_LEN || flags & RESPONSE != 0 {
        return Err(None);
    }
    if flags & OPCODE != 0 {
        return Err(Some(Code::NotImplemented));
    }
    if number(message, 4) != Some(1) {
        return Err(Some(Code::Malformed));
    }
    question(message).ok_or(Some(Code::Malformed))
}

/// Whether a message answers the query that was sent.
pub fn answers(response: &[u8], query: &[u8]) -> bool {
    let same_id = response.get(..2).is_some() && response.get(..2) == query.get(..2);
    let is_response = number(response, 2).is_some_and(|flags| flags & RESPONSE != 0);
    same_id && is_response && question(response).is_some() && question(response) == question(query)
}

/// The code that a response carries.
pub fn code(response: &[u8]) -> u8 {
    response.get(3).map_or(Code::Failed as u8, |flags| flags & 0xf)
}

/// The number by which question and answer know each other.
pub fn id(message: &[u8]) -> Option<[u8; 2]> {
    message.get(..2)?.try_into().ok()
}

pub fn set_id(message: &mut [u8], id: [u8; 2]) {
    if let Some(place) = message.get_mut(..2) {
        place.copy_from_slice(&id);
    }
}

/// An answer with authority. What does not fit into `len_max` is left out, and that is said.
pub fn answer(query: &[u8], question: &Question, code: Code, records: &[Record], len_max: usize) -> Vec<u8> {
    let mut message = head(query, code, AUTHORITATIVE);
    message.extend_from_slice(query.get(HEADER_LEN..question.end).unwrap_or_default());
    message[4..6].copy_from_slice(&1u16.to_be_bytes());
    let mut count: u16 = 0;
    for record in records {
        let before = message.len();
        write_record(&mut message, record);
        if message.len() > len_max {
            message.truncate(before);
            message[2] |= (TRUNCATED >> 8) as u8;
            break;
        }
        count += 1;
    }
    message[6..8].copy_from_slice(&count.to_be_bytes());
    message
}

/// An answer that only says what is wrong, with the question where there is one.
pub fn complaint(query: &[u8], question: Option<&Question>, code: Code) -> Vec<u8> {
    let mut message = head(query, code, 0);
    if let Some(question) = question {
        message.extend_from_slice(query.get(HEADER_LEN..question.end).unwrap_or_default());
        message[4..6].copy_from_slice(&1u16.to_be_bytes());
    }
    message
}

/// The address that a name below `in-addr.arpa` or `ip6.arpa` is about.
pub fn pointed_at(name: &str) -> Option<IpAddr> {
    if let Some(digits) = name.strip_suffix(".ip6.arpa") {
        let mut bits: u128 = 0;
        let mut labels = digits.split('.');
        for place in 0..32 {
            let digit = labels.next().filter(|label| label.len() == 1)?;
            bits |= u128::from_str_radix(digit, 16).ok()? << (4 * place);
        }
        return labels.next().is_none().then(|| Ipv6Addr::from_bits(bits).into());
    }
    let mut octets = [0; 4];
    let mut labels = name.strip_suffix(".in-addr.arpa")?.split('.');
    for octet in octets.iter_mut().rev() {
        *octet = labels.next()?.parse().ok()?;
    }
    labels.next().is_none().then(|| Ipv4Addr::from(octets).into())
}

fn head(query: &[u8], code: Code, flags: u16) -> Vec<u8> {
    let mut message = vec![0; HEADER_LEN];
    message[..2].copy_from_slice(&id(query).unwrap_or_default());
    let asked = number(query, 2).unwrap_or(0) & (OPCODE | RECURSION_DESIRED);
    message[2..4].copy_from_slice(&(RESPONSE | asked | flags | RECURSION_AVAILABLE | code as u16).to_be_bytes());
    message
}

fn write_record(message: &mut Vec<u8>, record: &Record) {
    let (kind, data) = match record {
        Record::Address(IpAddr::V4(address)) => (KIND_A, address.octets().to_vec()),
        Record::Address(IpAddr::V6(address)) => (KIND_AAAA, address.octets().to_vec()),
        Record::Name(name) => (KIND_PTR, wire_name(name)),
    };
    // The name is that of the question: a pointer to it.
    message.extend_from_slice(&(0xc000 | HEADER_LEN as u16).to_be_bytes());
    message.extend_from_slice(&kind.to_be_bytes());
    message.extend_from_slice(&CLASS_IN.to_be_bytes());
    message.extend_from_slice(&TTL.to_be_bytes());
    message.extend_from_slice(&(data.len() as u16).to_be_bytes());
    message.extend_from_slice(&data);
}

/// Names of ours are short enough, or cut.
fn wire_name(name: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(name.len() + 2);
    for label in name.split('.').filter(|label| !label.is_empty()) {
        let label = &label.as_bytes()[..label.len().min(LABEL_LEN_MAX.into())];
        if bytes.len() + label.len() + 2 > NAME_LEN_MAX {
            break;
        }
        bytes.push(label.len() as u8);
        bytes.extend_from_slice(label);
    }
    bytes.push(0);
    bytes
}

fn question(message: &[u8]) -> Option<Question> {
    let mut at = HEADER_LEN;
    let mut name = String::new();
    loop {
        let len = *message.get(at)?;
        at += 1;
        if len == 0 {
            break;
        }
        // Neither pointers nor labels of other kinds belong into the only question.
        if len > LABEL_LEN_MAX || name.len() + usize::from(len) > NAME_LEN_MAX {
            return None;
        }
        if !name.is_empty() {
            name.push('.');
        }
        let label = message.get(at..at + usize::from(len))?;
        name.extend(label.iter().map(|byte| match byte {
            b'.' => char::REPLACEMENT_CHARACTER,
            byte if byte.is_ascii_graphic() => char::from(byte.to_ascii_lowercase()),
            _ => char::REPLACEMENT_CHARACTER,
        }));
        at += usize::from(len);
    }
    Some(Question { name, kind: number(message, at)?, class: number(message, at + 2)?, end: at + 4 })
}

fn number(message: &[u8], at: usize) -> Option<u16> {
    message.get(at..at + 2)?.try_into().ok().map(u16::from_be_bytes)
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A query as a resolver writes it.
    pub fn query(name: &str, kind: u16) -> Vec<u8> {
        let mut message = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        message.extend(wire_name(name));
        message.extend([kind.to_be_bytes(), CLASS_IN.to_be_bytes()].concat());
        message
    }

    #[test]
    fn questions_are_read_and_answered() {
        let asked = query("Web.Net", KIND_A);
        let question = parse(&asked).unwrap();
        assert_eq!((question.name.as_str(), question.kind, question.class), ("web.net", KIND_A, CLASS_IN));
        let records = [Record::Address([10, 0, 0, 2].into()), Record::Address([10, 0, 0, 3].into())];
        let answer = answer(&asked, &question, Code::NoError, &records, DATAGRAM_LEN_MAX);
        assert!(answers(&answer, &asked) && code(&answer) == 0);
        assert_eq!((&answer[2..4], &answer[6..8]), (&[0x85, 0x80][..], &[0, 2][..]));
        assert!(answer.ends_with(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 2, 0x58, 0, 4, 10, 0, 0, 3]));
        let mut other = answer.clone();
        set_id(&mut other, [0, 1]);
        assert!(!answers(&other, &asked) && !answers(&answer, &query("web.com", KIND_A)) && !answers(&asked, &asked));
    }

    #[test]
    fn too_many_records_are_cut_and_it_is_said() {
        let asked = query("web", KIND_A);
        let question = parse(&asked).unwrap();
        let records = vec![Record::Address(Ipv4Addr::LOCALHOST.into()); 100];
        let answer = answer(&asked, &question, Code::NoError, &records, DATAGRAM_LEN_MAX);
        assert!(answer.len() <= DATAGRAM_LEN_MAX && answer[2] & 2 != 0 && answer[7] > 20);
    }

    #[test]
    fn reverse_names_are_understood() {
        assert_eq!(pointed_at("3.2.1.10.in-addr.arpa"), Some([10, 1, 2, 3].into()));
        let nibbles = format!("2.{}d.f.ip6.arpa", "0.".repeat(29));
        assert_eq!(pointed_at(&nibbles), "fd00::2".parse().ok());
        assert_eq!(pointed_at(&nibbles[2..]), None);
        assert_eq!(pointed_at(&format!("2.{nibbles}")), None);
        for bad in
            ["", "in-addr.arpa", "1.2.3.in-addr.arpa", "1.2.3.4.5.in-addr.arpa", "x.2.3.4.in-addr.arpa", "1.2.3.4.ip6.arpa", "ip6.arpa"]
        {
            assert_eq!(pointed_at(bad), None, "{bad}");
        }
    }

    #[test]
    fn torn_and_odd_messages_do_no_harm() {
        let whole = query("a.very.long.name.example.org", KIND_PTR);
        for len in 0..whole.len() {
            assert!(parse(&whole[..len]).is_err(), "{len}");
        }
        // Every byte in every place, and a stream of noise (a linear congruential generator, so that failures come again).
        let mut seed: u64 = 42;
        for round in 0..20_000_u32 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let mut message = whole.clone();
            let place = (seed >> 33) as usize % message.len();
            message[place] = (seed >> 24) as u8;
            message.truncate(1 + (seed >> 40) as usize % message.len());
            if let Ok(question) = parse(&message) {
                let records = [Record::Name("x".repeat((round % 400) as usize))];
                let reply = answer(&message, &question, Code::NoError, &records, MESSAGE_LEN_MAX);
                assert!(question.name.chars().count() <= NAME_LEN_MAX && reply.len() < 1024);
            }
            let _ = (complaint(&message, None, Code::Malformed), answers(&message, &whole));
        }
        let mut looped = query("a", KIND_A);
        looped[12] = 0xc0;
        assert_eq!(parse(&looped), Err(Some(Code::Malformed)));
    }
}
