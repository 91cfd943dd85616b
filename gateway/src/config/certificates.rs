//! Kong's `certificates` and `snis`: which certificate a TLS client is shown.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::compile::reference;
use super::ids;
use crate::document::{Fields, Node, Value};

/// Certificates by name: exact, then `*.suffix`, then `prefix.*`, then the first of the file.
#[derive(Debug, Default)]
struct BySni {
    exact: HashMap<String, Arc<CertifiedKey>>,
    suffixes: Vec<(String, Arc<CertifiedKey>)>,
    prefixes: Vec<(String, Arc<CertifiedKey>)>,
    default: Option<Arc<CertifiedKey>>,
}

impl BySni {
    fn add(&mut self, name: &str, key: &Arc<CertifiedKey>) {
        let name = name.to_ascii_lowercase();
        if let Some(suffix) = name.strip_prefix('*') {
            self.suffixes.push((suffix.to_owned(), Arc::clone(key)));
        } else if let Some(prefix) = name.strip_suffix('*') {
            self.prefixes.push((prefix.to_owned(), Arc::clone(key)));
        } else {
            self.exact.insert(name, Arc::clone(key));
        }
    }

    fn of(&self, name: Option<&str>) -> Option<Arc<CertifiedKey>> {
        let named = name.and_then(|name| {
            let name = name.to_ascii_lowercase();
            let suffix = || self.suffixes.iter().find(|(s, _)| name.ends_with(s.as_str())).map(|(_, k)| k);
            let prefix = || self.prefixes.iter().find(|(p, _)| name.starts_with(p.as_str())).map(|(_, k)| k);
            self.exact.get(&name).or_else(suffix).or_else(prefix).cloned()
        });
        named.or_else(|| self.default.clone())
    }
}

impl ResolvesServerCert for BySni {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.of(hello.server_name())
    }
}

/// Reads `certificates` with their nested names, and top-level `snis`; nothing when the file has none.
pub fn read(root: &Fields<'_>) -> Option<Arc<dyn ResolvesServerCert>> {
    let mut by_sni = BySni::default();
    let mut by_id: HashMap<String, Arc<CertifiedKey>> = HashMap::new();
    for node in root.list("certificates").unwrap_or_default() {
        let Some(f) = Fields::of(node, "certificate", root.report) else { continue };
        let id = ids::of_entity(&f, "certificates", None).to_string();
        for alternative in ["cert_alt", "key_alt"] {
            if f.node(alternative).is_some() {
                root.report.unsupported(f.place_of(alternative), format!("`{alternative}` of a certificate"), None);
            }
        }
        let names = f.list("snis").unwrap_or_default();
        let (Some(cert), Some(key)) = (f.required_string("cert"), f.required_string("key")) else { continue };
        let certified = match certified(&cert, &key) {
            Ok(certified) => Arc::new(certified),
            Err(what) => {
                root.report.error(f.place(), format!("certificate: {what}"));
                continue;
            }
        };
        by_sni.default.get_or_insert_with(|| Arc::clone(&certified));
        for name in names {
            match name_of(name) {
                Some(name) => by_sni.add(&name, &certified),
                None => root.report.mismatch(name.place, "`snis`", "a name, or a map with `name`"),
            }
        }
        by_id.insert(id, certified);
    }
    for node in root.list("snis").unwrap_or_default() {
        let Some(f) = Fields::of(node, "sni", root.report) else { continue };
        let name = f.required_string("name");
        ids::of_entity(&f, "snis", name.as_deref());
        let certificate = f.node("certificate").and_then(reference).unwrap_or_default();
        match (name, by_id.get(&certificate)) {
            (Some(name), Some(certified)) => by_sni.add(&name, certified),
            (_, None) => root.report.error(
                node.place,
                format!("invalid reference 'certificate: {certificate}' (no such entry in 'certificates')"),
            ),
            (None, _) => {}
        }
    }
    by_sni.default.is_some().then(|| Arc::new(by_sni) as Arc<dyn ResolvesServerCert>)
}

fn name_of(node: &Node) -> Option<String> {
    match &node.value {
        Value::Str(name) => Some(name.clone()),
        _ => node.member("name").and_then(|n| match &n.value {
            Value::Str(name) => Some(name.clone()),
            _ => None,
        }),
    }
}

fn certified(cert: &str, key: &str) -> Result<CertifiedKey, String> {
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(cert.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|e| format!("`cert` is no PEM chain: {e}"))?;
    if chain.is_empty() {
        return Err("`cert` holds no certificate".into());
    }
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|_| "`key` is no PEM private key".to_owned())?;
    CertifiedKey::from_der(chain, key, &rustls::crypto::aws_lc_rs::default_provider())
        .map_err(|e| format!("`cert` and `key` do not fit: {e}"))
}
