//! Sessions that are there already: how they are renewed, by whom they are known, and how they end.

use super::*;

#[test]
fn a_session_is_renewed_once_for_all_who_show_it_and_the_browser_gets_the_newer_one() {
    let mut site = Site::new("");
    let mut browser = Browser::default();
    site.log_in(&mut browser, json!({"refresh_token": "refresh-1-planted"}));
    site.now += 269;
    assert!(site.open(&mut browser, "/").set.is_empty(), "the tokens are good for a while");
    assert_eq!(site.asked.len(), 1);

    site.now += 2;
    let before = browser.clone();
    let newer = site.id_token(json!({}));
    site.tokens = Some((
        200,
        json!({"access_token": "newer", "expires_in": 300, "refresh_token": "refresh-2-planted", "id_token": newer}),
    ));
    let came = site.open(&mut browser, "/");
    assert!(came.verdict.goes_on(), "{:?}", came.notes.told);
    assert_eq!(site.asked.len(), 2);
    assert_eq!(parameter(&site.asked[1], "refresh_token"), "refresh-1-planted");
    assert_eq!(came.set.len(), 1);
    assert_ne!(browser.cookies, before.cookies);
    // Others that the browser had sent before, and the next ones.
    for browser in [&mut before.clone(), &mut browser] {
        let came = site.open(browser, "/");
        assert!(came.verdict.goes_on(), "{:?}", came.notes.told);
    }
    assert_eq!(site.asked.len(), 2, "the refresh token is used once");

    // A session ends after its own time, whatever the provider would say.
    site.now = NOW + 12 * 3600;
    assert_eq!(site.open(&mut browser, "/").reply().reason, Reason::LoginRequired);
    assert_eq!(site.asked.len(), 2);
}

#[test]
fn who_waits_for_tokens_that_somebody_else_has_taken_gets_the_newer_session() {
    for rotates in [true, false] {
        let mut site = Site::new("");
        let mut browser = Browser::default();
        site.log_in(&mut browser, json!({"refresh_token": "refresh-1"}));
        // The tokens have ended, so that nobody is let in with them.
        site.now += 301;
        let mut said = json!({"access_token": "newer", "expires_in": 300, "id_token": site.id_token(json!({}))});
        if rotates {
            said["refresh_token"] = "refresh-2".into();
        }
        site.tokens = Some((200, said));
        let mut others: Vec<(Request, Notes)> = Vec::new();
        let mut first = (browser.request("GET", "/", &[]), Notes::told());
        let Verdict::Call(call) = site.with(&mut first.0, &mut first.1, |policy, x| policy.on_request(x)) else {
            panic!("the provider is asked")
        };
        for _ in 0..2 {
            let mut other = (browser.request("GET", "/", &[]), Notes::told());
            let verdict = site.with(&mut other.0, &mut other.1, |policy, x| policy.on_request(x));
            assert!(matches!(&verdict, Verdict::Call(call) if matches!(**call, Callout::Wait(_))), "{verdict:?}");
            others.push(other);
        }
        let mut result = site.perform(*call);
        while let Verdict::Call(call) = site.with(&mut first.0, &mut first.1, |policy, x| policy.on_callout(x, result))
        {
            result = site.perform(*call);
        }
        for (mut request, mut notes) in others {
            let waited = CalloutResult::Waited;
            let verdict = site.with(&mut request, &mut notes, |policy, x| policy.on_callout(x, waited));
            assert!(verdict.goes_on(), "{:?}", notes.told);
            assert_eq!(notes.cookies, first.1.cookies, "there is one newer session");
        }
        assert_eq!(site.asked.len(), 2);
        // Its tokens end, too, whoever keeps the refresh token.
        site.now += 301;
        let newer = site.id_token(json!({}));
        site.tokens = Some((200, json!({"access_token": "newest", "expires_in": 300, "id_token": newer})));
        assert!(site.ask(&mut browser, "GET", "/", &[]).verdict.goes_on());
        assert_eq!(site.asked.len(), 3, "rotates: {rotates}");
    }
}

