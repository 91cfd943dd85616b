//! What a credential is made of, as a mark: equal as long as nothing of it changes. Whatever lives longer than a request by a
//! credential (a session) keeps its mark, and ends when another one is found, or none. Marks are digests of secrets: they
//! leave the process only sealed.

use std::collections::HashMap;

use super::{Identities, certificate, digest};

/// A mark.
pub type Mark = [u8; 32];

/// Of credentials by id.
pub type Marks = HashMap<Box<str>, Mark>;

impl Identities {
    /// Makes the marks, so that no request has to.
    pub fn make_marks(&self) {
        self.marks();
    }

    /// The mark of a credential of the file; nothing of one that it does not have.
    #[must_use]
    pub fn mark_of(&self, credential: &str) -> Option<Mark> {
        let marks = self.marks();
        let Some((authority, owner)) = certificate::parts_of(credential) else { return marks.get(credential).copied() };
        let authority = self.authorities.get(authority)?;
        let owner = match marks.get(owner) {
            Some(mark) => *mark,
            None => {
                let consumer = self.consumer(self.consumer_named(owner)?).filter(|consumer| consumer.id == owner)?;
                let names = [&consumer.username, &consumer.custom_id];
                mark("names", &names.map(|name| name.as_deref().unwrap_or_default().as_bytes()))
            }
        };
        Some(mark("certificate", &[&authority.certificate, &owner]))
    }

    fn marks(&self) -> &Marks {
        self.marks.get_or_init(|| {
            let keys = self.keys.iter().map(|(key, c)| (&c.id, c.consumer, mark("key", &[key])));
            let basic =
                self.basic.iter().map(|(name, c)| (&c.id, c.consumer, mark("basic", &[name.as_bytes(), &c.password])));
            let hmac =
                self.hmac.iter().map(|(name, c)| (&c.id, c.consumer, mark("hmac", &[name.as_bytes(), &c.secret])));
            let jwt = self.jwt.iter().map(|(key, known)| {
                let secret = &known.secret;
                let parts = [Some(key), secret.secret.as_ref(), secret.public_key.as_ref()];
                let parts = parts.map(|part| part.map_or("", String::as_str).as_bytes());
                (&secret.id, secret.consumer, mark(secret.algorithm.name(), &parts))
            });
            let certificates = self.certificates.iter().flat_map(|((_, subject), known)| {
                known.iter().map(move |c| {
                    let authority = c.authority.as_deref().unwrap_or_default();
                    (&c.id, c.consumer, mark("subject", &[subject.as_bytes(), authority.as_bytes()]))
                })
            });
            let all = keys.chain(basic).chain(hmac).chain(jwt).chain(certificates);
            all.map(|(id, owner, own)| {
                let owner = self.consumer(owner).map_or("", |consumer| consumer.id.as_str());
                (Box::from(id.as_str()), mark("owner", &[owner.as_bytes(), &own]))
            })
            .collect()
        })
    }
}

/// The digest of some parts, none of which can move into another.
fn mark(kind: &str, parts: &[&[u8]]) -> Mark {
    let mut bytes = kind.as_bytes().to_vec();
    for part in parts {
        bytes.extend_from_slice(&(part.len() as u64).to_be_bytes());
        bytes.extend_from_slice(part);
    }
    digest(&bytes)
}
