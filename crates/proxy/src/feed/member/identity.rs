//! The certificate and the bundle of a member while it lives: renewed in time, replaced when told to, and on the disk before they count.
//!
//! Called by `member`. How a certificate is asked for is in `enrol`, when to ask in `transept_identity::renew`.

use transept_identity::renew::Renewal;
use transept_identity::{Bundle, Svid};

use super::enrol::renew;
use super::{Event, Member, now};
use crate::feed::contact::{Connection, Unreached};

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
        let (addresses, nonce) = (self.options.control.clone(), self.nonce.clone());
        tokio::spawn(async move {
            let mut outcome = Err(Unreached::Away("there is no control plane to ask".to_owned()));
            for address in &addresses {
                let connection = match &open {
                    Some(open) => Ok(open.clone()),
                    None => Connection::open(address, &tls).await,
                };
                outcome = match connection {
                    Ok(connection) => renew(&connection, &id, nonce.clone(), &provider).await.map(Box::new),
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
        let now_ = self.began.elapsed();
        let kept = outcome.and_then(|renewed| match self.disk.write_identity(&renewed.0) {
            Ok(()) => Ok(renewed),
            Err(error) => Err(Unreached::Away(format!("the certificate cannot be kept on the disk: {error}"))),
        });
        match kept {
            Ok(renewed) => {
                let (svid, bundle) = *renewed;
                let leaf = svid.leaf();
                self.renewal = Renewal::new(leaf.not_before, leaf.not_after);
                self.renew_at = Some(now_ + self.renewal.first_wait(now(), self.draw()));
                tracing::info!(id = %svid.id(), until = leaf.not_after.as_secs(), "the certificate was renewed");
                self.svid.store(svid);
                self.hold_bundle(&bundle);
                self.tell(|standing| standing.renewed += 1);
                // The connection ends with the certificate that it began with: the next one begins with the new one.
                if self.link.is_some() {
                    self.close(None);
                }
            }
            Err(why) => {
                let random = self.draw();
                let wait = self.renewal.wait_after_failure(now(), random);
                tracing::warn!(%why, again_in = ?wait, "the certificate is not renewed yet; the one before stays in use");
                self.renew_at = Some(now_ + wait);
            }
        }
    }
}
