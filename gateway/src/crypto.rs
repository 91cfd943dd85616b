//! One cryptographic library for everything, chosen once a process.

/// Installs the providers of rustls and jsonwebtoken; a second call does nothing.
pub fn install() {
    // Both fail only when one is installed already.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let _ = jsonwebtoken::crypto::CryptoProvider::install_default(&jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER);
}
