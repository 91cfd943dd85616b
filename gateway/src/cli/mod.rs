//! The commands of the binary.

mod admin;
mod check;
mod diff;
mod doctor;
mod edge;
mod explain;
mod init;
mod openapi;
mod schema;
mod top;
mod unban;
mod why;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::app::{self, Options};
use crate::config::{Load, Snapshot, compile, sources};
use crate::crypto;

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
    /// Check configuration files: every error with file, line and column; exit code 2 if there is one.
    Check(check::Check),
    /// Tell which route takes a request and why, which plugins run, and what the upstream is asked.
    Explain(explain::Explain),
    /// Tell what changes from one configuration to another; exit code 1 if anything does.
    Diff(diff::Diff),
    /// Print the JSON Schema of configuration files, for editors.
    Schema(schema::Schema),
    /// Print a configuration to start from, perhaps made of an OpenAPI document.
    Init(init::Init),
    /// Tell how an address or a consumer stands with a running gateway, and which request is the cause.
    Why(why::Why),
    /// The kernel side: what stands in its way, and what it does.
    Edge(edge::Edge),
}

/// How configuration is read.
#[derive(Debug, Args)]
pub struct Reading {
    /// Run what is built of a file that asks for more, with warnings.
    #[arg(long)]
    allow_unsupported: bool,
    /// Fill in ${VAR}, ${VAR:-default} and $VAR from the environment before a file is read.
    #[arg(long, env = "GATEWAY_ENV_SUBST")]
    env_subst: bool,
}

impl Reading {
    fn load(&self) -> Load {
        Load::from_process(self.allow_unsupported, self.env_subst)
    }
}

#[derive(Debug, Args)]
struct Run {
    /// The configuration in Kong's declarative format, YAML or JSON: a file, or a folder whose files are read together;
    /// may be given several times.
    #[arg(short, long, env = "KONG_DECLARATIVE_CONFIG", default_value = "kong.yml")]
    config: Vec<PathBuf>,
    #[command(flatten)]
    reading: Reading,
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
        Some(Command::Explain(explain)) => explain.run(),
        Some(Command::Diff(diff)) => diff.run(),
        Some(Command::Schema(schema)) => schema.run(),
        Some(Command::Init(init)) => init.run(),
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
    app::run(&Options { config: run.config, load: run.reading.load(), ready_file: run.ready_file, beside: run.beside })
}

/// Compiles files for a command that only looks at them; says what is wrong and gives nothing when they cannot run.
fn look(paths: &[PathBuf], reading: &Reading) -> anyhow::Result<Option<Snapshot>> {
    crypto::install();
    let bundle = match sources::read(paths) {
        Ok(bundle) => bundle,
        Err(error) => {
            eprintln!("error: {error:#}");
            return Ok(None);
        }
    };
    let (shared, _) = app::shared()?;
    let compiled = compile(&bundle, &reading.load().into(), &shared);
    eprint!("{}", compiled.report);
    if compiled.snapshot.is_none() {
        let problems = compiled.report.problems();
        let fatal = problems.iter().filter(|p| p.severity != crate::document::Severity::Warning).count();
        eprintln!("{}: {fatal} error{}", shown(paths), if fatal == 1 { "" } else { "s" });
    }
    Ok(compiled.snapshot)
}

fn shown(paths: &[PathBuf]) -> String {
    paths.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", ")
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
