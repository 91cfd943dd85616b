//! HTTP/2 that breaks its rules (RFC 9113 §8): refused, and never turned into HTTP/1.1 that says
//! something else.

use std::time::{Duration, Instant};

use gateway_tests::h2frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, Frames, HEADERS, Outcome, RST_STREAM, SETTINGS, block,
};
use gateway_tests::{Gateway, Request, Upstream, h2};

const CONFIG: &str = r#"
_format_version: "3.0"
services:
- url: @UP@
  routes: [{ paths: [/] }]
"#;

type Field = (&'static [u8], &'static [u8]);

const METHOD: Field = (b":method", b"GET");
const SCHEME: Field = (b":scheme", b"http");
const PATH: Field = (b":path", b"/x");
const AUTHORITY: Field = (b":authority", b"a.test");

fn scene() -> (Upstream, Gateway) {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&upstream.fill(CONFIG));
    (upstream, gateway)
}

/// The four pseudo-fields, then `more`.
fn with(more: &[Field]) -> Vec<Field> {
    [&[METHOD, SCHEME, PATH, AUTHORITY], more].concat()
}

/// The four pseudo-fields with the one of the same name replaced.
fn but(field: Field) -> Vec<Field> {
    [METHOD, SCHEME, PATH, AUTHORITY].map(|known| if known.0 == field.0 { field } else { known }).to_vec()
}

fn refused() -> Vec<(&'static str, Vec<Field>)> {
    vec![
        ("transfer-encoding", with(&[(b"transfer-encoding", b"chunked")])),
        ("connection", with(&[(b"connection", b"close")])),
        ("keep-alive", with(&[(b"keep-alive", b"5")])),
        ("proxy-connection", with(&[(b"proxy-connection", b"close")])),
        ("upgrade", with(&[(b"upgrade", b"websocket")])),
        ("te but trailers", with(&[(b"te", b"gzip")])),
        ("a name in capitals", with(&[(b"X-Y", b"1")])),
        ("a name with a colon", with(&[(b"x:y", b"1")])),
        ("a name with a space", with(&[(b"x y", b"1")])),
        ("a name with a line end", with(&[(b"x\r\ny", b"1")])),
        ("a name beyond ASCII", with(&[(b"x\xe9", b"1")])),
        ("no name", with(&[(b"", b"1")])),
        ("a value with a line end", with(&[(b"x", b"1\r\ntransfer-encoding: chunked")])),
        ("a value with a LF", with(&[(b"x", b"1\n2")])),
        ("a value with a NUL", with(&[(b"x", b"1\x002")])),
        ("another host than the authority", with(&[(b"host", b"evil.test")])),
        ("no method", vec![SCHEME, PATH, AUTHORITY]),
        ("no scheme", vec![METHOD, PATH, AUTHORITY]),
        ("no path", vec![METHOD, SCHEME, AUTHORITY]),
        ("no authority and no host", vec![METHOD, SCHEME, PATH]),
        ("two paths", vec![METHOD, SCHEME, PATH, PATH, AUTHORITY]),
        ("two methods", vec![METHOD, METHOD, SCHEME, PATH, AUTHORITY]),
        ("a pseudo-field behind a field", vec![METHOD, SCHEME, (b"x", b"1"), PATH, AUTHORITY]),
        ("an unknown pseudo-field", with(&[(b":x", b"1")])),
        ("a pseudo-field of answers", with(&[(b":status", b"200")])),
        ("a protocol without extended CONNECT", with(&[(b":protocol", b"websocket")])),
        ("an empty path", but((b":path", b""))),
        ("a path without a slash", but((b":path", b"x"))),
        ("a path with a space", but((b":path", b"/x y"))),
        ("a path with a line end", but((b":path", b"/x HTTP/1.1\r\nhost: evil.test\r\n\r\nGET /"))),
        ("a path with a NUL", but((b":path", b"/x\x00"))),
        ("a path beyond ASCII", but((b":path", b"/\xe9"))),
        ("a method with a space", but((b":method", b"GET /smuggled"))),
        ("a method with a line end", but((b":method", b"GET / HTTP/1.1\r\nx: y"))),
        ("CONNECT", but((b":method", b"CONNECT"))),
        ("TRACE", but((b":method", b"TRACE"))),
        ("an authority with a path", but((b":authority", b"a.test/evil"))),
        ("an authority with a user", but((b":authority", b"u@a.test"))),
        ("an authority with a space", but((b":authority", b"a b"))),
        ("another scheme", but((b":scheme", b"ftp"))),
        ("a scheme with a line end", but((b":scheme", b"http\r\nx: y"))),
        ("a length of text", with(&[(b"content-length", b"abc")])),
        ("a length and no body", with(&[(b"content-length", b"5")])),
        ("two lengths", with(&[(b"content-length", b"0"), (b"content-length", b"1")])),
    ]
}

