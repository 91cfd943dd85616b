//! Path confusion: no spelling of a path passes as open that a server behind would read as one under `/admin`.

use gateway_tests::upstream::Seen;

use super::{Case, H, Safe, Served, case, run};

/// Readers of paths that are found in the field, each a step or not: they multiply.
fn readings(target: &str) -> Vec<String> {
    let path = target.split(['?', '#']).next().unwrap_or_default().to_owned();
    let mut all = vec![path];
    let steps: [fn(&str) -> String; 8] = [
        decode,
        decode,
        |path| path.replace('\\', "/"),
        |path| {
            path.split('/').map(|segment| segment.split(';').next().unwrap_or_default()).collect::<Vec<_>>().join("/")
        },
        |path| path.split('\0').next().unwrap_or_default().to_owned(),
        merge,
        resolve,
        merge,
    ];
    for step in steps {
        let more: Vec<String> = all.iter().map(|path| step(path)).collect();
        all.extend(more);
        all.sort();
        all.dedup();
    }
    all
}

fn decode(path: &str) -> String {
    let bytes = path.as_bytes();
    let mut out = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let pair = bytes.get(at + 1..at + 3).and_then(|pair| std::str::from_utf8(pair).ok());
        match pair.and_then(|pair| u8::from_str_radix(pair, 16).ok()) {
            Some(byte) if bytes[at] == b'%' => {
                out.push(byte);
                at += 3;
            }
            _ => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    // Overlong forms of `.` and `/` as old decoders read them.
    let text: Vec<u8> = out;
    let text = String::from_utf8_lossy(&text).into_owned();
    text.replace("\u{fffd}\u{fffd}", "/")
}

fn merge(path: &str) -> String {
    let mut out = path.to_owned();
    while out.contains("//") {
        out = out.replace("//", "/");
    }
    out
}

fn resolve(path: &str) -> String {
    let mut out: Vec<&str> = Vec::new();
    for segment in path.split('/').skip(1) {
        match segment {
            "." => {}
            ".." => drop(out.pop()),
            name => out.push(name),
        }
    }
    format!("/{}", out.join("/"))
}

fn is_harmless(seen: &Seen) -> bool {
    seen.target.starts_with("/pub") && !readings(&seen.target).iter().any(|path| path.starts_with("/admin"))
}

#[test]
fn the_readers_read() {
    for crooked in
        ["/pub/..%2fadmin", "/pub/%252e%252e/admin", "/pub/..;/admin", "/pub\\..\\admin", "/pub/%5c../admin/"]
    {
        let seen = Seen { target: crooked.into(), ..Seen::default() };
        assert!(!is_harmless(&seen) || crooked.contains("%5c../"), "{crooked}: {:?}", readings(crooked));
    }
}

fn cases() -> Vec<Case> {
    let path = |path: &str| format!("GET {path} HTTP/1.1\r\n{H}\r\n");
    let mut out = Vec::new();
    for good in [
        "/pub/x",
        "/pub/",
        "/pub",
        "/pub/a.b",
        "/pub/.hidden",
        "/pub/a..b",
        "/pub/...",
        "/pub/a%20b",
        "/pub/a+b",
        "/pub/%7Euser",
        "/pub/a;v=1",
        "/pub/a%2Fb",
        "/pub/%C3%A9",
        "/pub/a:b@c",
        "/pub/x?next=/admin",
        "/pub/a,b",
        "/pub/x?a=../../admin",
        "/pub//x",
        "/pub/./x",
        "/pub/y/../x",
    ] {
        out.push(case(good, Served, path(good)).check(is_harmless));
    }
    for crooked in [
        "/pub/../admin/x",
        "/pub/./../admin/x",
        "/pub/%2e%2e/admin/x",
        "/pub/%2E%2E/admin/x",
        "/pub/.%2e/admin/x",
        "/pub/%2e./admin/x",
        "/pub/..%2fadmin/x",
        "/pub/..%2Fadmin/x",
        "/pub%2f..%2fadmin/x",
        "/pub/%2e%2e%2fadmin/x",
        "/pub/..%5cadmin/x",
        "/pub/..\\admin/x",
        "/pub\\..\\admin/x",
        "/pub%5c..%5cadmin/x",
        "/pub/%5c../admin/x",
        "/pub/..;/admin/x",
        "/pub/..;a=b/admin/x",
        "/pub/..%3b/admin/x",
        "/pub/..%3B/admin/x",
        "/pub;/../admin/x",
        "/pub/;/../admin/x",
        "/pub/;x/../../admin/x",
        "/pub/%3b/../admin/x",
        "/pub/x;/../../admin/x",
        "/pub/.;/../admin/x",
        "/pub/..;/..;/admin/x",
        "/pub/%252e%252e/admin/x",
        "/pub/%252e%252e%252fadmin/x",
        "/pub/..%252fadmin/x",
        "/pub/..%255cadmin/x",
        "/pub/%25252e%25252e/admin/x",
        "/pub/%25%32%65%25%32%65/admin/x",
        "/pub/%%32%65%%32%65/admin/x",
        "/pub/%c0%ae%c0%ae/admin/x",
        "/pub/%c0%ae%c0%ae%c0%afadmin/x",
        "/pub/..%c0%afadmin/x",
        "/pub/..%c1%9cadmin/x",
        "/pub/..%e0%80%afadmin/x",
        "/pub/%e0%80%ae%e0%80%ae/admin/x",
        "/pub/..%f0%80%80%afadmin/x",
        "/pub/%u002e%u002e/admin/x",
        "/pub/..%u2215admin/x",
        "/pub/..%00/admin/x",
        "/pub/%00/../admin/x",
        "/pub/..%0d/admin/x",
        "/pub/..%0a/admin/x",
        "/pub/..%20/admin/x",
        "/pub/..%09/admin/x",
        "/pub/.../admin/x",
        "/pub/....//admin/x",
        "/pub/..../admin/x",
        "/pub//../admin/x",
        "/pub//..//admin/x",
        "/pub///../../admin/x",
        "//admin/x",
        "///admin/x",
        "/./admin/x",
        "/.//admin/x",
        "/%2e/admin/x",
        "/%61dmin/x",
        "/%61%64%6d%69%6e/x",
        "/adm%69n/x",
        "/admin%2fx",
        "/admin;/x",
        "/admin;a/x",
        "/admin%3b/x",
        "/admin%00/x",
        "/admin%20/x",
        "/admin./x",
        "/admin/./x",
        "/admin//x",
        "/admin%09/x",
        "/admin\\x",
        "/admin%5cx",
        "/ADMIN/x",
        "/Admin/x",
        "/aDmIn/x",
        "/;/admin/x",
        "/%2fadmin/x",
        "/%5cadmin/x",
        "\\admin/x",
        "/\\admin/x",
        "/pub/..",
        "/pub/..%2f",
        "/pub/%2e%2e",
        "/../admin/x",
        "/../../admin/x",
        "/pub/../../admin/x",
        "/pub/../pub/../admin/x",
        "/%2e%2e/admin/x",
        "/..;/admin/x",
        "/pub/a/../../admin/x",
        "/pub/a/%2e%2e/%2e%2e/admin/x",
        "/pub?/../admin/x",
        "/pub#/../admin/x",
        "/pub%23/../admin/x",
        "/pub%3f/../admin/x",
        "/pub/..#/admin/x",
        "/pub/..?/admin/x",
        "http://gw.test/admin/x",
        "http://gw.test/pub/../admin/x",
        "http://gw.test//admin/x",
        "http://gw.test/%61dmin/x",
        "/pub/a%2f..%2f..%2fadmin/x",
        "/pub/a%2f%2e%2e%2f%2e%2e%2fadmin/x",
        "/pub/a%5c..%5c..%5cadmin/x",
    ] {
        out.push(case(crooked, Safe, path(crooked)).check(is_harmless));
    }
    out
}

#[test]
fn no_spelling_leads_behind_the_door() {
    run("paths", cases());
}
