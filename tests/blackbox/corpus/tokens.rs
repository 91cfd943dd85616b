//! The tokens of a case: `{{jwt:N}}` in its texts is replaced by a token made now, or by the one that came with it.

use gateway_tests::deadline::unix_seconds;
use gateway_tests::jwt::hmac_token_with;
use serde_json::Value;

/// The tokens that `case` describes.
pub fn made(case: &Value) -> Vec<String> {
    let described = case["jwts"].as_array().cloned().unwrap_or_default();
    let now = i64::try_from(unix_seconds()).expect("the time fits");
    let mut out: Vec<String> = Vec::new();
    for (at, token) in described.iter().enumerate() {
        // The same description is the same token, for some signatures are random.
        let same = |known: &Value| ["alg", "header", "claims", "sign_with"].iter().all(|key| known[key] == token[key]);
        match described[..at].iter().position(same) {
            Some(known) => out.push(out[known].clone()),
            None => out.push(made_now(token, now)),
        }
    }
    out
}

fn made_now(described: &Value, now: i64) -> String {
    let secret = described["sign_with"].as_str().unwrap_or_default();
    let symmetric = described["alg"].as_str().is_some_and(|name| name.starts_with("HS"));
    if !symmetric || secret.starts_with("(private key") {
        return described["static_token"].as_str().unwrap_or_default().to_owned();
    }
    let mut claims = described["claims"].clone();
    for (_, claim) in claims.as_object_mut().into_iter().flatten() {
        if let Some(offset) = claim.get("$now").and_then(Value::as_i64) {
            *claim = (now + offset).into();
        }
    }
    hmac_token_with(&described["header"], &claims, secret.as_bytes())
}

/// `value` with the tokens put in everywhere.
pub fn put(value: &Value, tokens: &[String]) -> Value {
    match value {
        Value::String(text) => {
            let mut text = text.clone();
            for (at, token) in tokens.iter().enumerate() {
                text = text.replace(&format!("{{{{jwt:{at}}}}}"), token);
            }
            text.into()
        }
        Value::Array(items) => items.iter().map(|item| put(item, tokens)).collect(),
        Value::Object(fields) => {
            Value::Object(fields.iter().map(|(name, field)| (name.clone(), put(field, tokens))).collect())
        }
        other => other.clone(),
    }
}