#[test]
fn header_blocks_that_break_the_rules() {
    let (upstream, mut gateway) = scene();
    let mut wrong = Vec::new();
    let cases = refused();
    let count = cases.len();
    for (what, fields) in cases {
        let before = upstream.count();
        let mut frames = Frames::connect(gateway.proxy()).unwrap();
        // The gateway may hang up while it is written.
        let _ = frames.headers(1, &fields, END_STREAM);
        let outcome = frames.outcome(1);
        let seen = upstream.seen().split_off(before);
        if !outcome.is_refusal() || !seen.is_empty() {
            let heads: Vec<String> = seen.iter().map(|seen| String::from_utf8_lossy(&seen.head).into_owned()).collect();
            wrong.push(format!("{what}: {outcome:?}, upstream {heads:?}"));
        }
    }
    gateway.get("/after").expect(200);
    assert!(gateway.runs());
    assert!(wrong.is_empty(), "{} of {count}:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn a_good_header_block_passes_the_same_way() {
    // Otherwise the refusals above would prove nothing.
    let (upstream, gateway) = scene();
    for fields in [with(&[]), with(&[(b"te", b"trailers")]), vec![METHOD, SCHEME, PATH, (b"host", b"a.test")]] {
        let mut frames = Frames::connect(gateway.proxy()).unwrap();
        frames.headers(1, &fields, END_STREAM).unwrap();
        assert_eq!(frames.outcome(1), Outcome::Status(200), "{fields:?}");
    }
    assert!(upstream.seen().iter().all(|seen| seen.faults.is_empty()));
}

#[test]
fn bodies_that_do_not_keep_their_word() {
    let (upstream, gateway) = scene();
    let post = |length: &'static [u8]| {
        vec![(b":method".as_slice(), b"POST".as_slice()), SCHEME, PATH, AUTHORITY, (b"content-length", length)]
    };
    for (what, length, pieces) in [
        ("too little", b"5".as_slice(), vec![b"abc".as_slice()]),
        ("too much", b"2", vec![b"abc"]),
        ("something where nothing was said", b"0", vec![b"abc"]),
        ("too much at last", b"3", vec![b"abc", b"d"]),
    ] {
        let before = upstream.count();
        let mut frames = Frames::connect(gateway.proxy()).unwrap();
        frames.headers(1, &post(length), 0).unwrap();
        for (at, piece) in pieces.iter().enumerate() {
            let flags = if at + 1 == pieces.len() { END_STREAM } else { 0 };
            // The gateway may have reset the stream already.
            let _ = frames.send(DATA, flags, 1, piece);
        }
        let outcome = frames.outcome(1);
        assert!(outcome.is_refusal(), "{what}: {outcome:?}");
        let complete = upstream.seen().split_off(before).into_iter().filter(|seen| seen.complete).count();
        assert_eq!(complete, 0, "{what}");
    }
}

/// The HTTP/2 library drops such a field before the gateway could see it; what counts is that nobody behind gets it.
#[test]
fn pseudo_fields_in_trailers_reach_nobody() {
    let (upstream, gateway) = scene();
    let mut frames = Frames::connect(gateway.proxy()).unwrap();
    let post = [(b":method".as_slice(), b"POST".as_slice()), SCHEME, PATH, AUTHORITY];
    frames.headers(1, &post, 0).unwrap();
    frames.send(DATA, 0, 1, b"abc").unwrap();
    frames.headers(1, &[(b":path", b"/admin")], END_STREAM).unwrap();
    let _ = frames.outcome(1);
    for seen in upstream.seen() {
        assert!(!format!("{seen:?}").contains("admin"), "{seen:?}");
    }
}