#[test]
fn a_session_outlives_a_provider_that_is_away_as_long_as_its_tokens() {
    let mut site = Site::new("");
    let mut browser = Browser::default();
    site.log_in(&mut browser, json!({"refresh_token": "r"}));
    site.now += 280;
    site.tokens = None;
    for _ in 0..3 {
        assert!(site.open(&mut browser, "/").verdict.goes_on());
    }
    assert_eq!(site.asked.len(), 2, "it is left alone for some seconds");
    site.now += 20;
    let came = site.open(&mut browser, "/");
    assert_eq!(came.reply().reason, Reason::AuthenticationUnavailable, "{}", came.cause());
    assert_eq!(site.asked.len(), 3);
    // It says no: the session is over, and the browser logs in again.
    site.now += 16;
    site.tokens = Some((400, json!({"error": "invalid_grant"})));
    assert_eq!(site.open(&mut browser, "/").reply().reason, Reason::LoginRequired);
    assert_eq!(site.ask(&mut browser, "GET", "/", &[]).reply().reason, Reason::CredentialsMissing);
    assert_eq!(site.asked.len(), 4);
}

#[test]
fn newer_tokens_about_somebody_else_end_the_session() {
    let mut site = Site::new("");
    let mut browser = Browser::default();
    site.log_in(&mut browser, json!({"refresh_token": "r"}));
    site.now += 290;
    let other = site.id_token(json!({"sub": "bob"}));
    site.tokens = Some((200, json!({"access_token": "a", "id_token": other})));
    let came = site.open(&mut browser, "/");
    assert_eq!(came.reply().reason, Reason::LoginRequired);
    assert!(format!("{:?}", came.notes.told).contains("about somebody else"), "{:?}", came.notes.told);
}

#[test]
fn a_browser_without_fetch_metadata_logs_out_by_the_site_alone() {
    let mut site = Site::new("");
    let mut ask = |method: &str, fields: &[(&str, &str)]| {
        site.ask(&mut Browser::default(), method, "/oauth2/logout", fields).reply().reason == Reason::LoggedOut
    };
    for ours in [
        &[][..],
        &[("origin", "https://shop.test")],
        &[("origin", "https://SHOP.test"), ("referer", "https://shop.test/cart?a=//b")],
        &[("referer", "https://shop.test")],
    ] {
        assert!(ask("POST", ours), "{ours:?}");
    }
    for others in [
        ("origin", "https://evil.test"),
        ("origin", "null"),
        ("origin", ""),
        ("origin", "https://shop.test.evil.test"),
        ("origin", "https://shop.test:8443"),
        ("referer", "https://evil.test/https://shop.test/"),
        ("referer", "https:"),
    ] {
        assert!(!ask("POST", &[others]) && !ask("GET", &[others, ("accept", "text/html")]), "{others:?}");
    }
    assert!(!ask("POST", &[("origin", "https://shop.test"), ("origin", "https://evil.test")]));
    for page in [&[("accept", "text/html,*/*;q=0.8")][..], &[("accept", "*/*")], &[]] {
        assert!(ask("GET", page), "{page:?}");
    }
    assert!(!ask("GET", &[("accept", "image/avif,image/*,*/*;q=0.5")]));
}

#[test]
fn who_logs_out_is_out_here_and_at_the_provider_also_with_a_copy_of_the_cookie() {
    let mut site = Site::new(", afterLogout: /bye");
    let mut browser = Browser::default();
    site.log_in(&mut browser, json!({"refresh_token": "r"}));
    let copy = browser.clone();
    let came = site.ask(&mut browser.clone(), "GET", "/oauth2/logout", &[("sec-fetch-site", "cross-site")]);
    assert_eq!(came.reply().status, 403);
    let came = site.open(&mut browser, "/oauth2/logout");
    assert_eq!(came.reply().reason, Reason::LoggedOut);
    let to = came.location();
    assert!(to.starts_with("https://login.test/end?id_token_hint=ey"), "{to}");
    assert_eq!(parameter(&to, "post_logout_redirect_uri"), "https://shop.test/bye");
    assert!(browser.cookies.is_empty());
    let came = site.open(&mut copy.clone(), "/");
    assert_eq!(came.reply().reason, Reason::LoginRequired);
    // Without a session there is nothing to end.
    assert_eq!(site.open(&mut Browser::default(), "/oauth2/logout").location(), "/bye");
}

