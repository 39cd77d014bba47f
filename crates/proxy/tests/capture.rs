//! Capture in network namespaces that the test makes: a program, the proxy's listeners and a machine elsewhere.
//!
//! Each test starts itself again in a fresh namespace. Where that is not permitted it says so and passes, unless
//! `TRANSEPT_REQUIRE_ALL=1`, which makes it a failure.

#![allow(clippy::print_stdout)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use transept_proxy::capture::{
    CaptureError, DnsPlan, InboundPlan, Liveness, LoopGuard, MARK, Means, NOBODY, OutboundPlan, Plan, Scope,
    ServicePort, Unusable, capture, capture_by, mark, others, owners, remove_leftovers,
};
use transept_proxy::names::{Assigned, Meaning, MeshService, NameServer, Options, Realm, Resolvers, Table, Target};

const INSIDE: &str = "TRANSEPT_CAPTURE_TEST_INSIDE";
/// Set for the process that a test kills.
const HOLD: &str = "TRANSEPT_CAPTURE_TEST_HOLD";
const PATIENCE: Duration = Duration::from_secs(10);
const HERE: &str = "10.9.0.1";
const THERE: &str = "10.9.0.2";
const THERE_V6: &str = "fd09::2";

/// Runs `body` in a process that is alone in its network namespace.
fn alone(test: &str, body: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        return body();
    }
    let mut unshare = vec!["--net"];
    if !rustix::process::geteuid().is_root() {
        unshare.push("--map-root-user");
    }
    let works = |program: &str, arguments: &[&str]| {
        Command::new(program).args(arguments).stderr(Stdio::null()).stdout(Stdio::null()).status()
    };
    let possible = works("unshare", &[&unshare[..], &["ip", "link", "set", "lo", "up"]].concat());
    if !possible.is_ok_and(|status| status.success()) {
        let why = "no network namespace can be made here (unshare --net, ip)";
        assert!(std::env::var("TRANSEPT_REQUIRE_ALL").as_deref() != Ok("1"), "{test}: {why}");
        return skip(test, why);
    }
    let status = Command::new("unshare")
        .args(unshare)
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, "1")
        .status()
        .unwrap();
    assert!(status.success(), "{test} failed in its namespace");
}

/// Not by `eprintln`, which the test runner keeps to itself.
fn skip(test: &str, why: &str) {
    std::io::stderr().write_all(format!("skipped: {test}: {why}\n").as_bytes()).unwrap();
}

/// A machine elsewhere: another namespace, and a link to it.
struct Elsewhere {
    child: Child,
}

impl Elsewhere {
    fn new() -> Elsewhere {
        let mut child = Command::new("unshare")
            .args(["--net", "sh", "-c", "echo made; exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let elsewhere = Elsewhere { child };
        let pid = elsewhere.child.id().to_string();
        ip(&["link", "set", "lo", "up"]);
        ip(&["link", "add", "here", "type", "veth", "peer", "name", "there", "netns", &pid]);
        let up = |link: &str, v4: &str, v6: &str| {
            ip(&["addr", "add", &format!("{v4}/24"), "dev", link]);
            ip(&["-6", "addr", "add", &format!("{v6}/64"), "dev", link, "nodad"]);
            ip(&["link", "set", link, "up"]);
        };
        up("here", HERE, "fd09::1");
        elsewhere.run(|| {
            ip(&["link", "set", "lo", "up"]);
            up("there", THERE, THERE_V6);
        });
        elsewhere
    }

    /// Does something there. Sockets stay where they were made.
    fn run<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        let space = std::fs::File::open(format!("/proc/{}/ns/net", self.child.id())).unwrap();
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                rustix::thread::move_into_link_name_space(space.as_fd(), None).unwrap();
                body()
            });
            inside.join().unwrap()
        })
    }

    /// A server there, which says its name to everyone.
    fn serve(&self, ip: &str) -> SocketAddr {
        let listener = self.run(|| TcpListener::bind((ip, 0)).unwrap());
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let _ = stream.unwrap().write_all(b"there");
            }
        });
        address
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn ip(arguments: &[&str]) {
    let status = Command::new("ip").args(arguments).status().unwrap();
    assert!(status.success(), "ip {arguments:?}");
}

/// The proxy's listeners: the same port on both loopback addresses.
struct Listeners {
    v4: TcpListener,
    v6: TcpListener,
}

