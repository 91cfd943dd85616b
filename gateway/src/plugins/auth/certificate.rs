//! What `mtls-auth` and `header-cert-auth` have in common: whose a client's certificate is, once it is there. Where it comes
//! from, and what proves that the client holds its key, is each plugin's own.

use std::rc::Rc;
use std::sync::Arc;

use http::header::{HeaderName, HeaderValue};
use http::{HeaderMap, StatusCode};

use super::issued::{By, named};
use super::{Gate, Proven};
use crate::document::Fields;
use crate::identity::ConsumerIndex;
use crate::identity::certificate::{Authority, Chain, Memory, Shown, Trust, Verified, credential_id};
use crate::plugins::{Flow, Setup};
use crate::proxy::exchange::Exchange;
use crate::proxy::reply::Reply;

/// What the upstream is told of a certificate that no consumer was looked up for.
const SUBJECT: HeaderName = HeaderName::from_static("x-client-cert-dn");
const ALTERNATIVES: HeaderName = HeaderName::from_static("x-client-cert-san");

const MISSING: &str = "No required TLS certificate was sent";
const REFUSED: &str = "TLS certificate failed verification";

/// The part of the configuration that both plugins have.
pub struct Certificates {
    plugin: &'static str,
    gate: Gate,
    shown: Shown,
    trust: Trust,
    memory: Memory,
    /// Those that are trusted.
    pub authorities: Vec<Arc<Authority>>,
    skip_consumer_lookup: bool,
    by: Vec<By>,
    default_consumer: Option<ConsumerIndex>,
    group_by: GroupBy,
}

#[derive(Clone, Copy)]
enum GroupBy {
    CommonName,
    Subject,
}

impl Certificates {
    /// Reads the common fields; reports what is wrong with them.
    pub fn read(plugin: &'static str, shown: Shown, fields: &Fields<'_>, setup: &Setup<'_>) -> Option<Self> {
        let gate = Gate::read_anonymous(plugin, fields, setup);
        let authorities = authorities(fields, setup);
        let skip_consumer_lookup = fields.boolean("skip_consumer_lookup").unwrap_or(false);
        let partial = fields.boolean("allow_partial_chain").unwrap_or(false);
        let groups = [("CN", GroupBy::CommonName), ("DN", GroupBy::Subject)];
        let group_by = fields.choice("authenticated_group_by", &groups).unwrap_or(GroupBy::CommonName);
        let ttl_ms = fields.number("cert_cache_ttl", 0.0..=86_400_000.0).unwrap_or(60_000.0);
        let by = consumer_by(fields);
        let default_consumer = default_consumer(fields, setup);
        revocation(fields);
        let authorities = authorities?;
        let trust = Trust::of(&authorities, partial);
        if trust.is_endless() {
            let words = "none of `ca_certificates` vouches for itself: no chain can end";
            let expected = "a root among them, or `allow_partial_chain: true`";
            fields.report.mismatch(fields.place_of("ca_certificates"), words, expected);
            return None;
        }
        let memory = Memory::new(ttl_ms / 1000.0);
        Some(Certificates {
            plugin,
            gate,
            shown,
            trust,
            memory,
            authorities,
            skip_consumer_lookup,
            by,
            default_consumer,
            group_by,
        })
    }

    /// Lets through whoever has a certificate that holds; `find` looks for it.
    pub fn pass(&self, exchange: &mut Exchange, find: impl FnOnce(&mut Exchange) -> Found) -> Flow {
        // A client's own copies never pass.
        for name in [SUBJECT, ALTERNATIVES] {
            exchange.request.headers.remove(name);
        }
        let mut verified = None;
        let flow = self.gate.pass(exchange, |exchange| {
            let found = find(exchange);
            self.authenticate(exchange, found, &mut verified)
        });
        if let (Flow::Continue, true, Some(verified)) = (&flow, self.skip_consumer_lookup, verified) {
            self.tell(exchange, &verified);
        }
        flow
    }

    fn authenticate(
        &self,
        exchange: &Exchange,
        found: Found,
        verified: &mut Option<Rc<Verified>>,
    ) -> Result<Proven, Box<Reply>> {
        let chain = match found {
            Found::Chain(chain) => chain,
            Found::Nothing => return Err(self.refuse(MISSING)),
            Found::Broken => return Err(self.refuse(REFUSED)),
        };
        let known = self.memory.verify(&self.trust, &chain, exchange.started_unix_ns).map_err(|error| {
            tracing::debug!(plugin = self.plugin, ?error, "a certificate does not hold");
            self.refuse(REFUSED)
        })?;
        let proven = self.proven(&known).ok_or_else(|| {
            tracing::debug!(plugin = self.plugin, subject = known.names.subject, "a certificate of no consumer");
            self.refuse(REFUSED)
        })?;
        *verified = Some(known);
        Ok(proven)
    }

