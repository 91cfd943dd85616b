//! HTTP/2 that would become ambiguous HTTP/1.1 behind us, and paths of every spelling over HTTP/2.

use std::thread;
use std::time::Duration;

use gateway_tests::deadline::say;
use gateway_tests::h2frames::{DATA, END_STREAM, Frames, Outcome, RST_STREAM};
use gateway_tests::{Gateway, Upstream};

type Field = (Vec<u8>, Vec<u8>);

fn field(name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Field {
    (name.as_ref().to_vec(), value.as_ref().to_vec())
}

fn request(method: &str, path: impl AsRef<[u8]>) -> Vec<Field> {
    vec![field(":method", method), field(":scheme", "http"), field(":path", path), field(":authority", "gw.test")]
}

fn cases() -> Vec<(String, Vec<Field>)> {
    let mut out: Vec<(String, Vec<Field>)> = Vec::new();
    let mut with = |name: &[u8], value: &[u8]| {
        let mut fields = request("GET", "/pub/x");
        fields.push(field(name, value));
        let what = format!("{:?}: {:?}", String::from_utf8_lossy(name), String::from_utf8_lossy(value));
        out.push((what, fields));
    };
    for (name, value) in [
        ("transfer-encoding", "chunked"),
        ("transfer-encoding", "identity"),
        ("transfer-encoding", ""),
        ("connection", "close"),
        ("connection", "x-y"),
        ("connection", ""),
        ("upgrade", "h2c"),
        ("upgrade", "websocket"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "keep-alive"),
        ("te", "chunked"),
        ("te", "trailers, chunked"),
        ("te", ""),
        ("host", "evil.test"),
        ("host", "gw.test, evil.test"),
        ("content-length", "5"),
        ("content-length", "+0"),
        ("content-length", "-1"),
        ("content-length", "0x0"),
        ("content-length", "0, 0"),
        ("content-length", ""),
        ("x-y", "a\r\nb: c"),
        ("x-y", "a\nb"),
        ("x-y", "a\rb"),
        ("x-y", "a\0b"),
        ("x-y", "\r\n\r\nGET /admin HTTP/1.1"),
        ("x-y:", "a"),
        ("x y", "a"),
        ("x\r\ny", "a"),
        ("x\ny", "a"),
        ("x\0y", "a"),
        ("X-Y", "a"),
        ("x-Y", "a"),
        ("", "a"),
        (":", "a"),
        (":x", "a"),
        (":status", "200"),
        (":path", "/admin"),
        (":method", "POST"),
        (":authority", "evil.test"),
        (":scheme", "https"),
        (":protocol", "websocket"),
        ("transfer_encoding", "chunked"),
        ("content_length", "5"),
        ("x_consumer_username", "root"),
        ("x_forwarded_for", "1.2.3.4"),
        ("x/y", "a"),
        ("x(y)", "a"),
        ("x\x7fy", "a"),
        ("x-y", "a\x01b"),
        ("x-y", "a\x7fb"),
        ("expect", "x"),
        ("\u{e9}", "a"),
    ] {
        with(name.as_bytes(), value.as_bytes());
    }
    for path in [
        "",
        "*",
        "x",
        "?x",
        "#x",
        "http://gw.test/pub/x",
        "/pub/x y",
        "/pub/x\t",
        "/pub/x\r\n",
        "/pub/x\0",
        "/pub/x\x7f",
        "/pub/\u{e9}",
        "/pub/x HTTP/1.1\r\nhost: evil.test\r\n\r\nGET /admin",
        "/pub/..%2fadmin/x",
        "/pub/..;/admin/x",
        "/pub\\..\\admin",
        "/pub/%252e%252e/admin/x",
        "/pub/%c0%ae%c0%ae/admin/x",
        "/pub/%zz",
        "/pub/%00",
        "/pub/../admin/x",
        "//admin/x",
        "/%61dmin/x",
        "/pub/%2e%2e/admin/x",
        "/nowhere",
    ] {
        out.push((format!(":path {path:?}"), request("GET", path)));
    }
    for method in
        ["", "GET ", "G T", "GET\r\n", "GET /smuggled HTTP/1.1\r\n", "G\0T", "CONNECT", "TRACE", "G(T", "\u{e9}"]
    {
        out.push((format!(":method {method:?}"), request(method, "/pub/x")));
    }
    for (name, values) in [
        (
            ":authority",
            &[
                "",
                "a b",
                "a/pub",
                "u@gw.test",
                "gw.test:99999",
                "gw.test:x",
                "a\r\nx: y",
                "a\0b",
                "[::1",
                "a,b",
                "a?b",
                "a#b",
                "\u{e9}",
            ][..],
        ),
        (":scheme", &["", "ftp", "http\r\nx: y", "http ", "javascript", "file"][..]),
    ] {
        for value in values {
            let mut fields = request("GET", "/pub/x");
            fields
                .iter_mut()
                .filter(|known| known.0 == name.as_bytes())
                .for_each(|known| known.1 = value.as_bytes().to_vec());
            out.push((format!("{name} {value:?}"), fields));
        }
    }
    let pick = |order: &[usize]| order.iter().map(|at| request("GET", "/pub/x")[*at].clone()).collect::<Vec<_>>();
    for (what, fields) in [
        ("no method", pick(&[1, 2, 3])),
        ("no scheme", pick(&[0, 2, 3])),
        ("no path", pick(&[0, 1, 3])),
        ("no authority", pick(&[0, 1, 2])),
        ("two methods", pick(&[0, 0, 1, 2, 3])),
        ("two schemes", pick(&[0, 1, 1, 2, 3])),
        ("two paths", pick(&[0, 1, 2, 2, 3])),
        ("two authorities", pick(&[0, 1, 2, 3, 3])),
        ("nothing", Vec::new()),
        ("a field first", [vec![field("x", "y")], request("GET", "/pub/x")].concat()),
        ("an authority last", [pick(&[0, 1, 2]), vec![field("x", "y")], pick(&[3])].concat()),
        ("two hosts", [pick(&[0, 1, 2]), vec![field("host", "gw.test"), field("host", "evil.test")]].concat()),
    ] {
        out.push((what.to_owned(), fields));
    }
    out
}

#[test]
fn nothing_comes_down_as_something_else() {
    let upstream = Upstream::echo();
    let mut gateway = Gateway::start(&upstream.fill(super::CONFIG));
    let cases = cases();
    let mut wrong = Vec::new();
    for (what, fields) in &cases {
        let before = upstream.count();
        let mut frames = Frames::connect(gateway.proxy()).unwrap();
        let fields: Vec<(&[u8], &[u8])> = fields.iter().map(|(name, value)| (&**name, &**value)).collect();
        // The gateway may hang up while it is written.
        let _ = frames.headers(1, &fields, END_STREAM);
        let outcome = frames.outcome(1);
        let seen = upstream.seen().split_off(before);
        if !outcome.is_refusal() || !seen.is_empty() {
            let heads: Vec<_> = seen.iter().map(|seen| String::from_utf8_lossy(&seen.head).into_owned()).collect();
            wrong.push(format!("{what}: {outcome:?}, upstream {heads:?}"));
        }
    }
    gateway.get("/pub/after").expect(200);
    assert!(gateway.runs());
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    say(&format!("CASES HTTP/2 downgrade: {}", cases.len()));
}

#[test]
fn cookies_come_down_as_one_field() {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&upstream.fill(super::CONFIG));
    let mut fields = request("GET", "/pub/x");
    fields.extend([field("cookie", "a=b"), field("cookie", "c=d"), field("cookie", "e=f")]);
    let fields: Vec<(&[u8], &[u8])> = fields.iter().map(|(name, value)| (&**name, &**value)).collect();
    let mut frames = Frames::connect(gateway.proxy()).unwrap();
    frames.headers(1, &fields, END_STREAM).unwrap();
    frames.outcome(1);
    assert_eq!(upstream.last().all("cookie"), ["a=b; c=d; e=f"]);
}