impl Listeners {
    fn new() -> Listeners {
        let v4 = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = v4.local_addr().unwrap().port();
        let v6 = TcpListener::bind((Ipv6Addr::LOCALHOST, port)).unwrap();
        Listeners { v4, v6 }
    }

    fn port(&self) -> u16 {
        self.v4.local_addr().unwrap().port()
    }
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&address, PATIENCE).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn heard(mut stream: TcpStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

/// Connects as the proxy does.
fn connect_marked(address: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
    mark(&socket, MARK).unwrap();
    socket.connect_timeout(&address.into(), PATIENCE).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.into()
}

/// Where a connection that arrives at a listener was going.
fn taken(listener: &TcpListener, guard: &LoopGuard) -> Result<SocketAddr, Unusable> {
    let (stream, _) = listener.accept().unwrap();
    guard.destination(&stream)
}

fn plan() -> Plan {
    Plan {
        workload: "cart-1".to_owned(),
        mark: MARK,
        proxy_user: None,
        program_user: None,
        outbound: None,
        services: Vec::new(),
        inbound: None,
        dns: None,
        virtual_range: "240.0.0.0/4".parse().unwrap(),
    }
}

fn outbound(port: u16) -> Plan {
    Plan { outbound: Some(OutboundPlan { port, ..OutboundPlan::default() }), ..plan() }
}

/// What a plan for outbound connections must do, by whatever means.
fn check_outbound(means: Means, elsewhere: &Elsewhere) {
    let (server, server_v6) = (elsewhere.serve(THERE), elsewhere.serve(THERE_V6));
    let (excluded_port, excluded_address) = (elsewhere.serve(THERE), elsewhere.serve(THERE));
    let proxy = Listeners::new();
    let guard = LoopGuard::new([proxy.port()]);
    let mut wanted = outbound(proxy.port());
    wanted.outbound.as_mut().unwrap().exclude_ports = vec![excluded_port.port()];
    let mut captured = capture_by(means, &wanted).unwrap();
    assert_eq!(captured.means(), means);

    let _client = connect(server);
    assert_eq!(taken(&proxy.v4, &guard).unwrap(), server);
    let _client = connect(server_v6);
    assert_eq!(taken(&proxy.v6, &guard).unwrap(), server_v6);
    let virtual_address = "240.1.2.3:80".parse().unwrap();
    let _client = connect(virtual_address);
    assert_eq!(taken(&proxy.v4, &guard).unwrap(), virtual_address, "though nothing but the link has a route");

    assert_eq!(heard(connect_marked(server)), "there", "the proxy's own connections are left alone");
    assert_eq!(heard(connect_marked(server_v6)), "there");
    assert_eq!(heard(connect(excluded_port)), "there");
    let local = TcpListener::bind("127.0.0.1:0").unwrap();
    let _client = connect(local.local_addr().unwrap());
    assert!(matches!(taken(&local, &guard), Err(Unusable::NotRedirected)), "loopback is left alone");

    let own = TcpListener::bind((HERE, 0)).unwrap();
    let _client = connect(own.local_addr().unwrap());
    assert!(matches!(taken(&own, &guard), Err(Unusable::NotRedirected)), "and so is what stays on this machine");
    let _client = connect(proxy.v4.local_addr().unwrap());
    assert!(matches!(taken(&proxy.v4, &guard), Err(Unusable::NotRedirected)));

    wanted.outbound.as_mut().unwrap().exclude = vec!["10.9.0.0/30".parse().unwrap()];
    captured.replace(&wanted).unwrap();
    assert_eq!(heard(connect(excluded_address)), "there", "the other plan is in force");
    let _client = connect(server_v6);
    assert_eq!(taken(&proxy.v6, &guard).unwrap(), server_v6, "and what it does not exclude is captured");

    wanted.outbound.as_mut().unwrap().exclude.clear();
    wanted.outbound.as_mut().unwrap().only = vec![format!("{}/128", server_v6.ip()).parse().unwrap()];
    captured.replace(&wanted).unwrap();
    assert_eq!(heard(connect(server)), "there", "it is not among those that are named");
    let _client = connect(server_v6);
    assert_eq!(taken(&proxy.v6, &guard).unwrap(), server_v6);

    wanted.outbound.as_mut().unwrap().scope = Scope::Services;
    captured.replace(&wanted).unwrap();
    let _client = connect(virtual_address);
    assert_eq!(taken(&proxy.v4, &guard).unwrap(), virtual_address);
    assert_eq!(heard(connect(server)), "there", "all but services is left alone");

    drop(captured);
    assert_eq!(owners().unwrap(), []);
    assert_eq!(heard(connect(server)), "there", "no rule is left");
    assert!(TcpStream::connect_timeout(&virtual_address, PATIENCE).is_err(), "nor the route");
}

/// What a plan for services with listeners of their own must do, by whatever means.
fn check_services(means: Means, elsewhere: &Elsewhere) {
    let (first, second) = (Listeners::new(), Listeners::new());
    let address = |last| Ipv4Addr::new(240, 1, 2, last);
    // Many, as in a large mesh: they must fit in one message to the kernel.
    let mut services: Vec<_> =
        (1..=500).map(|port| ServicePort { address: address(9).into(), port, listener: 1 }).collect();
    services.push(ServicePort { address: address(1).into(), port: 80, listener: first.port() });
    services.push(ServicePort { address: address(2).into(), port: 80, listener: second.port() });
    let captured = capture_by(means, &Plan { services, ..plan() }).unwrap();
    let guard = LoopGuard::default();
    for (last, listener) in [(1, &first), (2, &second)] {
        let at = SocketAddr::new(address(last).into(), 80);
        let _client = connect(at);
        assert_eq!(taken(&listener.v4, &guard).unwrap(), at);
    }
    let nobody = SocketAddr::new(address(1).into(), 81);
    let refused = TcpStream::connect_timeout(&nobody, PATIENCE).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused, "at once, not after a wait");
    assert_eq!(heard(connect(elsewhere.serve(THERE))), "there", "all else is left alone");
    captured.release().unwrap();
}

