//! `cargo xtask test`: every check in one command, ended by one line of counts. What cannot run here is skipped aloud
//! with its reason and counted; nothing is skipped in silence.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result};

use crate::tally::{Reader, Tally};
use crate::{bars, bench, build, setup, shell, tidy};

#[derive(clap::Args)]
pub struct Options {
    /// One part only (default: all of them, and the formatting, the lints and the kernel object besides)
    part: Option<Part>,
    /// Passed on to the test binaries, as in `cargo xtask test blackbox -- cors`
    #[arg(last = true)]
    rest: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// Tests inside the crates
    Unit,
    /// The real binary on real sockets, the kernel's tests included
    Blackbox,
    /// Only the black-box tests of the kernel side (root)
    Kernel,
    /// The same with the parser's and the edge's own tests, in full, and the table of bars R1 to R13 (root)
    Edge,
    /// Only the conventions
    Tidy,
}

/// Runs the tests and prints the counts.
///
/// # Errors
/// A tool could not be started at all; failed tests are counted, not errors.
pub fn run(options: &Options) -> Result<ExitCode> {
    let all = options.part.is_none();
    let wants = |part| all || options.part == Some(part);
    let mut tally = Tally::default();
    if all {
        setup::run(&setup::Options::default())?;
        formatting(&mut tally)?;
    }
    if wants(Part::Tidy) {
        tally.add(tidy::tally()?);
    }
    if all {
        lints(&mut tally)?;
    }
    if wants(Part::Unit) {
        tally.add(unit(&options.rest)?);
    }
    if options.part == Some(Part::Edge) {
        tally.add(edge(&options.rest)?);
    }
    if wants(Part::Blackbox) || options.part == Some(Part::Kernel) {
        let only = if options.part == Some(Part::Kernel) { Only::Kernel } else { Only::All };
        tally.add(blackbox(only, &options.rest)?);
    }
    if all {
        tally.add(kernel_object()?);
        tally.add(instructions()?);
    }
    report(&tally);
    Ok(if tally.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn report(tally: &Tally) {
    println!();
    if !tally.bars.is_empty() {
        println!("{}", bars::table(bars::EDGE, &tally.bars, "`cargo xtask bench edge` measures those"));
    }
    for skip in &tally.skips {
        println!("skipped  {skip}");
    }
    for failure in &tally.failures {
        println!("failed   {failure}");
    }
    println!("{}", tally.summary());
}

fn formatting(tally: &mut Tally) -> Result<()> {
    if shell::output(shell::cargo().args(["fmt", "--version"])).is_none() {
        println!("SKIP fmt: this toolchain has no rustfmt");
        tally.skip("fmt", "this toolchain has no rustfmt");
        return Ok(());
    }
    let good = shell::status(shell::cargo().args(["fmt", "--all", "--", "--check"]))?.success();
    tally.check("fmt", good);
    if shell::root().join("gateway-ebpf/Cargo.toml").is_file() {
        let mut command = shell::cargo();
        command.args(["fmt", "--manifest-path", "gateway-ebpf/Cargo.toml", "--", "--check"]);
        tally.check("fmt gateway-ebpf", shell::status(&mut command)?.success());
    }
    Ok(())
}

fn lints(tally: &mut Tally) -> Result<()> {
    if shell::output(shell::cargo().args(["clippy", "--version"])).is_none() {
        println!("SKIP clippy: this toolchain has no clippy");
        tally.skip("clippy", "this toolchain has no clippy");
        return Ok(());
    }
    let mut command = shell::cargo();
    command.args(["clippy", "--locked", "--keep-going", "--workspace", "--all-targets", "--", "-D", "warnings"]);
    tally.check("clippy", shell::status(&mut command)?.success());
    Ok(())
}

/// What the kernel edge promises and a test can show, measured as often as its bars ask.
fn edge(rest: &[String]) -> Result<Tally> {
    let mut command = shell::cargo();
    command.env(IN_FULL, "full").args(["test", "--locked", "--no-fail-fast", "--package", "gateway-common"]);
    let mut tally = counted("the packet parser", command.args(["--", "--show-output"]).args(rest), false)?;
    let mut command = shell::cargo();
    command.args(["test", "--locked", "--no-fail-fast", "--package", "gateway", "--lib", "edge::"]);
    tally.add(counted("the edge's own tests", command.args(["--", "--show-output"]).args(rest), false)?);
    tally.add(blackbox(Only::Edge, rest)?);
    Ok(tally)
}

/// Which black-box tests.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Only {
    All,
    Kernel,
    /// The kernel's, as often as their bars ask.
    Edge,
}

/// Read by `tests/src/bar.rs` and the parser's tests.
pub const IN_FULL: &str = "GATEWAY_BARS";

fn unit(rest: &[String]) -> Result<Tally> {
    let mut command = shell::cargo();
    command.args(["test", "--locked", "--no-fail-fast", "--workspace", "--exclude", "gateway-tests"]);
    command.args(["--", "--show-output"]).args(rest);
    counted("unit tests", &mut command, false)
}

fn blackbox(only: Only, rest: &[String]) -> Result<Tally> {
    let mut tally = Tally::default();
    let gateway = match build::gateway(build::Profile::Debug) {
        Ok(gateway) => gateway,
        Err(error) => {
            eprintln!("{error:#}");
            tally.fail("build of the gateway");
            return Ok(tally);
        }
    };
    if only == Only::All && rest.is_empty() {
        tally.add(configurations(&gateway)?);
    }
    let mut command = shell::cargo();
    command.env("GATEWAY_BIN", &gateway);
    command.args(["test", "--locked", "--no-fail-fast", "--package", "gateway-tests", "--", "--show-output"]);
    if only != Only::All {
        command.arg("kernel::");
    }
    if only == Only::Edge {
        command.env(IN_FULL, "full");
    }
    if !shell::is_root() {
        let reason = "needs root: network namespaces and programs in the kernel";
        println!("SKIP kernel: {reason}");
        tally.skip("kernel", reason);
        command.args(["--skip", "kernel::"]);
    }
    command.args(rest);
    tally.add(counted("black-box tests", &mut command, false)?);
    Ok(tally)
}

/// What the project shows as a configuration is one: the examples, and every YAML block of the README.
fn configurations(gateway: &Path) -> Result<Tally> {
    let mut tally = Tally::default();
    let folder = tempfile::tempdir()?;
    let mut files: Vec<PathBuf> = std::fs::read_dir(shell::root().join("examples"))?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "yml"))
        .collect();
    let readme = std::fs::read_to_string(shell::root().join("README.md"))?;
    for (number, block) in readme.split("```yaml\n").skip(1).enumerate() {
        let file = folder.path().join(format!("README.md-{}.yml", number + 1));
        std::fs::write(&file, block.split("```").next().unwrap_or_default())?;
        files.push(file);
    }
    for file in files {
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let good = shell::status(shell::program(gateway).arg("check").arg(&file))?.success();
        tally.check(&format!("configuration {name}"), good);
    }
    Ok(tally)
}

