//! Properties: chunked coding survives any split, and no bytes whatsoever make the client panic.

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, Method};
use proptest::prelude::*;

use super::super::chunked::{self, Decoder, Progress};
use super::responses::{Then, play};

fn encode(chunks: &[Vec<u8>], trailers: &HeaderMap) -> Vec<u8> {
    let mut out = Vec::new();
    for chunk in chunks.iter().filter(|chunk| !chunk.is_empty()) {
        chunked::write_size_line(&mut out, chunk.len());
        out.extend_from_slice(chunk);
        out.extend_from_slice(chunked::CHUNK_END);
    }
    chunked::write_trailers(&mut out, trailers);
    out
}

/// Decodes `wire` fed in pieces that end at `cuts`; returns data, trailers and what was left over.
fn decode(wire: &[u8], cuts: &[usize]) -> Option<(Vec<u8>, HeaderMap, Bytes)> {
    let mut decoder = Decoder::new(16 * 1024);
    let (mut buffer, mut data, mut at) = (BytesMut::new(), Vec::new(), 0);
    for cut in cuts.iter().copied().chain([wire.len()]) {
        buffer.put_slice(&wire[at..cut]);
        at = cut;
        loop {
            match decoder.advance(&mut buffer).ok()? {
                Progress::More => break,
                Progress::Data if buffer.is_empty() => break,
                Progress::Data => data.extend_from_slice(&decoder.take(&mut buffer)),
                Progress::Ended(trailers) => {
                    buffer.put_slice(&wire[at..]);
                    return Some((data, *trailers.unwrap_or_default(), buffer.freeze()));
                }
            }
        }
    }
    None
}

#[test]
fn size_lines_are_plain_hexadecimal() {
    for size in [1usize, 9, 10, 15, 16, 255, 256, 4096, 0xfffff, usize::MAX] {
        let mut out = Vec::new();
        chunked::write_size_line(&mut out, size);
        assert_eq!(out, format!("{size:x}\r\n").into_bytes());
    }
}

proptest! {
    #[test]
    fn decoding_what_was_encoded_gives_it_back(
        chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..8),
        values in prop::collection::vec("[a-z]{0,8}", 0..3),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
        behind in prop::collection::vec(any::<u8>(), 0..4),
    ) {
        let mut trailers = HeaderMap::new();
        for value in &values {
            trailers.append("x-sum", value.parse().unwrap());
        }
        let mut wire = encode(&chunks, &trailers);
        let body_len = wire.len();
        wire.extend_from_slice(&behind);
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(wire.len())).collect();
        cuts.sort_unstable();
        let (data, got, left) = decode(&wire, &cuts).expect("a whole body");
        prop_assert_eq!(data, chunks.concat());
        prop_assert_eq!(got, trailers);
        prop_assert_eq!(&left[..], &wire[body_len..]);
        // No proper prefix is a whole body.
        prop_assert!(decode(&wire[..body_len - 1], &[]).is_none());
    }

    #[test]
    fn a_split_does_not_change_what_is_understood(
        wire in "(HTTP/1\\.[01] (1|2|3)0[0-4] OK\r\n)((Content-Length|Transfer-Encoding|Connection|X): (2|chunked|close)\r?\n){0,3}\r\n[0-3;\r\nab]{0,12}",
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..4),
    ) {
        let wire = wire.as_bytes();
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(wire.len())).collect();
        cuts.sort_unstable();
        let mut pieces: Vec<&[u8]> = Vec::new();
        let mut at = 0;
        for cut in cuts.into_iter().chain([wire.len()]) {
            pieces.push(&wire[at..cut]);
            at = cut;
        }
        prop_assert_eq!(play(&Method::GET, &pieces, Then::Eof), play(&Method::GET, &[wire], Then::Eof));
    }

    #[test]
    fn no_bytes_make_the_client_panic(
        head in prop::sample::select(vec!["", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"]),
        bytes in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let _ = play(&Method::GET, &[head.as_bytes(), &bytes], Then::Eof);
    }
}
