//! A refused request whose body holds another request: read to its end or the connection closed, never a second answer
//! (CL.0, 0.CL, and the Expect variants of 2025).

use super::{Case, H, HIDDEN, Refused, Safe, case, run};

fn cases() -> Vec<Case> {
    let mut out = Vec::new();
    let length = HIDDEN.len();
    for (what, line) in [
        ("unauthorized", "POST /admin/x HTTP/1.1"),
        ("without a route", "POST /nowhere HTTP/1.1"),
        ("a GET, unauthorized", "GET /admin/x HTTP/1.1"),
        ("a HEAD, unauthorized", "HEAD /admin/x HTTP/1.1"),
        ("an OPTIONS, unauthorized", "OPTIONS /admin/x HTTP/1.1"),
        ("a DELETE, unauthorized", "DELETE /admin/x HTTP/1.1"),
        ("a method of its own", "SMUGGLE /admin/x HTTP/1.1"),
        ("a crooked path", "POST /pub/..%2fadmin HTTP/1.1"),
        ("TRACE", "TRACE /pub/x HTTP/1.1"),
    ] {
        for (how, fields) in [
            ("a length", format!("Content-Length: {length}\r\n")),
            ("a length, kept alive", format!("Connection: keep-alive\r\nContent-Length: {length}\r\n")),
            ("Expect", format!("Expect: 100-continue\r\nContent-Length: {length}\r\n")),
            ("an odd Expect", format!("Expect: y 100-continue\r\nContent-Length: {length}\r\n")),
            ("a list in Expect", format!("Expect: 100-continue, x\r\nContent-Length: {length}\r\n")),
            ("two Expect", format!("Expect: x\r\nExpect: 100-continue\r\nContent-Length: {length}\r\n")),
        ] {
            out.push(case(format!("{what}, {how}"), Refused, format!("{line}\r\n{H}{fields}\r\n{HIDDEN}")));
        }
        let chunk = format!("{length:x}\r\n{HIDDEN}\r\n0\r\n\r\n");
        let chunked = format!("{line}\r\n{H}Transfer-Encoding: chunked\r\n\r\n{chunk}");
        out.push(case(format!("{what}, chunks"), Refused, chunked));
    }
    for (what, value) in [
        ("in capitals", "100-CONTINUE"),
        ("with a space", " 100-continue "),
        ("with a parameter", "100-continue;q=1"),
        ("twice in a list", "100-continue, 100-continue"),
        ("of another number", "200-ok"),
        ("empty", ""),
        ("with a tab", "\t100-continue"),
        ("in quotes", "\"100-continue\""),
    ] {
        let fields = format!("Expect: {value}\r\nContent-Length: {length}\r\n");
        let message = format!("POST /pub/x HTTP/1.1\r\n{H}{fields}\r\n{HIDDEN}");
        out.push(case(format!("Expect {what}"), Safe, message).check(|seen| seen.body == HIDDEN.as_bytes()));
    }
    let ten = format!("POST /pub/x HTTP/1.0\r\n{H}Expect: 100-continue\r\nContent-Length: {length}\r\n\r\n{HIDDEN}");
    out.push(case("Expect in HTTP/1.0", Safe, ten));
    out
}

#[test]
fn the_body_of_a_refused_request_is_no_request() {
    run("desync", cases());
}
