//! The project's own commands: one file a command, this file only names them. Nothing here is needed to build or to
//! run the gateway, and nothing here may depend on the gateway's crates.
#![allow(clippy::print_stdout)] // A command's output is its purpose.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod bars;
mod bench;
mod build;
mod ci;
mod demo;
mod dist;
mod ebpf;
mod fuzz;
mod http;
mod lab;
mod process;
mod run;
mod setup;
mod shell;
mod tally;
mod test;
mod tidy;
mod upstream;

/// The project's own commands.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install or name what the other commands need; quick when nothing is missing
    Setup(setup::Options),
    /// Build the gateway
    Build(build::Options),
    /// Build the binary as it is published: trained on a load of all sorts where llvm-profdata is found
    Dist,
    /// Build the kernel programs and write the object beside the code that loads it
    BuildEbpf {
        /// Write nothing: rebuild and compare byte for byte with the object that is checked in
        #[arg(long)]
        check: bool,
    },
    /// Build the gateway for release and run it, by default with examples/quickstart.kong.yml and its upstream
    Run(run::Options),
    /// Run the tests and print one line: passed, failed, skipped
    Test(test::Options),
    /// Check the conventions that a compiler does not: layers, sizes, docs of every plugin
    Tidy,
    /// Show an abusive client stopped by the kernel while another is served, in network namespaces of its own
    Demo(demo::Options),
    /// Measure the gateway
    Bench {
        #[command(subcommand)]
        what: bench::What,
    },
    /// Fuzz the parsers, and the gateway over the wire
    Fuzz(fuzz::Options),
    /// Run what continuous integration runs
    Ci,
}

fn main() -> ExitCode {
    run(Arguments::parse().command).unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Setup(options) => setup::run(&options).map(|()| ExitCode::SUCCESS),
        Command::Build(options) => build::run(&options).map(|()| ExitCode::SUCCESS),
        Command::Dist => dist::run().map(|()| ExitCode::SUCCESS),
        Command::BuildEbpf { check } => ebpf::build_ebpf(check).map(|()| ExitCode::SUCCESS),
        Command::Run(options) => run::run(&options),
        Command::Test(options) => test::run(&options),
        Command::Tidy => tidy::run(),
        Command::Demo(options) => demo::run(&options),
        Command::Bench { what } => bench::run(&what).map(|()| ExitCode::SUCCESS),
        Command::Fuzz(options) => fuzz::run(&options),
        Command::Ci => ci::run(),
    }
}
