//! Steps that change objects while the binary runs, by rewriting the files that it watches.

use serde_json::Value;

use super::Stage;
use crate::case::{Apply, Delete, Endpoints, Operation, Patch};
use crate::world::World;

impl Stage<'_> {
    pub(super) async fn apply(&mut self, step: &Apply) -> Result<(), String> {
        let objects = step.objects.iter().map(|object| self.fill_all(object)).collect::<Result<Vec<_>, _>>()?;
        self.change(|world| {
            world.apply(&objects);
            Ok(())
        })
        .await
    }

    pub(super) async fn patch(&mut self, step: &Patch) -> Result<(), String> {
        let operations = step.ops.iter().map(|op| self.fill_operation(op)).collect::<Result<Vec<_>, _>>()?;
        self.change(|world| world.patch(&step.object, &operations)).await
    }

    pub(super) async fn delete(&mut self, step: &Delete) -> Result<(), String> {
        self.change(|world| world.delete(&step.object)).await
    }

    pub(super) async fn endpoints(&mut self, step: &Endpoints) -> Result<(), String> {
        let endpoints =
            self.scene.endpoints(&step.from_pods_of, &step.address_type).map_err(|why| format!("{why:#}"))?;
        if endpoints.is_empty() && step.skip_if_empty {
            return Ok(());
        }
        let endpoints = Value::Array(endpoints);
        self.change(|world| step.slices.iter().try_for_each(|slice| world.set_endpoints(slice, endpoints.clone())))
            .await
    }

    /// Changes the world, writes it, and waits until the binary has taken it in.
    async fn change(&mut self, change: impl FnOnce(&mut World) -> anyhow::Result<()>) -> Result<(), String> {
        let before = self.objects().await?.configuration();
        let world = &mut self.scene.world;
        change(world).and_then(|()| world.write()).map_err(|why| format!("{why:#}"))?;
        self.settle(before).await
    }

    fn fill_operation(&self, operation: &Operation) -> Result<Operation, String> {
        let mut filled = operation.clone();
        match &mut filled {
            Operation::Add { value, .. } | Operation::Replace { value, .. } | Operation::Test { value, .. } => {
                *value = self.fill_all(value)?;
            }
            Operation::Remove { .. } => {}
        }
        Ok(filled)
    }

    fn fill_all(&self, value: &Value) -> Result<Value, String> {
        match value {
            Value::String(text) => self.fill(text).map(Value::String),
            Value::Array(items) => items.iter().map(|item| self.fill_all(item)).collect(),
            Value::Object(fields) => {
                let filled = fields.iter().map(|(key, value)| Ok((key.clone(), self.fill_all(value)?)));
                filled.collect::<Result<_, String>>().map(Value::Object)
            }
            other => Ok(other.clone()),
        }
    }

    /// Replaces a text that is one placeholder by what it stands for.
    pub(super) fn fill(&self, text: &str) -> Result<String, String> {
        let Some(name) = text.strip_prefix("${").and_then(|rest| rest.strip_suffix('}')) else {
            return Ok(text.to_owned());
        };
        match name {
            "usable_address" => Ok(self.scene.usable_address.to_string()),
            "unusable_address" => Ok(crate::addresses::UNUSABLE.to_string()),
            "usable_address.type" => Ok("IPAddress".to_owned()),
            _ => {
                let reference = name.strip_suffix(":ca.crt").ok_or_else(|| format!("unknown placeholder {text}"))?;
                let pem = self.certificates.authority(reference).map_err(|why| format!("{why:#}"))?;
                Ok(pem.to_owned())
            }
        }
    }
}
