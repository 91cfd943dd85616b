//! Who may call: consumers, their groups and credentials, indexed once when the configuration is compiled. Read-only while
//! requests run; secrets stay in here and are never printed.

pub mod certificate;
pub mod dn;
pub mod jwk;
pub mod keyring;
pub mod marks;
pub mod remote;
mod revoked;
pub mod session;
mod verified;
pub mod verifier;

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use http::HeaderValue;

use self::certificate::{Authority, CertificateCredential, Shown};
use self::marks::Marks;
pub use self::revoked::Revoked;
use self::verifier::Verifier;

/// A consumer's place in `Identities::consumers`.
pub type ConsumerIndex = u32;

/// A consumer group's place in `Identities::consumer_groups`.
pub type GroupIndex = u32;

/// Kong's `consumer_groups` entity.
#[derive(Debug)]
pub struct ConsumerGroup {
    /// UUID.
    pub id: String,
    /// Unique name.
    pub name: String,
}

/// Kong's `consumers` entity.
#[derive(Debug)]
pub struct Consumer {
    /// UUID.
    pub id: String,
    /// Unique name.
    pub username: Option<String>,
    /// The name that the consumer has elsewhere.
    pub custom_id: Option<String>,
    /// ACL groups, in file order.
    pub groups: Vec<String>,
    /// `X-Consumer-ID`, ready to send.
    pub id_header: HeaderValue,
    /// `X-Consumer-Username`, ready to send.
    pub username_header: Option<HeaderValue>,
    /// `X-Consumer-Custom-ID`, ready to send.
    pub custom_id_header: Option<HeaderValue>,
    /// `X-Consumer-Groups`, ready to send; absent without groups.
    pub groups_header: Option<HeaderValue>,
    /// Consumer groups that it is in, in file order.
    pub member_of: Vec<GroupIndex>,
    /// Their names as `X-Consumer-Groups`, ready to send; absent without any.
    pub member_of_header: Option<HeaderValue>,
}

impl Consumer {
    /// The UUID as a number, by which the edge knows the consumer; zero is nobody.
    #[must_use]
    pub fn number(&self) -> u128 {
        uuid::Uuid::parse_str(&self.id).map_or(0, |id| id.as_u128())
    }
}

/// Kong's `keyauth_credentials` entity; the key itself is kept only as its SHA-256.
#[derive(Debug)]
pub struct ApiKey {
    /// UUID.
    pub id: String,
    /// Whose key it is.
    pub consumer: ConsumerIndex,
}

/// Kong's `basicauth_credentials` entity; the password itself is not kept.
#[derive(Debug)]
pub struct BasicCredential {
    /// UUID.
    pub id: String,
    /// Whose credential it is.
    pub consumer: ConsumerIndex,
    /// SHA-1 of the password followed by the consumer's id: the form in which Kong's files hold it.
    pub password: [u8; 20],
}

/// Kong's `hmacauth_credentials` entity.
pub struct HmacCredential {
    /// UUID.
    pub id: String,
    /// Whose credential it is.
    pub consumer: ConsumerIndex,
    /// The shared secret: an HMAC needs it as it is.
    pub secret: Box<[u8]>,
}

impl std::fmt::Debug for HmacCredential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HmacCredential").field("id", &self.id).finish_non_exhaustive()
    }
}

/// A `jwt_secrets` algorithm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum JwtAlgorithm {
    HS256,
    HS384,
    HS512,
    RS256,
    RS384,
    RS512,
    ES256,
    ES384,
    ES512,
    PS256,
    PS384,
    PS512,
    EdDSA,
}

impl JwtAlgorithm {
    /// Names as in the file and in the token's header (RFC 7518 §3.1).
    pub const NAMES: &[(&'static str, JwtAlgorithm)] = &[
        ("HS256", Self::HS256),
        ("HS384", Self::HS384),
        ("HS512", Self::HS512),
        ("RS256", Self::RS256),
        ("RS384", Self::RS384),
        ("RS512", Self::RS512),
        ("ES256", Self::ES256),
        ("ES384", Self::ES384),
        ("ES512", Self::ES512),
        ("PS256", Self::PS256),
        ("PS384", Self::PS384),
        ("PS512", Self::PS512),
        ("EdDSA", Self::EdDSA),
    ];

    /// The algorithm's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, a)| *a == self).map_or("", |(n, _)| n)
    }
}