#[test]
fn frames_in_the_wrong_place_end_the_connection() {
    let (upstream, mut gateway) = scene();
    let block = block(&with(&[]));
    let cases: [(&str, u8, u8, u32, Vec<u8>); 7] = [
        ("data on an idle stream", DATA, END_STREAM, 1, b"abc".to_vec()),
        ("an even stream", HEADERS, END_HEADERS | END_STREAM, 2, block.clone()),
        ("headers on stream 0", HEADERS, END_HEADERS | END_STREAM, 0, block),
        ("a continuation of nothing", CONTINUATION, END_HEADERS, 1, vec![]),
        ("settings of an odd length", SETTINGS, 0, 0, vec![0; 5]),
        ("a header block that is none", HEADERS, END_HEADERS | END_STREAM, 1, vec![0xff; 16]),
        ("a frame that is too large", DATA, 0, 1, vec![0; 100_000]),
    ];
    for (what, kind, flags, stream, payload) in cases {
        let mut frames = Frames::connect(gateway.proxy()).unwrap();
        // The gateway may hang up while it is written.
        let _ = frames.send(kind, flags, stream, &payload);
        let outcome = frames.outcome(stream);
        assert!(outcome.is_refusal(), "{what}: {outcome:?}");
    }
    assert_eq!(upstream.count(), 0);
    gateway.get("/after").expect(200);
    assert!(gateway.runs());
}

#[test]
fn floods_end_and_others_are_served() {
    let (_upstream, mut gateway) = scene();
    let flood = |send: &mut dyn FnMut(&mut Frames, u32) -> std::io::Result<()>| {
        let mut frames = Frames::connect(gateway.proxy()).unwrap();
        for at in 0..10_000u32 {
            if send(&mut frames, at).is_err() {
                break;
            }
        }
        let begun = Instant::now();
        gateway.get("/other").expect(200);
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    };
    let request = block(&with(&[]));
    // Streams that are opened and reset at once (CVE-2023-44487).
    flood(&mut |frames, at| {
        frames.send(HEADERS, END_HEADERS | END_STREAM, at * 2 + 1, &request)?;
        frames.send(RST_STREAM, 0, at * 2 + 1, &8u32.to_be_bytes())
    });
    // A header block without end (CVE-2024-27316).
    flood(&mut |frames, at| match at {
        0 => frames.send(HEADERS, 0, 1, &request),
        _ => frames.send(CONTINUATION, 0, 1, &[0, 1, b'x', 1, b'y'].repeat(200)),
    });
    // Settings to be acknowledged (CVE-2019-9515).
    flood(&mut |frames, _| frames.send(SETTINGS, 0, 0, &[]));
    assert!(gateway.runs());
    let replies = h2::send_clear(gateway.proxy(), &[Request::get("/")]);
    replies[0].clone().expect(200);
}

#[test]
fn a_header_list_without_measure_is_refused() {
    let (upstream, gateway) = scene();
    let mut frames = Frames::connect(gateway.proxy()).unwrap();
    let mut fields = with(&[]);
    fields.extend([(b"x".as_slice(), [b'a'; 1000].as_slice()); 200]);
    let bytes = block(&fields);
    for (at, piece) in bytes.chunks(16_000).enumerate() {
        let last = (at + 1) * 16_000 >= bytes.len();
        let flags = if last { END_HEADERS } else { 0 };
        // The gateway may hang up while it is written.
        let _ = match at {
            0 => frames.send(HEADERS, END_STREAM | flags, 1, piece),
            _ => frames.send(CONTINUATION, flags, 1, piece),
        };
    }
    let outcome = frames.outcome(1);
    assert!(outcome.is_refusal(), "{outcome:?}");
    assert_eq!(upstream.count(), 0);
}
