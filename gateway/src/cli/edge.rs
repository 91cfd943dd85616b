//! `gateway edge …`: the kernel side for whoever operates it.

use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::doctor::Doctor;
use super::top::Top;
use super::unban::Unban;

/// The kernel side: what stands in its way, and what it does.
#[derive(Debug, Args)]
pub struct Edge {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Find what stands in the edge's way on this host, each trap with its remedy; exit code 1 if something blocks it.
    Doctor(Doctor),
    /// Watch a running gateway's edge: rates by reason, sources, verdicts, decisions.
    Top(Top),
    /// Lift the verdict on an address, at this gateway and at those of its fleet. What the ladder counted is forgotten.
    Unban(Unban),
}

impl Edge {
    /// # Errors
    /// What kept the command from its work.
    pub fn run(&self) -> anyhow::Result<ExitCode> {
        match &self.command {
            Command::Doctor(doctor) => doctor.run(),
            Command::Top(top) => top.run(),
            Command::Unban(unban) => unban.run(),
        }
    }
}
