//! Rules to nf_tables: one table per workload, written and replaced in one batch that the kernel takes whole or not at all.
//!
//! The numbers are those of `linux/netfilter/nf_tables.h` and `linux/netfilter/nfnetlink.h`. No `nft` program is run: its
//! version would have to suit the kernel's, and small images have none. Which rules there are is in `rules`.

use std::io;

use ipnet::IpNet;
use rustix::io::Errno;

use super::netlink::{
    self, Attributes, Link, Messages, NLM_F_APPEND, NLM_F_CREATE, NLM_F_DUMP, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR,
};
use super::rules::{Chain, Match, Plan, Rule, Transport, Verdict};
use super::{CaptureError, Owner};

const PREFIX: &str = "transept_";

// Families (`linux/netfilter.h`).
const NFPROTO_UNSPEC: u8 = 0;
const NFPROTO_INET: u8 = 1;
const NFPROTO_IPV4: u8 = 2;
const NFPROTO_IPV6: u8 = 10;

// Messages.
const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFNL_MSG_BATCH_BEGIN: u16 = 16;
const NFNL_MSG_BATCH_END: u16 = 17;
const NFT_MSG_NEWTABLE: u16 = 0;
const NFT_MSG_GETTABLE: u16 = 1;
const NFT_MSG_DELTABLE: u16 = 2;
const NFT_MSG_NEWCHAIN: u16 = 3;
const NFT_MSG_NEWRULE: u16 = 6;
/// `struct nfgenmsg`: family, version, and the subsystem in the two messages around a batch.
const NFGENMSG: usize = 4;

// Tables and chains.
const NFTA_TABLE_NAME: u16 = 1;
const NFTA_TABLE_FLAGS: u16 = 2;
const NFTA_TABLE_USERDATA: u16 = 6;
const NFTA_CHAIN_TABLE: u16 = 1;
const NFTA_CHAIN_NAME: u16 = 3;
const NFTA_CHAIN_HOOK: u16 = 4;
const NFTA_CHAIN_POLICY: u16 = 5;
const NFTA_CHAIN_TYPE: u16 = 7;
const NFTA_HOOK_HOOKNUM: u16 = 1;
const NFTA_HOOK_PRIORITY: u16 = 2;
const NF_INET_PRE_ROUTING: u32 = 0;
const NF_INET_LOCAL_OUT: u32 = 3;
const NF_ACCEPT: u32 = 1;
/// Shortly before the usual place of such rules (-100), so that ours come before those of a container engine, which
/// redirect questions for names too.
const PRIORITY: i32 = -110;
/// `enum nftnl_udata_table_types`: the comment that `nft list ruleset` shows.
const USERDATA_COMMENT: u8 = 0;

// Rules and expressions.
const NFTA_RULE_TABLE: u16 = 1;
const NFTA_RULE_CHAIN: u16 = 2;
const NFTA_RULE_EXPRESSIONS: u16 = 4;
const NFTA_LIST_ELEM: u16 = 1;
const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;
const NFTA_DATA_VALUE: u16 = 1;
const NFTA_DATA_VERDICT: u16 = 2;
const NFTA_VERDICT_CODE: u16 = 1;
const NFT_REG_VERDICT: u32 = 0;
const NFT_REG_1: u32 = 1;
const NFT_RETURN: i32 = -5;
const NFTA_META_DREG: u16 = 1;
const NFTA_META_KEY: u16 = 2;
const NFT_META_MARK: u32 = 3;
const NFT_META_IIFNAME: u32 = 6;
const NFT_META_SKUID: u32 = 10;
const NFT_META_NFPROTO: u32 = 15;
const NFT_META_L4PROTO: u32 = 16;
const NFTA_CMP_SREG: u16 = 1;
const NFTA_CMP_OP: u16 = 2;
const NFTA_CMP_DATA: u16 = 3;
const NFT_CMP_EQ: u32 = 0;
const NFT_CMP_NEQ: u32 = 1;
const NFTA_PAYLOAD_DREG: u16 = 1;
const NFTA_PAYLOAD_BASE: u16 = 2;
const NFTA_PAYLOAD_OFFSET: u16 = 3;
const NFTA_PAYLOAD_LEN: u16 = 4;
const NFT_PAYLOAD_NETWORK_HEADER: u32 = 1;
const NFT_PAYLOAD_TRANSPORT_HEADER: u32 = 2;
const NFTA_BITWISE_SREG: u16 = 1;
const NFTA_BITWISE_DREG: u16 = 2;
const NFTA_BITWISE_LEN: u16 = 3;
const NFTA_BITWISE_MASK: u16 = 4;
const NFTA_BITWISE_XOR: u16 = 5;
const NFTA_FIB_DREG: u16 = 1;
const NFTA_FIB_RESULT: u16 = 2;
const NFTA_FIB_FLAGS: u16 = 3;
const NFT_FIB_RESULT_ADDRTYPE: u32 = 3;
const NFTA_FIB_F_DADDR: u32 = 2;
const RTN_LOCAL: u32 = 2;
const NFTA_IMMEDIATE_DREG: u16 = 1;
const NFTA_IMMEDIATE_DATA: u16 = 2;
const NFTA_REDIR_REG_PROTO_MIN: u16 = 1;
const NFTA_REDIR_FLAGS: u16 = 3;
const NF_NAT_RANGE_PROTO_SPECIFIED: u32 = 2;
const IPPROTO_TCP: u8 = 6;
const IPPROTO_UDP: u8 = 17;
// RFC 9293 section 3.1: where the flags are, and what they mean.
const TCP_FLAGS: u32 = 13;
const TCP_FIN: u8 = 1;
const TCP_SYN: u8 = 2;
const TCP_RST: u8 = 4;
const TCP_ACK: u8 = 16;

