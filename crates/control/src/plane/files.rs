//! What the files of a mesh hold, text by text, so that a change costs the text that changed and not all of them.
//!
//! Read by `core` whenever a follower has found files good. Resources are made here; who is sent what is decided elsewhere.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;
use transept_model::SourceText;
use transept_model::load::Outside;
use transept_xds::{Key, Resource, Version};

use super::adoption::Adoption;
use super::members::Members;
use super::registry::Name;
use super::sharing;
use super::source::{self, Kinds, Secrets};

/// What all files hold together. Immutable: a change is another one.
#[derive(Debug, Default)]
pub(crate) struct Files {
    texts: Vec<Arc<Contents>>,
    keys: BTreeSet<Key>,
    pub(super) services: BTreeSet<Name>,
    pub(super) members: Members,
    pub(super) secrets: Secrets,
    /// Policies whose limits are divided among the proxies that hold them, as objects.
    pub(super) divided: BTreeMap<Key, Value>,
    adoption: Adoption,
    /// Routes that attach to nothing. They stay here: a gateway that is sent one sees no Gateway but its own, and would take it in.
    withheld: BTreeSet<Key>,
}

/// What one text holds.
#[derive(Debug, Default)]
struct Contents {
    resources: Vec<Resource>,
    services: BTreeSet<Name>,
    members: Members,
    secrets: Secrets,
    divided: BTreeMap<Key, Value>,
    adoption: Adoption,
}

/// Reads texts, and keeps what came of them until the next time.
#[derive(Debug, Default)]
pub(super) struct Reader {
    kept: Mutex<HashMap<Version, Arc<Contents>>>,
}

impl Reader {
    /// Reads all texts, which have been found good. A text that was there the last time is not read again, unless it takes values
    /// from outside.
    pub(super) fn read(&self, texts: &[SourceText], kinds: &Kinds, outside: &dyn Outside) -> Files {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let mut keep = HashMap::with_capacity(texts.len());
        let mut files = Files::default();
        for text in texts {
            let version = Version::of(text.text.as_bytes(), None);
            let known = kept.get(&version).cloned();
            let contents = known.unwrap_or_else(|| Arc::new(Contents::of(text, kinds, outside)));
            if !source::asks_outside(text) {
                keep.insert(version, contents.clone());
            }
            files.add(contents);
        }
        files.withheld = files.adoption.withheld();
        files.keys.retain(|key| !files.withheld.contains(key));
        *kept = keep;
        files
    }
}

impl Contents {
    fn of(text: &SourceText, kinds: &Kinds, outside: &dyn Outside) -> Self {
        let objects = source::objects(std::slice::from_ref(text), outside);
        Self {
            resources: objects.iter().filter_map(|object| kinds.resource(object)).collect(),
            services: source::services(&objects),
            members: Members::of(&objects),
            secrets: source::secrets(&objects),
            divided: sharing::divided(&objects, kinds),
            adoption: Adoption::of(&objects, kinds),
        }
    }
}

impl Files {
    fn add(&mut self, contents: Arc<Contents>) {
        self.keys.extend(contents.resources.iter().map(|resource| resource.key().clone()));
        self.services.extend(contents.services.iter().cloned());
        self.members.add(&contents.members);
        self.secrets.add(&contents.secrets);
        self.adoption.add(&contents.adoption);
        for (key, object) in &contents.divided {
            // Of two of one name the first counts.
            self.divided.entry(key.clone()).or_insert_with(|| object.clone());
        }
        self.texts.push(contents);
    }

    /// Every resource; of two of one name the first counts.
    pub(super) fn resources(&self) -> impl Iterator<Item = &Resource> {
        let mut seen = BTreeSet::new();
        let all = self.texts.iter().flat_map(|contents| &contents.resources);
        all.filter(move |resource| !self.withheld.contains(resource.key()) && seen.insert(resource.key()))
    }

    /// Whether there is an object of this key.
    pub(super) fn hold(&self, key: &Key) -> bool {
        self.keys.contains(key)
    }

