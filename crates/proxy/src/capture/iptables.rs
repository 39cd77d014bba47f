//! The same rules by `iptables-restore` and `ip6tables-restore`, for kernels without nf_tables.
//!
//! Each run of the program changes one address family in one step. Two chains per workload hold the rules; a rule that
//! does nothing carries the mark of their owner as its comment.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use ipnet::IpNet;
use rustix::thread::{CapabilitySet, capabilities, configure_capability_in_ambient_set, set_capabilities};

use super::rules::{Chain, Match, Plan, Rule, Transport, Verdict};
use super::{CaptureError, Owner};

const PREFIX: &str = "TRANSEPT_";
const CHAINS: [Chain; 2] = [Chain::Output, Chain::Prerouting];

/// An address family, which has programs of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

impl Family {
    fn restore(self) -> &'static str {
        match self {
            Family::V4 => "iptables-restore",
            Family::V6 => "ip6tables-restore",
        }
    }

    fn save(self) -> &'static str {
        match self {
            Family::V4 => "iptables-save",
            Family::V6 => "ip6tables-save",
        }
    }
}

/// Rules of ours that were found.
#[derive(Debug, PartialEq, Eq)]
struct Found {
    /// What follows the prefix and the letter of the chain.
    tag: String,
    owner: Owner,
    chains: Vec<Chain>,
    /// The chains that the kernel's own lead to.
    entered: Vec<Chain>,
}

/// Whether the programs are there.
pub(super) fn is_present() -> bool {
    find(Family::V4.restore()).is_some() && find(Family::V4.save()).is_some()
}

/// Whether there is a table that could hold rules of ours: asking the programs would make one.
pub(super) fn is_used() -> bool {
    let tables = std::fs::read_to_string("/proc/thread-self/net/ip_tables_names");
    is_present() && tables.is_ok_and(|tables| tables.lines().any(|table| table == "nat"))
}

/// Writes the rules of a plan in the place of what there was of it, and removes those whose owners are gone.
pub(super) fn install(plan: &Plan, owner: &Owner) -> Result<(), CaptureError> {
    let rules = plan.rules();
    change(Family::V4, owner, Some(&rules))?;
    // A machine without IPv6 has nothing to capture there.
    if let Err(error) = change(Family::V6, owner, Some(&rules)) {
        tracing::warn!(%error, "IPv6 is not captured");
    }
    Ok(())
}

/// Removes the rules of an owner.
pub(super) fn remove(owner: &Owner) -> Result<(), CaptureError> {
    let outcome = change(Family::V4, owner, None);
    if find(Family::V6.save()).is_some()
        && let Err(error) = change(Family::V6, owner, None)
    {
        tracing::debug!(%error, "no rules of IPv6 were removed");
    }
    outcome
}

/// The owners of the rules that there are.
pub(super) fn owners() -> Result<Vec<Owner>, CaptureError> {
    Ok(found(Family::V4)?.into_iter().map(|found| found.owner).collect())
}

fn change(family: Family, owner: &Owner, rules: Option<&[Rule]>) -> Result<(), CaptureError> {
    let mut leaving = Vec::new();
    for found in found(family)? {
        let own = found.tag == tag_of(&owner.workload) && found.owner == Owner::unknown(&found.tag);
        if own || found.owner.yields_to(owner)? {
            leaving.push(found);
        }
    }
    let text = write(family, owner, &leaving, rules);
    run(family.restore(), &["--noflush"], Some(&text)).map(drop)
}

fn found(family: Family) -> Result<Vec<Found>, CaptureError> {
    run(family.save(), &["-t", "nat"], None).map(|saved| read(&saved))
}

