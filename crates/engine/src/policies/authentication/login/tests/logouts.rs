//! The provider says that somebody has logged out, and somebody else says that he is the provider.

use super::*;

const PLACE: &str = ", backChannelLogoutPath: /oauth2/backchannel";

impl Site {
    /// Sends a message as the provider does.
    fn say(&mut self, content: &str) -> Came {
        self.say_with(content, &[])
    }

    fn say_with(&mut self, content: &str, fields: &[(&str, &str)]) -> Came {
        let mut request = Request::build("POST", "https", "shop.test", "/oauth2/backchannel").expect("a request");
        for (name, value) in fields {
            request.fields.push_bytes(name.as_bytes(), value.as_bytes()).expect("a field");
        }
        self.send(&mut Browser::default(), request, content.as_bytes())
    }

    /// A message with these changes; null takes a claim away.
    fn message(&self, changes: Value) -> String {
        let mut claims = json!({
            "iss": "https://login.test", "aud": "shop", "iat": self.now, "exp": self.now + 120, "jti": "m",
            "events": {"http://schemas.openid.net/event/backchannel-logout": {}}, "sub": "ann",
        });
        for (name, value) in changes.as_object().expect("changes") {
            match value {
                Value::Null => claims.as_object_mut().expect("an object").remove(name),
                value => claims.as_object_mut().expect("an object").insert(name.clone(), value.clone()),
            };
        }
        let header = json!({"alg": "ES256", "kid": "e", "typ": "logout+jwt"});
        format!("logout_token={}", self.issuer.token_of("ES256", &header.to_string(), &claims.to_string()))
    }

    /// A login whose ID token says this, besides.
    fn log_in_as(&mut self, more: Value) -> Browser {
        let mut browser = Browser::default();
        let to = self.begin(&mut browser, "/");
        let mut claims = json!({"nonce": parameter(&to, "nonce")});
        for (name, value) in more.as_object().expect("changes") {
            claims[name] = value.clone();
        }
        let said =
            json!({"token_type": "Bearer", "access_token": "a", "expires_in": 3000, "id_token": self.id_token(claims)});
        self.tokens = Some((200, said));
        assert_eq!(self.come_back(&mut browser, &to).reply().reason, Reason::LoggedIn);
        browser
    }

    fn is_in(&mut self, browser: &mut Browser) -> bool {
        self.open(browser, "/").verdict.goes_on()
    }
}

#[test]
fn who_has_logged_out_at_the_provider_is_out_here_and_may_log_in_again() {
    let mut site = Site::new(PLACE);
    let mut ann = site.log_in_as(json!({"sid": "one"}));
    let mut elsewhere = site.log_in_as(json!({"sid": "two"}));
    let mut bob = site.log_in_as(json!({"sub": "bob", "sid": "three"}));
    assert!(site.is_in(&mut ann) && site.is_in(&mut elsewhere) && site.is_in(&mut bob));
    let opened = site.open(&mut ann, "/").notes.principal.expect("a principal");
    // One session.
    let changes = crate::document::Documents::of(&site.keep).changes();
    let came = site.say(&site.message(json!({"sid": "one"})));
    assert_eq!((came.reply().reason, came.reply().status), (Reason::LoggedOut, 200), "{}", came.cause());
    let no_store = came.reply().fields.iter().any(|(_, value)| value == b"no-store");
    assert!(no_store && came.set.is_empty());
    assert!(!site.is_in(&mut ann) && site.is_in(&mut elsewhere) && site.is_in(&mut bob));
    // What it has opened is cut, as soon as connections are judged again, which is at once.
    assert_ne!(crate::document::Documents::of(&site.keep).changes(), changes);
    let mut notes = Notes::new();
    notes.principal = Some(opened);
    let mut request = Request::build("GET", "https", "shop.test", "/").expect("a request");
    assert!(!site.with(&mut request, &mut notes, |policy, x| policy.on_recheck(x)).goes_on());
    // All of a person.
    site.now += 5;
    let message = site.message(json!({}));
    assert_eq!(site.say(&message).reply().status, 200);
    assert!(!site.is_in(&mut elsewhere) && site.is_in(&mut bob));
    // A login that comes later counts, also when an older message comes once more.
    site.now += 5;
    let mut again = site.log_in_as(json!({"sid": "four"}));
    assert!(site.is_in(&mut again));
    assert_eq!(site.say(&message).reply().status, 200);
    assert!(site.is_in(&mut again) && !site.is_in(&mut elsewhere));
    site.now += 5;
    let newer = site.message(json!({}));
    assert_eq!((site.say(&newer).reply().status, site.say(&message).reply().status), (200, 200));
    assert!(!site.is_in(&mut again), "the older message brings nobody back");
    // Other policies of this client know it, whatever else they say; those of another do not.
    site.reload(&spec(", requiredClaims: [{name: sub}]"));
    assert!(!site.is_in(&mut elsewhere) && site.is_in(&mut bob));
}

