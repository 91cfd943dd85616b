//! Signatures that are nearly right, one family of keys after another, in the manner of Project Wycheproof's vectors: edge
//! values of both halves of ECDSA, other encodings and lengths, another hash or padding under the same key, EdDSA's second
//! form of the same number, keys of other families.

use gateway_tests::deadline::say;
use gateway_tests::jwt::{base64url, hmac_token};
use gateway_tests::signer::Signer;
use gateway_tests::{Gateway, Request, Upstream};
use serde_json::{Value, json};

const ALGORITHMS: [&str; 10] =
    ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"];

/// The orders of the groups P-256, P-384 and P-521 (FIPS 186-5), big-endian.
const ORDERS: [(&str, &str); 3] = [
    ("ES256", "ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551"),
    ("ES384", "ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973"),
    (
        "ES512",
        "01fffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffa51868783bf2f966b7fcc0148f709a5d03bb5\
         c9b8899c47aebb6fb71e91386409",
    ),
];

/// The order of the group of Ed25519 (RFC 8032 §5.1), little-endian.
const ED25519_ORDER: &str = "edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010";

fn bytes_of(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal")).collect()
}

fn claims(algorithm: &str) -> Value {
    json!({ "iss": algorithm })
}

fn scene() -> (Upstream, Gateway, Vec<Signer>) {
    let rsa = Signer::new("RS256");
    let make = |name: &&'static str| if name.starts_with('E') { Signer::new(name) } else { rsa.as_if(name) };
    let signers: Vec<Signer> = ALGORITHMS.iter().map(make).collect();
    let secrets: Vec<Value> = signers
        .iter()
        .map(|signer| {
            json!({ "key": signer.algorithm(), "algorithm": signer.algorithm(), "rsa_public_key": signer.public_pem() })
        })
        .collect();
    let upstream = Upstream::echo();
    let config = json!({
        "_format_version": "3.0",
        "services": [{ "url": "@UP@", "routes": [{ "paths": ["/"], "plugins": [{ "name": "jwt" }] }] }],
        "consumers": [{ "username": "ann", "jwt_secrets": secrets }],
    });
    let gateway = Gateway::start(&upstream.fill(&config.to_string()));
    (upstream, gateway, signers)
}

/// Edge values of r and s, DER, and other widths (RFC 7518 §3.4 has one width only).
fn ecdsa(algorithm: &str, order: &[u8], good: &[u8]) -> Vec<(String, Vec<u8>)> {
    let width = order.len();
    let (r, s) = good.split_at(width);
    let small = |value: u8| [vec![0; width - 1], vec![value]].concat();
    let mut below = order.to_vec();
    *below.last_mut().expect("it has a last byte") -= 1;
    let mut above = order.to_vec();
    *above.last_mut().expect("it has a last byte") += 1;
    let edges = [
        ("0", small(0)),
        ("1", small(1)),
        ("the order", order.to_vec()),
        ("the order less 1", below),
        ("the order and 1", above),
        ("all ones", vec![0xff; width]),
    ];
    let mut out = Vec::new();
    for (first, r) in &edges {
        for (second, s) in &edges {
            out.push((format!("{algorithm}: r is {first}, s is {second}"), [&r[..], s].concat()));
        }
        out.push((format!("{algorithm}: r is {first}"), [&r[..], s].concat()));
    }
    for (second, s) in &edges {
        out.push((format!("{algorithm}: s is {second}"), [r, s].concat()));
    }
    let der = |r: &[u8], s: &[u8]| {
        let number = |n: &[u8]| [&[2, n.len() as u8 + 1, 0], n].concat();
        let body = [number(r), number(s)].concat();
        let length = if body.len() < 128 { vec![body.len() as u8] } else { vec![0x81, body.len() as u8] };
        [vec![0x30], length, body].concat()
    };
    out.push((format!("{algorithm}: DER"), der(r, s)));
    out.push((format!("{algorithm}: DER of zeros"), vec![0x30, 6, 2, 1, 0, 2, 1, 0]));
    out.push((format!("{algorithm}: halves exchanged"), [s, r].concat()));
    out.push((format!("{algorithm}: halves with a leading zero"), [&[0], r, &[0], s].concat()));
    out.push((format!("{algorithm}: r alone"), r.to_vec()));
    out
}

/// The same number s once more, edge values, and points of small order for R.
fn eddsa(good: &[u8]) -> Vec<(String, Vec<u8>)> {
    let (r, s) = good.split_at(32);
    let order = bytes_of(ED25519_ORDER);
    let mut carry = 0_u16;
    let mut again = s.to_vec();
    for (digit, add) in again.iter_mut().zip(&order) {
        carry += u16::from(*digit) + u16::from(*add);
        *digit = carry as u8;
        carry >>= 8;
    }
    let one = [vec![1], vec![0; 31]].concat();
    let mut top = s.to_vec();
    top[31] |= 0x80;
    vec![
        ("EdDSA: s and the order".into(), [r, &again].concat()),
        ("EdDSA: s is the order".into(), [r, &order].concat()),
        ("EdDSA: s with its top bit".into(), [r, &top].concat()),
        ("EdDSA: s is 0".into(), [r, &[0; 32]].concat()),
        ("EdDSA: R is the neutral point, s is 0".into(), [&one[..], &[0; 32]].concat()),
        ("EdDSA: R is of order 4, s is 0".into(), [[0; 32], [0; 32]].concat()),
        ("EdDSA: R is no point".into(), [&[0xff; 32], s].concat()),
        ("EdDSA: halves exchanged".into(), [s, r].concat()),
    ]
}

