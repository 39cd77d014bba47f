//! What becomes of a question: pure, from the bytes of the question to those of the reply.
//!
//! Called by `server` for every message; what a name means is in `table`. Only questions that are the mesh's are read
//! further than their first line; the others leave as they came.

use std::net::{IpAddr, Ipv4Addr};

use hickory_resolver::proto::op::{Edns, Header, Message, MessageType, Metadata, OpCode, Query, ResponseCode};
use hickory_resolver::proto::rr::rdata::{A, AAAA, PTR, SOA};
use hickory_resolver::proto::rr::{DNSClass, Name, RData, Record, RecordType};
use hickory_resolver::proto::serialize::binary::{BinDecodable, BinDecoder};

use super::system::System;
use super::table::{Meaning, Table};

/// How long, in seconds, a program may keep an answer. Addresses hardly change; which services there are does.
const TTL: u32 = 15;
/// The longest UDP message that we take (RFC 9715, section 3.2).
const PAYLOAD: u16 = 1232;
const HEADER: usize = 12;
/// More instances than these do not fit into an answer.
const MOST_RECORDS: usize = 32;

/// What becomes of a message.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It is answered with this.
    Reply(Vec<u8>),
    /// It goes on to the name servers of the system.
    Forward {
        /// Where its question ends.
        question_end: usize,
        /// What is answered if none of them does.
        otherwise: ResponseCode,
    },
    /// It is no question.
    Ignore,
}

/// Decides about a message.
pub(super) fn decide(message: &[u8], table: &Table, system: &System) -> Outcome {
    let mut decoder = BinDecoder::new(message);
    let Ok(header) = Header::read(&mut decoder) else {
        return Outcome::Ignore;
    };
    let asked = header.metadata;
    // An answer to an answer could go to and fro for ever.
    if asked.message_type != MessageType::Query {
        return Outcome::Ignore;
    }
    if asked.op_code != OpCode::Query {
        return Outcome::Reply(refuse(&asked, ResponseCode::NotImp));
    }
    let query = match (header.counts.queries, Query::read(&mut decoder)) {
        (1, Ok(query)) => query,
        _ => return Outcome::Reply(refuse(&asked, ResponseCode::FormErr)),
    };
    let forward = |otherwise| Outcome::Forward { question_end: decoder.index(), otherwise };
    let Some(name) = text_of(query.name()).filter(|_| query.query_class() == DNSClass::IN) else {
        return forward(ResponseCode::ServFail);
    };
    if let Some(address) = reverse(&name).filter(|&address| table.is_virtual(address.into())) {
        return Outcome::Reply(reply_to_reverse(message, &asked, &query, table, address));
    }
    let instances = table.instances(&name);
    if !instances.is_empty() {
        let data = records_of(&instances, query.query_type(), asked.id);
        return Outcome::Reply(reply(message, &asked, &query, ResponseCode::NoError, data));
    }
    match table.resolve(&name) {
        Meaning::Foreign => forward(system.otherwise(&name, table)),
        Meaning::NotInCluster if system.has_cluster(&table.realm().cluster_domain) => forward(ResponseCode::ServFail),
        Meaning::NotInCluster | Meaning::NotInMesh => {
            Outcome::Reply(reply(message, &asked, &query, ResponseCode::NXDomain, Vec::new()))
        }
        Meaning::Service(address) if matches!(query.query_type(), RecordType::A | RecordType::ANY) => {
            let data = RData::A(A(address));
            Outcome::Reply(reply(message, &asked, &query, ResponseCode::NoError, vec![data]))
        }
        Meaning::Service(_) | Meaning::Parent => {
            Outcome::Reply(reply(message, &asked, &query, ResponseCode::NoError, Vec::new()))
        }
    }
}

/// The records of instances, of the family that is asked for. Each question is told another first one: many programs take that.
fn records_of(instances: &[IpAddr], wanted: RecordType, question: u16) -> Vec<RData> {
    let records = instances.iter().filter_map(|address| match address {
        IpAddr::V4(address) if matches!(wanted, RecordType::A | RecordType::ANY) => Some(RData::A(A(*address))),
        IpAddr::V6(address) if matches!(wanted, RecordType::AAAA | RecordType::ANY) => {
            Some(RData::AAAA(AAAA(*address)))
        }
        _ => None,
    });
    let mut records: Vec<RData> = records.collect();
    if !records.is_empty() {
        let first = usize::from(question) % records.len();
        records.rotate_left(first);
    }
    records.truncate(MOST_RECORDS);
    records
}