/// A request costs no more instructions than it did. That takes a release build, which only CI makes each time.
fn instructions() -> Result<Tally> {
    let mut tally = Tally::default();
    let reason = match std::env::var_os("CI") {
        Some(_) => bench::instructions::incomparable()?,
        None => Some("counted in CI; here by `cargo xtask bench instructions`".to_owned()),
    };
    if let Some(reason) = reason {
        println!("SKIP instructions: {reason}");
        tally.skip("instructions", &reason);
        return Ok(tally);
    }
    let counted = bench::instructions::run(&bench::instructions::Options { record: false });
    if let Err(error) = &counted {
        eprintln!("{error:#}");
    }
    tally.check("instructions a request", counted.is_ok());
    Ok(tally)
}

/// The object that is checked in is what its sources say. As root on Debian the compiler is installed; without it, or
/// under another version of it, the check is skipped with that reason.
fn kernel_object() -> Result<Tally> {
    let mut tally = Tally::default();
    let this = std::env::current_exe().context("the path of this program")?;
    if shell::is_root() && shell::find("apt-get").is_some() {
        let installed = shell::status(shell::program(&this).args(["setup", "--ebpf"]))?.success();
        if !installed {
            let reason = "the compiler of the kernel programs could not be installed";
            println!("SKIP kernel object: {reason}");
            tally.skip("kernel object", reason);
            return Ok(tally);
        }
    }
    let mut check = counted("kernel object", shell::program(&this).args(["build-ebpf", "--check"]), true)?;
    if check.failed == 0 && check.skipped == 0 {
        check.passed += 1;
    }
    tally.add(check);
    Ok(tally)
}

/// Runs a command and counts its output (both of its outputs, when it has no progress to show) while it is shown.
pub fn counted(step: &str, command: &mut Command, both: bool) -> Result<Tally> {
    eprintln!("$ {}", shell::typed(command));
    let (output, end) = std::io::pipe()?;
    if both {
        command.stderr(end.try_clone()?);
    }
    let spawned = command.stdout(end).spawn();
    // The command holds copies of the pipe's end: reading would never finish while it lives.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = spawned.with_context(|| format!("cannot start `{}`", shell::typed(command)))?;
    let mut reader = Reader::default();
    for line in BufReader::new(output).split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        if reader.line(line.trim_end_matches('\r')) {
            println!("{line}");
        }
    }
    let status = child.wait()?;
    Ok(reader.finish(step, status.success()))
}
