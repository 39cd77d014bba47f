//! What is wrong with ApiKeys that are well-formed: whose they are, and whether they can be told apart.
//!
//! Called by `compile`. Such a key lets nobody in; nothing else is touched. Whether a key has ended is not said here, because nobody
//! here knows what time it is.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use transept_model::place::Invalid;
use transept_model::schema::Text;
use transept_model::secrecy::may_be_credential;
use transept_model::suggest::nearest;
use transept_model::world::World;

pub(super) fn judge(world: &World, problems: &mut Vec<Invalid>) {
    let mut seen: HashMap<(&Text, [u8; 32]), &Text> = HashMap::new();
    for key in world.api_keys() {
        let (namespace, consumer) = (&key.meta.namespace, &key.spec.consumer);
        let mut refuse = |field: &str, why: String, remedy: String| {
            let mut invalid = Invalid::new(key.meta.at.clone(), why);
            invalid.object = Some(key.meta.object_name());
            field.clone_into(&mut invalid.field);
            invalid.remedy(remedy);
            problems.push(invalid);
        };
        if world.consumer(namespace, consumer).is_none() {
            let known = world.consumers().iter().filter(|one| one.meta.namespace == *namespace);
            let remedy = match nearest(consumer, known.map(|one| &*one.meta.name)) {
                Some(near) => format!("did you mean `{near}`?"),
                None if may_be_credential(consumer) => "add it, or mend the name".to_owned(),
                None => format!("add it: `kind: Consumer`, `name: {consumer}`"),
            };
            let named = match may_be_credential(consumer) {
                true => format!("of that name in {namespace}"),
                false => format!("{namespace}/{consumer}"),
            };
            let why = format!("there is no Consumer {named}, so that nobody can come in with this key");
            refuse("spec.consumer", why, remedy);
        }
        match seen.entry((namespace, key.spec.hash.bytes)) {
            Entry::Vacant(free) => {
                free.insert(&key.meta.name);
            }
            Entry::Occupied(first) => {
                let why = format!("ApiKey {namespace}/{} has the same hash, and counts", first.get());
                refuse("spec.hash", why, "remove one of them".to_owned());
            }
        }
    }
}
