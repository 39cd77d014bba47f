//! The certificate and the bundle of a member while it lives: renewed in time, replaced when told to, asked for anew with the token when
//! nobody takes it any more, and kept on the disk.
//!
//! Called by `member`. How a certificate is asked for is in `enrol`, when to ask in `transept_identity::renew`.

use std::time::Duration;

use transept_identity::renew::{Came, Renewal};
use transept_identity::{Bundle, Svid};
use transept_xds::grpc::Code;

use super::enrol::{join_again, renew};
use super::{Event, Member, now};
use crate::feed::contact::{Connection, Unreached};

/// The time between two attempts to keep the certificate that is in use on the disk.
const KEEP_AGAIN: Duration = Duration::from_secs(10);

impl Member {
    /// Keeps a bundle, and only then uses it: what we say we hold survives a restart.
    pub(super) fn hold_bundle(&mut self, bundle: &Bundle) {
        if let Err(error) = self.disk.write_bundle(bundle) {
            tracing::error!(%error, "the bundle cannot be kept on the disk");
            return;
        }
        let mut bundles = (*self.bundles.load()).clone();
        bundles.insert(bundle.clone());
        self.bundles.store(bundles);
        self.beat_at = Some(self.began.elapsed());
    }

    pub(super) fn renew(&mut self) {
        let id = self.svid.load().id().clone();
        let (tls, provider, reports) = (self.tls.clone(), self.provider.clone(), self.reports.clone());
        let open = self.link.as_ref().map(|link| link.connection.clone());
        let (addresses, caller) = (self.options.control.clone(), (self.nonce.clone(), self.options.node.clone()));
        tokio::spawn(async move {
            let mut outcome = Err(Unreached::Away("there is no control plane to ask".to_owned()));
            for address in &addresses {
                let connection = match &open {
                    Some(open) => Ok(open.clone()),
                    None => Connection::open(address, &tls).await,
                };
                outcome = match connection {
                    Ok(connection) => renew(&connection, &id, caller.clone(), &provider).await.map(Box::new),
                    Err(why) => Err(why),
                };
                if outcome.is_ok() || open.is_some() {
                    break;
                }
            }
            let _ = reports.send(Event::Renewed(outcome)).await;
        });
    }

    pub(super) fn take_renewed(&mut self, outcome: Result<Box<(Svid, Bundle)>, Unreached>) {
        match outcome.and_then(|renewed| self.adopt(*renewed, Came::ByRenewal)) {
            Ok(()) => {
                let svid = self.svid.load();
                tracing::info!(id = %svid.id(), until = svid.leaf().not_after.as_secs(), "the certificate was renewed");
                self.tell(|standing| standing.renewed += 1);
            }
            Err(why) => {
                let why = self.look_into(why);
                let random = self.draw();
                let wait = self.renewal.wait_after_failure(now(), random);
                if self.renewal.may_show(now()) {
                    tracing::warn!(%why, again_in = ?wait, "the certificate is not renewed yet; the one before stays in use");
                } else {
                    tracing::error!(%why, again_in = ?wait, "the certificate has ended: nobody in the mesh takes it any more");
                }
                self.renew_at = Some(self.began.elapsed() + wait);
            }
        }
    }

    /// Keeps a certificate with its bundle, and shows it from then on; unless the one before is good, and this one is not, or not yet.
    fn adopt(&mut self, (svid, bundle): (Svid, Bundle), came: Came) -> Result<(), Unreached> {
        let leaf = svid.leaf();
        if self.renewal.stays_for(&Renewal::new(leaf.not_before, leaf.not_after), came, now()) {
            let when = match leaf.not_before.as_secs().saturating_sub(now().as_secs()) {
                0 => "has ended already".to_owned(),
                early => format!("is valid only in {early} s"),
            };
            let whose = "the clock of the control plane is wrong, or that of this machine";
            return Err(Unreached::Away(format!("the one that came {when}: {whose}")));
        }
        self.renewal = self.renewal.followed_by(leaf.not_before, leaf.not_after, now());
        self.renew_at = Some(self.began.elapsed() + self.renewal.first_wait(now(), self.draw()));
        self.svid.store(svid);
        self.keep_identity();
        self.hold_bundle(&bundle);
        // The connection ends with the certificate that it began with: the next one begins with the new one.
        if self.link.is_some() {
            self.replace_link();
        }
        Ok(())
    }

