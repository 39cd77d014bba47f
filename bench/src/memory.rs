//! Scenario i: memory of an idle peer, and with many clients that asked once and stay connected.
//!
//! Called by `scenarios`. Kernel memory of the sockets is not in the figure.

use anyhow::{Context as _, ensure};

use crate::client::Client;
use crate::options::Options;
use crate::peers::{Routes, Running};
use crate::report::{Memory, Results};
use crate::stage::Stage;

pub(crate) fn run(options: &Options, stage: &Stage, results: &mut Results) -> anyhow::Result<()> {
    for peer in &options.peers {
        let directory = stage.directory(&format!("i-{}", peer.kind.name()));
        let running = Running::start(peer, &stage.plan(0, Routes::Any), &directory)?;
        // One request first, so that idle means "has served", not "has not begun".
        ask(&mut Client::connect(running.ports.http_address())?)?;
        let idle = running.process.memory()?;
        let mut clients = Vec::with_capacity(options.connections);
        for at in 0..options.connections {
            let mut client = Client::connect(running.ports.http_address())
                .with_context(|| format!("{} refused connection {at}", running.name()))?;
            ask(&mut client).with_context(|| format!("{} on connection {at}", running.name()))?;
            clients.push(client);
        }
        let loaded = running.process.memory()?;
        for at in [0, clients.len() / 2, clients.len().saturating_sub(1)] {
            if let Some(client) = clients.get_mut(at) {
                ask(client).with_context(|| format!("{} closed an idle connection", running.name()))?;
            }
        }
        let memory = Memory { idle, loaded, connections: options.connections };
        eprintln!(
            "  {:<14} idle {:.1} MiB, {:.2} KiB per connection",
            running.name(),
            idle as f64 / 1024.0,
            memory.per_connection()
        );
        results.add_memory(running.name(), memory);
    }
    Ok(())
}

fn ask(client: &mut Client) -> anyhow::Result<()> {
    let answer = client.ask("localhost", "/")?;
    ensure!(
        answer.status == 200 && answer.body.len() == 1024,
        "answered {} with {} bytes",
        answer.status,
        answer.body.len()
    );
    Ok(())
}
