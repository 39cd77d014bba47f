//! Configurations with many Services and endpoints that never answer, as files for a control plane.
//!
//! Used by the scenarios of memory and of changes.

use std::fmt::Write as _;

/// Objects of one file: the loader bounds what one may hold.
const IN_ONE_FILE: usize = 1_000;

/// So many Services with so many endpoints each.
#[derive(Debug, Clone, Copy)]
pub(super) struct Crowd {
    pub(super) services: usize,
    pub(super) endpoints_of_each: usize,
}

impl Crowd {
    /// How it is called in tables.
    pub(super) fn label(self) -> String {
        match (self.services, self.endpoints_of_each) {
            (0, _) => "idle".to_owned(),
            (1, endpoints) => format!("{endpoints} endpoints in one Service"),
            (services, each) => format!("{} endpoints in {services} Services", services * each),
        }
    }

    /// Names and texts of the files; the number of a Service becomes its name.
    pub(super) fn files(self, name: impl Fn(usize) -> String) -> Vec<(String, String)> {
        let services = (0..self.services).map(|service| {
            format!(
                "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {}}}\nspec: {{ports: [{{port: 80, appProtocol: http}}]}}\n",
                name(service)
            )
        });
        let workloads = (0..self.services * self.endpoints_of_each).map(|at| {
            let service = name(at / self.endpoints_of_each);
            // Nobody listens there, and nothing leaves the machine.
            let (high, middle, low) = (64 + (at >> 16 & 63), at >> 8 & 255, at & 255);
            let mut text = String::new();
            let _ = write!(
                text,
                "---\napiVersion: transept.dev/v1alpha1\nkind: Workload\nmetadata: {{name: {service}-{at}}}\nspec: {{services: [{service}], \
                 address: 127.{high}.{middle}.{low}, ports: [{{port: 80, targetPort: 8080}}], tunnel: {{}}}}\n"
            );
            text
        });
        let objects: Vec<String> = services.chain(workloads).collect();
        let files = objects.chunks(IN_ONE_FILE).enumerate();
        files.map(|(at, some)| (format!("crowd-{at}.yaml"), some.concat())).collect()
    }
}