/// Finds our chains in what `iptables-save` wrote.
fn read(saved: &str) -> Vec<Found> {
    let mut all: Vec<Found> = Vec::new();
    for line in saved.lines() {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        if let Some((chain, tag)) = words.first().and_then(|word| word.strip_prefix(':')).and_then(parse_chain) {
            match all.iter_mut().find(|found| found.tag == tag) {
                Some(found) => found.chains.push(chain),
                None => all.push(Found {
                    tag: tag.to_owned(),
                    owner: Owner::unknown(tag),
                    chains: vec![chain],
                    entered: Vec::new(),
                }),
            }
            continue;
        }
        let (Some(&"-A"), Some(&name)) = (words.first(), words.get(1)) else {
            continue;
        };
        if let Some((_, tag)) = parse_chain(name) {
            let owner = line.split('"').nth(1).and_then(Owner::parse);
            if let (Some(owner), Some(found)) = (owner, all.iter_mut().find(|found| found.tag == tag)) {
                found.owner = owner;
            }
        } else if let Some((chain, tag)) = words.last().copied().and_then(parse_chain)
            && let Some(found) = all.iter_mut().find(|found| found.tag == tag)
        {
            found.entered.push(chain);
        }
    }
    all
}

/// The text for `iptables-restore`: what leaves, then what comes.
fn write(family: Family, owner: &Owner, leaving: &[Found], rules: Option<&[Rule]>) -> String {
    let rules = rules.unwrap_or_default();
    let tag = tag_of(&owner.workload);
    let mut text = "*nat\n".to_owned();
    let mut line = |arguments: std::fmt::Arguments<'_>| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{arguments}");
    };
    for found in leaving {
        for &chain in &found.entered {
            line(format_args!("-D {} -j {}", hook(chain), chain_name(chain, &found.tag)));
        }
        for &chain in &found.chains {
            line(format_args!("-F {}", chain_name(chain, &found.tag)));
            line(format_args!("-X {}", chain_name(chain, &found.tag)));
        }
    }
    for chain in CHAINS {
        let mut of_chain = rules.iter().filter(|rule| rule.chain == chain).peekable();
        if of_chain.peek().is_none() {
            continue;
        }
        let name = chain_name(chain, &tag);
        line(format_args!("-N {name}"));
        line(format_args!("-A {name} -m comment --comment \"{owner}\""));
        for arguments in of_chain.filter_map(|rule| rule_arguments(family, rule)) {
            line(format_args!("-A {name}{arguments}"));
        }
        // First, so that it comes before those of a container engine.
        line(format_args!("-I {} 1 -j {name}", hook(chain)));
    }
    line(format_args!("COMMIT"));
    text
}

/// A rule as arguments; none when it is of the other family.
fn rule_arguments(family: Family, rule: &Rule) -> Option<String> {
    let mut text = String::new();
    let mut protocol = "tcp";
    for wanted in &rule.matches {
        // Writing to a String cannot fail.
        let _ = match *wanted {
            Match::Mark(mark) => write!(text, " -m mark --mark {mark:#x}"),
            Match::User(user) => write!(text, " -m owner --uid-owner {user}"),
            Match::OtherUser(user) => write!(text, " -m owner ! --uid-owner {user}"),
            Match::FromLoopback => write!(text, " -i lo"),
            Match::Destination(net) => {
                if net.addr().is_ipv4() != (family == Family::V4) {
                    return None;
                }
                match net {
                    IpNet::V4(net) => write!(text, " -d {net}"),
                    IpNet::V6(net) => write!(text, " -d {net}"),
                }
            }
            Match::LocalDestination => write!(text, " -m addrtype --dst-type LOCAL"),
            Match::Transport(transport) => {
                protocol = match transport {
                    Transport::Tcp => "tcp",
                    Transport::Udp => "udp",
                };
                write!(text, " -p {protocol}")
            }
            Match::Port(port) => write!(text, " -m {protocol} --dport {port}"),
            Match::Opening => write!(text, " -m tcp --syn"),
        };
    }
    let _ = match rule.verdict {
        Verdict::Return => write!(text, " -j RETURN"),
        Verdict::Redirect(port) => write!(text, " -j REDIRECT --to-ports {port}"),
    };
    Some(text)
}

