//! `gateway why IP|CONSUMER`: asks the admin API of a running gateway.

use std::io::Write;
use std::net::IpAddr;
use std::process::ExitCode;

use clap::Args;

use super::admin::Admin;

/// Tells how an address stands, or the addresses of a consumer.
#[derive(Debug, Args)]
pub struct Why {
    /// An IP address, or a consumer's name or id.
    who: String,
    #[command(flatten)]
    admin: Admin,
}

impl Why {
    /// Prints the answer as JSON.
    ///
    /// # Errors
    /// When the gateway cannot be asked.
    pub fn run(&self) -> anyhow::Result<ExitCode> {
        let name = if self.who.parse::<IpAddr>().is_ok() { "ip" } else { "consumer" };
        let query: String = form_urlencoded::Serializer::new(String::new()).append_pair(name, &self.who).finish();
        let value = self.admin.get(&format!("/edge/why?{query}"))?;
        writeln!(std::io::stdout(), "{value:#}")?;
        Ok(ExitCode::SUCCESS)
    }
}
