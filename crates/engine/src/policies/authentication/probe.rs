//! What a fuzzer calls: requests that show keys and passwords in any spelling, looked at and cleaned as the schemes do it.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::OnceLock;
use std::time::Duration;

use transept_model::load;
use transept_model::place::{ObjectName, SourceText};
use transept_model::schema::{Decoder, Schema};
use transept_model::value::{Budget, read};
use transept_wire::head::Request;

use super::super::{CompileCx, Needs, Policy};
use super::scheme::Proof;
use super::{AuthenticationPolicy, AuthenticationPolicySpec, basic};
use crate::exchange::{Connection, Exchange, Notes, Now};
use crate::keep::Keep;

const SPEC: &str = "\
schemes: [{name: key, apiKey: {header: X-Key, query: key}}, {name: staff, basic: {users: {name: staff, key: users}}}]
";

const OBJECTS: &str = "\
{apiVersion: v1, kind: Secret, metadata: {name: staff}, stringData: {users: 'ann:$2a$04$m0CrhHm10qJ3lXRY.5zDGO3rS2KdeeWLuGmsfGlMfOxih58VYVfxe'}}
";

/// A policy for which no key is good, and no password without having been computed.
fn policy() -> Option<AuthenticationPolicy> {
    let world = load(&[SourceText::new("world.yaml", OBJECTS)], &[]).world;
    let (values, _) = read(&SourceText::new("spec.yaml", SPEC), &Budget::default());
    let mut decoder = Decoder::new("spec.yaml".into());
    let spec = AuthenticationPolicySpec::decode(values.first()?, &mut decoder)?;
    let name = ObjectName { kind: "AuthenticationPolicy".into(), namespace: "default".into(), name: "probe".into() };
    AuthenticationPolicy::compile(
        &spec,
        &mut CompileCx::new(&mut decoder, &world, &name, &Keep::default(), &mut Needs::default()),
    )
}

/// Reads a query, and fields in the lines after it: `k` and a value for the field of keys, anything else for `Authorization`. False when somebody is let
/// in, when a credential is left in what goes on, or when a name and a password are not what was written.
#[doc(hidden)]
pub fn probe_credentials(raw: &[u8]) -> bool {
    static POLICY: OnceLock<Option<AuthenticationPolicy>> = OnceLock::new();
    let Some(policy) = POLICY.get_or_init(policy) else { return false };
    let Ok(mut request) = Request::build("GET", "http", "a.test", "/") else { return false };
    let mut lines = raw.split(|byte| *byte == b'\n');
    // What cannot be sent is not sent.
    let _ = request.set_query(lines.next());
    for line in lines.take(16) {
        let _ = match line.split_first() {
            Some((b'k', key)) => request.fields.push_bytes(b"x-key", key),
            _ => request.fields.push_bytes(b"authorization", line),
        };
        if basic::pair_of(line).is_some_and(|(name, password)| !basic::is_pair(line, &name, &password)) {
            return false;
        }
    }
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 80));
    let (connection, mut notes) = (Connection::new(address, address, None), Notes::new());
    let mut x = Exchange {
        now: Now { monotonic: Duration::ZERO, unix: Duration::ZERO },
        random: 0,
        connection: &connection,
        client: address.ip(),
        listener_port: 80,
        request: &mut request,
        notes: &mut notes,
    };
    policy.schemes.iter().all(|named| {
        let presents = named.scheme.presents(&x);
        let is_fair = match named.scheme.authenticate(&mut x) {
            Proof::Absent => !presents,
            Proof::Invalid(_) | Proof::Ask(..) => presents,
            _ => false,
        };
        named.scheme.strip(x.request);
        is_fair && !named.scheme.presents(&x)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exchange::draw;

    #[test]
    fn requests_of_all_kinds_are_read_and_cleaned() {
        let inputs: [&[u8]; 9] = [
            b"",
            b"a=1&key=x&k%65y=y&b",
            b"key\nkx\nky",
            b"\nBasic YW5uOmE=",
            b"\nbasic   YW5uOmE\nBasic Og",
            b"\nBearer tr_live_7Xk2mQ9dVb3nR5tYc8pLsw_1ZkP0c\nBearer other\nBearer",
            b"key=%ff&%6b%65%79=+\n\x80\n Basic \nBasic ====",
            b"\nBasic AAAA:\nBasic //8=",
            b"\nBasic OgUUUUU=UUUUUUek\nBasic Og==Og==\nBasic OgU==",
        ];
        for input in inputs {
            assert!(probe_credentials(input), "{}", input.escape_ascii());
        }
        // And pieces of them in any order.
        let pieces: [&[u8]; 10] = [
            b"\n",
            b"Basic ",
            b"Bearer ",
            b"k",
            b"key=",
            b"&",
            b"%6bey",
            b"YW5uOmE",
            b"=",
            b"tr_live_7Xk2mQ9dVb3nR5tYc8pLsw_1ZkP0c",
        ];
        for number in 0..20_000 {
            let draws = (0..draw(number, 0) % 12).map(|n| draw(number, n + 1));
            let input: Vec<u8> = draws.flat_map(|drawn| pieces[drawn as usize % pieces.len()].to_vec()).collect();
            assert!(probe_credentials(&input), "{}", input.escape_ascii());
        }
    }
}
