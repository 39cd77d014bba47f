//! Files as they were read the last time, so that a change of one file costs the reading of one.
//!
//! Given to [`super::Loader`] by who loads again and again and has the memory: objects are large. A file is known by its name and a hash of
//! its contents. What takes values from outside is read each time, because the same text may mean something else.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError};

use crate::kinds::{
    Age, ApiKeySpec, BackendSpec, BackendTlsPolicySpec, ConfigMapBody, ConsumerSpec, EndpointSliceBody,
    GatewayClassSpec, GatewaySpec, GrpcRouteSpec, HttpRouteSpec, Metadata, NamespaceBody, Object, ReferenceGrantSpec,
    SecretBody, ServiceSpec, TcpRouteSpec, WorkloadSpec,
};
use crate::load::draft::Draft;
use crate::load::outside::{FROM_ENV, FROM_FILE};
use crate::place::{Invalid, Note, SourceText};
use crate::policy::Policy;
use crate::schema::Text;

/// What the files of the latest load hold. One is good for loaders that know the same policies and treat broken ones and budgets alike.
#[derive(Debug, Default)]
pub struct Cache {
    kept: Mutex<HashMap<FileKey, Arc<Fragment>>>,
}

/// The name of a file, and a hash of its contents.
type FileKey = (Arc<str>, u64);

/// The files of the load that is under way.
pub(super) struct Reading<'c> {
    cache: &'c Cache,
    before: HashMap<FileKey, Arc<Fragment>>,
    now: HashMap<FileKey, Arc<Fragment>>,
}

impl Cache {
    /// Begins a load. What it does not ask for is forgotten when it ends.
    pub(super) fn begin(&self) -> Reading<'_> {
        let before = std::mem::take(&mut *self.kept.lock().unwrap_or_else(PoisonError::into_inner));
        Reading { cache: self, before, now: HashMap::new() }
    }
}

impl Reading<'_> {
    /// What a file holds, read by `read` unless it was there the last time.
    pub(super) fn find(&mut self, source: &SourceText, read: impl FnOnce() -> Fragment) -> Arc<Fragment> {
        let mut hasher = DefaultHasher::new();
        source.text.hash(&mut hasher);
        let key = (source.name.clone(), hasher.finish());
        let fragment = self.before.remove(&key).or_else(|| self.now.get(&key).cloned());
        let fragment = fragment.unwrap_or_else(|| Arc::new(read()));
        if !fragment.asks_outside() {
            self.now.insert(key, fragment.clone());
        }
        fragment
    }
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        *self.cache.kept.lock().unwrap_or_else(PoisonError::into_inner) = std::mem::take(&mut self.now);
    }
}

macro_rules! fragment {
    ($($list:ident: $spec:ty;)*) => {
        /// What one file holds, in the order of the file.
        #[derive(Debug, Default)]
        pub(super) struct Fragment {
            $($list: Vec<Object<$spec>>,)*
            policies: Vec<Policy>,
            broken_tls: HashMap<(Text, Text), Box<str>>,
            invalid: Vec<Invalid>,
            notes: Vec<Note>,
        }

        impl Draft<'_> {
            /// What was read, when it was one file.
            pub(super) fn into_fragment(self) -> Fragment {
                Fragment {
                    $($list: self.$list,)*
                    policies: self.policies,
                    broken_tls: self.broken_tls,
                    invalid: self.invalid,
                    notes: self.notes,
                }
            }

            /// Adds what a file holds; `file` is its place among all.
            pub(super) fn add_fragment(&mut self, file: u32, fragment: &Fragment) {
                self.invalid.extend(fragment.invalid.iter().cloned());
                self.notes.extend(fragment.notes.iter().cloned());
                self.broken_tls.extend(fragment.broken_tls.iter().map(|(name, why)| (name.clone(), why.clone())));
                $(
                    for object in &fragment.$list {
                        let mut object = object.clone();
                        move_to(file, &mut object.meta);
                        self.add(object, |draft| &mut draft.$list);
                    }
                )*
                for policy in &fragment.policies {
                    let mut policy = policy.clone();
                    move_to(file, &mut policy.meta);
                    self.add_policy(policy);
                }
            }
        }
    };
}

fragment! {
    namespaces: NamespaceBody;
    services: ServiceSpec;
    endpoint_slices: EndpointSliceBody;
    secrets: SecretBody;
    config_maps: ConfigMapBody;
    gateway_classes: GatewayClassSpec;
    gateways: GatewaySpec;
    http_routes: HttpRouteSpec;
    grpc_routes: GrpcRouteSpec;
    tcp_routes: TcpRouteSpec;
    grants: ReferenceGrantSpec;
    backend_tls_policies: BackendTlsPolicySpec;
    backends: BackendSpec;
    workloads: WorkloadSpec;
    consumers: ConsumerSpec;
    api_keys: ApiKeySpec;
}