/// A table of ours that the kernel holds.
#[derive(Debug)]
pub(super) struct Table {
    name: String,
    pub(super) owner: Owner,
}

/// Writes the table of a plan in the place of what there was of it, and removes those whose owners are gone.
pub(super) fn install(plan: &Plan, owner: &Owner) -> Result<(), CaptureError> {
    let own = name_of(&owner.workload);
    let mut batch = Batch::begin();
    for table in tables()? {
        if table.owner.yields_to(owner)? && table.name != own {
            tracing::info!(table = table.name, "removing the rules of a process that is gone");
            batch.remove_table(&table.name);
        }
    }
    batch.remove_table(&own);
    batch.add_table(&own, owner);
    batch.add_rules(&own, &plan.rules());
    batch.commit()
}

/// Removes the tables that yield to `next`.
pub(super) fn remove_leftovers(next: &Owner) -> Result<(), CaptureError> {
    let mut batch = Batch::begin();
    for table in tables()? {
        if table.owner.yields_to(next)? {
            batch.remove_table(&table.name);
        }
    }
    batch.commit()
}

/// Removes the table of an owner.
pub(super) fn remove(owner: &Owner) -> Result<(), CaptureError> {
    let mut batch = Batch::begin();
    batch.remove_table(&name_of(&owner.workload));
    batch.commit()
}

/// Every table of ours in this network namespace.
pub(super) fn tables() -> Result<Vec<Table>, CaptureError> {
    const DOING: &str = "reading the tables";
    let mut messages = Messages::default();
    messages.push(kind(NFT_MSG_GETTABLE), NLM_F_REQUEST | NLM_F_DUMP, &head(NFPROTO_INET), |_| {});
    let link = open()?;
    link.send(&messages).map_err(|error| decode(DOING, error))?;
    let mut found = Vec::new();
    loop {
        let received = link.receive().map_err(|error| decode(DOING, error))?;
        for answer in netlink::answers(&received) {
            match answer.kind {
                NLMSG_DONE => return Ok(found),
                NLMSG_ERROR => answer.outcome().map_err(|error| decode(DOING, error))?,
                _ => found.extend(read_table(answer.body.get(NFGENMSG..).unwrap_or_default())),
            }
        }
    }
}

fn read_table(bytes: &[u8]) -> Option<Table> {
    let (mut name, mut owner) = (None, None);
    for (kind, value) in netlink::attributes(bytes) {
        match kind {
            NFTA_TABLE_NAME => name = std::str::from_utf8(value).ok().map(|text| text.trim_end_matches('\0')),
            NFTA_TABLE_USERDATA => owner = read_comment(value).and_then(Owner::parse),
            _ => {}
        }
    }
    let name = name?;
    let workload = name.strip_prefix(PREFIX)?;
    // Kernels before 5.10 keep no userdata.
    Some(Table { name: name.to_owned(), owner: owner.unwrap_or_else(|| Owner::unknown(workload)) })
}

