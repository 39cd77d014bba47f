//! A path: normal form is stable, holds nothing that climbs, and decodes to what the original decodes to.
#![no_main]

use libfuzzer_sys::fuzz_target;
use transept_wire::normalize::{Controls, Encoding, Form, MergeSlashes, Normal, PathRules, Slashes, path};

fuzz_target!(|input: &[u8]| {
    let Some((&choice, raw)) = input.split_first() else {
        return;
    };
    let rules = PathRules {
        form: Form::Normalize,
        encoded_slash: if choice & 1 == 0 { Slashes::Refuse } else { Slashes::Keep },
        merge_slashes: if choice & 2 == 0 { MergeSlashes::Merge } else { MergeSlashes::Keep },
        encoded_controls: if choice & 4 == 0 { Controls::Refuse } else { Controls::Keep },
        encoding: if choice & 8 == 0 { Encoding::Any } else { Encoding::Utf8 },
    };
    let Ok(normal) = normalize(raw, &rules) else {
        return;
    };
    assert_eq!(normalize(&normal, &rules).as_deref(), Ok(normal.as_slice()), "not idempotent");
    if normal == b"*" {
        return;
    }
    assert_eq!(normal.first(), Some(&b'/'));
    let text = std::str::from_utf8(&normal).expect("ASCII");
    assert!(text.bytes().all(|byte| byte.is_ascii_graphic() && !b"\\#?\"<>[]^`{|}".contains(&byte)));
    assert!(text.split('/').all(|segment| segment != "." && segment != ".."));
    if rules.merge_slashes == MergeSlashes::Merge {
        assert!(!text.contains("//"));
    }
    for forbidden in ["%00", "%2e", "%2E", "%7E"] {
        assert!(!text.contains(forbidden));
    }
    if rules.encoded_slash == Slashes::Refuse {
        assert!(!text.contains("%2F") && !text.contains("%5C"));
    }
    if rules.encoding == Encoding::Utf8 {
        assert!(std::str::from_utf8(&decoded(&normal)).is_ok());
    }
    // Without dots and slashes to remove, only the spelling has changed.
    let spelled = decoded(raw);
    if !spelled.contains(&b'.') && !spelled.windows(2).any(|window| window == b"//") {
        assert_eq!(decoded(&normal), spelled);
    }
    // The other forms agree with this one.
    assert_eq!(normalize(raw, &PathRules { form: Form::Refuse, ..rules }).is_ok(), normal == raw);
    assert_eq!(normalize(raw, &PathRules { form: Form::Raw, ..rules }).as_deref(), Ok(raw));
});

fn normalize(raw: &[u8], rules: &PathRules) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    match path(raw, rules, &mut out) {
        Ok(Normal::Unchanged) => Ok(raw.to_vec()),
        Ok(Normal::Rewritten) => {
            assert_ne!(out, raw);
            Ok(out)
        }
        Err(why) => Err(why.to_string()),
    }
}

fn decoded(path: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = path;
    while let [byte, tail @ ..] = rest {
        rest = tail;
        if *byte == b'%' {
            let (digits, tail) = tail.split_at(2);
            out.push(u8::from_str_radix(std::str::from_utf8(digits).expect("hex"), 16).expect("hex"));
            rest = tail;
        } else {
            out.push(*byte);
        }
    }
    out
}
