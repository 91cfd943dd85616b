//! One cryptographic library for everything, chosen once a process.

/// Installs rustls's provider; a second call does nothing.
pub fn install() {
    // It fails only when one is installed already.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}