/// Kong's `jwt_secrets` entity.
pub struct JwtSecret {
    /// UUID.
    pub id: String,
    /// Whose credential it is.
    pub consumer: ConsumerIndex,
    /// The value of the key claim (`iss` by default) that selects this credential.
    pub key: String,
    /// The only algorithm that it accepts.
    pub algorithm: JwtAlgorithm,
    /// The shared secret of HS*.
    pub secret: Option<String>,
    /// PEM public key of RS*, PS*, ES*, EdDSA.
    pub public_key: Option<String>,
}

impl std::fmt::Debug for JwtSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JwtSecret").field("id", &self.id).field("algorithm", &self.algorithm).finish_non_exhaustive()
    }
}

/// All identities of one configuration.
#[derive(Debug, Default)]
pub struct Identities {
    /// Consumers by index.
    pub consumers: Vec<Consumer>,
    /// Consumer groups by index.
    pub consumer_groups: Vec<ConsumerGroup>,
    /// Authorities of client certificates by UUID.
    pub authorities: HashMap<String, Arc<Authority>>,
    by_name: HashMap<String, ConsumerIndex>,
    by_custom_id: HashMap<String, ConsumerIndex>,
    keys: HashMap<[u8; 32], Arc<ApiKey>>,
    basic: HashMap<String, BasicCredential>,
    hmac: HashMap<String, HmacCredential>,
    jwt: HashMap<String, JwtCredential>,
    /// By the name that the certificate must have.
    certificates: HashMap<(Shown, String), Vec<CertificateCredential>>,
    /// Made when somebody asks.
    marks: OnceLock<Marks>,
}

#[derive(Debug)]
struct JwtCredential {
    secret: Arc<JwtSecret>,
    /// Absent when the key is broken.
    verifier: Option<Verifier>,
}

impl Identities {
    /// Adds a consumer, to be found by id and username.
    pub fn add_consumer(&mut self, consumer: Consumer) -> ConsumerIndex {
        let index = self.consumers.len() as ConsumerIndex;
        self.by_name.insert(consumer.id.clone(), index);
        if let Some(username) = &consumer.username {
            self.by_name.insert(username.clone(), index);
        }
        if let Some(custom_id) = &consumer.custom_id {
            self.by_custom_id.insert(custom_id.clone(), index);
        }
        self.consumers.push(consumer);
        index
    }