impl Fragment {
    /// Whether the same text can mean something else the next time.
    fn asks_outside(&self) -> bool {
        let asks = |meta: &Metadata| [FROM_ENV, FROM_FILE].iter().any(|one| meta.annotations.contains_key(*one));
        self.secrets.iter().any(|secret| asks(&secret.meta))
    }
}

/// The place of a file among all may change while the file does not.
fn move_to(file: u32, meta: &mut Metadata) {
    if let Age::Written { file: place, .. } = &mut meta.age {
        *place = file;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::load::{Loaded, Loader, Outside, Wanted};

    fn text(name: &str, text: &str) -> SourceText {
        SourceText::new(name, text)
    }

    fn service(name: &str, port: u16) -> String {
        format!("---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{ports: [{{port: {port}}}]}}\n")
    }

    const ROUTE: &str = "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: shop}\n\
                         spec: {rules: [{backendRefs: [{name: cart, port: 80}]}]}\n";

    /// The names of the files that are kept.
    fn kept(cache: &Cache) -> Vec<String> {
        let kept = cache.kept.lock().expect("nobody failed");
        let mut names: Vec<String> = kept.keys().map(|(name, _)| name.to_string()).collect();
        names.sort();
        names
    }

    /// Everything that comes of a load, as text.
    fn all(loaded: &Loaded) -> String {
        let world = &loaded.world;
        format!(
            "{:?} {:?} {:?} {:?} {:?}",
            world.services(),
            world.http_routes(),
            world.gateways(),
            loaded.invalid,
            loaded.notes
        )
    }

    #[test]
    fn what_comes_of_files_that_were_kept_is_what_comes_of_reading_them() {
        let (cart, bank) = (service("cart", 80), service("bank", 80));
        let twice = service("bank", 80)
            + &service("bank", 81)
            + "kind: Unknown\napiVersion: example.com/v1\nmetadata: {name: x}\n---\nspec: [";
        let steps: [&[SourceText]; 6] = [
            &[text("1.yaml", &cart), text("2.yaml", &bank), text("3.yaml", ROUTE)],
            // Another file comes first, so that the others are younger than it.
            &[text("0.yaml", &service("a", 1)), text("1.yaml", &cart), text("2.yaml", &bank), text("3.yaml", ROUTE)],
            &[text("1.yaml", &cart), text("2.yaml", &service("bank", 81)), text("3.yaml", ROUTE)],
            &[text("1.yaml", &cart), text("2.yaml", &twice), text("3.yaml", ROUTE)],
            &[text("1.yaml", &cart), text("2.yaml", &twice), text("3.yaml", &cart)],
            &[],
        ];
        let cache = Cache::default();
        let mut past = None;
        for files in steps {
            let mut loader = Loader::new(&[]);
            if let Some(past) = &past {
                loader = loader.after(past);
            }
            let (read, reused) = (loader.load(files), loader.reusing(&cache).load(files));
            let again = loader.reusing(&cache).load(files);
            assert_eq!(all(&read), all(&reused));
            assert_eq!(all(&read), all(&again));
            let names: Vec<String> = files.iter().map(|file| file.name.to_string()).collect();
            assert_eq!(kept(&cache), names, "what is gone is not kept");
            past = Some(read.world.past());
        }
    }

    #[test]
    fn only_a_file_that_changed_is_read_again() {
        let cache = Cache::default();
        let fragments = |files: &[SourceText]| {
            let loaded = Loader::new(&[]).reusing(&cache).load(files);
            assert!(loaded.invalid.is_empty(), "{:?}", loaded.invalid);
            let kept = cache.kept.lock().expect("nobody failed");
            let found = |name: &str| kept.iter().find(|((of, _), _)| **of == *name).map(|(_, one)| Arc::as_ptr(one));
            (found("1.yaml"), found("2.yaml"))
        };
        let one = text("1.yaml", &service("cart", 80));
        let before = fragments(&[one.clone(), text("2.yaml", &service("bank", 80))]);
        let after = fragments(&[one, text("2.yaml", &service("bank", 81))]);
        assert_eq!(before.0, after.0);
        assert_ne!(before.1, after.1);
    }

    /// Another value each time that it is asked.
    #[derive(Default)]
    struct Clock(Cell<u8>);

    impl Outside for Clock {
        fn read(&self, _: &Wanted) -> Result<Vec<u8>, String> {
            self.0.set(self.0.get() + 1);
            Ok(vec![self.0.get()])
        }
    }

    #[test]
    fn values_from_outside_are_asked_for_each_time() {
        let (cache, clock) = (Cache::default(), Clock::default());
        let secret = "apiVersion: v1\nkind: Secret\nmetadata: {name: key, annotations: {\"transept.dev\\u002ffrom-env\": a=A}}\n";
        let value = || {
            let loaded = Loader::new(&[]).outside(&clock).reusing(&cache).load(&[text("secret.yaml", secret)]);
            loaded.world.secrets()[0].spec.entry("a").map(<[u8]>::to_vec)
        };
        assert_eq!((value(), value()), (Some(vec![1]), Some(vec![2])));
        assert!(kept(&cache).is_empty());
    }
}