#[test]
fn bodies_that_lie_about_their_length() {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&upstream.fill(super::CONFIG));
    let cases: [(&str, &[&[u8]]); 6] = [
        ("0", &[b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"]),
        ("1", &[b"ab"]),
        ("3", &[b"ab"]),
        ("100000", &[b"ab"]),
        ("2", &[b"ab", b"c"]),
        ("0", &[b"", b"x"]),
    ];
    for (length, pieces) in cases {
        let before = upstream.count();
        let mut fields = request("POST", "/pub/x");
        fields.push(field("content-length", length));
        let fields: Vec<(&[u8], &[u8])> = fields.iter().map(|(name, value)| (&**name, &**value)).collect();
        let mut frames = Frames::connect(gateway.proxy()).unwrap();
        frames.headers(1, &fields, 0).unwrap();
        for (at, piece) in pieces.iter().enumerate() {
            // Time enough for whoever answers before the end.
            thread::sleep(Duration::from_millis(50));
            // The gateway may have reset the stream already.
            let _ = frames.send(DATA, if at + 1 == pieces.len() { END_STREAM } else { 0 }, 1, piece);
        }
        let outcome = frames.outcome(1);
        assert!(outcome.is_refusal(), "{length}: {outcome:?}");
        let seen = upstream.seen().split_off(before);
        assert!(seen.iter().all(|seen| !seen.complete && !seen.target.contains("smuggled")), "{length}: {seen:?}");
    }
    say(&format!("CASES HTTP/2 lengths: {}", cases.len()));
}

#[test]
fn a_stream_that_is_given_up_is_no_whole_request() {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&upstream.fill(super::CONFIG));
    for length in [None, Some("2"), Some("9")] {
        let before = upstream.count();
        let mut fields = request("POST", "/pub/x");
        fields.extend(length.map(|length| field("content-length", length)));
        let fields: Vec<(&[u8], &[u8])> = fields.iter().map(|(name, value)| (&**name, &**value)).collect();
        let mut frames = Frames::connect(gateway.proxy()).unwrap();
        frames.headers(1, &fields, 0).unwrap();
        frames.send(DATA, 0, 1, b"ab").unwrap();
        thread::sleep(Duration::from_millis(100));
        // NO_ERROR: an end in peace, and no end of the body.
        frames.send(RST_STREAM, 0, 1, &[0; 4]).unwrap();
        thread::sleep(Duration::from_millis(300));
        let seen = upstream.seen().split_off(before);
        assert!(seen.iter().all(|seen| !seen.complete), "{length:?}: {seen:?}");
    }
}

#[test]
fn an_end_of_its_own_frame_ends_a_body() {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&upstream.fill(super::CONFIG));
    for (length, pieces) in
        [("0", &[b"".as_slice()] as &[&[u8]]), ("2", &[b"ab", b""]), ("2", &[b"a", b"", b"b", b"", b""])]
    {
        let mut fields = request("POST", "/pub/x");
        fields.push(field("content-length", length));
        let fields: Vec<(&[u8], &[u8])> = fields.iter().map(|(name, value)| (&**name, &**value)).collect();
        let mut frames = Frames::connect(gateway.proxy()).unwrap();
        frames.headers(1, &fields, 0).unwrap();
        let before = upstream.count();
        for (at, piece) in pieces.iter().enumerate() {
            thread::sleep(Duration::from_millis(50));
            assert!(!upstream.seen()[before..].iter().any(|seen| seen.complete), "complete before its end");
            frames.send(DATA, if at + 1 == pieces.len() { END_STREAM } else { 0 }, 1, piece).unwrap();
        }
        assert_eq!(frames.outcome(1), Outcome::Status(200));
        let seen = upstream.seen().pop().unwrap();
        assert!(seen.complete && seen.body == pieces.concat(), "{seen:?}");
    }
}
