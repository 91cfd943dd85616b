//! One question to the admin API of a running gateway.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::Args;
use serde_json::Value;

/// An answer larger than this is not one of ours.
const ANSWER_BYTES_MAX: u64 = 4 << 20;
const LIMIT: Duration = Duration::from_secs(5);

/// Where to ask.
#[derive(Debug, Args)]
pub struct Admin {
    /// Address of the admin API.
    #[arg(long, env = "KONG_ADMIN_LISTEN", default_value = "127.0.0.1:8001")]
    admin: String,
    /// What the admin API asks for (`gateway.admin_token`).
    #[arg(long, env = "GATEWAY_ADMIN_TOKEN", hide_env_values = true)]
    token: Option<String>,
}

impl Admin {
    /// `GET` of a path, as JSON.
    ///
    /// # Errors
    /// When the gateway cannot be asked or refuses; the message is the gateway's.
    pub fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.ask("GET", path)
    }

    /// `POST` to a path, without a body.
    ///
    /// # Errors
    /// As of `get`.
    pub fn post(&self, path: &str) -> anyhow::Result<Value> {
        self.ask("POST", path)
    }

    fn ask(&self, method: &str, path: &str) -> anyhow::Result<Value> {
        let text = self.admin.trim_start_matches("http://").trim_end_matches('/');
        let address: SocketAddr = text.parse().with_context(|| format!("`{text}` is no socket address"))?;
        let mut stream =
            TcpStream::connect_timeout(&address, LIMIT).with_context(|| format!("no gateway answers on {address}"))?;
        stream.set_read_timeout(Some(LIMIT))?;
        let token = match &self.token {
            Some(token) => {
                ensure!(token.bytes().all(|b| b.is_ascii_graphic()), "the token holds odd characters");
                format!("Authorization: Bearer {token}\r\n")
            }
            None => String::new(),
        };
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: {address}\r\n{token}Content-Length: 0\r\nConnection: close\r\n\r\n"
        )?;
        let mut answer = String::new();
        stream.take(ANSWER_BYTES_MAX).read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").context("the answer is no HTTP")?;
        let value: Value = serde_json::from_str(body).context("the answer is no JSON")?;
        ensure!(head.starts_with("HTTP/1.1 200"), "{}", value["message"].as_str().unwrap_or(body));
        Ok(value)
    }
}
