//! `MeshPolicy`: how workloads of a Service are reached: in the mesh only, or also without it, and whose word about clients counts.
//!
//! It stands at the workloads, and settles the settings of the listeners that stand for the ports of their programs. It also binds who
//! calls the Service: a strict one takes endpoints without a tunnel out of the choice (`compile/backends.rs`), so that a registration
//! that has ended does not turn calls into clear text. The policy on a
//! port replaces that on the Service. Where several ports of a Service lead to one of the program, nobody can tell any more which was
//! called, and the strictest counts (`compile/mesh.rs`). Without a policy workloads are strict.

use transept_model::policy::Target;
use transept_model::schema::Rule;
use transept_model::{choice, object};

use super::{CompileCx, IdentityPattern, Phase, Policy, Reach};
use crate::settings::{Plaintext, Settings};

object! {
    /// How workloads of a Service are reached.
    pub struct MeshPolicySpec {
        /// Whether connections without an identity are let in, where the sidecar captures them (`--transparent`), and whether members of the
        /// mesh may call an endpoint that has no tunnel.
        mode: MeshMode = MeshMode::Strict;
        /// Members whose word about the address of their own client is taken: gateways. Others speak for themselves only.
        forwarded_from: Vec<IdentityPattern> => Rule::MaxItems(256);
    }
}

choice! {
    /// Who may reach a workload.
    pub enum MeshMode {
        /// Members of the mesh only. Nobody calls an endpoint without a tunnel: it is left out, and when none remains the answer is 503
        /// (`mesh.no_tunnel`).
        Strict = "Strict",
        /// Also clients without an identity, in clear text. Policies that ask for an identity do not match them. Endpoints without a
        /// tunnel are called in clear text, as they are without a policy.
        Permissive = "Permissive",
    }
}

/// A compiled `MeshPolicy`: the spec itself, since settings are plain.
#[derive(Debug)]
pub(crate) struct MeshPolicy {
    spec: MeshPolicySpec,
}

impl Policy for MeshPolicy {
    const KIND: &'static str = "MeshPolicy";
    const ABOUT: &'static str =
        "How workloads of a Service, or of a whole Namespace, are reached: in the mesh only, or also without it.";
    const PHASE: Phase = Phase::Settle;
    const TARGETS: &'static [Target] = &[Target::Service, Target::Namespace];
    type Spec = MeshPolicySpec;

    fn compile(spec: &MeshPolicySpec, _: &mut CompileCx<'_>) -> Option<Self> {
        Some(MeshPolicy { spec: spec.clone() })
    }

    fn settle(&self, settings: &mut Settings) {
        settings.plaintext = match self.spec.mode {
            MeshMode::Strict => Plaintext::Refused,
            MeshMode::Permissive => Plaintext::Allowed,
        };
        settings.forwarders = self.spec.forwarded_from.clone().into();
    }

    fn reach(&self) -> Option<Reach> {
        Some(match self.spec.mode {
            MeshMode::Strict => Reach::TunnelOnly,
            MeshMode::Permissive => Reach::Any,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{compile, refusals};
    use super::*;
    use crate::role::Role;

    fn settled(spec: &str) -> Settings {
        let mut settings = Settings::of_member(Role::Inbound);
        compile::<MeshPolicy>(spec).settle(&mut settings);
        settings
    }

    #[test]
    fn only_permissive_lets_plaintext_in() {
        assert_eq!(Settings::of_member(Role::Inbound).plaintext, Plaintext::Refused);
        assert_eq!(settled("{}\n").plaintext, Plaintext::Refused);
        assert_eq!(settled("mode: Strict\n").plaintext, Plaintext::Refused);
        assert_eq!(settled("mode: Permissive\n").plaintext, Plaintext::Allowed);
        assert!(!refusals::<MeshPolicy>("mode: Open\n").is_empty());
    }

    #[test]
    fn whose_word_about_clients_counts_is_said_by_identity() {
        let nobody = Settings::of_member(Role::Inbound);
        let gateway = settled("forwardedFrom: [default/web]\n");
        let web = "spiffe://transept.local/ns/default/sa/web";
        assert!(!nobody.believes_forwarder(Some(web)));
        assert!(gateway.believes_forwarder(Some(web)));
        assert!(!gateway.believes_forwarder(Some("spiffe://transept.local/ns/default/sa/cart")));
        assert!(!gateway.believes_forwarder(None));
    }
}
