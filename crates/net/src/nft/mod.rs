//! nf_tables messages: transactions of tables, chains, rules, sets and elements (`linux/netfilter/nf_tables.h`).

mod expression;
pub mod foreign;
pub mod table;

use rustix::io::Errno;

pub use expression::{Expression, Register, Verdict};

use crate::netlink::{self, Attributes, Batch, Refusal, Socket};

pub(crate) const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;

const NEW_TABLE: u16 = 0;
pub(crate) const GET_TABLE: u16 = 1;
pub(crate) const DEL_TABLE: u16 = 2;
pub(crate) const NEW_CHAIN: u16 = 3;
const GET_CHAIN: u16 = 4;
const NEW_RULE: u16 = 6;
const GET_RULE: u16 = 7;
const DEL_RULE: u16 = 8;
const NEW_SET: u16 = 9;
const NEW_ELEMENT: u16 = 12;
const DEL_ELEMENT: u16 = 14;

/// `struct nfgenmsg`: family, version, resource id.
pub(crate) const HEADER_LEN: usize = 4;
const LIST_ELEM: u16 = 1;

pub(crate) const TABLE_NAME: u16 = 1;

const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_POLICY: u16 = 5;
const CHAIN_TYPE: u16 = 7;
const HOOK_NUM: u16 = 1;
const HOOK_PRIORITY: u16 = 2;

const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const RULE_HANDLE: u16 = 3;
const RULE_EXPRESSIONS: u16 = 4;
const RULE_USERDATA: u16 = 7;

const SET_TABLE: u16 = 1;
const SET_NAME: u16 = 2;
const SET_FLAGS: u16 = 3;
const SET_KEY_TYPE: u16 = 4;
const SET_KEY_LEN: u16 = 5;
const SET_DATA_TYPE: u16 = 6;
const SET_DATA_LEN: u16 = 7;
const SET_ID: u16 = 10;
const SET_FLAG_INTERVAL: u32 = 0x4;
const SET_FLAG_MAP: u32 = 0x8;

const ELEMENTS_TABLE: u16 = 1;
const ELEMENTS_SET: u16 = 2;
const ELEMENTS_LIST: u16 = 3;
const ELEMENT_KEY: u16 = 1;
const ELEMENT_DATA: u16 = 2;
const ELEMENT_FLAGS: u16 = 3;
const ELEMENT_INTERVAL_END: u32 = 1;

const DATA_VALUE: u16 = 1;

/// A list of elements is one attribute, whose length has 16 bits.
const ELEMENTS_PER_MESSAGE: usize = 400;

/// Protocol families of tables (`NFPROTO_*`).
pub const FAMILY_INET: u8 = 1;
pub const FAMILY_IPV4: u8 = 2;
pub const FAMILY_IPV6: u8 = 10;
pub const FAMILY_UNSPEC: u8 = 0;

/// Where a base chain sits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hook {
    /// "filter" or "nat".
    pub kind: &'static str,
    /// `NF_INET_*`.
    pub number: u32,
    pub priority: i32,
}

/// What a set or map is made of. The types are those of the `nft` program, by which it shows the elements.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SetShape {
    pub key_type: u32,
    pub key_len: u32,
    /// Of a map: type and length of what a key leads to.
    pub data: Option<(u32, u32)>,
    pub interval: bool,
}

/// One element of a set or map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Element {
    pub key: Vec<u8>,
    pub data: Option<Vec<u8>>,
    pub interval_end: bool,
}

/// Changes that happen all together or not at all.
#[derive(Debug)]
pub struct Transaction<'a> {
    table: &'a str,
    family: u8,
    batch: Batch,
    sets: u32,
}

impl<'a> Transaction<'a> {
    pub fn new(family: u8, table: &'a str) -> Self {
        let mut batch = Batch::new();
        batch.add(BATCH_BEGIN, 0, &[0, 0, 0, SUBSYSTEM as u8], |_| ());
        Self { table, family, batch, sets: 0 }
    }

    /// Makes the table; one that exists is left as it is.
    pub fn create_table(&mut self) {
        self.add(NEW_TABLE, netlink::CREATE, |table, name| table.text(TABLE_NAME, name));
    }

    pub fn delete_table(&mut self) {
        self.add(DEL_TABLE, 0, |table, name| table.text(TABLE_NAME, name));
    }

    pub fn create_chain(&mut self, name: &str, hook: Option<Hook>) {
        self.add(NEW_CHAIN, netlink::CREATE, |chain, table| {
            chain.text(CHAIN_TABLE, table);
            chain.text(CHAIN_NAME, name);
            if let Some(hook) = hook {
                chain.nest(CHAIN_HOOK, |place| {
                    place.big(HOOK_NUM, hook.number);
                    place.big(HOOK_PRIORITY, hook.priority as u32);
                });
                chain.text(CHAIN_TYPE, hook.kind);
            }
        });
    }

