//! Sessions that the client keeps: who was recognised, by what and when, sealed so that nobody else can read or make one
//! (AES-256-GCM). What is sealed is not to be taken back: it ends by its times, or with the credential.

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use super::marks::Mark;

/// The form of what is sealed; another one is not opened.
const VERSION: u8 = 1;
/// The longest text that is opened, bytes: browsers keep 4096 with name and attributes.
pub const TEXT_BYTES_MAX: usize = 4096;
/// How far ahead of the clock a session may begin, seconds: of gateways that share a secret not all agree on the time.
const AHEAD_S: u64 = 60;

/// What a session says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ticket {
    /// UUID of the consumer.
    #[serde(rename = "c")]
    pub consumer: String,
    /// Id of the credential by which it was recognised.
    #[serde(rename = "k")]
    pub credential: String,
    /// The credential's mark, when it is one that is known here.
    #[serde(rename = "m", skip_serializing_if = "Option::is_none", default)]
    pub mark: Option<Mark>,
    /// Groups that the credential has brought.
    #[serde(rename = "g", skip_serializing_if = "Vec::is_empty", default)]
    pub groups: Vec<String>,
    /// When it began, seconds since 1970.
    #[serde(rename = "a")]
    pub begun_s: u64,
    /// When it was renewed last.
    #[serde(rename = "r")]
    pub renewed_s: u64,
    /// When its use was noted last.
    #[serde(rename = "u")]
    pub used_s: u64,
}

/// How long sessions last, seconds; 0 is for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// Without use.
    pub idle_s: u64,
    /// Without being renewed.
    pub rolling_s: u64,
    /// In all.
    pub absolute_s: u64,
}

/// What a request knows of its session.
#[derive(Debug)]
pub struct Held {
    /// The session.
    pub ticket: Ticket,
    /// Whether the client is to get it anew.
    pub is_new: bool,
    /// The one that the client keeps when it is closed, when it is to get that anew too.
    pub remembered: Option<Ticket>,
}

impl Times {
    /// Whether a session holds now.
    #[must_use]
    pub fn hold(&self, ticket: &Ticket, now_s: u64) -> bool {
        let within = |since_s: u64, limit_s: u64| limit_s == 0 || now_s < since_s.saturating_add(limit_s);
        ticket.begun_s <= now_s.saturating_add(AHEAD_S)
            && within(ticket.begun_s, self.absolute_s)
            && within(ticket.renewed_s, self.rolling_s)
            && within(ticket.used_s, self.idle_s)
    }

    /// The same session with what is due: renewed when three quarters of its time are over, its use noted each minute.
    #[must_use]
    pub fn due(&self, ticket: &Ticket, now_s: u64) -> Option<Ticket> {
        let (renewed, used) = (now_s.saturating_sub(ticket.renewed_s), now_s.saturating_sub(ticket.used_s));
        if self.rolling_s > 0 && renewed >= self.rolling_s.saturating_mul(3) / 4 {
            return Some(Ticket { renewed_s: now_s, used_s: now_s, ..ticket.clone() });
        }
        let note = self.idle_s > 0 && used >= 60.min(self.idle_s.saturating_mul(3) / 4);
        note.then(|| Ticket { used_s: now_s, ..ticket.clone() })
    }
}

/// Seals sessions and opens them again.
pub struct Sealer {
    key: RandomizedNonceKey,
}

impl Sealer {
    /// A sealer with a key made of the secret; sessions of another audience are others.
    #[must_use]
    pub fn new(secret: &[u8], audience: &str) -> Option<Self> {
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
        let derived = hmac::sign(&key, format!("gateway session {VERSION}\0{audience}").as_bytes());
        Some(Sealer { key: RandomizedNonceKey::new(&AES_256_GCM, derived.as_ref()).ok()? })
    }

    /// The text of a session under this name.
    #[must_use]
    pub fn seal(&self, name: &str, ticket: &Ticket) -> Option<String> {
        let mut sealed = serde_json::to_vec(ticket).ok()?;
        let nonce = self.key.seal_in_place_append_tag(aad(name), &mut sealed).ok()?;
        let bytes = [&[VERSION], nonce.as_ref().as_slice(), sealed.as_slice()].concat();
        Some(URL_SAFE_NO_PAD.encode(bytes))
    }

    /// The session of a text under this name; nothing of one that was not sealed with this key.
    #[must_use]
    pub fn open(&self, name: &str, text: &str) -> Option<Ticket> {
        if text.len() > TEXT_BYTES_MAX {
            return None;
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let sealed = bytes.strip_prefix(&[VERSION])?;
        let (nonce, sealed) = sealed.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut sealed = sealed.to_vec();
        let opened = self.key.open_in_place(nonce, aad(name), &mut sealed).ok()?;
        serde_json::from_slice(opened).ok()
    }
}

/// A session under one name is none under another.
fn aad(name: &str) -> Aad<Vec<u8>> {
    Aad::from([&[VERSION], name.as_bytes()].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticket() -> Ticket {
        Ticket {
            consumer: "c".to_owned(),
            credential: "k".to_owned(),
            mark: Some([7; 32]),
            groups: vec!["g".to_owned()],
            begun_s: 1000,
            renewed_s: 2000,
            used_s: 3000,
        }
    }

    #[test]
    fn only_the_same_key_name_and_bytes_open_it() {
        let sealer = |secret: &str, audience| Sealer::new(secret.as_bytes(), audience).expect("a key");
        let own = sealer("secret", "default");
        let text = own.seal("session", &ticket()).expect("is sealed");
        assert_eq!(own.open("session", &text), Some(ticket()));
        assert_eq!(sealer("secret", "default").open("session", &text), Some(ticket()), "another gateway");
        assert_ne!(own.seal("session", &ticket()), Some(text.clone()), "never twice the same");
        assert_eq!(own.open("remember", &text), None);
        assert_eq!(sealer("secret", "other").open("session", &text), None);
        assert_eq!(sealer("Secret", "default").open("session", &text), None);
        for at in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(bytes).expect("ASCII");
            assert_eq!(own.open("session", &changed), None, "byte {at}");
            assert_eq!(own.open("session", &text[..at]), None);
        }
        assert!(!text.contains("eyJ"), "nothing of it can be read");
    }

    #[test]
    fn each_time_ends_it() {
        let times = Times { idle_s: 100, rolling_s: 1000, absolute_s: 3000 };
        let at = |begun_s, renewed_s, used_s| Ticket { begun_s, renewed_s, used_s, ..ticket() };
        let holds = |ticket: &Ticket, now_s| times.hold(ticket, now_s);
        assert!(holds(&at(1000, 1000, 1000), 1099) && !holds(&at(1000, 1000, 1000), 1100));
        assert!(holds(&at(1000, 1000, 1950), 1999) && !holds(&at(1000, 1000, 1950), 2000));
        assert!(holds(&at(1000, 3500, 3950), 3999) && !holds(&at(1000, 3500, 3950), 4000));
        assert!(!holds(&at(2000, 2000, 2000), 1900) && holds(&at(1950, 1950, 1950), 1900));
        let endless = Times { idle_s: 0, rolling_s: 0, absolute_s: 0 };
        assert!(endless.hold(&at(1, 1, 1), u64::MAX) && endless.due(&at(1, 1, 1), u64::MAX).is_none());
        assert_eq!(times.due(&at(1000, 1000, 1000), 1059), None);
        assert_eq!(times.due(&at(1000, 1000, 1000), 1060), Some(at(1000, 1000, 1060)));
        assert_eq!(times.due(&at(1000, 1000, 1700), 1750), Some(at(1000, 1750, 1750)));
    }
}