    /// Ids of a consumer's credentials.
    pub fn credentials_of(&self, consumer: ConsumerIndex) -> Vec<Cow<'_, str>> {
        let keys = self.keys.values().map(|key| (key.consumer, &key.id));
        let secrets = self.jwt.values().map(|known| (known.secret.consumer, &known.secret.id));
        let basic = self.basic.values().map(|known| (known.consumer, &known.id));
        let hmac = self.hmac.values().map(|known| (known.consumer, &known.id));
        let all = keys.chain(secrets).chain(basic).chain(hmac);
        let plain = all.filter(|(owner, _)| *owner == consumer).map(|(_, id)| Cow::Borrowed(id.as_str()));
        plain.chain(self.certificate_ids_of(consumer).map(Cow::Owned)).collect()
    }

    /// Adds an API key; false when the key exists already.
    pub fn add_key(&mut self, key: &str, credential: ApiKey) -> bool {
        self.keys.insert(digest(key.as_bytes()), Arc::new(credential)).is_none()
    }

    /// Adds a credential for basic authentication; false when the user name exists already.
    pub fn add_basic(&mut self, username: &str, credential: BasicCredential) -> bool {
        self.basic.insert(username.to_owned(), credential).is_none()
    }

    /// Adds a credential for signed requests; false when the user name exists already.
    pub fn add_hmac(&mut self, username: &str, credential: HmacCredential) -> bool {
        self.hmac.insert(username.to_owned(), credential).is_none()
    }

    /// Adds a JWT credential; false when its key exists already. One whose key `verifier::verifier` refuses never verifies.
    pub fn add_jwt(&mut self, credential: JwtSecret) -> bool {
        let verifier = verifier::verifier(&credential).ok();
        let key = credential.key.clone();
        self.jwt.insert(key, JwtCredential { secret: Arc::new(credential), verifier }).is_none()
    }

    /// The consumer of a UUID or username, as `anonymous` and string references name them.
    #[must_use]
    pub fn consumer_named(&self, name: &str) -> Option<ConsumerIndex> {
        self.by_name.get(name).copied()
    }

    /// The consumer of a custom id.
    #[must_use]
    pub fn consumer_of_custom_id(&self, custom_id: &str) -> Option<ConsumerIndex> {
        self.by_custom_id.get(custom_id).copied()
    }

    /// The consumer group of a UUID or name.
    #[must_use]
    pub fn group_named(&self, name: &str) -> Option<GroupIndex> {
        let found = self.consumer_groups.iter().position(|group| group.name == name || group.id == name);
        found.and_then(|index| GroupIndex::try_from(index).ok())
    }

    /// Names of the consumer groups of a consumer.
    pub fn groups_of(&self, consumer: &Consumer) -> impl Iterator<Item = &str> {
        consumer.member_of.iter().filter_map(|index| Some(self.consumer_groups.get(*index as usize)?.name.as_str()))
    }

    /// The consumer at `index`.
    #[must_use]
    pub fn consumer(&self, index: ConsumerIndex) -> Option<&Consumer> {
        self.consumers.get(index as usize)
    }

    /// The credential of an API key. Looked up by digest, so that the time taken tells nothing about stored keys.
    #[must_use]
    pub fn api_key(&self, key: &[u8]) -> Option<&Arc<ApiKey>> {
        self.api_key_of(&digest(key))
    }

    /// The credential of an API key's SHA-256.
    #[must_use]
    pub fn api_key_of(&self, digest: &[u8; 32]) -> Option<&Arc<ApiKey>> {
        self.keys.get(digest)
    }

    /// Whether basic authentication knows the user name.
    #[must_use]
    pub fn has_basic(&self, username: &str) -> bool {
        self.basic.contains_key(username)
    }

    /// The credential of a user name and password. An unknown name costs the same digest and comparison as a known one.
    #[must_use]
    pub fn basic(&self, username: &str, password: &[u8]) -> Option<&BasicCredential> {
        use subtle::ConstantTimeEq;
        let known = self.basic.get(username);
        let consumer = known.and_then(|credential| self.consumer(credential.consumer));
        let given = password_digest(password, consumer.map_or("", |consumer| consumer.id.as_str()));
        let expected = known.map_or([0; 20], |credential| credential.password);
        let same = bool::from(given.ct_eq(&expected));
        known.filter(|_| same && consumer.is_some())
    }

    /// The credential for signed requests of a user name.
    #[must_use]
    pub fn hmac(&self, username: &str) -> Option<&HmacCredential> {
        self.hmac.get(username)
    }

    /// The JWT credential whose key is `key`.
    #[must_use]
    pub fn jwt(&self, key: &str) -> Option<&Arc<JwtSecret>> {
        self.jwt.get(key).map(|c| &c.secret)
    }

    /// The JWT credential whose key is `key`, and what checks its signatures.
    #[must_use]
    pub fn jwt_with_verifier(&self, key: &str) -> Option<(&JwtSecret, Option<&Verifier>)> {
        self.jwt.get(key).map(|c| (&*c.secret, c.verifier.as_ref()))
    }
}

/// SHA-1 of a password and the id of its consumer, Kong's form of stored passwords.
#[must_use]
pub fn password_digest(password: impl AsRef<[u8]>, consumer_id: &str) -> [u8; 20] {
    let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY);
    context.update(password.as_ref());
    context.update(consumer_id.as_bytes());
    let mut out = [0; 20];
    out.copy_from_slice(context.finish().as_ref());
    out
}

/// SHA-256.
#[must_use]
pub fn digest(bytes: &[u8]) -> [u8; 32] {
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    let mut out = [0; 32];
    out.copy_from_slice(hash.as_ref());
    out
}
