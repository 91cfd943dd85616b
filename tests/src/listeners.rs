//! Adds to a configuration text the listeners that a test needs: free ports of loopback, an admin listener, one worker.

use serde_json::Value;

/// The text with a `gateway:` block that listens on free ports of loopback.
pub fn with_listeners(text: &str) -> String {
    if text.trim_start().starts_with('{') {
        return with_listeners_json(text);
    }
    let tls = if has_certificates(text) { ", \"127.0.0.1:0 ssl\"" } else { "" };
    let wanted = [
        ("listen:", format!("  listen: [\"127.0.0.1:0\"{tls}]\n")),
        ("admin:", "  admin: \"127.0.0.1:0\"\n".to_owned()),
        ("workers:", "  workers: 1\n".to_owned()),
    ];
    let block: String = wanted
        .iter()
        .filter(|(name, _)| !text.lines().any(|line| line.starts_with(&format!("  {name}"))))
        .map(|(_, line)| line.as_str())
        .collect();
    match text.split_once("\ngateway:\n") {
        Some((before, after)) => format!("{before}\ngateway:\n{block}{after}"),
        None => format!("{text}\ngateway:\n{block}"),
    }
}

fn has_certificates(text: &str) -> bool {
    text.lines().any(|line| line.starts_with("certificates:"))
}

fn with_listeners_json(text: &str) -> String {
    let mut config: Value = serde_json::from_str(text).expect("a text with a brace is JSON");
    let tls = config.get("certificates").is_some();
    let mut listen = vec!["127.0.0.1:0"];
    listen.extend(tls.then_some("127.0.0.1:0 ssl"));
    let block = config
        .as_object_mut()
        .expect("a configuration is an object")
        .entry("gateway")
        .or_insert_with(|| serde_json::json!({}));
    for (name, value) in [("listen", serde_json::json!(listen)), ("admin", "127.0.0.1:0".into()), ("workers", 1.into())]
    {
        if block.get(name).is_none() {
            block[name] = value;
        }
    }
    config.to_string()
}
