//! Which cases are replayed: what this build serves, and what the command line selects. A case that is left out always gets a
//! reason.

use crate::case::{Case, NumberedStep, Runs};

/// Prefixes of the features that this build does not serve; everything else it does.
const NOT_SERVED: [&str; 3] = ["TLSRoute", "UDPRoute", "ListenerSet"];

/// Whether the build serves a feature of Gateway API.
pub(crate) fn serves(feature: &str) -> bool {
    !NOT_SERVED.iter().any(|prefix| feature.starts_with(prefix))
}

/// What is to be done with a case.
#[derive(Debug)]
pub(crate) enum Decision {
    /// Replay these steps.
    Replay(Vec<NumberedStep>),
    /// It passes without doing anything, by its own rules.
    NothingToDo(String),
    /// It is left out.
    NotInScope(String),
}

/// Decides on one case. `named` cases are replayed even where only part of their steps makes sense without an API server.
pub(crate) fn decide(case: &Case, named: bool) -> Decision {
    if let Some(feature) = case.features.iter().find(|feature| !serves(feature)) {
        return Decision::NotInScope(format!("this build does not serve {feature}"));
    }
    if case.runs == Runs::NeedsApiserver && !named {
        let reason = case.reason.as_deref().unwrap_or("it needs an API server");
        return Decision::NotInScope(reason.to_owned());
    }
    if let Some(feature) = case.skip_if_feature.as_deref().filter(|feature| serves(feature)) {
        return Decision::NothingToDo(format!("{feature} is served"));
    }
    if let Some(feature) = case.skip_unless_feature.as_deref().filter(|feature| !serves(feature)) {
        return Decision::NothingToDo(format!("{feature} is not served"));
    }
    match case.steps() {
        Ok(steps) => Decision::Replay(steps),
        Err(why) => Decision::NotInScope(why),
    }
}

/// What the command line asks for; empty lists select everything.
#[derive(Debug, Default)]
pub(crate) struct Selection {
    /// Names of cases; a `*` at the end stands for any rest.
    pub names: Vec<String>,
    /// Profiles, such as `GATEWAY-HTTP`.
    pub profiles: Vec<String>,
    /// Features.
    pub features: Vec<String>,
}

impl Selection {
    /// Whether the case is selected.
    pub(crate) fn takes(&self, case: &Case) -> bool {
        let any = |wanted: &[String], has: &dyn Fn(&str) -> bool| wanted.is_empty() || wanted.iter().any(|w| has(w));
        any(&self.names, &|name| matches(name, &case.name))
            && any(&self.profiles, &|profile| case.profiles.contains_key(profile))
            && any(&self.features, &|feature| case.features.iter().any(|own| own == feature))
    }

    /// Whether the case is selected by its full name.
    pub(crate) fn names(&self, case: &Case) -> bool {
        self.names.contains(&case.name)
    }
}

fn matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => name == pattern,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_of_kinds_that_are_not_served_leave_a_case_out() {
        assert!(serves("HTTPRouteRequestMirror"));
        assert!(serves("GatewayStaticAddresses"));
        assert!(!serves("TLSRouteModeTerminate"));
        assert!(serves("MeshConsumerRoute"));
    }

    #[test]
    fn a_star_stands_for_any_rest() {
        assert!(matches("HTTPRouteRe*", "HTTPRouteRetry"));
        assert!(!matches("HTTPRoute", "HTTPRouteRetry"));
    }
}
