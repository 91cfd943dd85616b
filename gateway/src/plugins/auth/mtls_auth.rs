//! Kong's `mtls-auth`: the certificate that a client has shown in the TLS handshake. The handshake has proven that the client
//! holds its key (RFC 8446 §4.4.3, RFC 5246 §7.4.8); who vouches for it is asked here, for each route its own authorities.

use std::sync::Arc;

use rustls::DistinguishedName;

use super::certificate::{Certificates, Found};
use crate::ber;
use crate::document::Fields;
use crate::identity::certificate::Shown;
use crate::plugins::{CertificateRequest, Flow, Kind, Plugin, Setup};
use crate::proxy::exchange::Exchange;

/// Kong's `mtls-auth`.
pub const KIND: Kind = Kind { name: "mtls-auth", priority: 1600, consumer_scope: false, compile };

struct MtlsAuth {
    common: Certificates,
    send_ca_dn: bool,
}

fn compile(fields: &Fields<'_>, setup: &Setup<'_>) -> Option<Arc<dyn Plugin>> {
    let send_ca_dn = fields.boolean("send_ca_dn").unwrap_or(false);
    let common = Certificates::read(KIND.name, Shown::InHandshake, fields, setup)?;
    Some(Arc::new(MtlsAuth { common, send_ca_dn }))
}

impl Plugin for MtlsAuth {
    fn certificate_request(&self) -> Option<CertificateRequest> {
        let names = self.common.authorities.iter().map(|authority| {
            let name = ber::element(ber::SEQUENCE, &[&authority.names.subject_der]);
            DistinguishedName::from(name)
        });
        Some(CertificateRequest { authorities: self.send_ca_dn.then(|| names.collect()) })
    }

    fn on_request(&self, exchange: &mut Exchange) -> Flow {
        self.common.pass(exchange, |exchange| match &exchange.channel.certificate {
            Some(chain) => Found::Chain(std::rc::Rc::clone(chain)),
            None => Found::Nothing,
        })
    }
}
