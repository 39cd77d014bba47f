//! Steps that wait for a status. The rules are in `compare::status`.

use tokio::time::{Duration, sleep};

use super::Stage;
use crate::case::{
    Condition, GatewayStatus, GatewayclassStatus, Generation, ParentConditions, PolicyStatus, Ready, RouteStatus,
    RoutesAccepted,
};
use crate::compare::status::{self, Complaint, NamespaceRule};
use crate::world::text;

const SKIP_READINESS: &str = "/metadata/annotations/gateway-api~1skip-this-for-readiness";

impl Stage<'_> {
    pub(super) async fn ready(&self, step: &Ready) -> Result<(), String> {
        let gateways: Vec<String> = self
            .scene
            .world
            .of_kind("Gateway")
            .filter(|gateway| step.namespaces.iter().any(|name| name == text(gateway, "/metadata/namespace")))
            .filter(|gateway| text(gateway, SKIP_READINESS) != "true")
            .map(|gateway| format!("{}/{}", text(gateway, "/metadata/namespace"), text(gateway, "/metadata/name")))
            .collect();
        self.wait_for(async |objects| {
            gateways.iter().try_for_each(|gateway| status::gateway_ready(objects.named("Gateway", gateway)?))
        })
        .await
    }

    pub(super) async fn routes_accepted(&self, step: &RoutesAccepted) -> Result<(), String> {
        let wanted = [ParentConditions {
            kind: step.parent.kind.clone(),
            reference: step.parent.reference.clone(),
            conditions: vec![Condition {
                kind: "Accepted".to_owned(),
                status: "True".to_owned(),
                reason: Some("Accepted".to_owned()),
            }],
        }];
        self.wait_for(async |objects| {
            let parent = objects.named(&step.parent.kind, &step.parent.reference)?;
            if step.parent.kind == "Gateway" {
                status::first_address(parent)?;
            }
            for route in &step.routes {
                let route = objects.named(&step.kind, route)?;
                status::parents(route, &wanted, NamespaceRule::WhenItDiffers)?;
            }
            if step.parent_listeners_ready { status::listeners_ready(parent) } else { Ok(()) }
        })
        .await
    }

    pub(super) async fn gateway_status(&self, step: &GatewayStatus) -> Result<(), String> {
        let mut step = step.clone();
        for address in step.addresses.iter_mut().flatten() {
            address.value = self.fill(&address.value)?;
            address.kind = self.fill(&address.kind)?;
        }
        self.wait_for(async |objects| status::gateway(&step, objects.named("Gateway", &step.gateway)?)).await
    }

    pub(super) async fn route_status(&self, step: &RouteStatus) -> Result<(), String> {
        if step.no_accepted_parents {
            return self.no_accepted_parents(step).await;
        }
        let rule = match step.parent_namespace_required {
            true => NamespaceRule::Always,
            false => NamespaceRule::WhenItDiffers,
        };
        self.wait_for(async |objects| {
            let route = objects.named(&step.kind, &step.route)?;
            if let Some(parent) = &step.parent {
                status::route(route, parent, &step.conditions)?;
            }
            if let Some(parents) = &step.parents {
                status::parents(route, parents, rule)?;
            }
            if step.latest_generation { status::entries_latest_generation(route, "/status/parents") } else { Ok(()) }
        })
        .await
    }

    /// A route without any parent must be seen so twice, a second apart.
    async fn no_accepted_parents(&self, step: &RouteStatus) -> Result<(), String> {
        let mut settled = false;
        for round in 0..2 {
            self.wait_for(async |objects| {
                settled = match objects.named(&step.kind, &step.route) {
                    Ok(route) => status::no_accepted_parents(route)?,
                    // A route that is attached to nothing need not have a status at all.
                    Err(Complaint::NotYet(_)) => false,
                    Err(never) => return Err(never),
                };
                Ok(())
            })
            .await?;
            if settled {
                break;
            }
            if round == 0 {
                sleep(Duration::from_secs(1)).await;
            }
        }
        Ok(())
    }

    pub(super) async fn policy_status(&self, step: &PolicyStatus) -> Result<(), String> {
        let look = |objects: &super::objects::Objects| {
            let policy = objects.named("BackendTLSPolicy", &step.policy)?;
            if step.latest_generation {
                status::entries_latest_generation(policy, "/status/ancestors")?;
            }
            match &step.ancestor {
                Some(ancestor) => status::policy(policy, ancestor, &step.conditions),
                None => Ok(()),
            }
        };
        if step.immediate {
            return look(&self.objects().await?).map_err(|complaint| match complaint {
                Complaint::NotYet(why) | Complaint::Never(why) => why,
            });
        }
        self.wait_for(async |objects| look(objects)).await
    }

    pub(super) async fn gatewayclass_status(&self, step: &GatewayclassStatus) -> Result<(), String> {
        self.wait_for(async |objects| {
            let found = objects.find("GatewayClass", "", &step.name);
            let class = found.ok_or_else(|| Complaint::NotYet(format!("GatewayClass {} has no status", step.name)))?;
            let present = class.pointer("/status/conditions").and_then(serde_json::Value::as_array);
            let present = present.map_or(&[][..], Vec::as_slice);
            status::conditions(&step.name, present, &step.conditions)?;
            if step.latest_generation { status::latest_generation(class, present) } else { Ok(()) }
        })
        .await
    }

    pub(super) async fn generation(&mut self, step: &Generation) -> Result<(), String> {
        let objects = self.objects().await?;
        let (namespace, name) = step.reference.split_once('/').unwrap_or(("", &step.reference));
        let object = objects.find(&step.kind, namespace, name);
        let generation = object
            .and_then(|object| object.pointer("/metadata/generation")?.as_i64())
            .ok_or_else(|| format!("{} {} has no generation", step.kind, step.reference))?;
        if let Some(key) = &step.differs_from {
            match self.generations.get(key) {
                Some(noted) if *noted != generation => {}
                noted => return Err(format!("generation is {generation}, noted was {noted:?}")),
            }
        }
        if let Some(key) = &step.remember {
            self.generations.insert(key.clone(), generation);
        }
        Ok(())
    }
}
