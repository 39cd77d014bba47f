//! Label selectors (`metav1.LabelSelector`).
//!
//! Used by `allowedRoutes` and `allowedListeners`; `attach` asks [`LabelSelector::matches`].

use crate::schema::{ANNOTATION_KEY, Decoder, LABEL_VALUE, Labels, Rule};
use crate::value::Value;

crate::choice! {
    /// How a requirement compares a label.
    pub enum SelectorOperator {
        /// The label has one of the values.
        In = "In",
        /// The label is not there or has none of the values.
        NotIn = "NotIn",
        /// The label is there.
        Exists = "Exists",
        /// The label is not there.
        DoesNotExist = "DoesNotExist",
    }
}

crate::object! {
    /// One requirement on a label.
    pub struct SelectorRequirement {
        /// The label.
        key: String => Rule::Is(&ANNOTATION_KEY);
        /// How it is compared.
        operator: SelectorOperator;
        /// What it is compared with; needed for `In` and `NotIn`, forbidden for the others.
        values: Vec<String> => Rule::Is(&LABEL_VALUE);
    }
    check check_requirement;
}

crate::object! {
    /// Selects objects by their labels. Everything listed must hold; an empty selector selects everything.
    pub struct LabelSelector {
        /// Labels that must be there with these values.
        match_labels: Labels => Rule::Keys(&ANNOTATION_KEY), Rule::Is(&LABEL_VALUE);
        /// Further requirements.
        match_expressions: Vec<SelectorRequirement>;
    }
}

impl LabelSelector {
    /// True when `labels` meet every requirement.
    pub fn matches(&self, labels: &Labels) -> bool {
        let exact = self.match_labels.iter().all(|(key, value)| labels.get(key) == Some(value));
        exact && self.match_expressions.iter().all(|one| one.matches(labels))
    }
}

impl SelectorRequirement {
    fn matches(&self, labels: &Labels) -> bool {
        let label = labels.get(&self.key);
        match self.operator {
            SelectorOperator::In => label.is_some_and(|value| self.values.contains(value)),
            SelectorOperator::NotIn => label.is_none_or(|value| !self.values.contains(value)),
            SelectorOperator::Exists => label.is_some(),
            SelectorOperator::DoesNotExist => label.is_none(),
        }
    }
}

fn check_requirement(requirement: &SelectorRequirement, value: &Value, cx: &mut Decoder) {
    let compares = matches!(requirement.operator, SelectorOperator::In | SelectorOperator::NotIn);
    if compares == requirement.values.is_empty() {
        let operator = requirement.operator;
        let why = if compares { format!("`{operator}` needs values") } else { format!("`{operator}` takes no values") };
        cx.refuse_field(value, "values", why);
    }
}
