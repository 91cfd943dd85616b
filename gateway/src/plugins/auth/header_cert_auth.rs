//! Kong's `header-cert-auth`: the certificate of a client whose TLS ended at somebody in front, who puts it in a header. A
//! certificate is public: only the sender's address says that the handshake took place, so the header counts from trusted
//! peers alone, unless the configuration says otherwise.

use std::rc::Rc;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::GeneralPurpose;
use base64::engine::{DecodePaddingMode, GeneralPurposeConfig};
use http::header::HeaderName;
use percent_encoding::percent_decode;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::certificate::{Certificates, Found};
use super::header_name;
use crate::ber;
use crate::document::Fields;
use crate::identity::certificate::{Chain, Shown};
use crate::plugins::{Flow, Kind, Plugin, Setup};
use crate::proxy::exchange::Exchange;

/// Kong's `header-cert-auth`.
pub const KIND: Kind = Kind { name: "header-cert-auth", priority: 1009, consumer_scope: false, compile };

/// The longest value that is looked at, bytes: a head has 64 KiB.
const VALUE_BYTES_MAX: usize = 64 << 10;

/// Padded or not.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

struct HeaderCertAuth {
    common: Certificates,
    header: HeaderName,
    format: Format,
    secure_source: bool,
}

#[derive(Clone, Copy, Debug)]
enum Format {
    /// PEM, percent-encoded.
    Url,
    /// DER in base64, or PEM without its first and last line.
    Base64,
}

fn compile(fields: &Fields<'_>, setup: &Setup<'_>) -> Option<Arc<dyn Plugin>> {
    let name = fields.required_string("certificate_header_name");
    let header = name.and_then(|name| header_name(fields, fields.place_of("certificate_header_name"), &name));
    fields.require("certificate_header_format");
    let formats = [("url_encoded", Format::Url), ("base64_encoded", Format::Base64)];
    let format = fields.choice("certificate_header_format", &formats);
    let secure_source = fields.boolean("secure_source").unwrap_or(true);
    if !secure_source {
        let words = "`secure_source: false`: whoever can reach the gateway and has a copy of a certificate, which is no \
                     secret, passes for its owner";
        fields.report.warn(fields.place_of("secure_source"), words);
    }
    let common = Certificates::read(KIND.name, Shown::InHeader, fields, setup)?;
    Some(Arc::new(HeaderCertAuth { common, header: header?, format: format?, secure_source }))
}

impl Plugin for HeaderCertAuth {
    fn on_request(&self, exchange: &mut Exchange) -> Flow {
        if self.secure_source && !exchange.client.trusted {
            // The upstream must not believe it either.
            exchange.request.headers.remove(&self.header);
        }
        self.common.pass(exchange, |exchange| self.find(exchange))
    }
}

impl HeaderCertAuth {
    /// The certificate in the header; two of them are none, since the upstream may believe the other one.
    fn find(&self, exchange: &Exchange) -> Found {
        let mut values = exchange.request.headers.get_all(&self.header).iter();
        let Some(value) = values.next().filter(|value| !value.is_empty()) else { return Found::Nothing };
        if values.next().is_some() || value.len() > VALUE_BYTES_MAX {
            return Found::Broken;
        }
        let certificates = match self.format {
            Format::Url => url(value.as_bytes()),
            Format::Base64 => base64(value.as_bytes()),
        };
        match certificates.and_then(Chain::of) {
            Some(chain) => Found::Chain(Rc::new(chain)),
            None => Found::Broken,
        }
    }
}

/// One PEM certificate or more, percent-encoded as nginx, HAProxy and AWS write them.
fn url(value: &[u8]) -> Option<Vec<CertificateDer<'static>>> {
    let text: Vec<u8> = percent_decode(value).collect();
    pem(&text).or_else(|| bare(&text).map(|certificate| vec![certificate]))
}

/// DER in base64, perhaps between colons (RFC 9440 §2.1), or PEM in base64.
fn base64(value: &[u8]) -> Option<Vec<CertificateDer<'static>>> {
    let value = value.strip_prefix(b":").and_then(|rest| rest.strip_suffix(b":")).unwrap_or(value);
    let bytes = BASE64.decode(value.trim_ascii()).ok()?;
    pem(&bytes).or_else(|| whole(bytes).map(|certificate| vec![certificate]))
}

fn pem(text: &[u8]) -> Option<Vec<CertificateDer<'static>>> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
    all.ok().filter(|all| !all.is_empty())
}

/// PEM without its first and last line.
fn bare(text: &[u8]) -> Option<CertificateDer<'static>> {
    let text: Vec<u8> = text.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
    whole(BASE64.decode(text).ok()?)
}

/// One certificate and nothing behind it.
fn whole(der: Vec<u8>) -> Option<CertificateDer<'static>> {
    (ber::size(&der) == Ok(Some(der.len()))).then(|| CertificateDer::from(der))
}

#[cfg(test)]
mod tests {
    use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

    use super::*;

    #[test]
    fn every_way_to_write_a_certificate_is_read() {
        let made = rcgen::generate_simple_self_signed(vec!["a.test".to_owned()]).expect("a certificate");
        let (pem, der) = (made.cert.pem(), made.cert.der());
        let encoded = BASE64.encode(der);
        let escaped = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        let one = Some(vec![der.clone()]);
        for value in [escaped(&pem), escaped(&pem).replace("%2B", "+"), escaped(&encoded), encoded.clone()] {
            assert_eq!(url(value.as_bytes()), one, "{value}");
        }
        assert_eq!(url(escaped(&pem.repeat(2)).as_bytes()).map(|all| all.len()), Some(2));
        let plain = encoded.trim_end_matches('=').to_owned();
        for value in [encoded.clone(), plain, format!(":{encoded}:"), BASE64.encode(&pem)] {
            assert_eq!(base64(value.as_bytes()), one, "{value}");
        }
        for value in ["", "x", "MAA", ":", "::", "-----BEGIN CERTIFICATE-----", "%2", "MIIB", "AAAA"] {
            let read = [url(value.as_bytes()), base64(value.as_bytes())].map(|read| read.and_then(Chain::of));
            assert!(value == "MAA" || read.iter().all(Option::is_none), "{value}");
        }
    }
}