/// What a plan for inbound connections must do, by whatever means.
fn check_inbound(means: Means, elsewhere: &Elsewhere) {
    let any = || TcpListener::bind("[::]:0").unwrap();
    let (proxy, tunnel, program) = (any(), any(), any());
    let port = |listener: &TcpListener| listener.local_addr().unwrap().port();
    let here = |listener: &TcpListener| SocketAddr::new(HERE.parse().unwrap(), port(listener));
    let guard = LoopGuard::new([port(&proxy), port(&tunnel)]);
    let inbound = InboundPlan { port: port(&proxy), tunnel_port: port(&tunnel), ..InboundPlan::default() };
    let mut wanted = Plan { inbound: Some(inbound), ..plan() };
    let mut captured = capture_by(means, &wanted).unwrap();

    // The proxy listens for IPv6, and takes IPv4 with it.
    let _client = elsewhere.run(|| connect(here(&program)));
    assert_eq!(taken(&proxy, &guard).unwrap(), here(&program));
    let v6 = SocketAddr::new("fd09::1".parse::<IpAddr>().unwrap(), port(&program));
    let _client = elsewhere.run(|| connect(v6));
    assert_eq!(taken(&proxy, &guard).unwrap(), v6);
    let _client = elsewhere.run(|| connect(here(&tunnel)));
    assert!(matches!(taken(&tunnel, &guard), Err(Unusable::NotRedirected)), "the tunnel is left alone");
    let _client = elsewhere.run(|| connect(here(&proxy)));
    assert!(matches!(taken(&proxy, &guard), Err(Unusable::NotRedirected)));
    let _client = connect(SocketAddr::new("127.0.0.1".parse().unwrap(), port(&program)));
    assert!(matches!(taken(&program, &guard), Err(Unusable::NotRedirected)), "so is what the proxy delivers");

    let other = any();
    wanted.inbound.as_mut().unwrap().only_ports = vec![port(&program)];
    captured.replace(&wanted).unwrap();
    let _client = elsewhere.run(|| connect(here(&other)));
    assert!(matches!(taken(&other, &guard), Err(Unusable::NotRedirected)), "only named ports are captured");
    let _client = elsewhere.run(|| connect(here(&program)));
    assert_eq!(taken(&proxy, &guard).unwrap(), here(&program));
    wanted.inbound.as_mut().unwrap().port = NOBODY;
    captured.replace(&wanted).unwrap();
    let shut = elsewhere.run(|| TcpStream::connect_timeout(&here(&program), PATIENCE).unwrap_err());
    assert_eq!(shut.kind(), std::io::ErrorKind::ConnectionRefused);
    captured.release().unwrap();
    let _client = elsewhere.run(|| connect(here(&program)));
    assert!(matches!(taken(&program, &guard), Err(Unusable::NotRedirected)));
}