fn hook(chain: Chain) -> &'static str {
    match chain {
        Chain::Output => "OUTPUT",
        Chain::Prerouting => "PREROUTING",
    }
}

fn chain_name(chain: Chain, tag: &str) -> String {
    let letter = match chain {
        Chain::Output => 'O',
        Chain::Prerouting => 'P',
    };
    format!("{PREFIX}{letter}_{tag}")
}

fn parse_chain(name: &str) -> Option<(Chain, &str)> {
    let rest = name.strip_prefix(PREFIX)?;
    match rest.split_once('_')? {
        ("O", tag) => Some((Chain::Output, tag)),
        ("P", tag) => Some((Chain::Prerouting, tag)),
        _ => None,
    }
}

/// Names of chains may be 28 bytes long, so the workload's stands in them as a number.
fn tag_of(workload: &str) -> String {
    format!("{:016x}", crate::names::stable_hash(workload.as_bytes()))
}

/// Where a program is: in PATH, or where systems keep it even if PATH does not say so.
fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|directory| directory.join(program))
        .find(|candidate| is_program(candidate))
}

fn is_program(path: &Path) -> bool {
    rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok() && path.is_file()
}

/// Starts a program that may do what this process may: a capability of our file alone would not be the program's. The ambient set, by which it is, is a
/// thread's own and the child's by inheritance; nobody else gets anything of it.
fn spawn_with_net_admin(mut command: Command) -> io::Result<Child> {
    let thread = std::thread::Builder::new().name("iptables".to_owned());
    let started = thread.spawn(move || {
        // Whoever is root needs none of this, and whoever lacks the capability is told so by the program.
        if let Ok(mut own) = capabilities(None) {
            own.inheritable |= own.permitted & (CapabilitySet::NET_ADMIN | CapabilitySet::NET_RAW);
            let _ = set_capabilities(None, own);
            // The older kind of iptables opens a raw socket.
            for one in [CapabilitySet::NET_ADMIN, CapabilitySet::NET_RAW] {
                let _ = configure_capability_in_ambient_set(one, true);
            }
        }
        command.spawn()
    })?;
    started.join().unwrap_or_else(|_| Err(io::Error::other("the thread that starts it has failed")))
}

/// Runs a program to its end and returns what it wrote.
fn run(program: &'static str, arguments: &[&str], input: Option<&str>) -> Result<String, CaptureError> {
    let failed = |error: io::Error| CaptureError::System { doing: format!("running {program}"), error };
    let path = find(program).ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?;
    let mut command = Command::new(path);
    let stdin = if input.is_some() { Stdio::piped() } else { Stdio::null() };
    command.args(arguments).stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = spawn_with_net_admin(command).map_err(failed)?;
    if let (Some(mut pipe), Some(text)) = (child.stdin.take(), input) {
        // A program that ends before it has read everything says why in its own words.
        let _ = pipe.write_all(text.as_bytes());
    }
    let output = child.wait_with_output().map_err(failed)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if said.contains("Permission denied") || said.contains("Operation not permitted") {
        return Err(CaptureError::NotPermitted);
    }
    Err(CaptureError::Program { program, said })
}

#[cfg(test)]
mod tests {
    use super::super::rules::tests::full;
    use super::*;

    fn owner() -> Owner {
        Owner { workload: "cart-1".to_owned(), pid: 7, started: 8, space: 9 }
    }

