//! Services in Python that the gateway asks over gRPC: the programs of `tests/programs`, each as a child process.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use transept_testkit::parts::{lacks, python};

use crate::stage::soon;

/// A program that prints the port it listens on. It is killed when this is dropped.
pub(crate) struct Service {
    pub process: Child,
    pub address: SocketAddr,
}

impl Service {
    /// Starts a program of `tests/programs`; none where Python has no grpcio, unless that must not be.
    pub(crate) async fn start(program: &str) -> Option<Service> {
        let has_grpc = Command::new(python()).args(["-c", "import grpc"]).stderr(Stdio::null()).status().await;
        if !has_grpc.is_ok_and(|status| status.success()) {
            lacks("Python with grpcio");
            return None;
        }
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/programs").join(program);
        let mut command = Command::new(python());
        command.arg("-B").arg(script).stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut process = command.spawn().expect("it starts");
        let mut line = String::new();
        let stdout = process.stdout.take().expect("its output");
        soon(BufReader::new(stdout).read_line(&mut line)).await.expect("it says its port");
        let port: u16 = line.trim().parse().expect("a port");
        Some(Service { process, address: ([127, 0, 0, 1], port).into() })
    }
}
