//! Packet filters of others: found and reported, and where the administrator wants it, opened for our bridges.

use rustix::io::Errno;

use super::{
    CHAIN_HOOK, CHAIN_NAME, CHAIN_POLICY, CHAIN_TABLE, CHAIN_TYPE, Expression, FAMILY_INET, FAMILY_IPV4, FAMILY_IPV6, FAMILY_UNSPEC,
    GET_CHAIN, GET_RULE, HEADER_LEN, HOOK_NUM, RULE_CHAIN, RULE_EXPRESSIONS, RULE_HANDLE, RULE_TABLE, RULE_USERDATA, Transaction, Verdict,
    dump,
};
use crate::netlink::{AttributeReader, Refusal, Socket, text};
use crate::{Error, Result};

const INPUT: u32 = 1;
const FORWARD: u32 = 2;
const POLICY_DROP: u32 = 0;
const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;
const IMMEDIATE_DATA: u16 = 2;
const DATA_VERDICT: u16 = 2;
const VERDICT_CODE: u16 = 1;
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
        let family = match self.family {
            FAMILY_INET => "inet",
            FAMILY_IPV6 => "ip6",
            _ => "ip",
        };
        write!(out, "{family} {} {}", self.table, self.chain)
    }
}

/// The foreign chains that drop by default what containers send or get: by their policy, or by a last rule for all that is left.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Foreign {
    pub input: Vec<DropChain>,
    pub forward: Vec<DropChain>,
}

/// Looks through the base chains of all tables but ours.
pub fn look(socket: &mut Socket, own_table: &str) -> Result<Foreign> {
    let failed = |source| Error::Nft { table: own_table.to_owned(), operation: "list the chains of others".to_owned(), source };
    let mut chains = Vec::new();
    let list = dump(
        socket,
        GET_CHAIN,
        FAMILY_UNSPEC,
        |_| (),
        |message| {
            chains.extend(read_chain(message.payload, message.attributes(HEADER_LEN)).filter(|chain| chain.place.table != own_table));
        },
    );
    list.map_err(failed)?;
    if chains.iter().any(|chain| !chain.drops) {
        // Rules come in the order of their chains, so the last one seen of a chain is its last one.
        let list = dump(
            socket,
            GET_RULE,
            FAMILY_UNSPEC,
            |_| (),
            |message| {
                let attributes = message.attributes(HEADER_LEN);
                let Some(place) = read_place(message.payload, attributes, RULE_TABLE, RULE_CHAIN) else { return };
                if let Some(chain) = chains.iter_mut().find(|chain| chain.place == place && !chain.drops_by_policy) {
                    chain.drops = attributes.find(RULE_EXPRESSIONS).is_some_and(refuses_everything);
                }
            },
        );
        list.map_err(failed)?;
    }
    let mut foreign = Foreign::default();
    for chain in chains.into_iter().filter(|chain| chain.drops) {
        match chain.hook {
            INPUT => foreign.input.push(chain.place),
            _ => foreign.forward.push(chain.place),
        }
    }
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

/// A chain of others where packets come in or go through.
#[derive(Debug)]
struct Chain {
    place: DropChain,
    hook: u32,
    drops_by_policy: bool,
    drops: bool,
}

fn read_chain(payload: &[u8], attributes: AttributeReader<'_>) -> Option<Chain> {
    let place = read_place(payload, attributes, CHAIN_TABLE, CHAIN_NAME)?;
    let hook = AttributeReader(attributes.find(CHAIN_HOOK)?).find(HOOK_NUM).and_then(big)?;
    let drops = attributes.find(CHAIN_POLICY).and_then(big)? == POLICY_DROP;
    let filters = attributes.find(CHAIN_TYPE).map(text).as_deref() == Some("filter");
    let known = matches!(place.family, FAMILY_INET | FAMILY_IPV4 | FAMILY_IPV6) && matches!(hook, INPUT | FORWARD);
    (filters && known).then_some(Chain { place, hook, drops_by_policy: drops, drops })
}

fn read_place(payload: &[u8], attributes: AttributeReader<'_>, table: u16, chain: u16) -> Option<DropChain> {
    Some(DropChain { family: *payload.first()?, table: text(attributes.find(table)?), chain: text(attributes.find(chain)?) })
}

/// Whether a rule has no condition, and ends in a reject or drop, as firewalld closes its chains.
fn refuses_everything(expressions: &[u8]) -> bool {
    let mut refuses = false;
    for (_, item) in AttributeReader(expressions) {
        let item = AttributeReader(item);
        match item.find(EXPRESSION_NAME).map(text).as_deref() {
            Some("counter" | "log") => (),
            Some("reject") => refuses = true,
            Some("immediate") => refuses = item.find(EXPRESSION_DATA).is_some_and(is_drop),
            _ => return false,
        }
    }
    refuses
}

/// Whether an immediate value is the verdict to drop.
fn is_drop(immediate: &[u8]) -> bool {
    let verdict = || {
        let data = AttributeReader(AttributeReader(immediate).find(IMMEDIATE_DATA)?);
        AttributeReader(data.find(DATA_VERDICT)?).find(VERDICT_CODE).and_then(big)
    };
    verdict() == Some(POLICY_DROP)
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
