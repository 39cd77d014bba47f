//! Tables of paths, one row per rule of RFC 3986 6.2.2 and per way around a path policy that was ever used.

use super::*;
use proptest::prelude::*;

fn normal(raw: &str, rules: &PathRules) -> Result<String, BadPath> {
    let mut out = Vec::new();
    Ok(match path(raw.as_bytes(), rules, &mut out)? {
        Normal::Unchanged => raw.to_owned(),
        Normal::Rewritten => String::from_utf8(out).expect("a normal path is ASCII"),
    })
}

fn keep() -> PathRules {
    PathRules { encoded_slash: Slashes::Keep, encoded_controls: Controls::Keep, ..PathRules::default() }
}

#[test]
fn rewrites_to_the_normal_form() {
    for (raw, expected) in [
        ("/", "/"),
        ("*", "*"),
        ("/a/b", "/a/b"),
        ("/a/b/", "/a/b/"),
        ("/.well-known/x", "/.well-known/x"),
        ("/...", "/..."),
        ("/a..b/..c/d..", "/a..b/..c/d.."),
        // Dot segments (5.2.4).
        ("/.", "/"),
        ("/..", "/"),
        ("/a/.", "/a/"),
        ("/a/..", "/"),
        ("/a/b/..", "/a/"),
        ("/a/./b/../../c", "/c"),
        ("/../../x", "/x"),
        ("/a/%2e%2E/b", "/b"),
        ("/a/.%2e/b", "/b"),
        ("/%2e/b", "/b"),
        // Slashes.
        ("//", "/"),
        ("//a///b//", "/a/b/"),
        ("/a//../b", "/b"),
        ("/a/.//b", "/a/b"),
        // Percent-encoding (6.2.2.1, 6.2.2.2).
        ("/%7euser/%41%2d%5f", "/~user/A-_"),
        ("/%e2%82%ac", "/%E2%82%AC"),
        ("/a%20b%3f%23", "/a%20b%3F%23"),
        ("/%252e%252e/x", "/%252e%252e/x"),
        ("/%25%32%65", "/%252e"),
        ("/\"<>[]^`{|}", "/%22%3C%3E%5B%5D%5E%60%7B%7C%7D"),
        // Parameters are the application's.
        ("/a;x=1/..;/b", "/a;x=1/..;/b"),
        ("/a:b@c!$&'()*+,;=", "/a:b@c!$&'()*+,;="),
    ] {
        assert_eq!(normal(raw, &PathRules::default()).as_deref(), Ok(expected), "{raw}");
    }
}

#[test]
fn refuses_what_two_readers_read_differently() {
    for (raw, why) in [
        ("", BadPath::NotRooted),
        ("a/b", BadPath::NotRooted),
        ("**", BadPath::NotRooted),
        ("%2fa", BadPath::NotRooted),
        ("/a%2fb", BadPath::EncodedSlash),
        ("/a%2Fb", BadPath::EncodedSlash),
        ("/..%2fadmin", BadPath::EncodedSlash),
        ("/a%5cb", BadPath::EncodedBackslash),
        ("/a\\b", BadPath::Backslash),
        ("/a%00", BadPath::Nul),
        ("/a%0d%0aSet-Cookie:x", BadPath::EncodedControl),
        ("/a%7F", BadPath::EncodedControl),
        ("/a%", BadPath::Percent),
        ("/a%2", BadPath::Percent),
        ("/a%zz", BadPath::Percent),
        ("/a%+1", BadPath::Percent),
        ("/a b", BadPath::Character),
        ("/a#b", BadPath::Character),
        ("/a?b", BadPath::Character),
        ("/a\tb", BadPath::Character),
        ("/é", BadPath::Character),
    ] {
        assert_eq!(normal(raw, &PathRules::default()), Err(why), "{raw}");
    }
}

