//! An expression as it is written: it is taken or refused at a place within it, and what is taken once is taken again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use transept_engine::expression::Condition;

fuzz_target!(|text: &str| {
    match Condition::compile(text) {
        Ok(condition) => assert!(Condition::compile(condition.text()).is_ok()),
        Err(flaw) => assert!(flaw.at <= text.len() && !flaw.why.is_empty()),
    }
});