/// Userdata is a list of a kind, a length and a value.
fn read_comment(mut bytes: &[u8]) -> Option<&str> {
    loop {
        let [kind, length] = *bytes.first_chunk()?;
        let end = 2 + usize::from(length);
        let value = bytes.get(2..end)?;
        if kind == USERDATA_COMMENT {
            return std::str::from_utf8(value).ok().map(|text| text.trim_end_matches('\0'));
        }
        bytes = bytes.get(end..)?;
    }
}

fn name_of(workload: &str) -> String {
    format!("{PREFIX}{workload}")
}

fn chain_name(chain: Chain) -> &'static str {
    match chain {
        Chain::Output => "output",
        Chain::Prerouting => "prerouting",
    }
}

fn kind(message: u16) -> u16 {
    NFNL_SUBSYS_NFTABLES << 8 | message
}

fn head(family: u8) -> [u8; NFGENMSG] {
    [family, 0, 0, 0]
}

fn open() -> Result<Link, CaptureError> {
    Link::open(Some(rustix::net::netlink::NETFILTER)).map_err(|error| decode("opening a socket to nf_tables", error))
}

/// An error of the kernel as what it means here.
fn decode(doing: &str, error: io::Error) -> CaptureError {
    let absent = [Errno::NOENT, Errno::OPNOTSUPP, Errno::PROTONOSUPPORT, Errno::AFNOSUPPORT];
    match error.raw_os_error() {
        Some(code) if [Errno::PERM, Errno::ACCESS].iter().any(|errno| errno.raw_os_error() == code) => {
            CaptureError::NotPermitted
        }
        Some(code) if absent.iter().any(|errno| errno.raw_os_error() == code) => {
            CaptureError::Unsupported(doing.to_owned())
        }
        _ => CaptureError::System { doing: doing.to_owned(), error },
    }
}

/// Changes that the kernel makes all together or not at all.
struct Batch {
    messages: Messages,
    /// What each message does, by its number, for when the kernel refuses it.
    doing: Vec<String>,
}

impl Batch {
    fn begin() -> Batch {
        let mut batch = Batch { messages: Messages::default(), doing: Vec::new() };
        batch.frame(NFNL_MSG_BATCH_BEGIN);
        batch
    }

    fn frame(&mut self, kind: u16) {
        let [high, low] = NFNL_SUBSYS_NFTABLES.to_be_bytes();
        self.messages.push(kind, NLM_F_REQUEST, &[NFPROTO_UNSPEC, 0, high, low], |_| {});
        self.doing.push("changing the tables".to_owned());
    }

    fn push(&mut self, doing: String, message: u16, flags: u16, fill: impl FnOnce(&mut Attributes<'_>)) {
        self.messages.push(kind(message), NLM_F_REQUEST | flags, &head(NFPROTO_INET), fill);
        self.doing.push(doing);
    }

    /// Adding it first makes removing it right whether it was there or not.
    fn remove_table(&mut self, name: &str) {
        let fill = |out: &mut Attributes<'_>| {
            out.text(NFTA_TABLE_NAME, name);
            out.number(NFTA_TABLE_FLAGS, 0);
        };
        self.push(format!("the table {name}"), NFT_MSG_NEWTABLE, NLM_F_CREATE, fill);
        self.push(format!("removing the table {name}"), NFT_MSG_DELTABLE, 0, |out| out.text(NFTA_TABLE_NAME, name));
    }

    fn add_table(&mut self, name: &str, owner: &Owner) {
        let mut comment = owner.to_string().into_bytes();
        comment.truncate(254);
        comment.push(0);
        let length = u8::try_from(comment.len()).unwrap_or(u8::MAX);
        self.push(format!("the table {name}"), NFT_MSG_NEWTABLE, NLM_F_CREATE, |out| {
            out.text(NFTA_TABLE_NAME, name);
            out.number(NFTA_TABLE_FLAGS, 0);
            out.bytes(NFTA_TABLE_USERDATA, &[&[USERDATA_COMMENT, length], comment.as_slice()].concat());
        });
    }