/// The answer to `message` when no name server gave one, or there are too many questions.
pub(super) fn failure(message: &[u8], code: ResponseCode) -> Option<Vec<u8>> {
    let mut decoder = BinDecoder::new(message);
    let asked = Header::read(&mut decoder).ok()?.metadata;
    let query = Query::read(&mut decoder).ok()?;
    Some(match code {
        // A "there is no such name" without a record of authority would not be kept, but be asked for again at once.
        ResponseCode::NXDomain => reply(message, &asked, &query, code, Vec::new()),
        _ => {
            let mut response = respond(&asked, code);
            response.add_query(query);
            encode(&response, &asked)
        }
    })
}

/// Whether `reply` answers `question`, whose question section ends at `question_end`.
pub(super) fn is_answer(reply: &[u8], question: &[u8], question_end: usize, id: [u8; 2]) -> bool {
    let is_response = reply.get(2).is_some_and(|flags| flags & 0x80 != 0);
    // Name servers that answer without the question do so when they refuse it.
    let same = match (reply.get(HEADER..question_end), question.get(HEADER..question_end)) {
        (Some(echoed), Some(asked)) => echoed.eq_ignore_ascii_case(asked),
        _ => reply.get(4..6) == Some(&[0, 0]),
    };
    reply.first_chunk() == Some(&id) && is_response && same
}

/// The response code of a reply, without what EDNS adds.
pub(super) fn code_of(reply: &[u8]) -> ResponseCode {
    ResponseCode::from_low(reply.get(3).copied().unwrap_or_default() & 0x0f)
}

fn reply_to_reverse(message: &[u8], asked: &Metadata, query: &Query, table: &Table, address: Ipv4Addr) -> Vec<u8> {
    let Some(service) = table.service_at(IpAddr::V4(address)) else {
        return reply(message, asked, query, ResponseCode::NXDomain, Vec::new());
    };
    let wanted = matches!(query.query_type(), RecordType::PTR | RecordType::ANY);
    let name = Name::from_ascii(table.full_name(service)).ok().filter(|_| wanted).map(|mut name| {
        name.set_fqdn(true);
        RData::PTR(PTR(name))
    });
    reply(message, asked, query, ResponseCode::NoError, name.into_iter().collect())
}

/// A reply of ours, with EDNS if the question has it (RFC 6891, section 7).
fn reply(message: &[u8], asked: &Metadata, query: &Query, code: ResponseCode, data: Vec<RData>) -> Vec<u8> {
    let mut response = respond(asked, code);
    response.metadata.authoritative = true;
    if data.is_empty() {
        response.add_authority(authority(query.name()));
    }
    for data in data {
        response.add_answer(Record::from_rdata(query.name().clone(), TTL, data));
    }
    response.add_query(query.clone());
    if Message::from_vec(message).is_ok_and(|whole| whole.edns.is_some()) {
        let mut edns = Edns::new();
        edns.set_max_payload(PAYLOAD);
        response.set_edns(edns);
    }
    encode(&response, asked)
}

/// With it resolvers keep that there is nothing, and for how long (RFC 2308, section 3).
fn authority(name: &Name) -> Record {
    let of_mesh = |text: &str| Name::from_ascii(text).unwrap_or_else(|_| Name::root());
    let soa = SOA::new(of_mesh("ns.mesh."), of_mesh("hostmaster.mesh."), 1, 3600, 600, 86400, TTL);
    Record::from_rdata(name.clone(), TTL, RData::SOA(soa))
}

fn respond(asked: &Metadata, code: ResponseCode) -> Message {
    let mut response = Message::error_msg(asked.id, asked.op_code, code);
    response.metadata.recursion_desired = asked.recursion_desired;
    response.metadata.checking_disabled = asked.checking_disabled;
    response.metadata.recursion_available = true;
    response
}

fn refuse(asked: &Metadata, code: ResponseCode) -> Vec<u8> {
    encode(&respond(asked, code), asked)
}

/// A reply that cannot be written, which no name from the wire should cause, becomes a bare failure.
fn encode(response: &Message, asked: &Metadata) -> Vec<u8> {
    response.to_vec().unwrap_or_else(|_| {
        let [high, low] = asked.id.to_be_bytes();
        vec![high, low, 0x80, 2, 0, 0, 0, 0, 0, 0, 0, 0]
    })
}

/// A name as text; none when it could not be of a service.
fn text_of(name: &Name) -> Option<String> {
    let mut text = String::with_capacity(name.len());
    for label in name.iter() {
        if !text.is_empty() {
            text.push('.');
        }
        let plain = label.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
        text.push_str(std::str::from_utf8(label).ok().filter(|_| plain)?);
    }
    Some(text)
}

/// The address of a name like `1.0.0.240.in-addr.arpa`.
fn reverse(name: &str) -> Option<Ipv4Addr> {
    let lower = name.to_ascii_lowercase();
    let [a, b, c, d] = *lower.strip_suffix(".in-addr.arpa")?.split('.').collect::<Vec<_>>() else {
        return None;
    };
    format!("{d}.{c}.{b}.{a}").parse().ok()
}

#[cfg(test)]
mod tests;