#[test]
fn an_open_connection_ends_with_the_session() {
    let mut site = Site::new("");
    let mut browser = Browser::default();
    site.log_in(&mut browser, json!({}));
    let mut came = site.open(&mut browser, "/");
    assert!(site.with(&mut came.request, &mut came.notes, |policy, x| policy.on_recheck(x)).goes_on());
    site.open(&mut browser, "/oauth2/logout");
    let verdict = site.with(&mut came.request, &mut came.notes, |policy, x| policy.on_recheck(x));
    let Verdict::Respond(reply) = verdict else { panic!("{verdict:?}") };
    assert!(reply.cause.as_deref().is_some_and(|cause| cause.contains("given up")), "{:?}", reply.cause);
}

#[test]
fn an_open_connection_is_judged_by_who_may_log_in_today() {
    let mut site = Site::new("");
    let mut browser = Browser::default();
    let to = site.begin(&mut browser, "/");
    let claims = json!({"nonce": parameter(&to, "nonce"), "groups": ["before"], "roles": ["today"]});
    let said =
        json!({"token_type": "Bearer", "access_token": "a", "expires_in": 300, "id_token": site.id_token(claims)});
    site.tokens = Some((200, said));
    site.come_back(&mut browser, &to);
    let mut recheck = |spec: &str| {
        let mut came = site.open(&mut browser.clone(), "/");
        assert!(came.verdict.goes_on(), "{:?}", came.notes.told);
        site.reload(spec);
        let verdict = site.with(&mut came.request, &mut came.notes, |policy, x| policy.on_recheck(x));
        site.reload(&self::spec(""));
        match verdict {
            Verdict::Respond(reply) => Err(reply.cause.unwrap_or_default().into_string()),
            _ => Ok(came.notes.principal.expect("a principal").groups.join(" ")),
        }
    };
    assert_eq!(recheck(&spec("")), Ok("before".to_owned()));
    assert_eq!(recheck(&spec(", claims: {groups: roles}")), Ok("today".to_owned()));
    for (from, to) in [("login.test", "other.test"), ("clientId: shop", "clientId: bank")] {
        let why = recheck(&spec("").replace(from, to)).expect_err("it ends");
        assert!(why.contains("another provider's"), "{why}");
    }
}

#[test]
fn a_cookie_that_is_no_good_is_none_and_blames_nobody() {
    let mut site = Site::with_spec(&format!("{}failures: {{requests: 1}}\n", spec("")));
    for junk in ["", "AAAA", "%%%", &"A".repeat(3000)] {
        let mut browser = Browser { cookies: [("__Host-session".to_owned(), junk.to_owned())].into() };
        for _ in 0..3 {
            assert_eq!(site.open(&mut browser.clone(), "/").reply().reason, Reason::LoginRequired, "{junk}");
        }
        browser.cookies.insert("__Host-session.1".into(), "B".into());
        assert_eq!(site.open(&mut browser, "/").reply().reason, Reason::LoginRequired);
    }
}

#[test]
fn a_restart_and_a_newer_secret_keep_everybody_logged_in() {
    let mut site = Site::new("");
    let mut browser = Browser::default();
    site.log_in(&mut browser, json!({}));
    for (secret, is_known) in [
        ("session: {secret: {name: login, key: old}, previousSecret: {name: login, key: seal}}", true),
        ("session: {secret: {name: login, key: seal}}", true),
        ("session: {secret: {name: login, key: old}}", false),
    ] {
        let spec = spec("").replace("session: {secret: {name: login, key: seal}}", secret);
        let mut other = Site::with_spec(&spec);
        assert_eq!(other.open(&mut browser.clone(), "/").verdict.goes_on(), is_known, "{secret}");
    }
    // Another client of the provider, or another cookie, is another site.
    let mut other = Site::with_spec(&spec("").replace("clientId: shop", "clientId: bank"));
    assert!(!other.open(&mut browser.clone(), "/").verdict.goes_on());
}

