//! Request lines, targets, hosts, fields and line ends outside of the grammar (RFC 9112 §2.2, §3, §5).

use super::{Case, H, Refused, Safe, Served, bytes, case, get, run};

fn line(line: &str) -> String {
    format!("{line}\r\n{H}\r\n")
}

fn lines() -> Vec<Case> {
    let mut out = vec![
        case("a good line", Served, line("GET /pub/x HTTP/1.1")),
        case("the absolute form", Served, line("GET http://gw.test/pub/x HTTP/1.1")),
        case("a method of its own", Safe, line("FETCH /pub/x HTTP/1.1")),
        case("an empty line before", Safe, format!("\r\n{}", line("GET /pub/x HTTP/1.1"))),
    ];
    for text in [
        "GET  /pub/x HTTP/1.1",
        "GET /pub/x  HTTP/1.1",
        "GET /pub/x HTTP/1.1 ",
        " GET /pub/x HTTP/1.1",
        "GET /pub/x y HTTP/1.1",
        "GET /pub/x HTTP/1.1 x",
        "GET\t/pub/x HTTP/1.1",
        "GET /pub/x\tHTTP/1.1",
        "GET\x0b/pub/x HTTP/1.1",
        "GET /pub/x\x0cHTTP/1.1",
        "GET HTTP/1.1",
        "GET",
        "GET /pub/x",
        "/pub/x HTTP/1.1",
        "GET /pub/x http/1.1",
        "GET /pub/x Http/1.1",
        "GET /pub/x HTTP/2.0",
        "GET /pub/x HTTP/0.9",
        "GET /pub/x HTTP/1.2",
        "GET /pub/x HTTP/1",
        "GET /pub/x HTTP/1.",
        "GET /pub/x HTTP/.1",
        "GET /pub/x HTTP/1.10",
        "GET /pub/x HTTP/01.1",
        "GET /pub/x HTTP/1.1.1",
        "GET /pub/x HTTP 1.1",
        "GET /pub/x HTTP/1,1",
        "GET /pub/x HTTP/-1.1",
        "GET /pub/x HTTPS/1.1",
        "GET /pub/x SIP/2.0",
        "G@T /pub/x HTTP/1.1",
        "G{T /pub/x HTTP/1.1",
        "G\"T /pub/x HTTP/1.1",
        "G\0T /pub/x HTTP/1.1",
        "GET\0 /pub/x HTTP/1.1",
        "G\u{e9}T /pub/x HTTP/1.1",
        "CONNECT gw.test:443 HTTP/1.1",
        "CONNECT /pub/x HTTP/1.1",
        "TRACE /pub/x HTTP/1.1",
        "GET * HTTP/1.1",
        "GET gw.test:80 HTTP/1.1",
        "GET ftp://gw.test/pub/x HTTP/1.1",
        "GET file:///etc/passwd HTTP/1.1",
        "GET gopher://gw.test/pub/x HTTP/1.1",
        "GET http://u:p@gw.test/pub/x HTTP/1.1",
        "GET http:///pub/x HTTP/1.1",
        "GET http:/pub/x HTTP/1.1",
        "GET http://gw.test:99999/pub/x HTTP/1.1",
        "GET pub/x HTTP/1.1",
        "GET ?pub HTTP/1.1",
        "GET #x HTTP/1.1",
        "GET /pub/x\0 HTTP/1.1",
        "GET /pub/\x01x HTTP/1.1",
        "GET /pub/\x7fx HTTP/1.1",
        "GET /pub/\u{e9} HTTP/1.1",
        "GET /pub/x?\u{e9} HTTP/1.1",
        "GET /pub/x?\x7f HTTP/1.1",
        "GET /pub/x?a\0b HTTP/1.1",
        "GET /pub/x\rX: HTTP/1.1",
        "GET /pub/x HTTP/1.1\rX: y",
        "GET /pub/x?a\rb HTTP/1.1",
        "PRI * HTTP/2.0",
    ] {
        out.push(case(format!("{text:?}"), Refused, line(text)));
    }
    for text in [
        "GET /pub/x#y HTTP/1.1",
        "GET /pub/<x> HTTP/1.1",
        "GET /pub/\"x\" HTTP/1.1",
        "GET /pub/{x}|^` HTTP/1.1",
        "GET /pub/x?a=<b>\"c\" HTTP/1.1",
        "GET /pub/[x] HTTP/1.1",
        "OPTIONS * HTTP/1.1",
        "GET /pub/x%zz HTTP/1.1",
    ] {
        out.push(case(format!("{text:?}"), Safe, line(text)));
    }
    out.push(case("a method of 33 bytes", Refused, line(&format!("{} /pub/x HTTP/1.1", "A".repeat(33)))));
    out.push(case("a method of 20 KB", Refused, line(&format!("{} /pub/x HTTP/1.1", "A".repeat(20_000)))));
    out.push(case("a target of 100 KB", Refused, line(&format!("GET /pub/{} HTTP/1.1", "a".repeat(100_000)))));
    out.push(case("a query of 100 KB", Refused, line(&format!("GET /pub/x?{} HTTP/1.1", "a".repeat(100_000)))));
    out
}