#[test]
fn the_provider_is_told_when_it_is_stored_and_another_process_knows() {
    let begin = |before: &[(Subject, End)]| {
        let site = Site::new(PLACE);
        let ended = site.keep.known::<Ended>(ENDED).expect("the list");
        assert!(ended.is_wanted(), "a file is opened for it");
        ended.attach(before.iter().copied().collect(), Box::new(|_| {}));
        site
    };
    let mut site = begin(&[]);
    let (mut ann, mut bob) = (site.log_in_as(json!({"sid": "one"})), site.log_in_as(json!({"sub": "bob"})));
    site.disk = None;
    let came = site.say(&site.message(json!({})));
    assert_eq!(came.reply().status, 503, "so that the provider says it again");
    assert!(came.cause().contains("--quotas"), "{}", came.cause());
    assert!(!site.is_in(&mut ann), "it is known all the same");
    // The disk has room again.
    site.disk = Some(Vec::new());
    site.keep.known::<Ended>(ENDED).expect("the list").note_health(true);
    assert_eq!(site.say(&site.message(json!({}))).reply().status, 200);
    // Another process, with what is on the disk.
    let stored = site.disk.take().expect("a disk");
    let mut other = begin(&stored);
    assert!(!other.is_in(&mut ann) && other.is_in(&mut bob));
    other.now += 5;
    let mut again = other.log_in_as(json!({"sid": "two"}));
    assert!(other.is_in(&mut again), "a later login counts");
    // A message that is older than what is stored changes nothing.
    assert_eq!(other.say(&site.message(json!({"iat": NOW - 60}))).reply().status, 400, "it is signed by another key");
    assert_eq!(other.say(&other.message(json!({"iat": NOW - 60}))).reply().status, 200);
    assert!(!other.is_in(&mut ann) && other.is_in(&mut again));
}

#[test]
fn while_nobody_can_read_who_has_logged_out_sessions_of_before_are_none() {
    let mut site = Site::new(PLACE);
    let mut ann = site.log_in_as(json!({"sid": "one"}));
    let ended = site.keep.known::<Ended>(ENDED).expect("the list");
    ended.note_unread(Duration::from_secs(site.now));
    assert!(!site.is_in(&mut ann), "the file may say that it has ended");
    site.now += 5;
    let mut again = site.log_in_as(json!({"sid": "two"}));
    assert!(site.is_in(&mut again), "who logs in again is let in");
    ended.attach(std::collections::HashMap::new(), Box::new(|_| {}));
    ended.note_unread(Duration::from_secs(site.now));
    assert!(site.is_in(&mut again), "what was read once is known");
    // Where no provider tells of logouts there is nothing to read.
    let mut plain = Site::new("");
    let mut bob = plain.log_in_as(json!({"sub": "bob"}));
    plain.keep.known::<Ended>(ENDED).expect("the list").note_unread(Duration::from_secs(plain.now));
    assert!(plain.is_in(&mut bob));
}