    /// The keys of all objects.
    pub(super) fn keys(&self) -> &BTreeSet<Key> {
        &self.keys
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use transept_model::load::Wanted;

    use super::*;

    /// Another value each time that it is asked.
    #[derive(Default)]
    struct Clock(Cell<u8>);

    impl Outside for Clock {
        fn read(&self, _: &Wanted) -> Result<Vec<u8>, String> {
            self.0.set(self.0.get() + 1);
            Ok(vec![self.0.get()])
        }
    }

    fn service(name: &str, port: u16) -> String {
        format!("---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{ports: [{{port: {port}}}]}}\n")
    }

    fn names(files: &Files) -> Vec<String> {
        files.resources().map(|resource| resource.key().name.to_string()).collect()
    }

    #[test]
    fn only_a_text_that_changed_is_read_again() {
        let (reader, kinds, outside) = (Reader::default(), Kinds::default(), Clock::default());
        let text = |name: &str, text: String| SourceText::new(name, text);
        let (one, two) = (text("1.yaml", service("cart", 80)), text("2.yaml", service("bank", 80)));
        let before = reader.read(&[one.clone(), two], &kinds, &outside);
        let after = reader.read(&[one, text("2.yaml", service("bank", 81) + &service("shop", 80))], &kinds, &outside);
        assert_eq!(names(&before), ["default/cart", "default/bank"]);
        assert_eq!(names(&after), ["default/cart", "default/bank", "default/shop"]);
        assert!(Arc::ptr_eq(&before.texts[0], &after.texts[0]));
        assert!(!Arc::ptr_eq(&before.texts[1], &after.texts[1]));
        assert_eq!(after.services.len(), 3);
        let last = reader.read(&[], &kinds, &outside);
        assert!(last.keys().is_empty() && reader.kept.lock().unwrap().is_empty(), "what is gone is not kept");
    }

    #[test]
    fn values_from_outside_are_asked_for_each_time() {
        let (reader, kinds, outside) = (Reader::default(), Kinds::default(), Clock::default());
        let secret = "apiVersion: v1\nkind: Secret\nmetadata: {name: key, annotations: {transept.dev/from-env: a=A}}\n";
        let texts = [SourceText::new("secret.yaml", secret)];
        let payload = |files: &Files| files.resources().next().map(|resource| resource.payload().clone());
        let before = payload(&reader.read(&texts, &kinds, &outside));
        let after = payload(&reader.read(&texts, &kinds, &outside));
        assert!(before.is_some() && before != after);
    }

    #[test]
    fn a_route_without_parents_stays_here_where_there_are_several_gateways() {
        let (reader, kinds, outside) = (Reader::default(), Kinds::default(), Clock::default());
        let gateway = |name: &str, class: &str| {
            format!(
                "---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: {name}}}\nspec: {{gatewayClassName: {class}}}\n"
            )
        };
        let route = |name: &str, spec: &str| {
            format!(
                "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {name}}}\nspec: {spec}\n"
            )
        };
        let class = "---\napiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata: {name: else}\nspec: {controllerName: example.com/c}\n";
        let routes = route("bare", "{rules: []}")
            + &route("own", "{parentRefs: [{name: edge}]}")
            + &route("all", "{useDefaultGateways: All}");
        let sent = |gateways: String| {
            let texts = [SourceText::new("routes.yaml", routes.as_str()), SourceText::new("gateways.yaml", gateways)];
            let files = reader.read(&texts, &kinds, &outside);
            let bare = files.keys().iter().any(|key| &*key.name == "default/bare");
            let names = names(&files);
            assert_eq!(names.contains(&"default/bare".to_owned()), bare);
            assert!(["default/own", "default/all"].iter().all(|name| names.contains(&(*name).to_owned())), "{names:?}");
            bare
        };
        assert!(sent(String::new()) && sent(gateway("edge", "transept")));
        assert!(!sent(gateway("edge", "transept") + &gateway("inner", "transept")));
        assert!(
            sent(gateway("edge", "transept") + &gateway("inner", "else") + class),
            "the other one is somebody else's"
        );
    }

    #[test]
    fn of_two_objects_of_one_name_the_first_counts() {
        let (kinds, outside) = (Kinds::default(), Clock::default());
        let texts = [80, 81].map(|port| SourceText::new("same.yaml", service("cart", port)));
        let files = Reader::default().read(&texts, &kinds, &outside);
        let payloads: Vec<_> = files.resources().map(|resource| resource.payload().clone()).collect();
        assert_eq!(payloads.len(), 1);
        assert!(payloads[0].windows(2).any(|digits| digits == b"80"), "{payloads:?}");
    }
}