#[test]
fn request_lines() {
    run("request lines", lines());
}

/// Every byte inside a target and a method.
fn sweep() -> Vec<Case> {
    let mut out = Vec::new();
    for byte in (0..=0x20u8).chain(0x7f..=0xff) {
        if byte == b'\n' {
            continue; // Ends the line: a version is missing, which `lines` has.
        }
        for (place, before, after) in [
            ("in the target", b"GET /pub/x".as_slice(), b"y HTTP/1.1".as_slice()),
            ("in the method", b"GE", b"T /pub/x HTTP/1.1"),
            ("in the version", b"GET /pub/x HTT", b"P/1.1"),
        ] {
            let message = bytes(&[before, &[byte], after, b"\r\n", H.as_bytes(), b"\r\n"]);
            out.push(case(format!("{byte:#04x} {place}"), Refused, message));
        }
    }
    out
}

#[test]
fn every_byte_in_a_request_line() {
    run("request lines, every byte", sweep());
}

fn hosts() -> Vec<Case> {
    let host = |host: &str| format!("GET /pub/x HTTP/1.1\r\nHost: {host}\r\nX-Case: MARK\r\n\r\n");
    let mut out = Vec::new();
    for good in ["gw.test", "gw.test:80", "GW.test", "127.0.0.1", "127.0.0.1:8080", "[::1]", "[::1]:80", "a-b.c", "x"] {
        out.push(case(format!("host {good}"), Served, host(good)));
    }
    for bad in [
        "",
        " ",
        "a b",
        "a/b",
        "a/pub",
        "a?b",
        "a#b",
        "a\\b",
        "u@gw.test",
        "u:p@gw.test",
        "a,b",
        "gw.test, evil.test",
        "gw.test:99999",
        "gw.test:65536",
        "gw.test:8x",
        "gw.test:-1",
        "gw.test:+80",
        "gw.test: 80",
        "gw.test:80:80",
        "gw.test:",
        ":80",
        "[::1",
        "::1",
        "[::1]x",
        "[::1]:",
        "[gw.test]",
        "[]",
        "[::1%25eth0]",
        "a\0b",
        "a\x7fb",
        "a\x0bb",
        "\u{e9}.test",
        "a\tb",
        "http://gw.test",
        "gw.test/",
        "gw.test;x",
        "gw.test\"",
        "<gw.test>",
        "{a}",
        "a%00b",
        "a%2fb",
        "a|b",
        "a^b",
        "a`b",
        "a'b",
        "(a)",
        "*",
        "a=b",
        "a&b",
        "$a",
        "!a",
    ] {
        out.push(case(format!("host {bad:?}"), Refused, host(bad)));
    }
    out.push(case("a long host", Refused, host(&"a".repeat(300))));
    for (what, head) in [
        ("no host", "X-Case: MARK\r\n"),
        ("two hosts", "Host: gw.test\r\nHost: evil.test\r\nX-Case: MARK\r\n"),
        ("the same host twice", "Host: gw.test\r\nHost: gw.test\r\nX-Case: MARK\r\n"),
        ("a second host in capitals", "Host: gw.test\r\nHOST: evil.test\r\nX-Case: MARK\r\n"),
        ("a second host that is empty", "Host: gw.test\r\nHost:\r\nX-Case: MARK\r\n"),
        ("hosts far apart", "Host: gw.test\r\nX-Case: MARK\r\nX-A: b\r\nHost: evil.test\r\n"),
        ("a space before the colon", "Host : gw.test\r\nX-Case: MARK\r\n"),
        ("a space before the name", " Host: gw.test\r\nX-Case: MARK\r\n"),
        ("a folded host", "Host:\r\n gw.test\r\nX-Case: MARK\r\n"),
        ("a host folded on", "Host: gw.test\r\n .evil.test\r\nX-Case: MARK\r\n"),
        ("a host behind a CR", "X: a\rHost: gw.test\r\nX-Case: MARK\r\n"),
    ] {
        out.push(case(what, Refused, format!("GET /pub/x HTTP/1.1\r\n{head}\r\n")));
    }
    let absolute =
        |host: &str, fields: &str| format!("GET http://{host}/pub/x HTTP/1.1\r\n{fields}X-Case: MARK\r\n\r\n");
    out.push(
        case("the target wins", Safe, absolute("gw.test", "Host: evil.test\r\n"))
            .check(|seen| seen.all("host").len() == 1 && !seen.head.windows(9).any(|bytes| bytes == b"evil.test")),
    );
    out.push(case("the target alone", Refused, absolute("gw.test", "")));
    out.push(case("the target and two hosts", Refused, absolute("gw.test", "Host: a\r\nHost: b\r\n")));
    out.push(case("an underscore", Safe, format!("GET /pub/x HTTP/1.1\r\n{H}H_ost: evil.test\r\n\r\n")));
    out
}

