//! A name server on port 0, asked by UDP and TCP, with name servers of others behind it.

use std::net::SocketAddr;

use hickory_resolver::proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_resolver::proto::rr::rdata::A;
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use super::super::table::tests::{service, shop};
use super::super::{Assigned, Realm};
use super::*;

fn question(name: &str) -> Vec<u8> {
    let mut message = Message::new(77, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
    let mut edns = Edns::new();
    edns.set_max_payload(1400);
    message.set_edns(edns);
    message.to_vec().unwrap()
}

fn start(servers: Vec<SocketAddr>) -> NameServer {
    let options = Options {
        listen: vec!["127.0.0.1:0".parse().unwrap(), "[::1]:0".parse().unwrap()],
        resolvers: Resolvers::These { servers, search: vec!["corp.example".to_owned()] },
        mark: None,
    };
    NameServer::start(&options, shop()).unwrap()
}

async fn ask_by_udp(server: SocketAddr, message: &[u8]) -> Message {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(message, server).await.unwrap();
    let mut buffer = [0; 4096];
    let length = timeout(Duration::from_secs(10), socket.recv(&mut buffer)).await.unwrap().unwrap();
    Message::from_vec(&buffer[..length]).unwrap()
}

async fn ask_by_tcp(stream: &mut TcpStream, message: &[u8]) -> Message {
    write_framed(stream, message).await.unwrap();
    Message::from_vec(&read_framed(stream).await.unwrap()).unwrap()
}

/// A name server of others, which answers every question with `answer`.
async fn upstream(answer: impl Fn(Message) -> Message + Send + Clone + 'static) -> SocketAddr {
    // The port that is free for one may be taken for the other: by another test, at this moment.
    let (udp, tcp, address) = loop {
        let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = udp.local_addr().unwrap();
        if let Ok(tcp) = TcpListener::bind(address).await {
            break (udp, tcp, address);
        }
    };
    let by_tcp = answer.clone();
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        loop {
            let (length, from) = udp.recv_from(&mut buffer).await.unwrap();
            let reply = answer(Message::from_vec(&buffer[..length]).unwrap());
            udp.send_to(&reply.to_vec().unwrap(), from).await.unwrap();
        }
    });
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = tcp.accept().await.unwrap();
            let asked = Message::from_vec(&read_framed(&mut stream).await.unwrap()).unwrap();
            let mut reply = by_tcp(asked);
            reply.metadata.truncation = false;
            write_framed(&mut stream, &reply.to_vec().unwrap()).await.unwrap();
        }
    });
    address
}

/// Answers with an address that tells how long a message the question allowed.
fn found(asked: Message) -> Message {
    let [high, low] = asked.edns.as_ref().map_or(0, Edns::max_payload).to_be_bytes();
    let mut reply = Message::response(asked.metadata.id, OpCode::Query);
    reply.metadata.truncation = true;
    let data = RData::A(A::new(10, 0, high, low));
    reply.add_answer(Record::from_rdata(asked.queries[0].name().clone(), 60, data));
    reply.add_query(asked.queries[0].clone());
    reply
}

fn refused(asked: Message) -> Message {
    let mut reply = Message::error_msg(asked.metadata.id, OpCode::Query, ResponseCode::Refused);
    reply.add_query(asked.queries[0].clone());
    reply
}

#[tokio::test]
async fn services_are_answered_by_udp_and_tcp_on_every_address() {
    let server = start(Vec::new());
    assert!(server.addresses().iter().all(|address| address.port() == server.addresses()[0].port()));
    let address = server.addresses()[0];
    assert_eq!(ask_by_udp(address, &question("cart.")).await.answers.len(), 1);
    let mut stream = TcpStream::connect(address).await.unwrap();
    for name in ["cart.", "cart.shop.mesh."] {
        assert_eq!(ask_by_tcp(&mut stream, &question(name)).await.answers.len(), 1, "one connection, many questions");
    }
    assert_eq!(server.counts().answered, 3);
}

