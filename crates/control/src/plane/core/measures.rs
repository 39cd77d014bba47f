//! The mesh in figures, in the Prometheus text format.
//!
//! Asked at a scrape by the admin server of the control plane, or of the gateway that lives with it. Who calls whom, and how often, proxies count
//! themselves and say on their own `/metrics`; here is what only the control plane knows: verdicts, instances, and how it is itself.

use std::fmt::Write;
use std::sync::PoisonError;

use serde_json::Value;
use transept_identity::Fingerprint;

use super::Plane;

const VERDICTS: [&str; 4] = ["healthy", "degraded", "failing", "unknown"];
const STATES: [&str; 5] = ["healthy", "unhealthy", "silent", "draining", "shunned"];

/// Reads a figure of a service; none where nothing is known.
type Figure = fn(&Value) -> Option<f64>;

impl Plane {
    /// Appends all of them.
    pub fn write_metrics(&self, out: &mut String) {
        self.write_roots(out);
        let resources = self.shelves.read().unwrap_or_else(PoisonError::into_inner).resources.len();
        let inner = self.lock();
        let services = self.services(&inner);
        let connected = inner.members.values().filter(|member| member.streams > 0).count();
        let plain = [
            ("proxies_connected", "Proxies that are connected.", count(connected)),
            ("resources", "Resources that proxies may ask for.", count(resources)),
            ("resources_refused", "Resources that at least one proxy refuses.", count(self.show_refused(&inner).len())),
            (
                "registry_frozen",
                "Whether nobody is taken out of the registry, because too many fell silent at once.",
                flag(inner.registry.is_frozen()),
            ),
            (
                "state_written",
                "Whether the state can be written; nobody joins or registers without.",
                flag(self.store.is_sound()),
            ),
        ];
        drop(inner);
        for (name, help, value) in plain {
            family(out, &format!("transept_control_{name}"), help, [(String::new(), Some(value))]);
        }
        write_services(&services, out);
    }

    fn write_roots(&self, out: &mut String) {
        let authorities = self.ca.authorities();
        let samples = authorities.iter().filter_map(|authority| {
            let root = Fingerprint::of(authority.root()?);
            #[expect(clippy::cast_precision_loss, reason = "seconds since 1970 fit")]
            Some((format!("root=\"{}\"", root.short()), Some(authority.not_after().as_secs() as f64)))
        });
        let help = "When a root of the mesh ends, in seconds since the epoch.";
        family(out, "transept_mesh_root_expiration_timestamp_seconds", help, samples);
    }
}

/// What callers see of each service, and who serves it.
fn write_services(services: &[Value], out: &mut String) {
    let of_each =
        |of: fn(&Value) -> Option<f64>| services.iter().map(move |one| (label(one), of(one))).collect::<Vec<_>>();
    let verdicts = services.iter().flat_map(|one| {
        let sample = |verdict| (format!("{},verdict=\"{verdict}\"", label(one)), Some(flag(one["verdict"] == verdict)));
        VERDICTS.map(sample)
    });
    let help = "The verdict on a service, 1 at the one that stands.";
    family(out, "transept_mesh_service_verdict", help, verdicts);
    let instances = services.iter().flat_map(|one| {
        let all = one["instances"].as_array().map_or(&[][..], Vec::as_slice);
        let sample = |state| {
            let such = all.iter().filter(|instance| instance["state"] == state).count();
            (format!("{},state=\"{state}\"", label(one)), Some(count(such)))
        };
        STATES.map(sample)
    });
    family(out, "transept_mesh_service_instances", "Registered instances of a service, by how they are.", instances);
    let figures: [(&str, &str, Figure); 3] = [
        ("requests_per_second", "Requests of all callers together.", |one| one["requestsPerSecond"].as_f64()),
        ("error_ratio", "The part of recent requests that failed by its fault, from 0 to 1.", |one| {
            one["errorRate"].as_f64()
        }),
        ("latency_p99_seconds", "Within what time 99 of 100 recent requests were answered.", |one| {
            one["p99Ms"].as_f64().map(|millis| millis / 1000.0)
        }),
    ];
    for (name, help, of) in figures {
        family(out, &format!("transept_mesh_service_{name}"), help, of_each(of));
    }
}

/// The name of a service as a label, escaped as the format demands: members tell of services that they call by any name.
fn label(service: &Value) -> String {
    let name = service["service"].as_str().unwrap_or_default();
    format!("service=\"{}\"", name.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
}

#[expect(clippy::cast_precision_loss, reason = "nobody has so many")]
fn count(number: usize) -> f64 {
    number as f64
}

fn flag(is: bool) -> f64 {
    if is { 1.0 } else { 0.0 }
}

/// Appends one family of gauges; a sample is its labels and its value, and left out where there is none.
fn family(out: &mut String, name: &str, help: &str, samples: impl IntoIterator<Item = (String, Option<f64>)>) {
    // Writing to a String cannot fail.
    let _ = write!(out, "# HELP {name} {help}\n# TYPE {name} gauge\n");
    for (labels, value) in samples {
        let Some(value) = value else { continue };
        let labels = if labels.is_empty() { labels } else { format!("{{{labels}}}") };
        let _ = writeln!(out, "{name}{labels} {value}");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_service_has_one_verdict_and_figures_where_there_are_any() {
        let (mut out, service) = (
            String::new(),
            json!({
                "service": "shop/cart", "verdict": "degraded", "requestsPerSecond": 2.5, "errorRate": null, "p99Ms": 12.5,
                "instances": [{"name": "a", "state": "healthy"}, {"name": "b", "state": "silent"}, {"name": "c", "state": "healthy"}],
            }),
        );
        let strange = json!({"service": "a\"} 1\n", "verdict": "unknown", "instances": []});
        write_services(&[service, strange], &mut out);
        for line in [
            "transept_mesh_service_verdict{service=\"shop/cart\",verdict=\"degraded\"} 1",
            "transept_mesh_service_verdict{service=\"shop/cart\",verdict=\"healthy\"} 0",
            "transept_mesh_service_instances{service=\"shop/cart\",state=\"healthy\"} 2",
            "transept_mesh_service_instances{service=\"shop/cart\",state=\"silent\"} 1",
            "transept_mesh_service_requests_per_second{service=\"shop/cart\"} 2.5",
            "transept_mesh_service_verdict{service=\"a\\\"} 1\\n\",verdict=\"unknown\"} 1",
            "transept_mesh_service_latency_p99_seconds{service=\"shop/cart\"} 0.0125",
        ] {
            assert!(out.lines().any(|one| one == line), "{line}:\n{out}");
        }
        assert!(!out.contains("transept_mesh_service_error_ratio{"), "{out}");
        assert_eq!(out.matches("} 1\n").count(), 3, "{out}");
    }
}
