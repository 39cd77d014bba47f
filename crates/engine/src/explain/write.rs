//! An explanation as text for people and as JSON for programs.
//!
//! Called by the command line. Colours are its business.

use std::fmt::Write as _;

use serde_json::{Value, json};
use transept_model::secrecy::without_random;
use transept_wire::head::{FieldId, Fields, NameRef};

use super::{BackendShare, Explanation};
use crate::forwarded::Peer;
use crate::reason::Reason;
use crate::role::Role;
use crate::rule::Bound;
use crate::verdict::Reply;

impl Explanation {
    /// The explanation as JSON.
    pub fn to_json(&self) -> Value {
        let rule = self.rule.as_ref().map(|rule| {
            json!({
                "kind": rule.name.kind.as_str(),
                "name": rule.metric_label.as_ref(),
                "place": rule.name.place.to_string(),
                "timeouts": {"request": bound(rule.timeouts.request), "backendRequest": bound(rule.timeouts.backend_request)},
                "retry": rule.retry.as_ref().map(|retry| json!({
                    "codes": retry.codes, "attempts": retry.attempts, "backoffMilliseconds": retry.backoff.as_millis() as u64,
                })),
            })
        });
        json!({
            "generation": self.generation,
            "request": self.asked,
            "isStream": self.is_stream,
            "normalizedPath": self.normalized,
            "withoutFields": self.without_fields,
            "bind": self.bind.as_ref().map(|bind| bind.address.to_string()),
            "identity": self.identity.as_deref(),
            "client": self.client.map(|client| client.address.to_string()),
            "listener": self.listener.as_ref().map(|listener| listener.name.to_string()),
            "otherListeners": self.other_listeners.iter()
                .map(|(name, why)| json!({"listener": name, "why": why})).collect::<Vec<_>>(),
            "considered": self.considered.iter().map(|one| json!({
                "rule": one.rule, "place": one.place.to_string(), "match": one.match_index, "asks": one.asks,
                "lost": one.lost,
            })).collect::<Vec<_>>(),
            "underOtherHosts": self.under_other_hosts,
            "rule": rule,
            "policies": self.policies.iter().map(|policy| json!({
                "kind": policy.kind, "name": format!("{}/{}", policy.namespace, policy.name),
                "target": policy.target.as_ref(), "place": policy.place.to_string(),
            })).collect::<Vec<_>>(),
            "told": self.told,
            "callouts": self.callouts,
            "principal": self.principal.as_ref().map(|principal| json!({
                "kind": principal.kind.as_str(), "id": principal.id, "groups": principal.groups, "scopes": principal.scopes,
                "claims": principal.claims, "plan": principal.plan, "tenant": principal.tenant, "scheme": principal.scheme,
                "credential": principal.credential,
            })),
            "answeredBy": self.answered_by.as_ref().map(|policy| policy.to_string()),
            "filters": self.filters.iter()
                .map(|(name, place)| json!({"filter": name, "place": place.to_string()})).collect::<Vec<_>>(),
            "backends": self.backends.iter().map(share).collect::<Vec<_>>(),
            "backend": self.backend,
            "endpoints": self.endpoints.iter()
                .map(|(address, weight)| json!({"address": address, "weight": weight})).collect::<Vec<_>>(),
            "awaitsInstances": self.awaits_instances,
            "tunnels": self.tunnels.iter()
                .map(|(address, identity)| json!({"address": address, "identity": identity})).collect::<Vec<_>>(),
            "leftOut": self.left_out.as_ref()
                .map(|(policy, endpoints)| json!({"policy": policy, "endpoints": endpoints})),
            "traffic": self.traffic.as_ref().map(|(policy, says)| json!({"policy": policy, "says": says})),
            "endpoint": self.endpoint,
            "unwell": self.unwell.iter()
                .map(|(address, why)| json!({"address": address, "why": why})).collect::<Vec<_>>(),
            "states": self.states.iter()
                .map(|(address, state, why)| json!({"address": address, "state": state, "why": why})).collect::<Vec<_>>(),
            "mirrors": self.mirrors,
            "forwarded": self.forwarded.as_ref().map(|request| json!({
                "method": request.method.as_str(),
                "authority": text(request.authority()),
                "target": self.hidden(request.target()),
                "headers": self.fields(&request.fields),
            })),
            "reply": self.reply.as_deref().map(reply),
            "response": self.response.as_ref().map(|(status, of)| json!({"status": status, "headers": self.fields(of)})),
        })
    }