#[test]
fn outbound_connections_are_captured() {
    alone("outbound_connections_are_captured", || check_outbound(Means::Nftables, &Elsewhere::new()));
}

#[test]
fn services_have_listeners_of_their_own() {
    alone("services_have_listeners_of_their_own", || check_services(Means::Nftables, &Elsewhere::new()));
}

#[test]
fn inbound_connections_are_captured() {
    alone("inbound_connections_are_captured", || check_inbound(Means::Nftables, &Elsewhere::new()));
}

/// The fallback is only tested where its programs are: it does the same as the rules above.
#[test]
fn iptables_captures_the_same() {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let mut directories = std::env::split_paths(&paths).chain(["/usr/sbin".into(), "/sbin".into()]);
    if !directories.any(|directory| directory.join("iptables-restore").is_file()) {
        return skip("iptables_captures_the_same", "iptables-restore is not installed");
    }
    alone("iptables_captures_the_same", || {
        let elsewhere = Elsewhere::new();
        check_outbound(Means::Iptables, &elsewhere);
        check_inbound(Means::Iptables, &elsewhere);
        check_services(Means::Iptables, &elsewhere);
    });
}

fn ask(socket: &UdpSocket, name: &str) -> Vec<u8> {
    let mut question = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        question.push(u8::try_from(label.len()).unwrap());
        question.extend(label.bytes());
    }
    question.extend([0, 0, 1, 0, 1]);
    socket.send(&question).unwrap();
    let mut buffer = [0; 512];
    let length = socket.recv(&mut buffer).unwrap();
    buffer[..length].to_vec()
}

/// From the name to the connection: a program knows nothing but a name server elsewhere.
#[test]
fn a_name_leads_to_the_proxy() {
    alone("a_name_leads_to_the_proxy", || {
        let elsewhere = Elsewhere::new();
        // The name server of the system answers everything with the question and its sender's address.
        let theirs = elsewhere.run(|| UdpSocket::bind((THERE, 53)).unwrap());
        std::thread::spawn(move || {
            let mut buffer = [0; 512];
            loop {
                let (length, from) = theirs.recv_from(&mut buffer).unwrap();
                buffer[2] |= 0x80;
                theirs.send_to(&buffer[..length], from).unwrap();
            }
        });
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let cart = MeshService { namespace: "shop".to_owned(), name: "cart".to_owned(), ports: vec![80] };
        let table = Table::build(Realm::new("shop"), &Assigned::new(), [cart.clone()]);
        let Meaning::Service(address) = table.resolve("cart") else { panic!() };
        let options = Options {
            listen: vec!["127.0.0.1:0".parse().unwrap(), "[::1]:0".parse().unwrap()],
            resolvers: Resolvers::These {
                servers: vec![SocketAddr::new(THERE.parse().unwrap(), 53)],
                search: Vec::new(),
            },
            mark: Some(MARK),
        };
        let names = runtime.block_on(async { NameServer::start(&options, table).unwrap() });
        let proxy = Listeners::new();
        let guard = LoopGuard::new([proxy.port()]);
        let servers = options.resolvers.servers().unwrap().iter().map(SocketAddr::ip).collect();
        let dns = DnsPlan { port: names.addresses()[0].port(), servers };
        let _captured = capture(&Plan { dns: Some(dns), ..outbound(proxy.port()) }).unwrap();

        let program = UdpSocket::bind("0.0.0.0:0").unwrap();
        program.set_read_timeout(Some(PATIENCE)).unwrap();
        program.connect((THERE, 53)).unwrap();
        let reply = ask(&program, "cart.shop.svc.cluster.local");
        assert!(reply.windows(4).any(|bytes| bytes == address.octets()), "{reply:?}");
        let reply = ask(&program, "www.example.com");
        assert_eq!(reply[..2], [0, 7]);
        let counts = names.counts();
        assert_eq!((counts.answered, counts.forwarded, counts.failed), (1, 1, 0), "not led back to itself");

        let _client = connect(SocketAddr::new(address.into(), 80));
        let destination = taken(&proxy.v4, &guard).unwrap();
        assert_eq!(names.table().target(destination), Target::Service(&cart, 80));
        let server = elsewhere.serve(THERE);
        let own = runtime.block_on(transept_proxy::capture::connect(server)).unwrap().into_std().unwrap();
        own.set_nonblocking(false).unwrap();
        own.set_read_timeout(Some(PATIENCE)).unwrap();
        assert_eq!(heard(own), "there", "what the proxy opens itself is left alone");
    });
}

