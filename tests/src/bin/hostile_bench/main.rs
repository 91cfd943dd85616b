//! The gateway under attack and among faults, as rows with bars: memory above idle, what other clients get meanwhile, how the
//! attack's connections end; then reloads, a stop, upstreams that vanish, descriptors that run out. `--minutes N` is a soak of
//! all attacks in a loop with reloads. Run by `cargo xtask bench hostile`. Every attack is bounded in count and time, and
//! aims at a gateway of this program's own on loopback.
#![allow(clippy::print_stdout)] // The figures are its purpose.

use std::time::Duration;

use anyhow::{Context, Result, bail};

mod attacks;
mod faults;
mod scene;
mod soak;
mod tools;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => {
            attacks::run("")?;
            faults::run();
        }
        ["--only", "faults"] => faults::run(),
        ["--only", word] => attacks::run(word)?,
        ["--minutes", minutes] => {
            let minutes: u64 = minutes.parse().context("`--minutes` takes a number")?;
            soak::run(Duration::from_secs(minutes * 60))?;
        }
        _ => bail!("--only WORD, or --minutes N"),
    }
    Ok(())
}