    /// The explanation as text, a line or a few for each step of the road.
    pub fn to_text(&self) -> String {
        let mut out = String::new();
        // Writing to a String cannot fail.
        let _ = self.write_text(&mut out);
        out
    }

    fn write_text(&self, out: &mut String) -> std::fmt::Result {
        writeln!(out, "request    {}", self.asked)?;
        if let Some(path) = &self.normalized {
            writeln!(out, "normalize  the path becomes {path}")?;
        }
        for name in &self.without_fields {
            writeln!(
                out,
                "normalize  without the field {name}, because of its underscore (see requestFields of a ListenerPolicy)"
            )?;
        }
        if let Some(bind) = &self.bind {
            match bind.role {
                Role::Gateway => writeln!(out, "accept     {}", bind.address)?,
                // A station that was made for the explanation listens nowhere.
                role if bind.address.port() == 0 => writeln!(out, "accept     {}", role.as_str())?,
                role => writeln!(out, "accept     {} ({})", bind.address, role.as_str())?,
            }
        }
        if let Some(listener) = &self.listener {
            let hostname = listener.hostname.as_deref().unwrap_or("any host");
            writeln!(out, "admit      listener {} ({hostname})", listener.name)?;
        }
        for (name, why) in &self.other_listeners {
            writeln!(out, "           not {name}: {why}")?;
        }
        if self.is_stream {
            writeln!(out, "detect     bytes, which are not looked at")?;
        }
        if let Some(client) = &self.client {
            let peer = match client.peer {
                Peer::Trusted => "behind a trusted proxy",
                Peer::Untrusted => "the peer itself",
            };
            writeln!(out, "client     {} ({peer})", client.address)?;
        }
        if let Some(identity) = &self.identity {
            writeln!(out, "           with the identity {identity}")?;
        }
        self.write_route(out)?;
        for policy in &self.policies {
            let answered = self.answered_by.as_ref() == Some(policy);
            let verdict = if answered { ": it answers" } else { "" };
            writeln!(out, "screen     {policy} on {} at {}{verdict}", policy.target, policy.place)?;
        }
        self.write_told(out)?;
        for (name, place) in &self.filters {
            writeln!(out, "filter     {name} at {place}")?;
        }
        self.write_forward(out)
    }

    fn write_told(&self, out: &mut String) -> std::fmt::Result {
        for one in &self.told {
            writeln!(out, "           {one}")?;
        }
        for one in &self.callouts {
            writeln!(out, "           {one} (not done here; taken as though it went well)")?;
        }
        if let Some(principal) = &self.principal {
            writeln!(out, "principal  {}", principal.describe())?;
        }
        Ok(())
    }

    fn write_route(&self, out: &mut String) -> std::fmt::Result {
        match &self.rule {
            Some(rule) => {
                writeln!(out, "route      {} {} at {}", rule.name.kind.as_str(), rule.metric_label, rule.name.place)?;
            }
            None if self.listener.is_some() => writeln!(out, "route      no rule matches")?,
            None => {}
        }
        for one in &self.considered {
            let at = format!("{} match {} ({})", one.rule, one.match_index, one.place);
            match &one.lost {
                None => writeln!(out, "           won:  {at} asks for {}", one.asks)?,
                Some(why) => writeln!(out, "           lost: {at} asks for {}: {why}", one.asks)?,
            }
        }
        if self.under_other_hosts > 0 {
            writeln!(out, "           and {} matches under other hosts", self.under_other_hosts)?;
        }
        Ok(())
    }

