//! For whose plans a limit holds.
//!
//! Used by the policies that limit. Who is on which plan is a Consumer's or a token's word, found by those that authenticate.

use transept_model::place::Spot;
use transept_model::schema::Text;
use transept_model::suggest::nearest;

use crate::exchange::Exchange;
use crate::policies::{Caution, CompileCx};

/// The plans that a limit holds for; everybody's when there are none.
#[derive(Debug, Default)]
pub(crate) struct Plans {
    names: Vec<Box<str>>,
    /// One that no Consumer has, and the nearest one that some has.
    misspelled: Option<(Box<str>, Box<str>)>,
}

impl Plans {
    pub(crate) fn compile(names: &[Text], cx: &CompileCx<'_>) -> Plans {
        let consumers = cx.world.consumers();
        let known = || consumers.iter().filter_map(|one| one.spec.plan.as_deref());
        // Tokens may tell of others, and so may Consumers that are in no file.
        let unknown = names.iter().filter(|name| known().all(|plan| plan != &***name));
        let misspelled = unknown.filter_map(|name| Some(((&**name).into(), nearest(name, known())?.into()))).next();
        Plans { names: names.iter().map(|name| (&**name).into()).collect(), misspelled }
    }

    /// Whether it holds for everybody.
    pub(crate) fn is_everybody(&self) -> bool {
        self.names.is_empty()
    }

    /// Whether the principal is on one of them.
    pub(crate) fn include(&self, x: &Exchange<'_>) -> bool {
        let plan = || x.notes.principal.as_ref().and_then(|principal| principal.plan.as_deref());
        self.is_everybody() || plan().is_some_and(|plan| self.names.iter().any(|one| **one == *plan))
    }

    /// What the owner of the limit, which is written here, should know of a word that looks misspelled.
    pub(crate) fn caution(&self, limit: &str, at: Spot) -> Option<Caution> {
        let (name, near) = self.misspelled.as_ref()?;
        let what = format!("limit `{limit}` is for plan `{name}`, which no Consumer has; did you mean `{near}`?");
        Some(Caution { at, what })
    }
}
