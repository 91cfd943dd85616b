//! Certificates made for a test, and TLS on both sides of it. The client accepts any certificate,
//! because tests look at which one was shown.

use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::ResolvesClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, ServerConfig, ServerConnection, SignatureScheme,
    StreamOwned, SupportedProtocolVersion,
};

/// A self-signed certificate with its key.
pub struct Pair {
    pub certificate_pem: String,
    pub key_pem: String,
    /// The certificate as it is shown in a handshake.
    pub der: Vec<u8>,
    key_der: Vec<u8>,
}

impl Pair {
    /// A new pair for `names`.
    pub fn new(names: &[&str]) -> Self {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let made = rcgen::generate_simple_self_signed(names).expect("the names are host names");
        Self {
            certificate_pem: made.cert.pem(),
            key_pem: made.signing_key.serialize_pem(),
            der: made.cert.der().to_vec(),
            key_der: made.signing_key.serialize_der(),
        }
    }

    /// An element of Kong's `certificates` list, as one line of YAML, valid for the names `snis`.
    pub fn entity(&self, snis: &[&str]) -> String {
        let value = serde_json::json!({
            "cert": self.certificate_pem, "key": self.key_pem, "snis": snis,
        });
        value.to_string()
    }

    /// What a TLS server needs that shows this certificate and speaks HTTP/1.1.
    pub fn server(&self) -> Arc<ServerConfig> {
        let key = PrivateKeyDer::try_from(self.key_der.clone()).expect("rcgen writes PKCS#8");
        let chain = vec![CertificateDer::from(self.der.clone())];
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("the provider has the default versions")
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .expect("the key is the certificate's");
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Arc::new(config)
    }
}

/// What a TLS client needs that offers `alpn` and accepts any certificate.
pub fn client_config(alpn: &[&[u8]]) -> Arc<ClientConfig> {
    client_config_with(alpn, rustls::DEFAULT_VERSIONS, None)
}

/// The same with these versions, and perhaps a chain and its key; what does not fit together is shown all the same.
pub fn client_config_with(
    alpn: &[&[u8]],
    versions: &[&'static SupportedProtocolVersion],
    own: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
) -> Arc<ClientConfig> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)
        .expect("the provider has these versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone(provider())));
    let mut config = match own {
        None => builder.with_no_client_auth(),
        Some((chain, key)) => {
            let key = provider().key_provider.load_private_key(key).expect("a key");
            builder.with_client_cert_resolver(Arc::new(Shown(Arc::new(CertifiedKey::new(chain, key)))))
        }
    };
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    Arc::new(config)
}

/// A completed handshake over `stream`.
pub fn client<S: Read + Write>(stream: S, sni: &str, alpn: &[&[u8]]) -> io::Result<StreamOwned<ClientConnection, S>> {
    client_with(stream, sni, client_config(alpn))
}

/// The same with a configuration of one's own.
pub fn client_with<S: Read + Write>(
    mut stream: S,
    sni: &str,
    config: Arc<ClientConfig>,
) -> io::Result<StreamOwned<ClientConnection, S>> {
    let name = ServerName::try_from(sni.to_owned()).map_err(io::Error::other)?;
    let mut session = ClientConnection::new(config, name).map_err(io::Error::other)?;
    while session.is_handshaking() {
        session.complete_io(&mut stream)?;
    }
    Ok(StreamOwned::new(session, stream))
}

/// The server's side of a handshake, completed with the first read.
pub fn server<S: Read + Write>(stream: S, config: &Arc<ServerConfig>) -> io::Result<StreamOwned<ServerConnection, S>> {
    let session = ServerConnection::new(Arc::clone(config)).map_err(io::Error::other)?;
    Ok(StreamOwned::new(session, stream))
}

/// The certificate that the server showed.
pub fn peer_certificate(session: &ClientConnection) -> Option<Vec<u8>> {
    session.peer_certificates()?.first().map(|certificate| certificate.to_vec())
}

/// Shows this whatever is asked for.
#[derive(Debug)]
struct Shown(Arc<CertifiedKey>);

impl ResolvesClientCert for Shown {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// How many authorities the server names when it asks for a certificate; nothing when it does not ask.
pub type Asked = Arc<Mutex<Option<usize>>>;

/// What a TLS client needs that shows nothing, and notes what it is asked for.
pub fn asked_config() -> (Asked, Arc<ClientConfig>) {
    let asked = Asked::default();
    let mut config = (*client_config(&[b"http/1.1"])).clone();
    config.client_auth_cert_resolver = Arc::new(Noting(Arc::clone(&asked)));
    (asked, Arc::new(config))
}

#[derive(Debug)]
struct Noting(Asked);

impl ResolvesClientCert for Noting {
    fn resolve(&self, hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(hints.len());
        None
    }

    fn has_certs(&self) -> bool {
        true
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// Takes any certificate for any name; the signatures must still hold.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