#[test]
fn a_logout_is_known_for_as_long_as_any_session_of_the_client_can_last() {
    let mut site = Site::new("");
    site.keep.known::<Ended>(ENDED).expect("the list").attach(std::collections::HashMap::new(), Box::new(|_| {}));
    let before = std::mem::replace(
        &mut site.policy,
        Site::policy(&spec(PLACE).replace("key: seal}", "key: seal}, lifetime: 1h"), &site.keep),
    );
    assert_eq!(site.say(&site.message(json!({}))).reply().status, 200);
    let (_, end) = site.disk.as_ref().expect("a disk")[0];
    assert!(end.until >= Duration::from_secs(NOW + 12 * 3600), "sessions of before last for twelve hours: {end:?}");
    drop(before);
}

#[test]
fn what_is_no_message_of_the_provider_logs_nobody_out() {
    let mut site = Site::new(PLACE);
    let mut ann = site.log_in_as(json!({"sid": "one"}));
    let forged = {
        let other = Site::new(PLACE);
        other.message(json!({}))
    };
    let stale = site.message(json!({"iat": NOW - 700, "exp": NOW + 100}));
    let unsigned = "logout_token=eyJhbGciOiJub25lIn0.e30.".to_owned();
    let id_token = format!("logout_token={}", site.id_token(json!({"nonce": "n"})));
    for (content, why) in [
        (String::new(), "not exactly one `logout_token`"),
        ("token=x".to_owned(), "not exactly one `logout_token`"),
        (format!("{0}&{0}", site.message(json!({}))), "not exactly one `logout_token`"),
        ("x".repeat(40_000), "longer than 32 KiB"),
        ("logout_token=a.b".to_owned(), "three parts"),
        (unsigned, "algorithm"),
        (forged, "signature of the token is wrong"),
        (stale, "too old"),
        (id_token, "`nonce`"),
        (site.message(json!({"nonce": "n"})), "`nonce`"),
        (site.message(json!({"aud": "bank"})), "another audience"),
        (site.message(json!({"iss": "https://other.test"})), "another issuer"),
        (site.message(json!({"exp": NOW - 31})), "expired"),
        (site.message(json!({"iat": null})), "when it was issued"),
        (site.message(json!({"iat": NOW + 31})), "in the future"),
        (site.message(json!({"events": null})), "`events`"),
        (site.message(json!({"events": {"other": {}}})), "`events`"),
        (site.message(json!({"events": {"http://schemas.openid.net/event/backchannel-logout": true}})), "`events`"),
        (site.message(json!({"events": "http://schemas.openid.net/event/backchannel-logout"})), "`events`"),
        (site.message(json!({"sub": null})), "who has logged out"),
        (site.message(json!({"sub": 7})), "who has logged out"),
    ] {
        let came = site.say(&content);
        assert_eq!((came.reply().reason, came.reply().status), (Reason::LoginFailed, 400), "{content:.60}");
        assert!(came.cause().contains(why), "{content:.60}: {}", came.cause());
        assert!(site.is_in(&mut ann), "{content:.60}");
    }
    // A page of another site makes browsers send what they are told to.
    let message = site.message(json!({}));
    let came = site.say_with(&message, &[("sec-fetch-site", "cross-site")]);
    assert!(came.cause().contains("no provider"), "{}", came.cause());
    assert!(site.is_in(&mut ann));
    // Who tries it out is kept out after a while, as with every credential.
    for _ in 0..60 {
        site.say("logout_token=a.b");
    }
    assert_eq!(site.say("logout_token=a.b").reply().reason, Reason::AuthenticationLimited);
}

#[test]
fn a_place_that_is_not_written_does_not_exist_and_has_no_other_meaning() {
    let mut site = Site::new("");
    let message = site.message(json!({}));
    assert_eq!(site.say(&message).reply().reason, Reason::CredentialsMissing);
    for place in ["/oauth2/logout", "/oauth2/callback", "/a//b", "other"] {
        let problems = refusals::<AuthenticationPolicy>(&spec(&format!(", backChannelLogoutPath: {place}")));
        assert!(!problems.is_empty() && problems.iter().all(|one| one.remedy.is_some()), "{place}: {problems:?}");
    }
}
