//! An issuer of tokens: publishes a discovery document and keys, which a test can change, take away or spoil while the
//! gateway runs.

use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};

use crate::signer::Signer;
use crate::tls::Pair;
use crate::upstream::{Answer, Seen, Upstream};

/// What the issuer does when it is asked.
enum Mood {
    Serves,
    Fails,
    Hangs,
    Says(Vec<u8>),
}

struct State {
    keys: Value,
    mood: Mood,
    names: Option<String>,
}

/// A running issuer.
pub struct Issuer {
    server: Upstream,
    state: Arc<Mutex<State>>,
    scheme: &'static str,
}

impl Issuer {
    /// Publishes the public halves of `signers` under their names.
    pub fn new(signers: &[(&str, &Signer)]) -> Self {
        Self::over(signers, None)
    }

    /// The same by TLS.
    pub fn new_tls(signers: &[(&str, &Signer)], pair: &Pair) -> Self {
        Self::over(signers, Some(pair))
    }

    fn over(signers: &[(&str, &Signer)], pair: Option<&Pair>) -> Self {
        let state = Arc::new(Mutex::new(State { keys: set(signers), mood: Mood::Serves, names: None }));
        let own = Arc::clone(&state);
        let scheme = if pair.is_some() { "https" } else { "http" };
        let answer = move |seen: &Seen| answer(&own.lock().unwrap_or_else(PoisonError::into_inner), seen, scheme);
        let server = match pair {
            Some(pair) => Upstream::new_tls(pair, answer),
            None => Upstream::new(answer),
        };
        Self { server, state, scheme }
    }

    /// Its name, which is also where it is.
    pub fn name(&self) -> String {
        format!("{}://localhost:{}", self.scheme, self.server.port())
    }

    /// Where its keys are.
    pub fn keys_at(&self) -> String {
        format!("{}/keys", self.name())
    }

    /// How often its keys were asked for.
    pub fn asked(&self) -> usize {
        self.asked_for("/keys")
    }

    /// How often its discovery document was.
    pub fn discovered(&self) -> usize {
        self.asked_for("/.well-known/openid-configuration")
    }

    fn asked_for(&self, target: &str) -> usize {
        self.server.seen().iter().filter(|seen| seen.target == target).count()
    }

    pub fn publish(&self, signers: &[(&str, &Signer)]) {
        self.change(|state| {
            state.keys = set(signers);
            state.mood = Mood::Serves;
        });
    }

    pub fn fail(&self) {
        self.change(|state| state.mood = Mood::Fails);
    }

    pub fn hang(&self) {
        self.change(|state| state.mood = Mood::Hangs);
    }

    pub fn say(&self, body: &[u8]) {
        self.change(|state| state.mood = Mood::Says(body.to_vec()));
    }

    /// Claims to be somebody else in its discovery document.
    pub fn pretend(&self, name: &str) {
        self.change(|state| state.names = Some(name.to_owned()));
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

fn set(signers: &[(&str, &Signer)]) -> Value {
    let keys: Vec<Value> = signers
        .iter()
        .map(|(kid, signer)| {
            let mut key = signer.jwk();
            key["kid"] = (*kid).into();
            key["use"] = "sig".into();
            key
        })
        .collect();
    json!({ "keys": keys })
}

fn answer(state: &State, seen: &Seen, scheme: &str) -> Answer {
    match &state.mood {
        Mood::Fails => return Answer::reply(500, &[], b"no"),
        Mood::Hangs => return Answer::Hang,
        Mood::Says(body) => return Answer::reply(200, &[], body),
        Mood::Serves => {}
    }
    let json = [("Content-Type", "application/json")];
    let own = format!("{scheme}://{}", seen.header("host").unwrap_or_default());
    match seen.target.as_str() {
        "/keys" => Answer::reply(200, &json, state.keys.to_string().as_bytes()),
        "/.well-known/openid-configuration" => {
            let issuer = state.names.as_ref().unwrap_or(&own);
            let document = json!({ "issuer": issuer, "jwks_uri": format!("{own}/keys") });
            Answer::reply(200, &json, document.to_string().as_bytes())
        }
        _ => Answer::reply(404, &[], b""),
    }
}