/// Stands for a sidecar that will be killed: captures, says so, and waits.
fn hold_rules() {
    let _captured = capture(&outbound(1)).unwrap();
    println!("\nholding");
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
}

/// Starts that process, and waits until it captures.
fn start_holder(test: &str) -> Child {
    let mut holder = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(HOLD, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(holder.stdout.take().unwrap()).lines();
    assert!(lines.map(Result::unwrap).any(|line| line == "holding"));
    holder
}

#[test]
fn rules_of_a_killed_process_are_removed_at_the_next_start() {
    const TEST: &str = "rules_of_a_killed_process_are_removed_at_the_next_start";
    if std::env::var_os(HOLD).is_some() {
        return hold_rules();
    }
    alone(TEST, || {
        let elsewhere = Elsewhere::new();
        let server = elsewhere.serve(THERE);
        let mut holder = start_holder(TEST);
        assert_eq!(owners().unwrap()[0].liveness(), Liveness::Lives);
        let taken = capture(&outbound(1));
        assert!(matches!(taken, Err(CaptureError::Taken(owner)) if owner.pid == holder.id()));
        assert!(matches!(remove_leftovers("cart-1"), Err(CaptureError::Taken(_))));

        holder.kill().unwrap();
        holder.wait().unwrap();
        assert_eq!(owners().unwrap()[0].liveness(), Liveness::Gone);
        assert!(TcpStream::connect_timeout(&server, PATIENCE).is_err(), "cut off, not exposed");
        let other = Plan { workload: "shop-1".to_owned(), ..plan() };
        let captured = capture(&other).unwrap();
        assert_eq!(owners().unwrap().iter().map(|owner| owner.workload.as_str()).collect::<Vec<_>>(), ["shop-1"]);
        assert_eq!(heard(connect(server)), "there");
        captured.release().unwrap();
        assert_eq!(owners().unwrap(), []);

        // The same by those who need the network before they capture.
        let mut holder = start_holder(TEST);
        holder.kill().unwrap();
        holder.wait().unwrap();
        assert_eq!(remove_leftovers("shop-1").unwrap()[0].workload, "cart-1");
        assert_eq!(heard(connect(server)), "there");
        assert_eq!(remove_leftovers("shop-1").unwrap(), []);
    });
}

#[test]
fn two_workloads_share_a_namespace() {
    alone("two_workloads_share_a_namespace", || {
        let elsewhere = Elsewhere::new();
        let (proxy, guard) = (Listeners::new(), LoopGuard::default());
        let first = capture(&outbound(proxy.port())).unwrap();
        let second = capture(&Plan { workload: "shop-1".to_owned(), ..outbound(proxy.port()) }).unwrap();
        assert_eq!(owners().unwrap().len(), 2);
        let others = |workload| others(workload).unwrap().into_iter().map(|owner| owner.workload).collect::<Vec<_>>();
        assert_eq!((others("cart-1"), others("shop-1")), (vec!["shop-1".to_owned()], vec!["cart-1".to_owned()]));
        drop(first);
        let virtual_address = "240.1.2.3:80".parse().unwrap();
        let _client = connect(virtual_address);
        assert_eq!(taken(&proxy.v4, &guard).unwrap(), virtual_address, "the route stays for the other");
        drop(second);
        assert_eq!(heard(connect(elsewhere.serve(THERE))), "there");
    });
}

#[test]
fn without_the_privilege_it_says_so() {
    alone("without_the_privilege_it_says_so", || {
        let none = rustix::thread::CapabilitySet::empty();
        let sets = rustix::thread::CapabilitySets { effective: none, permitted: none, inheritable: none };
        // Of this thread only.
        rustix::thread::set_capabilities(None, sets).unwrap();
        let refused = capture(&outbound(1)).unwrap_err();
        assert!(matches!(refused, CaptureError::NotPermitted), "{refused:?}");
        assert!(refused.to_string().contains("CAP_NET_ADMIN"));
    });
}
