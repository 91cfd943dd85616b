//! Credentials that are no more: what a reload took away, or the admin API. Connections that live by them are closed.

use std::collections::HashSet;
use std::sync::Arc;

use super::{Identities, JwtSecret, certificate};

/// Ids of credentials that open nothing any more.
#[derive(Debug, Default)]
pub struct Revoked(HashSet<Box<str>>);

impl Revoked {
    /// Whether the credential with this id is one of them.
    #[must_use]
    pub fn has(&self, credential: &str) -> bool {
        let is_gone = |id: &str| self.0.contains(id);
        is_gone(credential)
            || certificate::parts_of(credential).is_some_and(|(authority, owner)| is_gone(authority) || is_gone(owner))
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// These are gone, too.
    pub fn extend(&mut self, ids: impl IntoIterator<Item = Arc<str>>) {
        self.0.extend(ids.into_iter().map(|id| Box::from(&*id)));
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

impl<'a> FromIterator<&'a str> for Revoked {
    fn from_iter<I: IntoIterator<Item = &'a str>>(ids: I) -> Self {
        Revoked(ids.into_iter().map(Box::from).collect())
    }
}

impl Identities {
    /// Whether a consumer of these identities is not among `later`.
    #[must_use]
    pub fn lost(&self, later: &Identities, consumer: &str) -> bool {
        self.consumer_named(consumer).is_some() && later.consumer_named(consumer).is_none()
    }

    /// The credentials of these identities that `later` has no more: gone, with another secret, or another consumer's.
    #[must_use]
    pub fn revoked_in(&self, later: &Identities) -> Revoked {
        let same = |own: u32, theirs: u32| match (self.consumer(own), later.consumer(theirs)) {
            (Some(own), Some(theirs)) => own.id == theirs.id,
            _ => false,
        };
        let keys = self.keys.iter().filter_map(|(digest, key)| {
            let kept = later.keys.get(digest).is_some_and(|k| k.id == key.id && same(key.consumer, k.consumer));
            (!kept).then_some(key.id.as_str())
        });
        let basic = self.basic.iter().filter_map(|(username, credential)| {
            let is_it = |c: &super::BasicCredential| c.id == credential.id && c.password == credential.password;
            let found = later.basic.get(username).filter(|c| is_it(c));
            let kept = found.is_some_and(|c| same(credential.consumer, c.consumer));
            (!kept).then_some(credential.id.as_str())
        });
        let jwt = self.jwt.iter().filter_map(|(key, known)| {
            let secret = &*known.secret;
            let found = later.jwt.get(key).filter(|k| opens_the_same(secret, &k.secret));
            let kept = found.is_some_and(|k| same(secret.consumer, k.secret.consumer));
            (!kept).then_some(secret.id.as_str())
        });
        let hmac = self.hmac.iter().filter_map(|(username, credential)| {
            let is_it = |c: &super::HmacCredential| c.id == credential.id && c.secret == credential.secret;
            let found = later.hmac.get(username).filter(|c| is_it(c));
            let kept = found.is_some_and(|c| same(credential.consumer, c.consumer));
            (!kept).then_some(credential.id.as_str())
        });
        keys.chain(basic).chain(jwt).chain(hmac).chain(self.certificates_gone_in(later)).collect()
    }
}

/// Both are configuration: the comparison tells nothing to a client.
fn opens_the_same(a: &JwtSecret, b: &JwtSecret) -> bool {
    a.id == b.id && a.algorithm == b.algorithm && a.secret == b.secret && a.public_key == b.public_key
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;
    use crate::identity::{ApiKey, BasicCredential, Consumer, HmacCredential, JwtAlgorithm};

    fn identities(names: &[&str]) -> Identities {
        let mut all = Identities::default();
        for name in names {
            all.add_consumer(Consumer {
                id: (*name).to_owned(),
                username: None,
                custom_id: None,
                groups: Vec::new(),
                member_of: Vec::new(),
                member_of_header: None,
                id_header: HeaderValue::from_static("x"),
                username_header: None,
                custom_id_header: None,
                groups_header: None,
            });
        }
        all
    }

    fn secret(consumer: u32, secret: &str) -> JwtSecret {
        let (algorithm, secret) = (JwtAlgorithm::HS256, Some(secret.to_owned()));
        JwtSecret { id: "j".into(), consumer, key: "iss".into(), algorithm, secret, public_key: None }
    }

    fn full(names: &[&str], key: &str, password: u8, jwt: &str, hmac: &str) -> Identities {
        let mut all = identities(names);
        all.add_key(key, ApiKey { id: "k".into(), consumer: 0 });
        all.add_basic("u", BasicCredential { id: "b".into(), consumer: 0, password: [password; 20] });
        all.add_jwt(secret(0, jwt));
        all.add_hmac("h", HmacCredential { id: "h".into(), consumer: 0, secret: hmac.as_bytes().into() });
        all
    }

    #[test]
    fn what_opens_the_same_to_the_same_stays() {
        let before = full(&["ann"], "key", 1, "s", "h");
        assert!(before.revoked_in(&full(&["ann", "ben"], "key", 1, "s", "h")).is_empty());
    }

    #[test]
    fn what_is_gone_or_changed_is_named() {
        let before = full(&["ann"], "key", 1, "s", "h");
        let named = |later: Identities| {
            let revoked = before.revoked_in(&later);
            ["k", "b", "j", "h"].map(|id| revoked.has(id))
        };
        assert_eq!(named(identities(&["ann"])), [true; 4], "credentials are gone");
        assert_eq!(named(full(&["ben"], "key", 1, "s", "h")), [true; 4], "their consumer is");
        assert_eq!(named(full(&["ann"], "other", 1, "s", "h")), [true, false, false, false]);
        assert_eq!(named(full(&["ann"], "key", 2, "s", "h")), [false, true, false, false]);
        assert_eq!(named(full(&["ann"], "key", 1, "t", "h")), [false, false, true, false]);
        assert_eq!(named(full(&["ann"], "key", 1, "s", "g")), [false, false, false, true]);
    }
}
