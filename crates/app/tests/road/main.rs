//! The road of requests, end to end: the real binary between clients and backends that each test plays itself.

mod certificates;
mod connections;
mod disorder;
mod drain;
mod early;
mod faults;
mod forwarding;
mod http2;
mod http2_flow;
mod limits;
mod listeners;
mod names;
mod pairs;
mod records;
mod reload;
mod replies;
mod requests;
mod responses;
mod retries;
mod secure;
mod stage;
mod streams;
mod traffic;
mod tunnels;
mod upstream;
mod zones;
