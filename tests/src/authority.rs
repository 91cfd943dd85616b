//! Authorities and the certificates for clients that they make, good ones and bad ones.

use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, date_time_ymd,
};
use rustls::ClientConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::version::{TLS12, TLS13};

use crate::tls;

/// Somebody who makes certificates.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// What a client's certificate says.
#[derive(Clone, Default)]
pub struct Leaf<'a> {
    pub common_name: &'a str,
    pub organization: &'a str,
    pub dns: &'a [&'a str],
    pub mail: &'a [&'a str],
    pub uri: &'a [&'a str],
    /// From the first to the second of January of a year.
    pub years: Option<(i32, i32)>,
    /// It says that it is for servers.
    pub for_servers: bool,
}

impl<'a> Leaf<'a> {
    pub fn of(common_name: &'a str) -> Self {
        Leaf { common_name, ..Self::default() }
    }

    fn params(&self) -> CertificateParams {
        let names: Vec<String> = self.dns.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("host names");
        params.distinguished_name = rcgen::DistinguishedName::new();
        for (kind, text) in [(DnType::OrganizationName, self.organization), (DnType::CommonName, self.common_name)] {
            if !text.is_empty() {
                params.distinguished_name.push(kind, text);
            }
        }
        let mail = self.mail.iter().map(|&text| SanType::Rfc822Name(text.try_into().expect("ASCII")));
        let uri = self.uri.iter().map(|&text| SanType::URI(text.try_into().expect("ASCII")));
        params.subject_alt_names.extend(mail.chain(uri));
        if let Some((from, to)) = self.years {
            params.not_before = date_time_ymd(from, 1, 1);
            params.not_after = date_time_ymd(to, 1, 1);
        }
        let (server, client) = (ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth);
        params.extended_key_usages = vec![if self.for_servers { server } else { client }];
        params
    }
}

/// A certificate with its key, and those that lead to an authority.
pub struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: Vec<u8>,
}

impl Authority {
    /// One that vouches for itself.
    pub fn new(name: &str) -> Self {
        Self::of(name, None, |_| {})
    }

    /// One that has expired.
    pub fn expired(name: &str) -> Self {
        Self::of(name, None, |params| params.not_after = date_time_ymd(2020, 1, 1))
    }

    /// One that this one vouches for.
    pub fn below(&self, name: &str) -> Self {
        Self::of(name, Some(&self.issuer), |_| {})
    }

    fn of(name: &str, above: Option<&Issuer<'_, KeyPair>>, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        change(&mut params);
        let key = KeyPair::generate().expect("a key");
        let issuer = match above {
            Some(above) => CertifiedIssuer::signed_by(params, key, above),
            None => CertifiedIssuer::self_signed(params, key),
        };
        Self { issuer: issuer.expect("a certificate") }
    }

    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// An element of Kong's `ca_certificates` list, as one line of YAML.
    pub fn entity(&self, id: &str) -> String {
        serde_json::json!({ "id": id, "cert": self.pem() }).to_string()
    }

    /// A certificate for a client.
    pub fn issue(&self, leaf: &Leaf<'_>) -> Identity {
        let key = KeyPair::generate().expect("a key");
        let certificate = leaf.params().signed_by(&key, &self.issuer).expect("a certificate");
        Identity { chain: vec![certificate.der().clone()], key: key.serialize_der() }
    }

    /// The same, shown with this authority's own certificate.
    pub fn issue_with_chain(&self, leaf: &Leaf<'_>) -> Identity {
        let mut identity = self.issue(leaf);
        identity.chain.push(self.issuer.der().clone());
        identity
    }
}

impl Identity {
    /// Nobody vouches for it but itself.
    pub fn self_signed(leaf: &Leaf<'_>) -> Self {
        let key = KeyPair::generate().expect("a key");
        let certificate = leaf.params().self_signed(&key).expect("a certificate");
        Identity { chain: vec![certificate.der().clone()], key: key.serialize_der() }
    }

    /// Shows an authority's certificate besides, so many times.
    pub fn lengthen(&mut self, authority: &Authority, count: usize) {
        self.chain.extend(std::iter::repeat_n(authority.issuer.der().clone(), count));
    }

    /// Somebody else's certificate with one's own key.
    pub fn stolen(&self) -> Self {
        Identity { chain: self.chain.clone(), key: KeyPair::generate().expect("a key").serialize_der() }
    }

    /// What a TLS client needs that shows it: any version, or the one that is given (12 or 13).
    pub fn config(&self, alpn: &[&[u8]], version: Option<u8>) -> Arc<ClientConfig> {
        let versions = match version {
            None => vec![&TLS12, &TLS13],
            Some(12) => vec![&TLS12],
            Some(_) => vec![&TLS13],
        };
        let key = PrivateKeyDer::try_from(self.key.clone()).expect("rcgen writes PKCS#8");
        tls::client_config_with(alpn, &versions, Some((self.chain.clone(), key)))
    }

    /// All certificates as PEM.
    pub fn pem(&self) -> String {
        use base64::Engine as _;
        let block = |der: &CertificateDer<'_>| {
            let text = base64::engine::general_purpose::STANDARD.encode(der);
            let lines: Vec<&str> = text.as_bytes().chunks(64).filter_map(|line| str::from_utf8(line).ok()).collect();
            format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
        };
        self.chain.iter().map(block).collect()
    }

    /// The certificate itself.
    pub fn der(&self) -> &[u8] {
        &self.chain[0]
    }
}