#[test]
fn large_tokens_are_spread_over_cookies_and_too_large_ones_are_told() {
    let mut site = Site::new(", forwardAccessToken: true");
    let mut browser = Browser::default();
    site.log_in(&mut browser, json!({"access_token": "a".repeat(6000)}));
    assert_eq!(browser.cookies.len(), 3, "{:?}", browser.cookies.keys());
    assert!(site.open(&mut browser, "/").verdict.goes_on());
    let came = site.log_in(&mut Browser::default(), json!({"access_token": "a".repeat(20_000)}));
    assert!(came.cause().contains("does not fit into cookies"), "{}", came.cause());
}

#[test]
fn policies_share_sessions_and_each_asks_for_its_own_claims() {
    let mut site = Site::new("");
    let mut browser = Browser::default();
    site.log_in(&mut browser, json!({}));
    site.reload(&spec(", requiredClaims: [{name: groups, values: [admin]}]"));
    assert_eq!(site.open(&mut browser.clone(), "/").reply().reason, Reason::LoginRequired, "she is no admin");
    site.reload(&spec(", requiredClaims: [{name: sub, values: [ann]}]"));
    assert!(site.open(&mut browser.clone(), "/").verdict.goes_on());
    // Who has logged out is out of all of them.
    site.open(&mut browser.clone(), "/oauth2/logout");
    site.reload(&spec(""));
    assert_eq!(site.open(&mut browser, "/").reply().reason, Reason::LoginRequired);
}

#[test]
fn a_secret_that_is_replaced_ends_what_it_has_sealed_also_what_is_remembered() {
    let mut site = Site::new("");
    let mut browser = Browser::default();
    site.log_in(&mut browser, json!({}));
    assert!(site.open(&mut browser, "/").verdict.goes_on());
    site.reload(&spec("").replace("key: seal", "key: old"));
    assert_eq!(site.open(&mut browser, "/").reply().reason, Reason::LoginRequired);
}

#[test]
fn what_the_provider_has_given_is_not_lost_with_the_request_that_asked() {
    let mut site = Site::new("");
    let mut browser = Browser::default();
    site.log_in(&mut browser, json!({"refresh_token": "r1"}));
    site.now += 290;
    let newer = site.id_token(json!({}));
    site.tokens =
        Some((200, json!({"access_token": "a", "expires_in": 300, "refresh_token": "r2", "id_token": newer})));
    // It is given up while the provider answers.
    let cookie = format!("__Host-session={}", browser.cookies["__Host-session"]);
    let mut request = Request::build("GET", "https", "shop.test", "/").expect("a request");
    request.fields.push_bytes(b"cookie", cookie.as_bytes()).expect("a field");
    let mut notes = Notes::new();
    let verdict = site.with(&mut request, &mut notes, |policy, x| policy.on_request(x));
    let Verdict::Call(callout) = verdict else { panic!("{verdict:?}") };
    assert!(matches!(&*callout, Callout::Detached(..)), "{callout:?}");
    site.perform(*callout);
    drop((request, notes));
    let came = site.open(&mut browser, "/");
    assert!(came.verdict.goes_on(), "{:?}", came.notes.told);
    assert_eq!(
        (site.asked.len(), came.set.len()),
        (2, 1),
        "the refresh token is spent once, and the browser has the next"
    );
}

#[test]
fn an_old_cookie_leads_to_the_newest_session_through_all_between() {
    let mut site = Site::new("");
    let mut browser = Browser::default();
    site.log_in(&mut browser, json!({"refresh_token": "r0", "expires_in": 60}));
    let first = browser.clone();
    for number in 1..4 {
        site.now += 50;
        let newer = site.id_token(json!({}));
        site.tokens = Some((
            200,
            json!({"access_token": "a", "expires_in": 60, "refresh_token": format!("r{number}"), "id_token": newer}),
        ));
        assert!(site.open(&mut browser, "/").verdict.goes_on());
        assert_eq!(parameter(&site.asked[number], "refresh_token"), format!("r{}", number - 1));
    }
    let mut late = first.clone();
    assert!(site.open(&mut late, "/").verdict.goes_on());
    assert_eq!((site.asked.len(), &late.cookies), (4, &browser.cookies), "it is given the newest");
}