    /// Keeps the certificate that is in use on the disk. Where that fails it is used all the same, and tried again: one that was thrown away could not be
    /// renewed when it had ended.
    pub(super) fn keep_identity(&mut self) {
        let kept = self.disk.write_identity(&self.svid.load());
        let was_kept = self.keep_at.is_none();
        self.keep_at = kept.is_err().then(|| self.began.elapsed() + KEEP_AGAIN);
        match &kept {
            Err(error) if was_kept => {
                let hint =
                    "it is tried again; a restart before that begins with the one before, and may need a new token";
                tracing::warn!(%error, "the new certificate is in use and cannot be kept on the disk: {hint}");
            }
            Ok(()) if !was_kept => tracing::info!("the certificate is kept on the disk again"),
            _ => {}
        }
        let why = kept.err().map(|error| format!("its certificate cannot be kept on the disk: {error}"));
        self.tell(|standing| standing.unkept = why);
    }

    /// Looks whether what keeps us from the control plane are certificates, ours or its own: then only a token helps. It is tried again if there is
    /// one, and the answer says what is to be done if there is none.
    pub(super) fn look_into(&mut self, why: Unreached) -> Unreached {
        let unbelieved = match &why {
            Unreached::Distrusted(why) if !self.renewal.may_show(now()) => format!("{why}, which has ended"),
            Unreached::Distrusted(why) => {
                format!("{why}: it trusts no root that vouches for it, or the certificate is not valid by its clock")
            }
            Unreached::Stranger(why) => why.clone(),
            Unreached::Refused(failed) if failed.code == Code::Unauthenticated => {
                format!("the control plane does not take the certificate of this proxy: {}", failed.message)
            }
            Unreached::Refused(_) | Unreached::Away(_) => return why,
        };
        self.join_again();
        let told = self.advise(&unbelieved);
        self.unbelieved = Some(unbelieved);
        Unreached::Distrusted(told)
    }

    /// What is wrong, with what is done or to be done about it.
    fn advise(&self, unbelieved: &str) -> String {
        match (&self.useless, &self.options.ticket) {
            (Some(why), _) => format!("{unbelieved}; its join token does not help: {why}; {}", self.way_back()),
            (None, Some(_)) => format!("{unbelieved}; its join token is tried"),
            (None, None) => format!("{unbelieved}; {}", self.way_back()),
        }
    }

    /// What brings this proxy back into the mesh.
    fn way_back(&self) -> String {
        let id = self.svid.load().id().clone();
        let workload = id.workload().map(|workload| match workload.namespace() {
            "default" => format!(" --service {}", workload.service_account()),
            namespace => format!(" --service {} --namespace {namespace}", workload.service_account()),
        });
        format!(
            "if the clocks of both machines are right, start it again with a new token: `transept token create{}`",
            workload.unwrap_or_default()
        )
    }

    fn join_again(&mut self) {
        let Some(ticket) = self.options.ticket.clone().filter(|_| !self.rejoining) else { return };
        self.rejoining = true;
        let (control, nonce, node) = (self.options.control.clone(), self.nonce.clone(), self.options.node.clone());
        let (provider, reports) = (self.provider.clone(), self.reports.clone());
        tokio::spawn(async move {
            let outcome = join_again(&control, &ticket, (&nonce, &node), &provider).await.map(Box::new);
            let _ = reports.send(Event::Rejoined(outcome)).await;
        });
    }

    pub(super) fn take_rejoined(&mut self, outcome: Result<Box<(Svid, Bundle)>, Unreached>) {
        self.rejoining = false;
        match outcome.and_then(|joined| self.adopt(*joined, Came::ByToken)) {
            Ok(()) => {
                tracing::info!(id = %self.svid.load().id(), "joined the mesh again");
                // What kept it from discovery is over: nothing is waited for.
                self.replace_link();
                self.tell(|standing| (standing.unbelieved, standing.failure) = (false, None));
            }
            Err(Unreached::Away(why)) if self.renewal.may_show(now()) => {
                tracing::warn!(%why, "not joined again yet; the certificate that is there stays in use");
            }
            Err(Unreached::Away(why)) => tracing::warn!(%why, "not joined again yet"),
            Err(why) => {
                // A refusal does not change; whoever is a stranger now may be the wrong one.
                self.options.ticket.take_if(|_| matches!(why, Unreached::Refused(_)));
                self.useless = Some(why.to_string());
                let why = self.advise(self.unbelieved.as_deref().unwrap_or_default());
                tracing::error!(why, "not joined again");
                self.tell(|standing| standing.failure = Some(why));
            }
        }
    }
}
