//! Packet filters of others: found and reported, and where the administrator wants it, opened for our bridges.

use rustix::io::Errno;

use super::{
    CHAIN_HOOK, CHAIN_NAME, CHAIN_POLICY, CHAIN_TABLE, CHAIN_TYPE, Expression, FAMILY_INET, FAMILY_IPV4, FAMILY_UNSPEC, GET_CHAIN,
    GET_RULE, HEADER_LEN, HOOK_NUM, RULE_CHAIN, RULE_HANDLE, RULE_TABLE, RULE_USERDATA, Transaction, Verdict, dump,
};
use crate::netlink::{AttributeReader, Refusal, Socket, text};
use crate::{Error, Result};

const INPUT: u32 = 1;
const FORWARD: u32 = 2;
const POLICY_DROP: u32 = 0;
/// `NFTNL_UDATA_RULE_COMMENT`: how the `nft` program stores a comment.
const USERDATA_COMMENT: u8 = 0;

/// A base chain of somebody else that drops what its rules do not accept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DropChain {
    pub family: u8,
    pub table: String,
    pub chain: String,
}

impl std::fmt::Display for DropChain {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let family = if self.family == FAMILY_INET { "inet" } else { "ip" };
        write!(out, "{family} {} {}", self.table, self.chain)
    }
}

/// The foreign chains with the policy drop that IPv4 packets meet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Foreign {
    pub input: Vec<DropChain>,
    pub forward: Vec<DropChain>,
}

/// Looks through the base chains of all tables but ours.
pub fn look(socket: &mut Socket, own_table: &str) -> Result<Foreign> {
    let mut foreign = Foreign::default();
    let list = dump(
        socket,
        GET_CHAIN,
        FAMILY_UNSPEC,
        |_| (),
        |message| {
            let Some((hook, chain)) = read_drop_chain(message.payload, message.attributes(HEADER_LEN)) else { return };
            match hook {
                _ if chain.table == own_table => (),
                INPUT => foreign.input.push(chain),
                FORWARD => foreign.forward.push(chain),
                _ => (),
            }
        },
    );
    list.map_err(|source| Error::Nft { table: own_table.to_owned(), operation: "list the chains of others".to_owned(), source })?;
    Ok(foreign)
}

/// Inserts accept rules for the bridges at the top of a foreign chain, marked by a comment, unless they are there.
pub fn insert_accepts(socket: &mut Socket, chain: &DropChain, bridges: &[String], mark: &str) -> Result<()> {
    if !marked_rules(socket, mark)?.iter().all(|rule| rule.chain != chain.chain || rule.table != chain.table || rule.family != chain.family)
    {
        return Ok(());
    }
    let mut transaction = Transaction::new(chain.family, &chain.table);
    for bridge in bridges {
        for input in [true, false] {
            let accept = [Expression::InterfaceIs(input, bridge), Expression::Verdict(Verdict::Accept)];
            transaction.insert_rule(&chain.chain, &accept, &comment(mark));
        }
    }
    transaction.commit(socket).map_err(|refusal| failed(chain, "insert accept rules", refusal))
}

/// Removes what [`insert_accepts`] put anywhere.
pub fn remove_accepts(socket: &mut Socket, mark: &str) -> Result<()> {
    for rule in marked_rules(socket, mark)? {
        let mut transaction = Transaction::new(rule.family, &rule.table);
        transaction.delete_rule(&rule.chain, rule.handle);
        match transaction.commit(socket) {
            Err(refusal) if refusal.errno != Errno::NOENT => {
                let chain = DropChain { family: rule.family, table: rule.table, chain: rule.chain };
                return Err(failed(&chain, "remove accept rules", refusal));
            }
            _ => (),
        }
    }
    Ok(())
}

/// A rule that carries our mark.
#[derive(Debug)]
struct MarkedRule {
    family: u8,
    table: String,
    chain: String,
    handle: u64,
}

fn marked_rules(socket: &mut Socket, mark: &str) -> Result<Vec<MarkedRule>> {
    let comment = comment(mark);
    let mut rules = Vec::new();
    let list = dump(
        socket,
        GET_RULE,
        FAMILY_UNSPEC,
        |_| (),
        |message| {
            let attributes = message.attributes(HEADER_LEN);
            if attributes.find(RULE_USERDATA) == Some(&comment[..]) {
                rules.extend(read_rule(message.payload, attributes));
            }
        },
    );
    list.map_err(|source| Error::Nft { table: "of others".to_owned(), operation: "list rules".to_owned(), source })?;
    Ok(rules)
}

fn read_rule(payload: &[u8], attributes: AttributeReader<'_>) -> Option<MarkedRule> {
    Some(MarkedRule {
        family: *payload.first()?,
        table: text(attributes.find(RULE_TABLE)?),
        chain: text(attributes.find(RULE_CHAIN)?),
        handle: u64::from_be_bytes(attributes.find(RULE_HANDLE)?.try_into().ok()?),
    })
}

fn read_drop_chain(payload: &[u8], attributes: AttributeReader<'_>) -> Option<(u32, DropChain)> {
    let family = *payload.first()?;
    let hook = AttributeReader(attributes.find(CHAIN_HOOK)?).find(HOOK_NUM).and_then(big)?;
    let drops = attributes.find(CHAIN_POLICY).and_then(big)? == POLICY_DROP;
    let filters = attributes.find(CHAIN_TYPE).map(text).as_deref() == Some("filter");
    let chain = DropChain { family, table: text(attributes.find(CHAIN_TABLE)?), chain: text(attributes.find(CHAIN_NAME)?) };
    (drops && filters && matches!(family, FAMILY_INET | FAMILY_IPV4)).then_some((hook, chain))
}

fn big(bytes: &[u8]) -> Option<u32> {
    bytes.get(..4)?.try_into().ok().map(u32::from_be_bytes)
}

fn comment(mark: &str) -> Vec<u8> {
    let mut bytes = vec![USERDATA_COMMENT, mark.len() as u8 + 1];
    bytes.extend_from_slice(mark.as_bytes());
    bytes.push(0);
    bytes
}

fn failed(chain: &DropChain, operation: &str, refusal: Refusal) -> Error {
    let operation = format!("{operation} in chain {}", chain.chain);
    Error::Nft { table: chain.table.clone(), operation, source: refusal.errno }
}