#[test]
fn a_provider_that_keeps_its_refresh_token_is_asked_by_it_again() {
    let mut site = Site::new("");
    let mut browser = Browser::default();
    site.log_in(&mut browser, json!({"refresh_token": "r"}));
    for number in 1..3 {
        site.now += 290;
        let newer = site.id_token(json!({}));
        site.tokens = Some((200, json!({"access_token": "a", "expires_in": 300, "id_token": newer})));
        assert!(site.open(&mut browser, "/").verdict.goes_on());
        assert_eq!(site.asked.len(), number + 1);
    }
}

#[test]
fn a_provider_that_is_busy_ends_no_session() {
    for (status, said) in [
        (429, json!({"error": "too_many_requests"})),
        (400, json!({"error": "temporarily_unavailable"})),
        (503, json!({})),
        (401, json!({"error": "invalid_client"})),
    ] {
        let mut site = Site::new("");
        let mut browser = Browser::default();
        site.log_in(&mut browser, json!({"refresh_token": "r"}));
        site.now += 290;
        site.tokens = Some((status, said));
        assert!(site.open(&mut browser, "/").verdict.goes_on(), "{status}");
        site.now += 20;
        assert_eq!(site.open(&mut browser, "/").reply().reason, Reason::AuthenticationUnavailable, "{status}");
        // It does not come back: people log in again instead of looking at 503 for hours.
        site.now += 60;
        assert_eq!(site.open(&mut browser, "/").reply().reason, Reason::LoginRequired, "{status}");
    }
}

#[test]
fn clocks_that_are_wrong_end_no_session() {
    let mut site = Site::new("");
    let mut browser = Browser::default();
    site.log_in(&mut browser, json!({"refresh_token": "r"}));
    site.now += 290;
    let ahead = site.id_token(json!({"iat": site.now + 3600, "exp": site.now + 3900}));
    site.tokens =
        Some((200, json!({"access_token": "a", "expires_in": 300, "refresh_token": "r2", "id_token": ahead})));
    assert!(site.open(&mut browser, "/").verdict.goes_on());
}

#[test]
fn tokens_that_have_ended_already_make_no_session() {
    let mut site = Site::new("");
    let came = site.log_in(&mut Browser::default(), json!({"expires_in": 0}));
    assert_eq!(came.cause(), "the tokens of the provider have ended already");
    // Nor is anything added up that does not fit.
    let came = site.log_in(&mut Browser::default(), json!({"expires_in": u64::MAX}));
    assert_eq!(came.reply().reason, Reason::LoggedIn);
}

#[test]
fn a_logout_takes_the_tokens_back_and_needs_the_will_of_a_person() {
    let mut site = Site::new("");
    let mut browser = Browser::default();
    site.log_in(&mut browser, json!({"refresh_token": "r"}));
    let same = ("sec-fetch-site", "same-origin");
    for (method, fields) in [
        ("GET", &[("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate")][..]),
        ("GET", &[("sec-fetch-site", "same-site"), ("sec-fetch-mode", "navigate")]),
        ("GET", &[same, ("sec-fetch-mode", "no-cors"), ("sec-fetch-dest", "image")]),
        ("GET", &[same, ("sec-fetch-mode", "navigate"), ("sec-purpose", "prefetch")]),
        ("POST", &[("sec-fetch-site", "cross-site")]),
    ] {
        let came = site.ask(&mut browser.clone(), method, "/oauth2/logout", fields);
        assert_eq!(came.reply().status, 403, "{fields:?}");
    }
    let came = site.ask(&mut browser, "POST", "/oauth2/logout", &[same, ("sec-fetch-mode", "cors")]);
    assert_eq!(came.reply().reason, Reason::LoggedOut);
    assert_eq!(parameter(&site.revoked[0], "token"), "r");
}
