//! Certificates of clients: what one says, who vouches for it, and whose it is. That its holder has the key is proven where
//! it was shown.

mod memory;
mod names;
mod trust;

use std::sync::Arc;

use rustls::pki_types::CertificateDer;

pub use self::memory::Memory;
pub use self::names::Names;
pub use self::trust::{Authority, Trust, Verified};
use super::{ConsumerIndex, Identities, digest};

/// The most certificates of one chain, and their bytes: each connection may hold one twice.
const CHAIN_MAX: usize = 16;
const CHAIN_BYTES_MAX: usize = 32 << 10;

/// What a client showed: its own certificate first.
#[derive(Debug)]
pub struct Chain {
    /// At least one.
    certificates: Vec<CertificateDer<'static>>,
    /// SHA-256 over all of them and their lengths.
    digest: [u8; 32],
}

impl Chain {
    /// Whether a chain is short enough to be looked at.
    #[must_use]
    pub fn fits(certificates: &[&CertificateDer<'_>]) -> bool {
        certificates.len() <= CHAIN_MAX && certificates.iter().map(|one| one.len()).sum::<usize>() <= CHAIN_BYTES_MAX
    }

    /// A chain of certificates; nothing when there is none, or one that is too long.
    #[must_use]
    pub fn of(certificates: Vec<CertificateDer<'static>>) -> Option<Self> {
        if certificates.is_empty() || !Self::fits(&certificates.iter().collect::<Vec<_>>()) {
            return None;
        }
        let mut bytes = Vec::with_capacity(certificates.iter().map(|certificate| certificate.len() + 8).sum());
        for certificate in &certificates {
            bytes.extend_from_slice(&(certificate.len() as u64).to_be_bytes());
            bytes.extend_from_slice(certificate);
        }
        Some(Chain { digest: digest(&bytes), certificates })
    }
}

/// Which plugin a credential is for: both have lists of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Shown {
    /// In the handshake (Kong `mtls_auth_credentials`).
    InHandshake,
    /// In a header (Kong `header_cert_auth_credentials`).
    InHeader,
}

/// Kong's `mtls_auth_credentials` and `header_cert_auth_credentials` entities.
#[derive(Debug)]
pub struct CertificateCredential {
    /// UUID.
    pub id: String,
    /// Whose credential it is.
    pub consumer: ConsumerIndex,
    /// UUID of the authority that must vouch for the certificate; any without.
    pub authority: Option<String>,
}

impl Identities {
    /// Adds a credential for whoever has a certificate for `subject`; false when there is one for the same authority.
    pub fn add_certificate(&mut self, shown: Shown, subject: &str, credential: CertificateCredential) -> bool {
        let same = self.certificates.entry((shown, subject.to_owned())).or_default();
        let is_new = same.iter().all(|known| known.authority != credential.authority);
        same.push(credential);
        is_new
    }

    /// Every id under which a consumer's certificates may open connections.
    pub(super) fn certificate_ids_of(&self, consumer: ConsumerIndex) -> impl Iterator<Item = String> {
        let known = self.certificates.values().flatten().filter(move |known| known.consumer == consumer);
        let own = self.consumer(consumer).map(|consumer| consumer.id.as_str());
        let owners: Vec<&str> = known.map(|known| known.id.as_str()).chain(own).collect();
        let of = move |authority: &String| owners.iter().map(|owner| id_of(authority, owner)).collect::<Vec<_>>();
        self.authorities.keys().flat_map(of)
    }

    /// What opened connections by certificate and does so no more: authorities, credentials, consumers.
    pub(super) fn certificates_gone_in<'a>(&'a self, later: &'a Identities) -> impl Iterator<Item = &'a str> {
        let authorities = self.authorities.iter().filter_map(|(id, authority)| {
            let kept = later.authorities.get(id).is_some_and(|now| now.certificate == authority.certificate);
            (!kept).then_some(id.as_str())
        });
        let consumer_id = |identities: &'a Identities, index| identities.consumer(index).map(|c| c.id.as_str());
        let credentials = self.certificates.iter().flat_map(move |(subject, known)| {
            let now = later.certificates.get(subject).map_or(&[][..], Vec::as_slice);
            known.iter().filter_map(move |known| {
                let is_it = |now: &CertificateCredential| {
                    now.id == known.id
                        && now.authority == known.authority
                        && consumer_id(later, now.consumer) == consumer_id(self, known.consumer)
                };
                (!now.iter().any(is_it)).then_some(known.id.as_str())
            })
        });
        // Without authorities nobody came by a certificate.
        let consumers = if self.authorities.is_empty() { &[][..] } else { &self.consumers };
        let consumers = consumers.iter().filter_map(|consumer| {
            let now = later.consumer_named(&consumer.id).and_then(|index| later.consumer(index));
            let same = |now: &super::Consumer| {
                now.id == consumer.id && now.username == consumer.username && now.custom_id == consumer.custom_id
            };
            (!now.is_some_and(same)).then_some(consumer.id.as_str())
        });
        authorities.chain(credentials).chain(consumers)
    }

    /// The credential for a certificate with the name `subject` for which `authority` vouches: one for that authority
    /// before one for any.
    #[must_use]
    pub fn certificate(&self, shown: Shown, subject: &str, authority: &str) -> Option<&CertificateCredential> {
        // The key is owned; a lookup is one a request at most.
        let same = self.certificates.get(&(shown, subject.to_owned()))?;
        let of = |wanted: Option<&str>| same.iter().find(|known| known.authority.as_deref() == wanted);
        of(Some(authority)).or_else(|| of(None))
    }
}

/// The word with which ids of credentials by certificate begin.
const WORD: &str = "certificate";

/// The id under which a connection lives that a certificate opened: it ends with the authority, and with whatever `owner`
/// is, a credential or a consumer.
#[must_use]
pub fn credential_id(authority: &str, owner: &str) -> Arc<str> {
    Arc::from(id_of(authority, owner))
}

fn id_of(authority: &str, owner: &str) -> String {
    format!("{WORD} {authority} {owner}")
}

/// The ids that such an id is made of.
pub fn parts_of(credential: &str) -> Option<(&str, &str)> {
    credential.strip_prefix(WORD)?.strip_prefix(' ')?.split_once(' ')
}