#[test]
fn kept_encodings_stay_encoded() {
    for (raw, expected) in [
        ("/a%2fb/../c", Ok("/c")),
        ("/a%2fb%5cc", Ok("/a%2Fb%5Cc")),
        ("/%2f%2F", Ok("/%2F%2F")),
        ("/a%0a", Ok("/a%0A")),
        ("/a%00", Err(BadPath::Nul)),
        ("/a\\b", Err(BadPath::Backslash)),
        ("/..%2fadmin", Err(BadPath::HiddenDots)),
        ("/a%2f..", Err(BadPath::HiddenDots)),
        ("/a%5c%2e%2e%2fb", Err(BadPath::HiddenDots)),
        ("/a%2f.%5Cb/x", Err(BadPath::HiddenDots)),
        ("/a%2f...%5Cb/..x", Ok("/a%2F...%5Cb/..x")),
    ] {
        assert_eq!(normal(raw, &keep()).as_deref().map_err(|why| *why), expected, "{raw}");
    }
}

#[test]
fn slashes_can_be_kept() {
    let rules = PathRules { merge_slashes: MergeSlashes::Keep, ..PathRules::default() };
    for (raw, expected) in
        [("//a//b", "//a//b"), ("/a//../b", "/a/b"), ("/a/.//b", "/a//b"), ("/a/..//b", "//b"), ("/./a/./", "/a/")]
    {
        assert_eq!(normal(raw, &rules).as_deref(), Ok(expected), "{raw}");
    }
}

#[test]
fn other_forms_refuse_or_leave_alone() {
    let refuse = PathRules { form: Form::Refuse, ..PathRules::default() };
    assert_eq!(normal("/a/../b", &refuse), Err(BadPath::NotNormal));
    assert_eq!(normal("/.well-known/a", &refuse).as_deref(), Ok("/.well-known/a"));
    let raw = PathRules { form: Form::Raw, ..PathRules::default() };
    assert_eq!(normal("/a/..//%7e", &raw).as_deref(), Ok("/a/..//%7e"));
    assert_eq!(normal("/a%2fb", &raw), Err(BadPath::EncodedSlash));
}

#[test]
fn encoded_text_can_be_required_to_be_utf8() {
    let rules = PathRules { encoding: Encoding::Utf8, ..PathRules::default() };
    assert_eq!(normal("/%e2%82%ac/%C3%A9x", &rules).as_deref(), Ok("/%E2%82%AC/%C3%A9x"));
    for bad in ["/%c0%af", "/%e2%82", "/%e2%82x%ac", "/%ff", "/%e2%82/%ac", "/%f0%80%80%af%80", "/%e2%2e%82"] {
        assert_eq!(normal(bad, &rules), Err(BadPath::NotUtf8), "{bad}");
    }
}

#[test]
fn queries_are_checked_and_never_changed() {
    for good in ["", "a=1&b=%2F..//%", "x?y", "a[]=1|2"] {
        assert_eq!(query(good.as_bytes()), Ok(()), "{good}");
    }
    for bad in ["a b", "a#b", "a\r\nb", "é", "\0"] {
        assert_eq!(query(bad.as_bytes()), Err(BadPath::Character), "{bad}");
    }
}

fn rules() -> impl Strategy<Value = PathRules> {
    (any::<bool>(), any::<bool>(), any::<bool>()).prop_map(|(slash, merge, controls)| PathRules {
        form: Form::Normalize,
        encoded_slash: if slash { Slashes::Keep } else { Slashes::Refuse },
        merge_slashes: if merge { MergeSlashes::Keep } else { MergeSlashes::Merge },
        encoded_controls: if controls { Controls::Keep } else { Controls::Refuse },
        encoding: Encoding::Any,
    })
}

proptest! {
    #[test]
    fn is_idempotent_and_leaves_nothing_to_climb(raw in "(/|\\.|%2[eEfF]|%5c|%25|%41|a|;|%0a|\"){0,24}", rules in rules()) {
        let raw = format!("/{raw}");
        if let Ok(once) = normal(&raw, &rules) {
            prop_assert_eq!(normal(&once, &rules), Ok(once.clone()));
            prop_assert!(once.starts_with('/'));
            prop_assert!(once.split('/').all(|segment| segment != "." && segment != ".."));
            if rules.merge_slashes == MergeSlashes::Merge {
                prop_assert!(!once.contains("//"));
            }
        }
    }
}
