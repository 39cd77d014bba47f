//! How a member gets its identity: from the disk, with a token, or for the one that it has.
//!
//! Called by `member` at its start, when the certificate is due, and when nobody takes it any more. Every key is made here and goes nowhere but into its file.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use tokio::sync::watch;
use transept_identity::{Bundle, PrivateKey, SpiffeId, Svid, Ticket, request};
use transept_xds::mesh::{Issued, JOIN, JoinRequest, RENEW, RenewRequest};

use super::now;
use crate::feed::contact::{Connection, Unreached, first_tls};
use crate::feed::disk::Disk;
use crate::feed::{FeedError, FeedOptions, Standing};

/// The longest pause between two attempts to join.
const JOIN_PAUSE: Duration = Duration::from_secs(10);

/// The identity on the disk, when it has not ended and is the one that the ticket is for, if there is one.
///
/// # Errors
/// It cannot be read, or is that of another workload, which would lose it.
pub(super) fn find_identity(
    options: &FeedOptions,
    disk: &Disk,
    provider: &CryptoProvider,
) -> Result<Option<(Svid, Bundle)>, FeedError> {
    let found = disk.read_identity(provider).map_err(FeedError::State)?;
    if let (Some((svid, _)), Some(ticket)) = (&found, &options.ticket)
        && svid.id().workload() != ticket.id.workload()
    {
        return Err(FeedError::State(format!(
            "{} holds the identity {}, and the join token is for {}. The identity was left as it is, and the token was not used; give \
             this one a directory of its own with --state, or remove that one if nobody needs it any more",
            options.state.display(),
            svid.id(),
            ticket.id
        )));
    }
    let is_right = |svid: &Svid| {
        let wanted = options.ticket.as_ref().is_none_or(|ticket| ticket.id == *svid.id());
        wanted && now().as_secs() < svid.leaf().not_after.as_secs()
    };
    Ok(found.filter(|(svid, _)| is_right(svid)))
}

/// Joins with the token, again and again until somebody answers.
pub(super) async fn join(
    options: &FeedOptions,
    disk: &Disk,
    provider: &Arc<CryptoProvider>,
    nonce: &[u8],
    standing: &watch::Sender<Standing>,
) -> Result<(Svid, Bundle), FeedError> {
    let Some(ticket) = &options.ticket else {
        return Err(FeedError::NoTicket(options.state.clone()));
    };
    let tls = first_tls(ticket, provider.clone()).map_err(FeedError::Crypto)?;
    let mut pause = Duration::from_millis(250);
    loop {
        for address in &options.control {
            let joined = match Connection::open(address, &tls).await {
                Ok(connection) => join_once(&connection, ticket, (nonce, &options.node), provider).await,
                Err(why) => Err(why),
            };
            match joined {
                Ok((svid, bundle)) => {
                    let kept = disk.write_bundle(&bundle).and_then(|()| disk.write_identity(&svid));
                    kept.map_err(|error| FeedError::State(format!("{}: {error}", options.state.display())))?;
                    tracing::info!(id = %svid.id(), "joined the mesh");
                    return Ok((svid, bundle));
                }
                Err(Unreached::Away(why)) => {
                    tracing::warn!(%why, "not joined yet");
                    standing.send_modify(|standing| standing.failure = Some(why));
                }
                Err(why) => return Err(FeedError::NotJoined(why.to_string())),
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(JOIN_PAUSE);
    }
}

/// Joins once more with the token, for a member whose certificate is good for nothing any more. The caller is its nonce and what it calls
/// itself.
pub(super) async fn join_again(
    control: &[String],
    ticket: &Ticket,
    caller: (&[u8], &str),
    provider: &Arc<CryptoProvider>,
) -> Result<(Svid, Bundle), Unreached> {
    let tls = first_tls(ticket, provider.clone()).map_err(Unreached::Away)?;
    let mut outcome = Err(Unreached::Away("there is no control plane to ask".to_owned()));
    for address in control {
        outcome = match Connection::open(address, &tls).await {
            Ok(connection) => join_once(&connection, ticket, caller, provider).await,
            Err(why) => Err(why),
        };
        if !matches!(outcome, Err(Unreached::Away(_))) {
            break;
        }
    }
    outcome
}

async fn join_once(
    connection: &Connection,
    ticket: &Ticket,
    (nonce, node): (&[u8], &str),
    provider: &CryptoProvider,
) -> Result<(Svid, Bundle), Unreached> {
    let (key, asked) = ask_for_certificate(&ticket.id)?;
    let message = JoinRequest {
        token: ticket.token().to_owned(),
        nonce: Bytes::copy_from_slice(nonce),
        request: asked,
        proxy: node.to_owned(),
    };
    let issued: Issued = connection.ask(JOIN, &message).await?;
    read_issued(issued, key, &ticket.id, provider)
}

/// Another certificate for an identity over a connection that proves it.
pub(super) async fn renew(
    connection: &Connection,
    id: &SpiffeId,
    (nonce, node): (Bytes, String),
    provider: &CryptoProvider,
) -> Result<(Svid, Bundle), Unreached> {
    let (key, asked) = ask_for_certificate(id)?;
    let issued: Issued = connection.ask(RENEW, &RenewRequest { request: asked, nonce, proxy: node }).await?;
    read_issued(issued, key, id, provider)
}

/// A fresh key, which never leaves this process but for its file, and a request for it.
fn ask_for_certificate(id: &SpiffeId) -> Result<(PrivateKey, Bytes), Unreached> {
    let failed = |error: &dyn std::fmt::Display| Unreached::Away(error.to_string());
    let key = PrivateKey::generate().map_err(|error| failed(&error))?;
    let asked = request::create(&key, id).map_err(|error| failed(&error))?;
    Ok((key, Bytes::copy_from_slice(&asked)))
}

fn read_issued(
    issued: Issued,
    key: PrivateKey,
    id: &SpiffeId,
    provider: &CryptoProvider,
) -> Result<(Svid, Bundle), Unreached> {
    let strange = |why: String| Unreached::Stranger(format!("the control plane's answer cannot be used: {why}"));
    let chain = issued.chain.iter().map(|der| CertificateDer::from(der.to_vec())).collect();
    let svid = Svid::new(chain, key, provider).map_err(|error| strange(error.to_string()))?;
    if svid.id() != id {
        return Err(strange(format!("the certificate is for `{}` and not for `{id}`", svid.id())));
    }
    let bundle = Bundle::from_jwks(id.trust_domain(), &issued.bundle).map_err(|error| strange(error.to_string()))?;
    Ok((svid, bundle))
}
