//! What a TLS client meets: our certificates, and whether it is asked for its own. It is asked where a route wants it, never
//! forced: a route answers for itself. That whoever shows a certificate has its key is proven here; whether anybody vouches
//! for it is the route's to find out.

use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ResolvesServerCert, ServerConfig};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};

use super::snapshot::{Protocols, Route};
use crate::identity::certificate::Chain;
use crate::plugins::CertificateRequest;
use crate::router::pattern::HostPattern;

/// TLS of a configuration that has certificates.
#[derive(Clone)]
pub struct Handshake {
    /// Asks for nothing.
    quiet: Arc<ServerConfig>,
    asking: Option<Asking>,
}

#[derive(Clone)]
struct Asking {
    config: Arc<ServerConfig>,
    /// The names for which clients are asked; all when a route that wants certificates has none.
    names: Option<Vec<HostPattern>>,
}

/// Which of the two configurations a connection gets.
pub enum Choice<'a> {
    /// This one, whoever comes.
    Always(&'a Arc<ServerConfig>),
    /// That depends on the name that the client asks for.
    ByName,
}

impl Handshake {
    /// TLS with these certificates; `routes` say whether clients are asked, with the names that a route is for.
    #[must_use]
    pub fn new<'a>(
        certificates: Arc<dyn ResolvesServerCert>,
        routes: impl Iterator<Item = (&'a Route, Option<Vec<HostPattern>>)>,
    ) -> Self {
        let quiet = ServerConfig::builder().with_no_client_auth().with_cert_resolver(Arc::clone(&certificates));
        let wishes = routes.filter_map(|(route, names)| Some((request_of(route)?, names)));
        Handshake { quiet: with_alpn(quiet), asking: Asking::of(certificates, wishes) }
    }

    /// The configuration without HTTP's protocols, for stream routes: they ask nobody.
    #[must_use]
    pub fn for_streams(&self) -> Arc<ServerConfig> {
        let mut config = ServerConfig::clone(&self.quiet);
        config.alpn_protocols.clear();
        Arc::new(config)
    }

    /// What has to be known to choose.
    #[must_use]
    pub fn choice(&self) -> Choice<'_> {
        match &self.asking {
            None => Choice::Always(&self.quiet),
            Some(Asking { config, names: None }) => Choice::Always(config),
            Some(_) => Choice::ByName,
        }
    }

    /// The configuration for a client that asks for this name at this port. One that asks for none is meant by every route,
    /// as it is when routes are found.
    #[must_use]
    pub fn of(&self, name: Option<&str>, port: u16) -> &Arc<ServerConfig> {
        let Some(asking) = &self.asking else { return &self.quiet };
        let is_meant = |names: &Vec<HostPattern>| {
            name.is_none_or(|name| {
                let name = name.to_ascii_lowercase();
                names.iter().any(|pattern| pattern.matches(&name, port))
            })
        };
        if asking.names.as_ref().is_none_or(is_meant) { &asking.config } else { &self.quiet }
    }
}

fn with_alpn(mut config: ServerConfig) -> Arc<ServerConfig> {
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Arc::new(config)
}

/// What a route wants of clients that come by TLS.
fn request_of(route: &Route) -> Option<CertificateRequest> {
    let secure = Protocols(Protocols::HTTPS.0 | Protocols::GRPCS.0);
    let instances = route.chain.slots.iter().filter_map(|slot| slot.base.as_ref());
    let asked = instances.filter(|one| one.protocols.has(secure)).find_map(|one| one.plugin.certificate_request());
    asked.filter(|_| !route.protocols.has(Protocols::STREAM))
}

impl Asking {
    fn of(
        certificates: Arc<dyn ResolvesServerCert>,
        wishes: impl Iterator<Item = (CertificateRequest, Option<Vec<HostPattern>>)>,
    ) -> Option<Self> {
        let mut names = Some(Vec::new());
        let mut hints = Some(Vec::<DistinguishedName>::new());
        let mut any = false;
        for (wish, own) in wishes {
            any = true;
            names = names.zip(own).map(|(mut names, own)| {
                names.extend(own);
                names
            });
            // Somebody who tells nothing takes certificates that no list would let through.
            hints = hints.zip(wish.authorities).map(|(mut hints, own)| {
                hints.extend(own);
                hints
            });
        }
        any.then(|| {
            let mut hints = hints.unwrap_or_default();
            hints.sort_by(|a, b| a.as_ref().cmp(b.as_ref()));
            hints.dedup_by(|a, b| a.as_ref() == b.as_ref());
            let verifier = Arc::new(AnyHolder { hints, algorithms: algorithms() });
            let config = ServerConfig::builder().with_client_cert_verifier(verifier).with_cert_resolver(certificates);
            Asking { config: with_alpn(config), names }
        })
    }
}

fn algorithms() -> WebPkiSupportedAlgorithms {
    aws_lc_rs::default_provider().signature_verification_algorithms
}

/// Takes any certificate that is not too long from whoever has its key, and whoever has none.
#[derive(Debug)]
struct AnyHolder {
    hints: Vec<DistinguishedName>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ClientCertVerifier for AnyHolder {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        own: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        // It would be kept as long as the connection.
        if !Chain::fits(&[own].into_iter().chain(between).collect::<Vec<_>>()) {
            return Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure));
        }
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