/// Lengths and single bits, whichever the algorithm.
fn bent(algorithm: &str, good: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut out = vec![
        (format!("{algorithm}: a byte less"), good[..good.len() - 1].to_vec()),
        (format!("{algorithm}: a byte less in front"), good[1..].to_vec()),
        (format!("{algorithm}: a byte more"), [good, &[0]].concat()),
        (format!("{algorithm}: a zero in front"), [&[0], good].concat()),
        (format!("{algorithm}: twice"), [good, good].concat()),
        (format!("{algorithm}: zeros"), vec![0; good.len()]),
        (format!("{algorithm}: ones"), vec![0xff; good.len()]),
        (format!("{algorithm}: one byte"), vec![1]),
    ];
    for at in [0, good.len() / 2, good.len() - 1] {
        let mut other = good.to_vec();
        other[at] ^= 1;
        out.push((format!("{algorithm}: a bit of byte {at}"), other));
    }
    out
}

/// Tokens whose signature is somebody's, but not of this algorithm and key.
fn strangers(signers: &[Signer]) -> Vec<(String, String)> {
    let mut out = Vec::new();
    for signer in signers {
        let name = signer.algorithm();
        let parts = signer.parts("", &claims(name));
        for other in signers.iter().filter(|other| other.algorithm() != name) {
            let signature = base64url(other.sign(parts.as_bytes()));
            out.push((format!("{name} signed by {}", other.algorithm()), format!("{parts}.{signature}")));
        }
        let foreign = other_key(name).sign(parts.as_bytes());
        out.push((format!("{name} of another key"), format!("{parts}.{}", base64url(foreign))));
        for secret in [signer.public_pem(), signer.public_pem().trim().to_owned(), signer.jwk().to_string()] {
            out.push((
                format!("HS256 with the public key of {name}"),
                hmac_token("HS256", &claims(name), secret.as_bytes()),
            ));
        }
        let foreign = Signer::new("ES256");
        let mut header = json!({ "alg": "ES256", "jwk": foreign.jwk() });
        for brought in ["jwk", "kid"] {
            let signed = format!("{}.{}", base64url(header.to_string()), base64url(claims(name).to_string()));
            let signature = base64url(foreign.sign(signed.as_bytes()));
            out.push((format!("a token for {name} that brings its key ({brought})"), format!("{signed}.{signature}")));
            header = json!({ "alg": "ES256", "kid": foreign.jwk().to_string() });
        }
    }
    out
}

/// A key of the same family that nobody registered. Making RSA keys takes long: one is enough.
fn other_key(name: &'static str) -> Signer {
    static RSA: std::sync::LazyLock<Signer> = std::sync::LazyLock::new(|| Signer::new("RS256"));
    if name.starts_with('E') { Signer::new(name) } else { RSA.as_if(name) }
}

#[test]
fn only_the_exact_signature() {
    let (upstream, mut gateway, signers) = scene();
    let bearer = |token: &str| Request::get("/").header("Authorization", &format!("Bearer {token}"));
    let mut cases = strangers(&signers);
    for signer in &signers {
        let name = signer.algorithm();
        let parts = signer.parts("", &claims(name));
        let good = signer.sign(parts.as_bytes());
        gateway.send(&bearer(&format!("{parts}.{}", base64url(&good)))).expect(200);
        let mut signatures = bent(name, &good);
        if let Some((_, order)) = ORDERS.iter().find(|(algorithm, _)| *algorithm == name) {
            signatures.extend(ecdsa(name, &bytes_of(order), &good));
        }
        if name == "EdDSA" {
            signatures.extend(eddsa(&good));
        }
        cases.extend(signatures.into_iter().map(|(what, bytes)| (what, format!("{parts}.{}", base64url(bytes)))));
    }
    let before = upstream.count();
    let mut client = gateway.connect();
    let mut wrong = Vec::new();
    for (what, token) in &cases {
        match client.try_send(&bearer(token)) {
            Ok(reply) if reply.status == 401 => {}
            other => {
                wrong.push(format!("{what}: {:?}", other.map(|reply| reply.status)));
                client = gateway.connect();
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    assert_eq!(upstream.count(), before, "none passed");
    assert!(gateway.runs());
    say(&format!("CASES jwt signatures: {} accepted: 0", cases.len()));
}
