//! `gateway edge unban IP`: has the admin API of a running gateway set a source free.

use std::io::Write;
use std::net::IpAddr;
use std::process::ExitCode;

use clap::Args;

use super::admin::Admin;

/// Lifts the verdict on an address.
#[derive(Debug, Args)]
pub struct Unban {
    /// The address; of IPv6 its whole prefix is meant.
    ip: IpAddr,
    #[command(flatten)]
    admin: Admin,
}

impl Unban {
    /// Prints the answer as JSON.
    ///
    /// # Errors
    /// When the gateway cannot be asked.
    pub fn run(&self) -> anyhow::Result<ExitCode> {
        let value = self.admin.post(&format!("/edge/unban?ip={}", self.ip))?;
        writeln!(std::io::stdout(), "{value:#}")?;
        Ok(ExitCode::SUCCESS)
    }
}
