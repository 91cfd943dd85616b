//! `gateway edge doctor`.

use std::io::{Write, stdout};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde_json::Value;

use crate::config::{Load, compile, sources};
use crate::edge::doctor::{Finding, Severity, examine};
use crate::edge::{Mode, Policy};
use crate::{app, crypto};

/// Finds what stands in the edge's way on this host.
#[derive(Debug, Args)]
pub struct Doctor {
    /// The configuration whose edge is meant; without it, `kong.yml` if there is one.
    #[arg(short, long, env = "KONG_DECLARATIVE_CONFIG")]
    config: Option<PathBuf>,
    /// An interface to look at; may be given again, and takes the place of the configuration's.
    #[arg(short, long)]
    interface: Vec<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Doctor {
    /// Exit code 1 if something blocks the edge, 2 if the configuration cannot be read.
    ///
    /// # Errors
    /// When nothing can be printed.
    pub fn run(&self) -> anyhow::Result<ExitCode> {
        let mut policy = match self.policy() {
            Ok(policy) => policy,
            Err(errors) => {
                eprint!("{errors}");
                return Ok(ExitCode::from(2));
            }
        };
        if !self.interface.is_empty() {
            policy.interfaces.clone_from(&self.interface);
        }
        let findings = examine(&policy);
        if self.json {
            let list: Vec<Value> = findings.iter().map(Finding::json).collect();
            writeln!(stdout(), "{:#}", Value::from(list))?;
        } else {
            print(&findings, &policy)?;
        }
        let blocks = findings.iter().any(|finding| finding.severity == Severity::Blocks);
        Ok(if blocks { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }

    fn policy(&self) -> Result<Policy, String> {
        let usual = PathBuf::from("kong.yml");
        let Some(path) = self.config.as_ref().or(Some(&usual).filter(|path| path.exists())) else {
            return Ok(Policy { mode: Mode::Enforce, ..Policy::default() });
        };
        crypto::install();
        let bundle = sources::read(std::slice::from_ref(path)).map_err(|error| format!("error: {error:#}\n"))?;
        let (shared, _) = app::shared().map_err(|error| format!("error: {error:#}\n"))?;
        let compiled = compile(&bundle, &Load::from_process(true, false).into(), &shared);
        match compiled.snapshot {
            Some(snapshot) => Ok(snapshot.settings.edge.clone().unwrap_or_default()),
            None => Err(compiled.report.to_string()),
        }
    }
}

fn print(findings: &[Finding], policy: &Policy) -> std::io::Result<()> {
    let mut out = stdout().lock();
    for finding in findings {
        let place = finding.interface.as_deref().unwrap_or("host");
        writeln!(out, "{:<9} {place:<15} {}: {}", finding.severity.name(), finding.problem, finding.detail)?;
        writeln!(out, "{:<9} {:<15} → {}", "", "", finding.remedy)?;
    }
    let count = |severity| findings.iter().filter(|finding| finding.severity == severity).count();
    let (blocks, degrades) = (count(Severity::Blocks), count(Severity::Degrades));
    let interfaces = if policy.interfaces.is_empty() { "none".to_owned() } else { policy.interfaces.join(", ") };
    writeln!(out, "interfaces: {interfaces}; {blocks} block, {degrades} degrade, {} advice", count(Severity::Advice))
}