    /// Adds the rules, and before them the chains that they stand in.
    fn add_rules(&mut self, table: &str, rules: &[Rule]) {
        for (chain, hook) in [(Chain::Output, NF_INET_LOCAL_OUT), (Chain::Prerouting, NF_INET_PRE_ROUTING)] {
            let name = chain_name(chain);
            let mut of_chain = rules.iter().filter(|rule| rule.chain == chain).peekable();
            if of_chain.peek().is_some() {
                self.push(format!("a chain of type nat at {name}"), NFT_MSG_NEWCHAIN, NLM_F_CREATE, |out| {
                    out.text(NFTA_CHAIN_TABLE, table);
                    out.text(NFTA_CHAIN_NAME, name);
                    out.text(NFTA_CHAIN_TYPE, "nat");
                    out.number(NFTA_CHAIN_POLICY, NF_ACCEPT);
                    out.nested(NFTA_CHAIN_HOOK, |out| {
                        out.number(NFTA_HOOK_HOOKNUM, hook);
                        out.bytes(NFTA_HOOK_PRIORITY, &PRIORITY.to_be_bytes());
                    });
                });
            }
            for rule in of_chain {
                let doing = format!("the rule {:?} > {:?} at {name}", rule.matches, rule.verdict);
                self.push(doing, NFT_MSG_NEWRULE, NLM_F_CREATE | NLM_F_APPEND, |out| {
                    out.text(NFTA_RULE_TABLE, table);
                    out.text(NFTA_RULE_CHAIN, name);
                    out.nested(NFTA_RULE_EXPRESSIONS, |out| {
                        for wanted in &rule.matches {
                            write_match(out, wanted);
                        }
                        write_verdict(out, rule.verdict);
                    });
                });
            }
        }
    }

    /// Sends the changes and waits for what became of them.
    fn commit(mut self) -> Result<(), CaptureError> {
        // A batch with nothing in it has no answer.
        if self.doing.len() == 1 {
            return Ok(());
        }
        // One answer is enough, and that many fit in the socket: those about failures come unasked.
        let last = self.doing.len().saturating_sub(1);
        self.messages.acknowledge_last();
        self.frame(NFNL_MSG_BATCH_END);
        let link = open()?;
        link.send(&self.messages).map_err(|error| decode("changing the tables", error))?;
        loop {
            let received = link.receive().map_err(|error| decode("changing the tables", error))?;
            for answer in netlink::answers(&received).filter(|answer| answer.kind == NLMSG_ERROR) {
                let number = answer.number as usize;
                let doing = self.doing.get(number).map_or("changing the tables", String::as_str);
                answer.outcome().map_err(|error| decode(doing, error))?;
                // The answers come in order, those about failures first.
                if number == last {
                    return Ok(());
                }
            }
        }
    }
}

fn write_match(out: &mut Attributes<'_>, wanted: &Match) {
    match *wanted {
        Match::Mark(mark) => meta_is(out, NFT_META_MARK, NFT_CMP_EQ, &mark.to_ne_bytes()),
        Match::User(user) => meta_is(out, NFT_META_SKUID, NFT_CMP_EQ, &user.to_ne_bytes()),
        Match::OtherUser(user) => meta_is(out, NFT_META_SKUID, NFT_CMP_NEQ, &user.to_ne_bytes()),
        Match::FromLoopback => {
            // Names of interfaces are compared in full, with the zeros after them.
            let mut name = [0; 16];
            name[..2].copy_from_slice(b"lo");
            meta_is(out, NFT_META_IIFNAME, NFT_CMP_EQ, &name);
        }
        Match::Destination(IpNet::V4(net)) => {
            meta_is(out, NFT_META_NFPROTO, NFT_CMP_EQ, &[NFPROTO_IPV4]);
            destination_in(out, 16, &net.netmask().octets(), &net.network().octets());
        }
        Match::Destination(IpNet::V6(net)) => {
            meta_is(out, NFT_META_NFPROTO, NFT_CMP_EQ, &[NFPROTO_IPV6]);
            destination_in(out, 24, &net.netmask().octets(), &net.network().octets());
        }
        Match::LocalDestination => {
            expression(out, "fib", |out| {
                out.number(NFTA_FIB_DREG, NFT_REG_1);
                out.number(NFTA_FIB_RESULT, NFT_FIB_RESULT_ADDRTYPE);
                out.number(NFTA_FIB_FLAGS, NFTA_FIB_F_DADDR);
            });
            compare(out, NFT_CMP_EQ, &RTN_LOCAL.to_ne_bytes());
        }
        Match::Transport(transport) => {
            let number = match transport {
                Transport::Tcp => IPPROTO_TCP,
                Transport::Udp => IPPROTO_UDP,
            };
            meta_is(out, NFT_META_L4PROTO, NFT_CMP_EQ, &[number]);
        }
        Match::Opening => {
            load(out, NFT_PAYLOAD_TRANSPORT_HEADER, TCP_FLAGS, 1);
            mask(out, &[TCP_FIN | TCP_SYN | TCP_RST | TCP_ACK]);
            compare(out, NFT_CMP_EQ, &[TCP_SYN]);
        }
        Match::Port(port) => {
            load(out, NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2);
            compare(out, NFT_CMP_EQ, &port.to_be_bytes());
        }
    }
}

