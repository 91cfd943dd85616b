//! Authorities, and whether one of them vouches for a chain (RFC 5280 §6): signatures, times, constraints, and that the
//! certificate is one for clients. Revocation lists and OCSP are not asked.

use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, KeyUsage};

use super::{Chain, Names};

/// Kong's `ca_certificates` entity.
#[derive(Debug)]
pub struct Authority {
    /// UUID.
    pub id: Arc<str>,
    /// The certificate.
    pub certificate: CertificateDer<'static>,
    /// What it says.
    pub names: Names,
}

impl Authority {
    /// Reads an authority.
    ///
    /// # Errors
    /// What is wrong with the certificate.
    pub fn of(id: &str, certificate: CertificateDer<'static>) -> Result<Self, String> {
        let names = Names::of(&certificate).ok_or("it cannot be read")?;
        if !names.is_authority {
            return Err("it is not an authority's: the basic constraint `CA` is missing".to_owned());
        }
        webpki::anchor_from_trusted_cert(&certificate).map_err(|error| format!("{error:?}"))?;
        Ok(Authority { id: Arc::from(id), certificate, names })
    }

    /// Whether nobody else vouches for it.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.names.subject_der == self.names.issuer_der
    }
}

/// A chain that holds.
#[derive(Debug)]
pub struct Verified {
    /// UUID of the authority that vouches for it.
    pub authority: Arc<str>,
    /// What the client's own certificate says.
    pub names: Names,
    /// Until when all of it holds, seconds since 1970.
    pub until_s: u64,
}

/// The authorities that somebody trusts.
pub struct Trust {
    anchors: Vec<(TrustAnchor<'static>, Arc<Authority>)>,
    /// Authorities that others vouch for, where that must be shown.
    between: Vec<CertificateDer<'static>>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Trust {
    /// Trusts these. Unless `partial`, a chain ends at one that vouches for itself (Kong `allow_partial_chain`).
    #[must_use]
    pub fn of(authorities: &[Arc<Authority>], partial: bool) -> Self {
        let (ends, others): (Vec<_>, Vec<_>) = authorities.iter().partition(|one| partial || one.is_root());
        let anchor = |authority: &Arc<Authority>| {
            let anchor = webpki::anchor_from_trusted_cert(&authority.certificate).ok()?;
            Some((anchor.to_owned(), Arc::clone(authority)))
        };
        Trust {
            anchors: ends.into_iter().filter_map(anchor).collect(),
            between: others.into_iter().map(|authority| authority.certificate.clone()).collect(),
            algorithms: rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms,
        }
    }

    /// Whether no chain can end here.
    #[must_use]
    pub fn is_endless(&self) -> bool {
        self.anchors.is_empty()
    }

    /// Verifies a chain at a time, seconds since 1970.
    ///
    /// # Errors
    /// Why it is not to be believed.
    pub fn verify(&self, chain: &Chain, now_s: u64) -> Result<Verified, webpki::Error> {
        let (own, sent) = chain.certificates.split_first().ok_or(webpki::Error::UnknownIssuer)?;
        // An anchor's times are nobody's business but ours.
        let holding = || self.anchors.iter().filter(|(_, authority)| authority.names.holds_at(now_s));
        let anchors: Vec<TrustAnchor<'_>> = holding().map(|(anchor, _)| anchor.clone()).collect();
        let between: Vec<CertificateDer<'_>> = sent.iter().chain(&self.between).cloned().collect();
        let certificate = EndEntityCert::try_from(own)?;
        let time = UnixTime::since_unix_epoch(Duration::from_secs(now_s));
        let path = certificate.verify_for_usage(
            self.algorithms.all,
            &anchors,
            &between,
            time,
            KeyUsage::client_auth(),
            None,
            None,
        )?;
        let names = Names::of(own).ok_or(webpki::Error::BadDer)?;
        let found = path.anchor();
        let same = |anchor: &TrustAnchor<'_>| {
            anchor.subject == found.subject && anchor.subject_public_key_info == found.subject_public_key_info
        };
        let authority = holding().find(|(anchor, _)| same(anchor)).ok_or(webpki::Error::UnknownIssuer)?.1.clone();
        let others = path.intermediate_certificates().filter_map(|one| Names::of(&one.der()));
        let ends = others.map(|names| names.valid_s.1).chain([names.valid_s.1, authority.names.valid_s.1]);
        Ok(Verified { authority: Arc::clone(&authority.id), until_s: ends.min().unwrap_or(0), names })
    }
}
