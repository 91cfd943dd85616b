//! Upstreams that answer against the rules: splitting, two answers, endless interim answers, ambiguous framing. A 502 or a
//! cut, never half a truth, and the next two requests are clean.

use gateway_tests::deadline::say;
use gateway_tests::upstream::response;
use gateway_tests::{Answer, Client, Gateway, Request, Upstream};

const CLEAN: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nclean";

/// What the client may see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum May {
    /// 502 or 504, or a cut.
    Fail,
    /// The first answer, complete, and nothing behind it; or a failure.
    First,
    /// The head's status without a body.
    Bare,
}

fn cases() -> Vec<(String, May, Vec<u8>)> {
    let mut out: Vec<(String, May, Vec<u8>)> = Vec::new();
    let ok = |fields: &str, body: &str| format!("HTTP/1.1 200 OK\r\n{fields}\r\n{body}");
    for (what, bytes) in [
        ("nothing", String::new()),
        ("not HTTP", "SSH-2.0-x\r\n\r\n".into()),
        ("HTTP/0.9", "hello".into()),
        ("HTTP/2.0", CLEAN.replace("HTTP/1.1", "HTTP/2.0")),
        ("HTTP/1.2", CLEAN.replace("HTTP/1.1", "HTTP/1.2")),
        ("http in small letters", CLEAN.replace("HTTP/1.1", "http/1.1")),
        ("two digits", CLEAN.replace("200", "20")),
        ("four digits", CLEAN.replace("200", "2000")),
        ("no digits", CLEAN.replace("200", "abc")),
        ("status 0", CLEAN.replace("200", "000")),
        ("status 99", CLEAN.replace("200", "099")),
        ("a NUL in the reason", CLEAN.replace("OK", "O\0K")),
        ("a CR in the reason", CLEAN.replace("OK", "O\rK")),
        ("two lengths", ok("Content-Length: 5\r\nContent-Length: 6\r\n", "hello!")),
        ("a list of lengths", ok("Content-Length: 5, 6\r\n", "hello!")),
        ("a signed length", ok("Content-Length: +5\r\n", "hello")),
        ("a negative length", ok("Content-Length: -5\r\n", "hello")),
        ("a length in hex", ok("Content-Length: 0x5\r\n", "hello")),
        ("a length of text", ok("Content-Length: abc\r\n", "hello")),
        ("an empty length", ok("Content-Length:\r\n", "hello")),
        ("a length that wraps", ok("Content-Length: 18446744073709551621\r\n", "hello")),
        ("length and chunks", ok("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\n\r\n")),
        ("chunks and length", ok("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", "5\r\nhello\r\n0\r\n\r\n")),
        ("an unknown coding", ok("Transfer-Encoding: cow\r\n", "hello")),
        ("gzip, chunked", ok("Transfer-Encoding: gzip, chunked\r\n", "5\r\nhello\r\n0\r\n\r\n")),
        (
            "chunked twice",
            ok("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\n\r\n"),
        ),
        ("chunked, identity", ok("Transfer-Encoding: chunked, identity\r\n", "5\r\nhello\r\n0\r\n\r\n")),
        ("chunks in HTTP/1.0", {
            ok("Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\n\r\n").replace("HTTP/1.1", "HTTP/1.0")
        }),
        ("a signed chunk", ok("Transfer-Encoding: chunked\r\n", "+5\r\nhello\r\n0\r\n\r\n")),
        ("a chunk in 0x", ok("Transfer-Encoding: chunked\r\n", "0x5\r\nhello\r\n0\r\n\r\n")),
        ("a chunk that is none", ok("Transfer-Encoding: chunked\r\n", "zz\r\nhello\r\n0\r\n\r\n")),
        ("a chunk too long", ok("Transfer-Encoding: chunked\r\n", "3\r\nhello\r\n0\r\n\r\n")),
        ("a chunk ended by LF", ok("Transfer-Encoding: chunked\r\n", "5\nhello\r\n0\r\n\r\n")),
        ("no last chunk", ok("Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n")),
        ("an endless extension", ok("Transfer-Encoding: chunked\r\n", &format!("5;{}\r\n", "a".repeat(1 << 20)))),
        ("endless trailers", ok("Transfer-Encoding: chunked\r\n", &format!("0\r\nX: {}\r\n\r\n", "a".repeat(1 << 20)))),
        ("a short body", ok("Content-Length: 10\r\n", "hello")),
        ("a NUL in a value", ok("X: a\0b\r\nContent-Length: 0\r\n", "")),
        ("a CR in a value", ok("X: a\rSet-Cookie: b\r\nContent-Length: 0\r\n", "")),
        ("a control character in a value", ok("X: a\x01b\r\nContent-Length: 0\r\n", "")),
        ("a DEL in a value", ok("X: a\x7fb\r\nContent-Length: 0\r\n", "")),
        ("a fold", ok("X: a\r\n b\r\nContent-Length: 0\r\n", "")),
        ("a space before the colon", ok("Content-Length : 0\r\n", "")),
        ("a space in a name", ok("X Y: a\r\nContent-Length: 0\r\n", "")),
        ("a name that is no token", ok("X(Y): a\r\nContent-Length: 0\r\n", "")),
        ("no name", ok(": a\r\nContent-Length: 0\r\n", "")),
        ("no colon", ok("X\r\nContent-Length: 0\r\n", "")),
        ("a space at the start", ok(" X: a\r\nContent-Length: 0\r\n", "")),
        ("a head of 1 MB", ok(&format!("X: {}\r\n", "a".repeat(1 << 20)), "")),
        ("a head of 64 MB", ok(&format!("X: {}\r\n", "a".repeat(64 << 20)), "")),
        ("a thousand fields", ok(&"X: a\r\n".repeat(1000), "")),
        ("20 000 interim answers", format!("{}{CLEAN}", "HTTP/1.1 100 Continue\r\n\r\n".repeat(20_000))),
        ("interim answers for ever", "HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n".repeat(50_000)),
        ("a switch that nobody asked for", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: evil\r\n\r\n".into()),
        ("a switch to websocket", {
            "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n".into()
        }),
        ("an interim answer with a length", format!("HTTP/1.1 103 X\r\nContent-Length: 5\r\n\r\nhello{CLEAN}")),
    ] {
        out.push((what.into(), May::Fail, bytes.into_bytes()));
    }
    let evil = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison";
    for (what, bytes) in [
        ("a second answer", format!("{CLEAN}{evil}")),
        ("rubbish behind", format!("{CLEAN}xxxx")),
        ("an empty line behind", format!("{CLEAN}\r\n")),
        ("a second answer behind chunks", {
            format!("{}{evil}", ok("Transfer-Encoding: chunked\r\n", "5\r\nclean\r\n0\r\n\r\n"))
        }),
        ("close, and more", format!("{}{evil}", CLEAN.replace("OK\r\n", "OK\r\nConnection: close\r\n"))),
        ("interim, then an answer", format!("HTTP/1.1 100 Continue\r\n\r\n{CLEAN}")),
        ("early hints, then an answer", format!("HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n{CLEAN}")),
        ("equal lengths", ok("Content-Length: 5\r\nContent-Length: 5\r\n", "clean")),
        ("lines ended by LF", CLEAN.replace("\r\n", "\n")),
        ("no reason", CLEAN.replace(" OK", "")),
        ("a large extension number", CLEAN.replace("200", "299")),
    ] {
        out.push((what.into(), May::First, bytes.into_bytes()));
    }
    for (what, bytes) in [
        ("204 with a length", "HTTP/1.1 204 No Content\r\nContent-Length: 6\r\n\r\npoison".to_owned()),
        (
            "204 with chunks",
            "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n6\r\npoison\r\n0\r\n\r\n".into(),
        ),
        ("204 with an answer behind", format!("HTTP/1.1 204 No Content\r\n\r\n{evil}")),
        ("304 with a body", "HTTP/1.1 304 Not Modified\r\nContent-Length: 6\r\n\r\npoison".into()),
        ("304 with an answer behind", format!("HTTP/1.1 304 Not Modified\r\n\r\n{evil}")),
    ] {
        out.push((what.into(), May::Bare, bytes.into_bytes()));
    }
    out
}

fn fits(may: May, reply: &std::io::Result<gateway_tests::Reply>) -> bool {
    match (may, reply) {
        (_, Err(_)) => true,
        (_, Ok(reply)) if matches!(reply.status, 502 | 504) => !reply.text().contains("poison"),
        (May::First, Ok(reply)) => (200..300).contains(&reply.status) && reply.text() == "clean",
        (May::Bare, Ok(reply)) => matches!(reply.status, 204 | 304) && reply.body.is_empty(),
        (May::Fail, Ok(_)) => false,
    }
}

#[test]
fn the_next_request_is_clean() {
    let cases = std::sync::Arc::new(cases());
    let count = cases.len();
    let answers = std::sync::Arc::clone(&cases);
    let upstream = Upstream::new(move |seen| {
        match seen.target.strip_prefix("/pub/hostile/").and_then(|at| at.parse::<usize>().ok()) {
            Some(at) => Answer::Last(answers[at].2.clone()),
            None => Answer::Bytes(response(200, &[], seen.target.as_bytes())),
        }
    });
    let text = upstream.fill(super::CONFIG).replace("read_timeout: 3000", "read_timeout: 1000\n  retries: 0");
    let mut gateway = Gateway::start(&text);
    let mut wrong = Vec::new();
    for (at, (what, may, _)) in cases.iter().enumerate() {
        for method in ["GET", "HEAD"] {
            // An answer to HEAD has no body, whatever it says.
            let may = if method == "HEAD" && *may == May::First { May::Bare } else { *may };
            let mut client = gateway.connect();
            let reply = client.try_send(&Request::new(method, &format!("/pub/hostile/{at}")));
            let bare = method == "HEAD" && reply.as_ref().is_ok_and(|reply| reply.body.is_empty());
            if !(bare || fits(may, &reply)) {
                wrong.push(format!("{what}: {method} {reply:?}"));
            }
            next_is_clean(&gateway, &mut client, what, at, &mut wrong);
        }
    }
    assert!(gateway.runs());
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), count * 2, wrong.join("\n"));
    say(&format!("CASES upstream answers: {}", count * 2));
}

fn next_is_clean(gateway: &Gateway, used: &mut Client, what: &str, at: usize, wrong: &mut Vec<String>) {
    for round in 0..2 {
        let target = format!("/pub/next-{at}-{round}");
        // The same connection if it is still there; what it gets must be its own.
        let again = used.try_send(&Request::get(&target));
        if again.as_ref().is_ok_and(|reply| reply.text() != target) {
            wrong.push(format!("after {what}, same connection: {again:?}"));
        }
        let fresh = gateway.get(&target);
        if fresh.status != 200 || fresh.text() != target {
            wrong.push(format!("after {what}: {fresh:?}"));
        }
    }
}