    fn write_forward(&self, out: &mut String) -> std::fmt::Result {
        for one in &self.backends {
            match &one.backend {
                Ok(label) => writeln!(out, "pick       {label}, weight {}", one.weight)?,
                Err(why) => writeln!(out, "pick       (invalid), weight {}: {why}", one.weight)?,
            }
        }
        if let Some(backend) = &self.backend {
            let mut endpoints: Vec<_> = self.endpoints.iter().map(|(address, _)| address.as_str()).collect();
            if self.awaits_instances {
                endpoints.extend(self.states.iter().map(|(address, ..)| address.as_str()));
            }
            let endpoints = if endpoints.is_empty() { "no endpoint".to_owned() } else { endpoints.join(", ") };
            writeln!(out, "connect    {backend}: {endpoints}")?;
        }
        if self.awaits_instances && self.states.is_empty() {
            let (status, slug) = (Reason::NoEndpoints.status(), Reason::NoEndpoints.slug());
            let without = match self.is_stream {
                true => format!("the connection is closed, with {status} ({slug}) in the access log"),
                false => format!("the answer is {status} ({slug})"),
            };
            let taken = "an instance that has registered in the mesh takes it";
            writeln!(out, "           in the files: {taken}; without one {without}")?;
        }
        for (address, identity) in &self.tunnels {
            writeln!(out, "           through a tunnel to {address}, where {identity} must be")?;
        }
        if let Some((policy, endpoints)) = &self.left_out {
            writeln!(
                out,
                "           without {}: no tunnel leads there, and {policy} wants one",
                endpoints.join(", ")
            )?;
        }
        self.write_traffic(out)?;
        for mirror in &self.mirrors {
            writeln!(out, "mirror     a copy to {mirror}")?;
        }
        if let Some(request) = &self.forwarded {
            let (host, target) = (text(request.authority()), self.hidden(request.target()));
            writeln!(out, "forward    {} {target} to host {host}", request.method)?;
            self.write_fields(out, &request.fields)?;
        }
        if let Some(reply) = &self.reply {
            match self.is_stream {
                true => writeln!(out, "close      {} ({})", reply.reason.title(), reply.reason.slug())?,
                false => {
                    writeln!(out, "reply      {} {} ({})", reply.status, reply.reason.title(), reply.reason.slug())?
                }
            }
            if !reply.detail.is_empty() {
                writeln!(out, "           {}", reply.detail)?;
            }
            if let Some(cause) = &reply.cause {
                writeln!(out, "           because of {cause}")?;
            }
        }
        if let Some((status, fields)) = &self.response {
            writeln!(out, "relay      {status}")?;
            self.write_fields(out, fields)?;
        }
        Ok(())
    }
}

impl Explanation {
    /// A target, or a URL, without what is secret in it, and without what was not asked for and looks as if it were: a route may have written it there.
    fn hidden(&self, target: &[u8]) -> String {
        let mut out = Vec::with_capacity(target.len());
        self.credentials.write_target(target, &mut out);
        without_random(&text(&out), &self.asked)
    }

    fn shown(&self, name: NameRef<'_>, value: &[u8]) -> String {
        match name.id {
            FieldId::LOCATION => self.hidden(value),
            _ => text(self.credentials.shown(name, value)),
        }
    }

    fn fields(&self, fields: &Fields) -> Vec<Value> {
        fields.iter().map(|(name, value)| json!([name.as_str(), self.shown(name, value)])).collect()
    }

    fn write_fields(&self, out: &mut String, fields: &Fields) -> std::fmt::Result {
        for (name, value) in fields {
            writeln!(out, "           {}: {}", name.as_str(), self.shown(name, value))?;
        }
        Ok(())
    }

    fn write_traffic(&self, out: &mut String) -> std::fmt::Result {
        if let Some((policy, says)) = &self.traffic {
            writeln!(out, "balance    {policy}")?;
            for line in says {
                writeln!(out, "           {line}")?;
            }
        }
        if let Some(endpoint) = &self.endpoint {
            writeln!(out, "           this request belongs to {endpoint}")?;
        }
        for (address, why) in &self.unwell {
            writeln!(out, "           not {address}: {why}")?;
        }
        for (address, state, why) in &self.states {
            let why = why.as_ref().map_or_else(String::new, |why| format!(" ({why})"));
            writeln!(out, "           {address} is {state}{why} in the process that runs")?;
        }
        Ok(())
    }
}

fn text(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        // What a terminal would obey is not shown to it.
        Ok(text) if !text.chars().any(char::is_control) => text.to_owned(),
        _ => bytes.escape_ascii().to_string(),
    }
}

fn reply(reply: &Reply) -> Value {
    json!({
        "status": reply.status, "code": reply.reason.slug(), "title": reply.reason.title(), "detail": reply.detail.as_ref(),
        "cause": reply.cause,
    })
}

fn share(one: &BackendShare) -> Value {
    match &one.backend {
        Ok(label) => json!({"backend": label, "weight": one.weight}),
        Err(why) => json!({"invalid": why, "weight": one.weight}),
    }
}

fn bound(bound: Bound) -> Value {
    match bound {
        Bound::Unset => Value::Null,
        Bound::Off => "0s".into(),
        Bound::After(time) => transept_model::schema::write_duration(time).into(),
    }
}
