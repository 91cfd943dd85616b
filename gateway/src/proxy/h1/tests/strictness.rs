//! Responses that must be refused, split at every byte boundary, each with its reason.

use http::Method;

use super::responses::{Then, play, play_split};

const IDLE: &[(&str, &str, &str)] = &[
    // Status line.
    ("HTTP/2 text", "HTTP/2.0 200 OK\r\n\r\n", "head_syntax"),
    ("HTTP/0.9", "<html>", "head_syntax"),
    ("HTTP/1.2", "HTTP/1.2 200 OK\r\n\r\n", "head_syntax"),
    ("HTTP/1.10", "HTTP/1.10 200 OK\r\n\r\n", "head_syntax"),
    ("lower-case protocol", "http/1.1 200 OK\r\n\r\n", "head_syntax"),
    ("empty line first", "\r\nHTTP/1.1 200 OK\r\n\r\n", "head_syntax"),
    ("two spaces", "HTTP/1.1  200 OK\r\n\r\n", "head_syntax"),
    ("two digits", "HTTP/1.1 20 OK\r\n\r\n", "head_syntax"),
    ("four digits", "HTTP/1.1 2000 OK\r\n\r\n", "head_syntax"),
    ("status 099", "HTTP/1.1 099 OK\r\n\r\n", "head_syntax"),
    ("sign in status", "HTTP/1.1 +20 OK\r\n\r\n", "head_syntax"),
    ("NUL in the reason phrase", "HTTP/1.1 200 O\0K\r\n\r\n", "head_syntax"),
    ("CR in the reason phrase", "HTTP/1.1 200 O\rK\r\n\r\n", "head_syntax"),
    // Lines and fields.
    ("LF behind the status line", "HTTP/1.1 200 OK\nContent-Length: 0\r\n\r\n", "head_syntax"),
    ("LF behind a field", "HTTP/1.1 200 OK\r\nContent-Length: 0\n\r\n", "head_syntax"),
    ("LF as the empty line", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\n", "head_syntax"),
    ("LF LF", "HTTP/1.1 200 OK\n\n", "head_syntax"),
    ("obs-fold", "HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 0\r\n\r\n", "head_syntax"),
    ("obs-fold with a tab", "HTTP/1.1 200 OK\r\nX: a\r\n\tb\r\nContent-Length: 0\r\n\r\n", "head_syntax"),
    ("obs-fold first", "HTTP/1.1 200 OK\r\n X: a\r\nContent-Length: 0\r\n\r\n", "head_syntax"),
    ("space before the colon", "HTTP/1.1 200 OK\r\nContent-Length : 0\r\n\r\n", "head_syntax"),
    ("tab before the colon", "HTTP/1.1 200 OK\r\nContent-Length\t: 0\r\n\r\n", "head_syntax"),
    ("no colon", "HTTP/1.1 200 OK\r\nContent-Length\r\n\r\n", "head_syntax"),
    ("no name", "HTTP/1.1 200 OK\r\n: x\r\n\r\n", "head_syntax"),
    ("NUL in a name", "HTTP/1.1 200 OK\r\nX\0: a\r\n\r\n", "head_syntax"),
    ("space in a name", "HTTP/1.1 200 OK\r\nX Y: a\r\n\r\n", "head_syntax"),
    ("NUL in a value", "HTTP/1.1 200 OK\r\nX: a\0b\r\n\r\n", "head_syntax"),
    ("CR in a value", "HTTP/1.1 200 OK\r\nX: a\rb\r\n\r\n", "head_syntax"),
    ("vertical tab in a value", "HTTP/1.1 200 OK\r\nX: a\x0bb\r\n\r\n", "head_syntax"),
    ("DEL in a value", "HTTP/1.1 200 OK\r\nX: a\x7fb\r\n\r\n", "head_syntax"),
    ("CR CR LF", "HTTP/1.1 200 OK\r\nX: a\r\r\n\r\n", "head_syntax"),
    // Framing.
    ("length and chunked", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", "framing"),
    ("chunked and length", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n", "framing"),
    ("chunked twice", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", "framing"),
    ("chunked, chunked", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, chunked\r\n\r\n", "framing"),
    ("gzip, chunked", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", "framing"),
    ("identity", "HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\nContent-Length: 0\r\n\r\n", "framing"),
    ("empty coding", "HTTP/1.1 200 OK\r\nTransfer-Encoding:\r\n\r\n", "framing"),
    ("quoted coding", "HTTP/1.1 200 OK\r\nTransfer-Encoding: \"chunked\"\r\n\r\n", "framing"),
    ("coding with a parameter", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked;a=b\r\n\r\n", "framing"),
    ("coding with a comma", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked,\r\n\r\n", "framing"),
    ("xchunked", "HTTP/1.1 200 OK\r\nTransfer-Encoding: xchunked\r\n\r\n", "framing"),
    ("chunked in 1.0", "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "framing"),
    ("different lengths", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nhey", "framing"),
    ("list of lengths", "HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nhi", "framing"),
    ("signed length", "HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nhi", "framing"),
    ("negative length", "HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nhi", "framing"),
    ("hexadecimal length", "HTTP/1.1 200 OK\r\nContent-Length: 0x2\r\n\r\nhi", "framing"),
    ("space in a length", "HTTP/1.1 200 OK\r\nContent-Length: 2 2\r\n\r\nhi", "framing"),
    ("empty length", "HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\nhi", "framing"),
    ("length over u64", "HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551616\r\n\r\nhi", "framing"),
    ("length of 21 digits", "HTTP/1.1 200 OK\r\nContent-Length: 000000000000000000002\r\n\r\nhi", "framing"),
    ("ambiguous 304", "HTTP/1.1 304 N\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n", "framing"),
    // Interim and upgrade.
    ("101", "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: evil\r\n\r\n", "unasked_upgrade"),
    ("body behind 100", "HTTP/1.1 100 Continue\r\nContent-Length: 1\r\n\r\naHTTP/1.1 204 N\r\n\r\n", "head_syntax"),
    ("garbage behind 103", "HTTP/1.1 103 E\r\n\r\nxyz", "head_syntax"),
];

/// Behind `HTTP/1.1 200 OK`, chunked.
const CHUNKS: &[(&str, &str, &str)] = &[
    ("longer than its size", "3\r\nhello\r\n0\r\n\r\n", "chunk_syntax"),
    ("shorter than its size", "5\r\nhey\r\n0\r\n\r\nxx", "chunk_syntax"),
    ("no size", "\r\nhello\r\n", "chunk_syntax"),
    ("extension only", ";a\r\nhello\r\n", "chunk_syntax"),
    ("0x5", "0x5\r\nhello\r\n", "chunk_syntax"),
    ("sign", "+5\r\nhello\r\n", "chunk_syntax"),
    ("negative", "-5\r\nhello\r\n", "chunk_syntax"),
    ("space before", " 5\r\nhello\r\n", "chunk_syntax"),
    ("space behind", "5 \r\nhello\r\n", "chunk_syntax"),
    ("space before an extension", "5 ;a\r\nhello\r\n", "chunk_syntax"),
    ("underscore", "1_0\r\nhello\r\n", "chunk_syntax"),
    ("LF behind the size", "5\nhello\r\n0\r\n\r\n", "chunk_syntax"),
    ("LF behind the data", "5\r\nhello\n0\r\n\r\n", "chunk_syntax"),
    ("CR behind the size", "5\rhello\r\n", "chunk_syntax"),
    ("CR CR LF", "5\r\r\nhello\r\n", "chunk_syntax"),
    ("LF in an extension", "5;a\nb\r\nhello\r\n", "chunk_syntax"),
    ("CR in an extension", "5;a\rb\r\nhello\r\n", "chunk_syntax"),
    ("NUL in an extension", "5;a\0\r\nhello\r\n", "chunk_syntax"),
    ("17 digits", "00000000000000005\r\nhello\r\n", "chunk_syntax"),
    ("overflow", "10000000000000005\r\nhello\r\n", "chunk_syntax"),
    ("second chunk", "1\r\na\r\nzz\r\n", "chunk_syntax"),
    ("trailer with LF", "0\r\nX: a\n\r\n", "trailer_syntax"),
    ("trailers end with LF", "0\r\n\n", "trailer_syntax"),
    ("trailer folded", "0\r\nX: a\r\n b\r\n\r\n", "trailer_syntax"),
    ("trailer without colon", "0\r\nnocolon\r\n\r\n", "trailer_syntax"),
    ("trailer with NUL", "0\r\nX: \0\r\n\r\n", "trailer_syntax"),
    ("trailer with space before the colon", "0\r\nX : a\r\n\r\n", "trailer_syntax"),
];

const ENDS: &[(&str, &str, Then, &str)] = &[
    ("closed at once", "", Then::Eof, "closed"),
    ("reset at once", "", Then::Reset, "read"),
    ("closed in the status line", "HTTP/1.1 20", Then::Eof, "truncated"),
    ("closed in the fields", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n", Then::Eof, "truncated"),
    ("closed before the body", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", Then::Eof, "truncated"),
    ("closed in the body", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell", Then::Eof, "truncated"),
    ("reset in the body", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell", Then::Reset, "read"),
    ("reset until close", "HTTP/1.1 200 OK\r\n\r\nhell", Then::Reset, "read"),
    ("closed in a chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel", Then::Eof, "truncated"),
    ("no last chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n", Then::Eof, "truncated"),
    ("last chunk cut", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n", Then::Eof, "truncated"),
    ("trailers cut", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: a\r\n", Then::Eof, "truncated"),
    ("closed behind 100", "HTTP/1.1 100 Continue\r\n\r\n", Then::Eof, "truncated"),
];

#[test]
fn malformed_heads_are_refused_however_they_are_split() {
    for (name, response, reason) in IDLE {
        let (result, reuse) = play_split(&Method::GET, response.as_bytes(), Then::Idle);
        assert_eq!(result.map(|whole| whole.status), Err(*reason), "{name}");
        assert!(!reuse, "{name}");
    }
}

#[test]
fn malformed_chunks_are_refused_however_they_are_split() {
    for (name, chunks, reason) in CHUNKS {
        let response = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}");
        let (result, _) = play_split(&Method::GET, response.as_bytes(), Then::Idle);
        assert_eq!(result.map(|whole| whole.status), Err(*reason), "{name}");
    }
}

#[test]
fn an_early_end_is_never_a_clean_end() {
    for (name, response, then, reason) in ENDS {
        let (result, _) = play_split(&Method::GET, response.as_bytes(), *then);
        assert_eq!(result.map(|whole| whole.status), Err(*reason), "{name}");
    }
}

fn assert_refused(response: &str, reason: &str) {
    let bytes = response.as_bytes();
    let pieces: Vec<&[u8]> = bytes.chunks(1000).collect();
    for segments in [&pieces[..], &[bytes]] {
        assert_eq!(play(&Method::GET, segments, Then::Idle).0.map(|whole| whole.status), Err(reason));
    }
}

fn assert_accepted(response: &str) {
    let (result, reuse) = play(&Method::GET, &[response.as_bytes()], Then::Idle);
    assert_eq!(result.map(|whole| whole.status), Ok(204));
    assert!(reuse);
}

#[test]
fn heads_are_bounded() {
    let fields = |n: usize| "X: a\r\n".repeat(n);
    assert_accepted(&format!("HTTP/1.1 204 N\r\n{}\r\n", fields(128)));
    assert_refused(&format!("HTTP/1.1 204 N\r\n{}\r\n", fields(129)), "too_many_fields");
    let head = |n: usize| format!("HTTP/1.1 204 N\r\nX: {}\r\n\r\n", "a".repeat(n - 23));
    assert_eq!(head(64 * 1024).len(), 64 * 1024);
    assert_accepted(&head(64 * 1024));
    assert_refused(&head(64 * 1024 + 1), "head_too_large");
    assert_refused(&format!("HTTP/1.1 204 N\r\nX: {}", "a".repeat(70_000)), "head_too_large");
    let interim = |n: usize| format!("{}HTTP/1.1 204 N\r\n\r\n", "HTTP/1.1 103 E\r\n\r\n".repeat(n));
    assert_accepted(&interim(16));
    assert_refused(&interim(17), "too_many_interim");
    let large = format!("HTTP/1.1 103 E\r\nX: {}\r\n\r\n", "a".repeat(30_000));
    assert_refused(&format!("{}HTTP/1.1 204 N\r\n\r\n", large.repeat(3)), "head_too_large");
}

#[test]
fn extensions_and_trailers_are_bounded() {
    let chunked = |chunks: String| {
        format!("HTTP/1.1 204 N\r\nX: 1\r\n\r\n{chunks}")
            .replace("204 N\r\nX: 1", "200 OK\r\nTransfer-Encoding: chunked")
    };
    let extension = |n: usize| chunked(format!("1;{}\r\na\r\n0\r\n\r\n", "e".repeat(n - 1)));
    assert!(play(&Method::GET, &[extension(256).as_bytes()], Then::Idle).0.is_ok());
    assert_refused(&extension(257), "chunk_syntax");
    assert_refused(&chunked(format!("1;{}", "e".repeat(70_000))), "chunk_syntax");
    assert_refused(&chunked(format!("0\r\nX: {}\r\n\r\n", "a".repeat(16 * 1024))), "trailers_too_large");
    assert_refused(&chunked(format!("0\r\nX: {}", "a".repeat(16 * 1024))), "trailers_too_large");
    assert_refused(&chunked(format!("0\r\n{}\r\n", "X: a\r\n".repeat(129))), "too_many_fields");
    assert_refused(
        &chunked("ffffffffffffffff\r\n".to_owned() + &"a".repeat(10)).replace("ffffffffffffffff", "fffffffffffffffff"),
        "chunk_syntax",
    );
}
