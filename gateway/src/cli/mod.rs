//! The commands of the binary.

mod admin;
mod check;
mod doctor;
mod edge;
mod top;
mod why;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::app::{self, Options};
use crate::config::Environment;

/// An API gateway that runs Kong's declarative files, with its front door in the kernel.
#[derive(Debug, Parser)]
#[command(version, about)]
pub struct Cli {
    /// Form of the operational log on standard error; RUST_LOG sets what it tells.
    #[arg(long, value_enum, default_value_t = LogFormat::Text, global = true)]
    log_format: LogFormat,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the gateway (also without any command).
    Run(Run),
    /// Check a configuration file: every error with file, line and column; exit code 2 if there is one.
    Check(check::Check),
    /// Tell how an address or a consumer stands with a running gateway, and which request is the cause.
    Why(why::Why),
    /// The kernel side: what stands in its way, and what it does.
    Edge(edge::Edge),
}

#[derive(Debug, Args)]
struct Run {
    /// The configuration: a file in Kong's declarative format, YAML or JSON.
    #[arg(short, long, env = "KONG_DECLARATIVE_CONFIG", default_value = "kong.yml")]
    config: PathBuf,
    /// Run what is built of a file that asks for more, with warnings.
    #[arg(long)]
    allow_unsupported: bool,
    /// Write the addresses as JSON to this file when everything listens.
    #[arg(long)]
    ready_file: Option<PathBuf>,
    /// Listen on addresses on which another gateway still listens: start the new one so, then stop the old one.
    #[arg(long)]
    beside: bool,
    /// Kong's variable; only `off` is possible: there is no database.
    #[arg(long, env = "KONG_DATABASE", default_value = "off", hide = true)]
    database: String,
}

/// Runs the command line.
///
/// # Errors
/// What kept a command from its work.
pub fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    start_log(cli.log_format);
    match cli.command {
        Some(Command::Check(check)) => check.run(),
        Some(Command::Why(why)) => why.run(),
        Some(Command::Edge(edge)) => edge.run(),
        Some(Command::Run(run)) => run_gateway(run),
        // As a container's entry point without arguments, with Kong's variables.
        None => match Cli::parse_from(["gateway", "run"]).command {
            Some(Command::Run(run)) => run_gateway(run),
            _ => unreachable!("`gateway run` parses as Run"),
        },
    }
}

fn run_gateway(run: Run) -> anyhow::Result<ExitCode> {
    anyhow::ensure!(
        run.database == "off",
        "KONG_DATABASE is `{}`: only `off` is possible, there is no database",
        run.database
    );
    app::run(&Options {
        config: run.config,
        allow_unsupported: run.allow_unsupported,
        ready_file: run.ready_file,
        beside: run.beside,
        env: Environment::read(),
    })
}

fn start_log(format: LogFormat) {
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    // A second subscriber in one process is the tests' business.
    let _ = match format {
        LogFormat::Text => builder.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
}
