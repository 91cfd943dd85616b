//! Where a body ends: Content-Length, Transfer-Encoding, chunks, trailers (RFC 9112 §6, §7.1). One reading or none.

use super::{Case, Cut, H, HIDDEN, Refused, Safe, Served, bytes, case, post, run};

/// A body that ends at once for a reader of chunks and hides a request for one of lengths.
fn hidden() -> String {
    format!("0\r\n\r\n{HIDDEN}")
}

fn lengths() -> Vec<Case> {
    let mut out = vec![
        case("a good length", Served, post("Content-Length: 5\r\n", "hello")),
        case("a length of zero", Served, post("Content-Length: 0\r\n", "")),
        case("equal lengths", Safe, post("Content-Length: 5\r\nContent-Length: 5\r\n", "hello")),
        case("leading zeros", Safe, post("Content-Length: 0000005\r\n", "hello")),
        case("tabs around", Safe, post("Content-Length:\t5\t\r\n", "hello")),
        case("no field at all on POST", Served, post("", "")),
    ];
    for value in [
        "+5",
        "-0",
        "-5",
        "0x5",
        "0b101",
        "5 5",
        "5;x",
        "5.0",
        "5e0",
        "five",
        "5,",
        ",5",
        "5,5",
        "5, 6",
        "5 ,5",
        "\"5\"",
        "'5'",
        "5\x0b",
        "\x0b5",
        "5\x0c",
        "5\u{a0}",
        "\u{665}",
        "5L",
        "5_0",
        "0o5",
        "18446744073709551615",
        "18446744073709551616",
        "18446744073709551621",
        "9223372036854775808",
        "99999999999999999999999999",
        "",
        " ",
        "NaN",
        "Infinity",
        "5\\",
        "5%20",
        "(5)",
    ] {
        // A number that fits is a length: the body just never completes.
        let fate = if matches!(value, "18446744073709551615" | "9223372036854775808") { Cut } else { Refused };
        out.push(case(format!("a length of {value:?}"), fate, post(&format!("Content-Length: {value}\r\n"), "hello")));
    }
    for (what, fields) in [
        ("two lengths", "Content-Length: 5\r\nContent-Length: 6\r\n"),
        ("two lengths reversed", "Content-Length: 6\r\nContent-Length: 5\r\n"),
        ("a length and none", "Content-Length: 5\r\nContent-Length:\r\n"),
        ("a length and text", "Content-Length: 5\r\nContent-Length: abc\r\n"),
        ("lengths far apart", "Content-Length: 5\r\nX-A: b\r\nX-B: c\r\nContent-Length: 0\r\n"),
        ("in two cases", "Content-Length: 5\r\ncontent-length: 6\r\n"),
        ("a space in the name", "Content-Length : 5\r\n"),
        ("a tab in the name", "Content-Length\t: 5\r\n"),
        ("folded", "Content-Length:\r\n 5\r\n"),
        ("folded on", "Content-Length: 5\r\n 0\r\n"),
    ] {
        out.push(case(what, Refused, post(fields, "hello")));
    }
    let lookalike = format!("Content-Length: {}\r\nContent_Length: 0\r\n", HIDDEN.len());
    out.push(case("an underscore", Safe, post(&lookalike, HIDDEN)));
    out.push(case("a GET with a body", Safe, {
        let length = HIDDEN.len();
        format!("GET /pub/x HTTP/1.1\r\n{H}Content-Length: {length}\r\n\r\n{HIDDEN}")
    }));
    out
}

#[test]
fn lengths_are_one_number() {
    run("content-length", lengths());
}