    /// Whose it is, in Kong's order: a credential of the name and the authority, one of the name alone, a consumer of the
    /// name, `default_consumer`.
    fn proven(&self, verified: &Verified) -> Option<Proven> {
        let names = &verified.names;
        let authority = &verified.authority;
        if self.skip_consumer_lookup {
            let credential = credential_id(authority, &names.subject);
            return Some(Proven { consumer: None, credential, identifier: None });
        }
        let identities = &self.gate.identities;
        let given = names.all().find_map(|name| {
            let credential = identities.certificate(self.shown, name, authority)?;
            Some((name, credential.consumer, credential.id.as_str()))
        });
        let (name, consumer, owner) = match given {
            Some((name, consumer, id)) => (Some(name), consumer, Some(id)),
            None => {
                let own = |name| self.by.iter().find_map(|by| named(identities, *by, name));
                let found = names.all().find_map(|name| Some((Some(name), own(name)?)));
                let (name, consumer) = found.or_else(|| Some((names.all().next(), self.default_consumer?)))?;
                (name, consumer, None)
            }
        };
        let owner = owner.or_else(|| identities.consumer(consumer).map(|consumer| consumer.id.as_str()))?;
        Some(Proven {
            consumer: Some(consumer),
            credential: credential_id(authority, owner),
            identifier: name.and_then(|name| HeaderValue::from_str(name).ok()),
        })
    }

    /// Tells the upstream, and `acl`, of whom no consumer was looked up.
    fn tell(&self, exchange: &mut Exchange, verified: &Verified) {
        let names = &verified.names;
        let group = match self.group_by {
            GroupBy::CommonName => names.common_name.clone(),
            GroupBy::Subject => Some(names.subject.clone()),
        };
        if let Some(authenticated) = &mut exchange.authenticated {
            authenticated.groups = group.filter(|group| !group.is_empty()).map(|group| Arc::new(vec![group]));
        }
        let headers = &mut exchange.request.headers;
        put(headers, SUBJECT, &names.subject);
        put(headers, ALTERNATIVES, &names.alternatives.join(", "));
    }

    fn refuse(&self, message: &'static str) -> Box<Reply> {
        Box::new(Reply::templated(self.plugin, StatusCode::UNAUTHORIZED, message))
    }
}

/// What a plugin found of a certificate.
pub enum Found {
    /// One, perhaps with those that lead to an authority.
    Chain(Rc<Chain>),
    /// None.
    Nothing,
    /// Something that is none.
    Broken,
}

fn put(headers: &mut HeaderMap, name: HeaderName, text: &str) {
    if let Ok(value) = HeaderValue::from_bytes(text.as_bytes())
        && !text.is_empty()
    {
        headers.insert(name, value);
    }
}

/// The authorities that `ca_certificates` names by UUID.
fn authorities(fields: &Fields<'_>, setup: &Setup<'_>) -> Option<Vec<Arc<Authority>>> {
    fields.require("ca_certificates");
    let ids = fields.strings("ca_certificates")?;
    if ids.is_empty() {
        fields.report.mismatch(fields.place_of("ca_certificates"), "`ca_certificates` is empty", "at least one id");
        return None;
    }
    let found = ids.iter().map(|(place, id)| {
        // Ids compare as numbers, as their entities do.
        let known = uuid::Uuid::parse_str(id).ok().map(|id| id.to_string());
        let known = known.and_then(|id| setup.identities.authorities.get(&id));
        if known.is_none() {
            let words = format!("invalid reference 'ca_certificates: {id}' (no such entry in 'ca_certificates')");
            fields.report.error(*place, words);
        }
        known.cloned()
    });
    // Every one that is missing is told.
    found.collect::<Vec<_>>().into_iter().collect()
}

fn consumer_by(fields: &Fields<'_>) -> Vec<By> {
    let known = ["username", "custom_id"];
    let Some(words) = fields.strings("consumer_by") else { return vec![By::Username, By::CustomId] };
    let read = |(place, word): &(crate::document::Place, String)| match word.as_str() {
        "username" => Some(By::Username),
        "custom_id" => Some(By::CustomId),
        _ => {
            fields.report.unknown(*place, format!("`consumer_by` has `{word}`"), word, &known);
            None
        }
    };
    words.iter().filter_map(read).collect()
}

fn default_consumer(fields: &Fields<'_>, setup: &Setup<'_>) -> Option<ConsumerIndex> {
    let name = fields.string("default_consumer").filter(|name| !name.is_empty())?;
    let found = setup.identities.consumer_named(&name);
    if found.is_none() {
        let words = format!("`default_consumer` `{name}` does not exist: a certificate of no consumer answers 401");
        setup.report.warn(fields.place_of("default_consumer"), words);
    }
    found
}

/// Nobody is asked whether a certificate was revoked: what asks for it is refused, and its absence told.
fn revocation(fields: &Fields<'_>) {
    let place = fields.place_of("revocation_check_mode");
    match fields.choice("revocation_check_mode", &[("SKIP", true), ("IGNORE_CA_ERROR", false), ("STRICT", false)]) {
        Some(true) => {}
        Some(false) => fields.report.unsupported(place, "`revocation_check_mode` other than `SKIP`", None),
        None if fields.given("revocation_check_mode") => {}
        None => fields.report.warn(
            place,
            "without `revocation_check_mode` Kong asks servers for revoked certificates; nobody is asked here, as with \
             `SKIP`",
        ),
    }
    for name in ["http_proxy_host", "https_proxy_host"] {
        fields.string(name);
    }
    for name in ["http_proxy_port", "https_proxy_port"] {
        fields.integer(name, 0..=65_535);
    }
    fields.number("http_timeout", 0.0..=f64::from(i32::MAX));
    fields.number("cache_ttl", 0.0..=f64::from(i32::MAX));
    fields.boolean("ssl_verify");
}