    #[test]
    fn rules_are_written_for_each_family() {
        let tag = tag_of("cart-1");
        let text = write(Family::V4, &owner(), &[], Some(&full().rules()));
        let expected = format!(
            "*nat
-N TRANSEPT_O_{tag}
-A TRANSEPT_O_{tag} -m comment --comment \"transept cart-1 pid=7 started=8 pidns=9\"
-A TRANSEPT_O_{tag} -m mark --mark 0x539 -j RETURN
-A TRANSEPT_O_{tag} -m owner --uid-owner 1337 -j RETURN
-A TRANSEPT_O_{tag} -m owner ! --uid-owner 1000 -j RETURN
-A TRANSEPT_O_{tag} -d 127.0.0.53/32 -p udp -m udp --dport 53 -j REDIRECT --to-ports 15053
-A TRANSEPT_O_{tag} -d 127.0.0.53/32 -p tcp -m tcp --dport 53 -j REDIRECT --to-ports 15053
-A TRANSEPT_O_{tag} -d 240.7.8.9/32 -p tcp -m tcp --dport 80 -j REDIRECT --to-ports 20001
-A TRANSEPT_O_{tag} -p tcp -d 240.0.0.0/4 -j REDIRECT --to-ports 1
-A TRANSEPT_O_{tag} -d 127.0.0.0/8 -j RETURN
-A TRANSEPT_O_{tag} -d 10.0.0.0/9 -j RETURN
-A TRANSEPT_O_{tag} -p tcp -m tcp --dport 5432 -j RETURN
-A TRANSEPT_O_{tag} -p tcp -m addrtype --dst-type LOCAL -j RETURN
-A TRANSEPT_O_{tag} -p tcp -m tcp --syn -j REDIRECT --to-ports 15001
-I OUTPUT 1 -j TRANSEPT_O_{tag}
-N TRANSEPT_P_{tag}
-A TRANSEPT_P_{tag} -m comment --comment \"transept cart-1 pid=7 started=8 pidns=9\"
-A TRANSEPT_P_{tag} -i lo -j RETURN
-A TRANSEPT_P_{tag} -p tcp -m tcp --dport 15008 -j RETURN
-A TRANSEPT_P_{tag} -p tcp -m tcp --dport 15006 -j RETURN
-A TRANSEPT_P_{tag} -p tcp -m tcp --dport 22 -j RETURN
-A TRANSEPT_P_{tag} -p tcp -m addrtype --dst-type LOCAL -m tcp --dport 8080 -j REDIRECT --to-ports 15006
-I PREROUTING 1 -j TRANSEPT_P_{tag}
COMMIT
"
        );
        assert_eq!(text, expected);
        let v6 = write(Family::V6, &owner(), &[], Some(&full().rules()));
        assert!(v6.contains("-d fd00::/8 -j RETURN") && v6.contains("-d ::1/128") && !v6.contains("240.0.0.0"));
        assert!(v6.lines().all(|line| line.split(' ').next_back().is_none_or(|word| word.len() < 29)));
    }

    #[test]
    fn what_was_saved_is_found_and_removed() {
        let tag = tag_of("cart-1");
        let saved = format!(
            "# Generated by iptables-save
*nat
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:DOCKER - [0:0]
:TRANSEPT_O_{tag} - [0:0]
:TRANSEPT_P_{tag} - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A OUTPUT -j TRANSEPT_O_{tag}
-A TRANSEPT_O_{tag} -m comment --comment \"transept cart-1 pid=7 started=8 pidns=9\"
-A TRANSEPT_O_{tag} -m mark --mark 0x539 -j RETURN
COMMIT
"
        );
        let found = read(&saved);
        let expected = Found {
            tag: tag.clone(),
            owner: owner(),
            chains: vec![Chain::Output, Chain::Prerouting],
            entered: vec![Chain::Output],
        };
        assert_eq!(found, [expected]);
        let text = write(Family::V4, &owner(), &found, None);
        let expected = format!(
            "*nat
-D OUTPUT -j TRANSEPT_O_{tag}
-F TRANSEPT_O_{tag}
-X TRANSEPT_O_{tag}
-F TRANSEPT_P_{tag}
-X TRANSEPT_P_{tag}
COMMIT
"
        );
        assert_eq!(text, expected);
        assert_eq!(read(""), []);
        assert_eq!(read(":TRANSEPT_\n-A\n:TRANSEPT_X_1 -\n-A TRANSEPT_O_1 \"transept\n"), []);
    }
}