fn codings() -> Vec<Case> {
    let mut out = vec![
        case("good chunks", Served, post("Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\n\r\n")),
        case("in capitals", Served, post("Transfer-Encoding: CHUNKED\r\n", "5\r\nhello\r\n0\r\n\r\n")),
    ];
    for value in [
        "xchunked",
        "chunkedx",
        "chunke",
        "chun ked",
        "identity",
        "gzip",
        "deflate",
        "compress",
        "br",
        "cow",
        "",
        "chunked, identity",
        "identity, chunked",
        "chunked, chunked",
        "gzip, chunked",
        "chunked, gzip",
        ",chunked",
        "chunked,",
        ", chunked",
        "chunked;q=1",
        "chunked ;a",
        "\"chunked\"",
        "'chunked'",
        "(chunked)",
        "\x0bchunked",
        "chunked\x0b",
        "\x0cchunked",
        "chunked\x0c",
        "chunked\\",
        "chu\\nked",
        "%63hunked",
        "chunKed\u{212a}",
        "chun\u{212a}ed",
        "\u{feff}chunked",
        "x=chunked",
        "chunked=1",
        "chunked:",
        "-chunked",
        "chunked\x7f",
        "null",
        "trailers",
        "tchunked",
        "chunked|cow",
    ] {
        let field = format!("Transfer-Encoding: {value}\r\n");
        out.push(case(format!("a coding of {value:?}"), Refused, post(&field, &hidden())));
    }
    for (what, fields) in [
        ("two codings", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"),
        ("chunked, then another", "Transfer-Encoding: chunked\r\nTransfer-Encoding: cow\r\n"),
        ("another, then chunked", "Transfer-Encoding: cow\r\nTransfer-Encoding: chunked\r\n"),
        ("identity, then chunked", "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n"),
        ("empty, then chunked", "Transfer-Encoding:\r\nTransfer-Encoding: chunked\r\n"),
        ("a space before the colon", "Transfer-Encoding : chunked\r\n"),
        ("a tab before the colon", "Transfer-Encoding\t: chunked\r\n"),
        ("a fold before the value", "Transfer-Encoding:\r\n chunked\r\n"),
        ("a fold in front", "X: a\r\n Transfer-Encoding: chunked\r\n"),
        ("a bare CR in front", "X: a\rTransfer-Encoding: chunked\r\n"),
        ("a bare CR behind the name", "Transfer-Encoding\r: chunked\r\n"),
        ("a NUL in front", "X: a\0Transfer-Encoding: chunked\r\n"),
        ("a space in the name", "Transfer Encoding: chunked\r\n"),
        ("an accent", "Transf\u{e9}r-Encoding: chunked\r\n"),
    ] {
        out.push(case(what, Refused, post(fields, &hidden())));
    }
    out
}

#[test]
fn codings_are_chunked_and_nothing_else() {
    run("transfer-encoding", codings());
}

fn both() -> Vec<Case> {
    let hidden = hidden();
    let length = hidden.len();
    let mut out = Vec::new();
    for (what, fields) in [
        ("CL, TE", format!("Content-Length: {length}\r\nTransfer-Encoding: chunked\r\n")),
        ("TE, CL", format!("Transfer-Encoding: chunked\r\nContent-Length: {length}\r\n")),
        ("CL far from TE", format!("Content-Length: {length}\r\nX: y\r\nTransfer-Encoding: chunked\r\n")),
        ("CL of zero, TE", "Content-Length: 0\r\nTransfer-Encoding: chunked\r\n".into()),
        ("CL of 4, TE", "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n".into()),
        ("TE in capitals, CL", format!("TRANSFER-ENCODING: chunked\r\nCONTENT-LENGTH: {length}\r\n")),
        ("CL, odd TE", format!("Content-Length: {length}\r\nTransfer-Encoding: xchunked\r\n")),
        ("CL, TE with a tab", format!("Content-Length: {length}\r\nTransfer-Encoding:\tchunked\r\n")),
        ("CL, TE with a trailing space", format!("Content-Length: {length}\r\nTransfer-Encoding: chunked \r\n")),
        ("CL, nominated TE", {
            format!("Content-Length: {length}\r\nTransfer-Encoding: chunked\r\nConnection: Transfer-Encoding\r\n")
        }),
        ("CL, two TE", {
            format!("Content-Length: {length}\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n")
        }),
    ] {
        // A server may refuse, or read the coding alone and close (RFC 9112 §6.3).
        let fate = if what.contains("odd") || what.contains("two") { Refused } else { Safe };
        out.push(case(what, fate, post(&fields, &hidden)).check(|seen| seen.body.is_empty()));
    }
    for (what, fields) in [
        ("an underscore for TE", "Transfer_Encoding: chunked"),
        ("TE in quotes of a value", "X: \"a, Transfer-Encoding: chunked\""),
        ("a prefix of TE", "XTransfer-Encoding: chunked"),
        ("another dash", "Transfer\u{2011}Encoding: chunked"),
    ] {
        let fields = format!("Content-Length: {length}\r\n{fields}\r\n");
        out.push(case(what, Safe, post(&fields, &hidden)));
    }
    let tail = format!("Transfer-Encoding: chunked\r\n\r\n{hidden}");
    out.push(case("TE in HTTP/1.0", Refused, format!("POST /pub/x HTTP/1.0\r\n{H}{tail}")));
    let tail = format!("Connection: keep-alive\r\n{tail}");
    out.push(case("TE in HTTP/1.0 kept alive", Refused, format!("POST /pub/x HTTP/1.0\r\n{H}{tail}")));
    let tail = format!("Content-Length: {length}\r\n{tail}");
    out.push(case("CL and TE in HTTP/1.0", Refused, format!("POST /pub/x HTTP/1.0\r\n{H}{tail}")));
    out
}

#[test]
fn a_length_never_stands_beside_a_coding() {
    run("CL.TE and TE.CL", both());
}

/// Every byte that is not part of the grammar, at the places where parsers differ.
fn sweep() -> Vec<Case> {
    let mut out = Vec::new();
    for byte in 0..=255u8 {
        let odd = [byte];
        let head = format!("POST /pub/x HTTP/1.1\r\n{H}");
        let body = hidden();
        let blank = matches!(byte, b' ' | b'\t');
        let places: [(&str, &[u8], &[u8]); 5] = [
            ("before the name", b"", b"Transfer-Encoding: chunked"),
            ("after the name", b"Transfer-Encoding", b": chunked"),
            ("before the value", b"Transfer-Encoding:", b"chunked"),
            ("behind the value", b"Transfer-Encoding: chunked", b""),
            ("inside the value", b"Transfer-Encoding: chun", b"ked"),
        ];
        for (place, before, after) in places {
            let message = bytes(&[head.as_bytes(), before, &odd, after, b"\r\n\r\n", body.as_bytes()]);
            let fine = match place {
                "before the value" | "behind the value" => blank,
                _ => false,
            };
            // A good coding leaves the hidden request as one more request, which has no route; a name that is a token of
            // its own makes the body one that was not announced.
            if fine || is_request_behind(place, byte) {
                continue;
            }
            out.push(case(format!("{byte:#04x} {place}"), Refused, message));
        }
    }
    out
}

/// Whether the odd byte makes another, valid field or line of it, so that what follows is a request that is not hidden.
fn is_request_behind(place: &str, byte: u8) -> bool {
    let token = byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    match place {
        "before the name" => token || byte == b'\n' || byte == b'\r',
        "after the name" => token || byte == b':',
        "behind the value" => byte == b'\r' || byte == b'\n',
        _ => false,
    }
}

#[test]
fn every_byte_around_the_coding() {
    run("transfer-encoding, every byte", sweep());
}

fn chunks() -> Vec<Case> {
    let chunked = |body: &str| post("Transfer-Encoding: chunked\r\n", body);
    let mut out = vec![
        case("an extension", Safe, chunked("5;a=b\r\nhello\r\n0\r\n\r\n")),
        case("a quoted extension", Safe, chunked("5;a=\"b c\"\r\nhello\r\n0\r\n\r\n")),
        case("an extension on the last", Safe, chunked("5\r\nhello\r\n0;a=b\r\n\r\n")),
        case("a size with zeros", Safe, chunked("0005\r\nhello\r\n0\r\n\r\n")),
        case("a last chunk of zeros", Safe, chunked("5\r\nhello\r\n000\r\n\r\n")),
        case("sizes in capitals", Served, chunked("A\r\nhellohello\r\n0\r\n\r\n")),
        case("sizes in small letters", Served, chunked("a\r\nhellohello\r\n0\r\n\r\n")),
        case("no body at all", Served, chunked("0\r\n\r\n")),
    ];
    for (what, body) in [
        ("a sign", "+5\r\nhello\r\n0\r\n\r\n"),
        ("a minus", "-5\r\nhello\r\n0\r\n\r\n"),
        ("minus zero", "-0\r\n\r\n"),
        ("a prefix", "0x5\r\nhello\r\n0\r\n\r\n"),
        ("a last chunk with a prefix", "5\r\nhello\r\n0x0\r\n\r\n"),
        ("no digit", "g\r\nhello\r\n0\r\n\r\n"),
        ("a digit and none", "5g\r\nhello\r\n0\r\n\r\n"),
        ("an empty size", "\r\nhello\r\n0\r\n\r\n"),
        ("a space before", " 5\r\nhello\r\n0\r\n\r\n"),
        ("a tab before", "\t5\r\nhello\r\n0\r\n\r\n"),
        ("quotes", "\"5\"\r\nhello\r\n0\r\n\r\n"),
        ("a fraction", "5.0\r\nhello\r\n0\r\n\r\n"),
        ("an underscore", "5_0\r\nhello\r\n0\r\n\r\n"),
        ("a comma", "5,\r\nhello\r\n0\r\n\r\n"),
        ("17 digits", "FFFFFFFFFFFFFFFFF\r\nhello\r\n0\r\n\r\n"),
        ("a size that wraps", "10000000000000005\r\nhello\r\n0\r\n\r\n"),
        ("a size that wraps 32 bits", "100000005\r\nhello\r\n0\r\n\r\n"),
        ("longer than its size", "3\r\nhello\r\n0\r\n\r\n"),
        ("shorter than its size", "6\r\nhello\r\n0\r\n\r\n"),
        ("no end of the data", "5\r\nhelloXX0\r\n\r\n"),
        ("LF behind the size", "5\nhello\r\n0\r\n\r\n"),
        ("LF behind the data", "5\r\nhello\n0\r\n\r\n"),
        ("LF behind the last", "5\r\nhello\r\n0\n\n"),
        ("CR behind the size", "5\rhello\r\n0\r\n\r\n"),
        ("CR behind the data", "5\r\nhello\r0\r\n\r\n"),
        ("CR CR LF behind the size", "5\r\r\nhello\r\n0\r\n\r\n"),
        ("CR CR LF behind the data", "5\r\nhello\r\r\n0\r\n\r\n"),
        ("LF in an extension", "5;a\nhello\r\n0\r\n\r\n"),
        ("CR in an extension", "5;a\rb\r\nhello\r\n0\r\n\r\n"),
        ("CR before an extension", "5\r;a\r\nhello\r\n0\r\n\r\n"),
        ("LF in quotes of an extension", "5;a=\"\n\"\r\nhello\r\n0\r\n\r\n"),
        ("a NUL behind the size", "5\0\r\nhello\r\n0\r\n\r\n"),
        ("a digit behind a space", "5 5\r\nhello\r\n0\r\n\r\n"),
        ("an escape", "%35\r\nhello\r\n0\r\n\r\n"),
        ("full-width digits", "\u{ff15}\r\nhello\r\n0\r\n\r\n"),
        ("no chunks at all", "hello"),
    ] {
        out.push(case(what, Cut, chunked(body)));
    }
    for (what, body) in [
        ("a NUL in an extension", "5;a\0b\r\nhello\r\n0\r\n\r\n"),
        ("a DEL in an extension", "5;a\x7fb\r\nhello\r\n0\r\n\r\n"),
        ("a space before the extension", "5 ;a\r\nhello\r\n0\r\n\r\n"),
        ("a semicolon alone", "5;\r\nhello\r\n0\r\n\r\n"),
        ("an open quote", "5;a=\"b\r\nhello\r\n0\r\n\r\n"),
        ("a space behind the size", "5 \r\nhello\r\n0\r\n\r\n"),
    ] {
        out.push(case(what, Safe, chunked(body)));
    }
    out.push(case("an endless extension", Cut, chunked(&format!("5;{}\r\nhello\r\n0\r\n\r\n", "a".repeat(70_000)))));
    let many = format!("1;{}\r\na\r\n", "b".repeat(200)).repeat(2_000);
    out.push(case("thousands of extensions", Cut, chunked(&format!("{many}0\r\n\r\n"))));
    out
}

#[test]
fn chunks_by_the_grammar() {
    run("chunks", chunks());
}

fn trailers() -> Vec<Case> {
    let with = |fields: &str| post("Transfer-Encoding: chunked\r\n", &format!("5\r\nhello\r\n0\r\n{fields}\r\n"));
    let mut out = Vec::new();
    for field in [
        "Content-Length: 50",
        "Transfer-Encoding: chunked",
        "Host: evil.test",
        "Authorization: Basic YTpi",
        "X-Consumer-Username: root",
        "X-Credential-Identifier: root",
        "X-Forwarded-For: 1.2.3.4",
        "X-Real-IP: 1.2.3.4",
        "Connection: close",
        "Cookie: a=b",
        "Content-Type: text/html",
        "X_Real_IP: 1.2.3.4",
        "Trailer: X",
        "TE: trailers",
        "Expect: 100-continue",
        "Upgrade: websocket",
        "Set-Cookie: a=b",
        "Cache-Control: no-store",
        "Range: bytes=0-",
    ] {
        let name = field.split(':').next().unwrap_or_default().to_owned();
        out.push(case(format!("{field} in trailers"), Safe, with(&format!("{field}\r\n"))).check(move |seen| {
            // Neither merged into the head nor passed on where it could be.
            let own = matches!(&*name, "X-Forwarded-For" | "X-Real-IP" | "Host" | "Transfer-Encoding");
            let merged = seen.headers.iter().any(|(known, _)| known.eq_ignore_ascii_case(&name));
            let trailed = seen.trailers.iter().any(|(known, _)| known.eq_ignore_ascii_case(&name));
            (own || !merged) && !trailed && !seen.all("x-real-ip").contains(&"1.2.3.4")
        }));
    }
    for (what, field) in [
        ("a NUL", "X: a\0b\r\n"),
        ("a bare CR", "X: a\rb\r\n"),
        ("a space before the colon", "X : a\r\n"),
        ("a fold", "X: a\r\n b\r\n"),
        ("no colon", "X\r\n"),
        ("no name", ": a\r\n"),
        ("a bare LF", "X: a\n\r\n"),
    ] {
        out.push(case(format!("trailers with {what}"), Safe, with(field)));
    }
    out.push(case("trailers without measure", Cut, with(&format!("X: {}\r\n", "a".repeat(200_000)))));
    out.push(case("thousands of trailers", Cut, with(&"X: a\r\n".repeat(10_000))));
    out
}

#[test]
fn trailers_are_never_a_head() {
    run("trailers", trailers());
}
