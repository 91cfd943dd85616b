//! Where to listen: `gateway.listen`, `gateway.stream_listen`, and Kong's variables of the same meaning. Which flags make a
//! difference here; it must not open a socket.

use std::net::SocketAddr;

use super::Environment;
use crate::document::{Fields, Place};

/// One listening socket of the proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// Its address; port 0 is any free one.
    pub address: SocketAddr,
    /// Whether it speaks TLS.
    pub tls: bool,
    /// Whether every connection begins with the PROXY protocol.
    pub proxy_protocol: bool,
    /// Whether it takes datagrams.
    pub udp: bool,
}

/// Kong's `proxy_listen`; its TLS port is open by default when the file has certificates.
pub fn proxy(fields: &Fields<'_>, tls: bool, env: &Environment) -> Vec<Listen> {
    let given = fields.strings("listen");
    let texts = match (&env.proxy_listen, given) {
        (Some(text), _) => text.split(',').map(|t| (Place::default(), t.to_owned())).collect(),
        (None, Some(given)) => given,
        (None, None) => {
            let mut default = vec![(Place::default(), "0.0.0.0:8000".to_owned())];
            if tls {
                default.push((Place::default(), "0.0.0.0:8443 ssl".to_owned()));
            }
            default
        }
    };
    listens(fields, texts, false)
}

/// Kong's `stream_listen`; off unless it is given.
pub fn streams(fields: &Fields<'_>, env: &Environment) -> Vec<Listen> {
    let given = fields.strings("stream_listen").unwrap_or_default();
    let variable = env.stream_listen.as_ref();
    let variable = variable.map(|text| text.split(',').map(|t| (Place::default(), t.to_owned())).collect());
    listens(fields, variable.unwrap_or(given), true)
}

fn listens(fields: &Fields<'_>, texts: Vec<(Place, String)>, streams: bool) -> Vec<Listen> {
    let mut listens = Vec::new();
    for (place, text) in texts {
        if text.trim() == "off" {
            continue;
        }
        let what = match listen_of(&text) {
            Ok(listen) if listen.udp && !streams => "`udp` is for `stream_listen`".to_owned(),
            Ok(listen) => {
                listens.push(listen);
                continue;
            }
            Err(what) => what,
        };
        let expected = if streams {
            "ADDRESS:PORT [ssl | udp] [proxy_protocol]"
        } else {
            "ADDRESS:PORT [ssl] [http2] [proxy_protocol]"
        };
        fields.report.mismatch(place, format!("listen address `{}`: {what}", text.trim()), expected);
    }
    listens
}

/// One entry of Kong's `proxy_listen` or `stream_listen`; flags that make no difference here are accepted.
///
/// # Errors
/// What is wrong with it.
pub fn listen_of(text: &str) -> Result<Listen, String> {
    let mut words = text.split_whitespace();
    let address = words.next().ok_or("nothing given")?;
    let address = address.parse().map_err(|_| format!("`{address}` is no socket address"))?;
    let (mut tls, mut udp, mut proxy_protocol) = (false, false, false);
    for word in words {
        match word {
            "ssl" => tls = true,
            "udp" => udp = true,
            "proxy_protocol" => proxy_protocol = true,
            "http2" | "reuseport" | "deferred" | "bind" => {}
            _ if word.starts_with("backlog=") || word.starts_with("so_keepalive=") || word.starts_with("ipv6only=") => {
            }
            _ => return Err(format!("`{word}` is not supported")),
        }
    }
    if tls && udp {
        return Err("`ssl` and `udp` together would be DTLS, which is not supported".to_owned());
    }
    if udp && proxy_protocol {
        return Err("`udp` has no `proxy_protocol`".to_owned());
    }
    Ok(Listen { address, tls, proxy_protocol, udp })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kong_listen_lines_are_understood() {
        assert_eq!(
            listen_of("0.0.0.0:8443 http2 ssl reuseport backlog=16384"),
            Ok(Listen {
                address: "0.0.0.0:8443".parse().expect("address"),
                tls: true,
                proxy_protocol: false,
                udp: false
            })
        );
        assert!(listen_of("0.0.0.0:8000 proxy_protocol").is_ok_and(|listen| listen.proxy_protocol && !listen.tls));
        assert!(listen_of("0.0.0.0:8000 udp proxy_protocol").is_err());
        assert!(listen_of("0.0.0.0:8000 quic").is_err());
        assert!(listen_of("localhost").is_err());
    }
}
