//! `gateway why IP`: asks the admin API of a running gateway.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::Args;

/// Tells how an address stands.
#[derive(Debug, Args)]
pub struct Why {
    /// The address.
    ip: IpAddr,
    /// Address of the admin API.
    #[arg(long, env = "KONG_ADMIN_LISTEN", default_value = "127.0.0.1:8001")]
    admin: String,
    /// What the admin API asks for (`gateway.admin_token`).
    #[arg(long, env = "GATEWAY_ADMIN_TOKEN", hide_env_values = true)]
    token: Option<String>,
}

impl Why {
    /// Prints the answer as JSON.
    ///
    /// # Errors
    /// When the gateway cannot be asked.
    pub fn run(&self) -> anyhow::Result<ExitCode> {
        let text = self.admin.trim_start_matches("http://").trim_end_matches('/');
        let address: SocketAddr = text.parse().with_context(|| format!("`{text}` is no socket address"))?;
        let limit = Duration::from_secs(5);
        let mut stream =
            TcpStream::connect_timeout(&address, limit).with_context(|| format!("no gateway answers on {address}"))?;
        stream.set_read_timeout(Some(limit))?;
        let token = match &self.token {
            Some(token) => {
                ensure!(token.bytes().all(|b| b.is_ascii_graphic()), "the token holds odd characters");
                format!("Authorization: Bearer {token}\r\n")
            }
            None => String::new(),
        };
        write!(stream, "GET /edge/why?ip={} HTTP/1.1\r\nHost: {address}\r\n{token}Connection: close\r\n\r\n", self.ip)?;
        let mut answer = String::new();
        stream.take(1 << 20).read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").context("the answer is no HTTP")?;
        let value: serde_json::Value = serde_json::from_str(body).context("the answer is no JSON")?;
        ensure!(head.starts_with("HTTP/1.1 200"), "{}", value["message"].as_str().unwrap_or(body));
        writeln!(std::io::stdout(), "{value:#}")?;
        Ok(ExitCode::SUCCESS)
    }
}