#[test]
fn hosts_by_the_grammar() {
    run("hosts", hosts());
}

fn fields() -> Vec<Case> {
    let mut out = Vec::new();
    for (what, fields) in [
        ("a NUL in a value", "X: a\0b\r\n"),
        ("a bare CR in a value", "X: a\rb\r\n"),
        ("a bare CR at the end", "X: a\r\r\n"),
        ("a fold", "X: a\r\n b\r\n"),
        ("a fold with a tab", "X: a\r\n\tb\r\n"),
        ("a fold of nothing", "X:\r\n \r\n"),
        ("a space in a name", "X Y: a\r\n"),
        ("brackets in a name", "X(Y): a\r\n"),
        ("a slash in a name", "X/Y: a\r\n"),
        ("an at in a name", "X@Y: a\r\n"),
        ("quotes in a name", "\"X\": a\r\n"),
        ("a comma in a name", "X,Y: a\r\n"),
        ("a semicolon in a name", "X;Y: a\r\n"),
        ("an equals in a name", "X=Y: a\r\n"),
        ("a NUL in a name", "X\0Y: a\r\n"),
        ("a bare CR in a name", "X\rY: a\r\n"),
        ("a name beyond ASCII", "X\u{e9}: a\r\n"),
        ("no name", ": a\r\n"),
        ("no colon", "X\r\n"),
        ("a space before the colon", "X : a\r\n"),
        ("a tab before the colon", "X\t: a\r\n"),
        ("a large field", &format!("X: {}\r\n", "a".repeat(1 << 20))),
        ("a large name", &format!("{}: a\r\n", "X".repeat(1 << 20))),
        ("many fields", &"X: a\r\n".repeat(10_000)),
        ("a bare LF in a value", "X: a\n b\r\n"),
    ] {
        out.push(case(what, Refused, get(fields)));
    }
    for byte in (0..=0x1fu8).chain([0x7f]).filter(|byte| !matches!(byte, b'\t' | b'\n')) {
        let message = bytes(&[b"GET /pub/x HTTP/1.1\r\n", H.as_bytes(), b"X: a", &[byte], b"b\r\n\r\n"]);
        out.push(case(format!("{byte:#04x} in a value"), Refused, message));
    }
    for (what, message) in [
        ("LF alone everywhere", get("").replace("\r\n", "\n")),
        ("LF alone behind the line", get("").replacen("\r\n", "\n", 1)),
        ("LF alone at the end", get("").replace("\r\n\r\n", "\r\n\n")),
        ("CR LF CR at the end", get("").replace("\r\n\r\n", "\r\n\r")),
        ("CR CR LF", get("X: a\r\r\n")),
        ("an empty value", get("X:\r\n")),
        ("spaces around a value", get("X:   a   \r\n")),
        ("a value beyond ASCII", get("X: \u{e9}\r\n")),
    ] {
        // An unfinished head is cut when its time is over.
        out.push(case(what, Safe, message));
    }
    out
}

#[test]
fn fields_by_the_grammar() {
    run("fields", fields());
}