fn write_verdict(out: &mut Attributes<'_>, verdict: Verdict) {
    match verdict {
        Verdict::Return => expression(out, "immediate", |out| {
            out.number(NFTA_IMMEDIATE_DREG, NFT_REG_VERDICT);
            out.nested(NFTA_IMMEDIATE_DATA, |out| {
                out.nested(NFTA_DATA_VERDICT, |out| out.bytes(NFTA_VERDICT_CODE, &NFT_RETURN.to_be_bytes()));
            });
        }),
        Verdict::Redirect(port) => {
            expression(out, "immediate", |out| {
                out.number(NFTA_IMMEDIATE_DREG, NFT_REG_1);
                out.nested(NFTA_IMMEDIATE_DATA, |out| out.bytes(NFTA_DATA_VALUE, &port.to_be_bytes()));
            });
            expression(out, "redir", |out| {
                out.number(NFTA_REDIR_REG_PROTO_MIN, NFT_REG_1);
                out.number(NFTA_REDIR_FLAGS, NF_NAT_RANGE_PROTO_SPECIFIED);
            });
        }
    }
}

fn expression(out: &mut Attributes<'_>, name: &str, fill: impl FnOnce(&mut Attributes<'_>)) {
    out.nested(NFTA_LIST_ELEM, |out| {
        out.text(NFTA_EXPR_NAME, name);
        out.nested(NFTA_EXPR_DATA, fill);
    });
}

fn meta_is(out: &mut Attributes<'_>, key: u32, operator: u32, value: &[u8]) {
    expression(out, "meta", |out| {
        out.number(NFTA_META_KEY, key);
        out.number(NFTA_META_DREG, NFT_REG_1);
    });
    compare(out, operator, value);
}

fn compare(out: &mut Attributes<'_>, operator: u32, value: &[u8]) {
    expression(out, "cmp", |out| {
        out.number(NFTA_CMP_SREG, NFT_REG_1);
        out.number(NFTA_CMP_OP, operator);
        out.nested(NFTA_CMP_DATA, |out| out.bytes(NFTA_DATA_VALUE, value));
    });
}

/// Loads bytes of a header into the register.
fn load(out: &mut Attributes<'_>, base: u32, offset: u32, length: u32) {
    expression(out, "payload", |out| {
        out.number(NFTA_PAYLOAD_DREG, NFT_REG_1);
        out.number(NFTA_PAYLOAD_BASE, base);
        out.number(NFTA_PAYLOAD_OFFSET, offset);
        out.number(NFTA_PAYLOAD_LEN, length);
    });
}

fn destination_in<const N: usize>(out: &mut Attributes<'_>, offset: u32, netmask: &[u8; N], network: &[u8; N]) {
    load(out, NFT_PAYLOAD_NETWORK_HEADER, offset, u32::try_from(N).unwrap_or_default());
    if netmask.iter().any(|&byte| byte != 0xff) {
        mask(out, netmask);
    }
    compare(out, NFT_CMP_EQ, network);
}

/// Leaves only these bits of the register.
fn mask<const N: usize>(out: &mut Attributes<'_>, bits: &[u8; N]) {
    expression(out, "bitwise", |out| {
        out.number(NFTA_BITWISE_SREG, NFT_REG_1);
        out.number(NFTA_BITWISE_DREG, NFT_REG_1);
        out.number(NFTA_BITWISE_LEN, u32::try_from(N).unwrap_or_default());
        out.nested(NFTA_BITWISE_MASK, |out| out.bytes(NFTA_DATA_VALUE, bits));
        out.nested(NFTA_BITWISE_XOR, |out| out.bytes(NFTA_DATA_VALUE, &[0; N]));
    });
}

#[cfg(test)]
mod tests;