#[tokio::test]
async fn a_table_is_swapped_in_place() {
    let server = start(Vec::new());
    let address = server.addresses()[0];
    assert_eq!(ask_by_udp(address, &question("late.mesh.")).await.metadata.response_code, ResponseCode::NXDomain);
    server.update(Table::build(Realm::new("shop"), &Assigned::new(), [service("shop", "late")]));
    assert_eq!(ask_by_udp(address, &question("late.mesh.")).await.answers.len(), 1);
}

#[tokio::test]
async fn names_of_others_go_on_with_their_edns_and_what_is_truncated_comes_by_tcp() {
    let server = start(vec![upstream(found).await]);
    let address = server.addresses()[0];
    let reply = ask_by_udp(address, &question("www.example.com.")).await;
    assert_eq!(reply.metadata.id, 77);
    assert!(reply.metadata.truncation);
    let [high, low] = 1400_u16.to_be_bytes();
    assert_eq!(reply.answers[0].data, RData::A(A::new(10, 0, high, low)));
    let mut stream = TcpStream::connect(address).await.unwrap();
    let reply = ask_by_tcp(&mut stream, &question("www.example.com.")).await;
    assert!(!reply.metadata.truncation && reply.answers.len() == 1);
    assert_eq!(server.counts().forwarded, 2);
}

#[tokio::test]
async fn a_name_server_that_refuses_or_is_gone_is_passed_over() {
    let gone = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = gone.local_addr().unwrap();
    drop(gone);
    let server = start(vec![address, upstream(refused).await, upstream(found).await]);
    let reply = ask_by_udp(server.addresses()[0], &question("www.example.com.")).await;
    assert_eq!(reply.answers.len(), 1);
}

#[tokio::test]
async fn without_an_answer_of_others_the_search_for_our_names_goes_on() {
    let server = start(Vec::new());
    let code = async |name| ask_by_udp(server.addresses()[0], &question(name)).await.metadata.response_code;
    assert_eq!(code("www.example.com.").await, ResponseCode::ServFail);
    assert_eq!(code("cart.corp.example.").await, ResponseCode::NXDomain);
    let only_refused = start(vec![upstream(refused).await]);
    let reply = ask_by_udp(only_refused.addresses()[0], &question("www.example.com.")).await;
    assert_eq!(reply.metadata.response_code, ResponseCode::Refused, "what was said is passed on");
}

#[tokio::test]
async fn nonsense_is_taken_and_forgotten() {
    let server = start(Vec::new());
    let address = server.addresses()[0];
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for length in 0..40 {
        socket.send_to(&vec![0xff; length], address).await.unwrap();
        socket.send_to(&vec![0; length], address).await.unwrap();
    }
    let mut cut_off = TcpStream::connect(address).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut cut_off, &[0xff, 0xff, 1]).await.unwrap();
    assert_eq!(ask_by_udp(address, &question("cart.")).await.answers.len(), 1);
}

#[tokio::test]
async fn a_file_of_name_servers_is_read_at_the_start() {
    let missing = Options {
        listen: vec!["127.0.0.1:0".parse().unwrap()],
        resolvers: Resolvers::File("/nonexistent/resolv.conf".into()),
        mark: None,
    };
    assert!(NameServer::start(&missing, shop()).is_err());
    let taken = start(Vec::new());
    let same = Options {
        listen: vec![taken.addresses()[0]],
        resolvers: Resolvers::These { servers: Vec::new(), search: Vec::new() },
        mark: None,
    };
    assert_eq!(NameServer::start(&same, shop()).unwrap_err().kind(), io::ErrorKind::AddrInUse);
}

#[tokio::test]
async fn other_name_servers_are_told_of() {
    let names = start(vec!["192.0.2.1:53".parse().unwrap()]);
    let mut servers = names.servers();
    assert_eq!(*servers.borrow_and_update(), ["192.0.2.1:53".parse().unwrap()]);
    let system = System::parse("nameserver 192.0.2.2\n", names.addresses());
    names.shared.follow(system.clone());
    assert!(servers.has_changed().unwrap());
    assert_eq!(*servers.borrow_and_update(), ["192.0.2.2:53".parse().unwrap()]);
    names.shared.follow(system);
    assert!(!servers.has_changed().unwrap());
}
