//! Services in Python that the gateway asks over gRPC: the programs of `tests/programs`, each as a child process.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use transept_testkit::parts::{lacks, python};

use crate::stage::soon;

/// Whether Python has grpcio here. It must have it where all parts must be there.
pub(crate) async fn has_grpc() -> bool {
    let has_grpc = Command::new(python()).args(["-c", "import grpc"]).stderr(Stdio::null()).status().await;
    let has_grpc = has_grpc.is_ok_and(|status| status.success());
    if !has_grpc {
        lacks("Python with grpcio");
    }
    has_grpc
}

/// Where a program of `tests/programs` is.
pub(crate) fn program(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/programs").join(name)
}

/// A program that prints the port it listens on. It is killed when this is dropped.
pub(crate) struct Service {
    pub process: Child,
    pub address: SocketAddr,
}

impl Service {
    /// Starts a program of `tests/programs`; none where Python has no grpcio, unless that must not be.
    pub(crate) async fn start(program: &str) -> Option<Service> {
        if !has_grpc().await {
            return None;
        }
        let mut command = Command::new(python());
        command.arg("-B").arg(self::program(program)).stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut process = command.spawn().expect("it starts");
        let mut line = String::new();
        let stdout = process.stdout.take().expect("its output");
        soon(BufReader::new(stdout).read_line(&mut line)).await.expect("it says its port");
        let port: u16 = line.trim().parse().expect("a port");
        Some(Service { process, address: ([127, 0, 0, 1], port).into() })
    }
}
