//! Consumer (transept.dev/v1alpha1): an application that calls, whoever owns it.
//!
//! What identifies it is elsewhere: its ApiKeys name it, and so may other credentials. Whoever authenticates turns it into a principal.

use crate::kinds::TRANSEPT_GROUP;
use crate::kinds::metadata::{Body, Kind, Scope};
use crate::schema::{Rule, Text};

crate::object! {
    /// A Consumer: an application that calls.
    pub struct ConsumerSpec {
        /// The groups that it belongs to, for those who authorize.
        groups: Vec<Text> => Rule::MaxItems(64), Rule::Length(1, 128), Rule::Unique;
        /// The plan that it has subscribed to, for limits and quotas.
        plan: Option<Text> => Rule::Length(1, 128);
        /// The tenant that it belongs to.
        tenant: Option<Text> => Rule::Length(1, 128);
        /// True when none of its credentials is good at present.
        suspended: bool = false;
    }
}

impl Kind for ConsumerSpec {
    const KIND: &'static str = "Consumer";
    const GROUP: &'static str = TRANSEPT_GROUP;
    const VERSIONS: &'static [&'static str] = &["v1alpha1"];
    const BODY: Body = Body::Spec;
    const SCOPE: Scope = Scope::Namespaced;
    const ABOUT: &'static str = "An application that calls: its groups, its plan and its tenant.";
}