    pub fn create_set(&mut self, name: &str, shape: SetShape) {
        self.sets += 1;
        let id = self.sets;
        self.add(NEW_SET, netlink::CREATE, |set, table| {
            set.text(SET_TABLE, table);
            set.text(SET_NAME, name);
            let map = if shape.data.is_some() { SET_FLAG_MAP } else { 0 };
            set.big(SET_FLAGS, map | if shape.interval { SET_FLAG_INTERVAL } else { 0 });
            set.big(SET_KEY_TYPE, shape.key_type);
            set.big(SET_KEY_LEN, shape.key_len);
            if let Some((kind, len)) = shape.data {
                set.big(SET_DATA_TYPE, kind);
                set.big(SET_DATA_LEN, len);
            }
            set.big(SET_ID, id);
        });
    }

    /// Appends a rule to a chain.
    pub fn append_rule(&mut self, chain: &str, expressions: &[Expression<'_>]) {
        self.rule(netlink::CREATE | netlink::APPEND, chain, expressions, None);
    }

    /// Puts a rule with a mark at the top of a chain.
    pub fn insert_rule(&mut self, chain: &str, expressions: &[Expression<'_>], mark: &[u8]) {
        self.rule(netlink::CREATE, chain, expressions, Some(mark));
    }

    pub fn delete_rule(&mut self, chain: &str, handle: u64) {
        self.add(DEL_RULE, 0, |rule, table| {
            rule.text(RULE_TABLE, table);
            rule.text(RULE_CHAIN, chain);
            rule.bytes(RULE_HANDLE, &handle.to_be_bytes());
        });
    }

    pub fn add_elements(&mut self, set: &str, elements: &[Element]) {
        self.elements(NEW_ELEMENT, netlink::CREATE, set, elements);
    }

    pub fn delete_elements(&mut self, set: &str, elements: &[Element]) {
        self.elements(DEL_ELEMENT, 0, set, elements);
    }

    pub fn commit(mut self, socket: &mut Socket) -> Result<(), Refusal> {
        self.batch.acknowledge_here();
        self.batch.add(BATCH_END, 0, &[0, 0, 0, SUBSYSTEM as u8], |_| ());
        socket.transact(self.batch)
    }

    fn rule(&mut self, flags: u16, chain: &str, expressions: &[Expression<'_>], mark: Option<&[u8]>) {
        self.add(NEW_RULE, flags, |rule, table| {
            rule.text(RULE_TABLE, table);
            rule.text(RULE_CHAIN, chain);
            rule.nest(RULE_EXPRESSIONS, |list| expressions.iter().for_each(|expression| expression.write(list)));
            if let Some(mark) = mark {
                rule.bytes(RULE_USERDATA, mark);
            }
        });
    }

    fn elements(&mut self, kind: u16, flags: u16, set: &str, elements: &[Element]) {
        for chunk in elements.chunks(ELEMENTS_PER_MESSAGE) {
            self.add(kind, flags, |message, table| {
                message.text(ELEMENTS_TABLE, table);
                message.text(ELEMENTS_SET, set);
                message.nest(ELEMENTS_LIST, |list| chunk.iter().for_each(|element| write_element(list, element)));
            });
        }
    }

    fn add(&mut self, kind: u16, flags: u16, fill: impl FnOnce(&mut Attributes<'_>, &str)) {
        let table = self.table;
        self.batch.add(SUBSYSTEM << 8 | kind, flags, &[self.family, 0, 0, 0], |attributes| fill(attributes, table));
    }
}

fn write_element(list: &mut Attributes<'_>, element: &Element) {
    list.nest(LIST_ELEM, |item| {
        item.nest(ELEMENT_KEY, |key| key.bytes(DATA_VALUE, &element.key));
        if let Some(data) = &element.data {
            item.nest(ELEMENT_DATA, |value| value.bytes(DATA_VALUE, data));
        }
        if element.interval_end {
            item.big(ELEMENT_FLAGS, ELEMENT_INTERVAL_END);
        }
    });
}

/// Asks for a whole list of nf_tables objects.
fn dump(
    socket: &mut Socket,
    kind: u16,
    family: u8,
    fill: impl FnOnce(&mut Attributes<'_>),
    each: impl FnMut(netlink::Message<'_>),
) -> Result<(), Errno> {
    socket.query(SUBSYSTEM << 8 | kind, netlink::DUMP, &[family, 0, 0, 0], fill, each)
}
