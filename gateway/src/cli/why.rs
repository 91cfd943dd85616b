//! `gateway why IP`: asks the admin API of a running gateway.

use std::io::Write;
use std::net::IpAddr;
use std::process::ExitCode;

use clap::Args;

use super::admin::Admin;

/// Tells how an address stands.
#[derive(Debug, Args)]
pub struct Why {
    /// The address.
    ip: IpAddr,
    #[command(flatten)]
    admin: Admin,
}

impl Why {
    /// Prints the answer as JSON.
    ///
    /// # Errors
    /// When the gateway cannot be asked.
    pub fn run(&self) -> anyhow::Result<ExitCode> {
        let value = self.admin.get(&format!("/edge/why?ip={}", self.ip))?;
        writeln!(std::io::stdout(), "{value:#}")?;
        Ok(ExitCode::SUCCESS)
    }
}
