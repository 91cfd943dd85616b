//! `cargo xtask setup`: what the other commands need from the system. As root on Debian or Ubuntu it installs what is
//! missing; elsewhere it names it precisely. It must not download anything but packages.

use anyhow::{Result, bail};

use crate::{ebpf, shell};

#[derive(clap::Args, Default)]
pub struct Options {
    /// Also the compiler and the linker of the kernel programs (only needed to rebuild the object that is checked in)
    #[arg(long)]
    pub ebpf: bool,
    /// Also the peers and the load generator of `cargo xtask bench`
    #[arg(long)]
    pub bench: bool,
    /// Also what counts instructions (`cargo xtask bench instructions`)
    #[arg(long)]
    pub instructions: bool,
}

/// A program, the Debian packages that bring it, and what needs it.
struct Need {
    program: &'static str,
    packages: &'static [&'static str],
    purpose: &'static str,
}

const BASE: &[Need] = &[
    Need { program: "cc", packages: &["gcc", "libc6-dev"], purpose: "the cryptography library is built from C" },
    Need { program: "ip", packages: &["iproute2"], purpose: "tests and the demo make network namespaces" },
    Need { program: "slapd", packages: &["slapd"], purpose: "tests ask a directory" },
    Need { program: "setpriv", packages: &["util-linux"], purpose: "the demo's processes end with it" },
];

const BENCH: &[Need] = &[
    Need { program: "nginx", packages: &["nginx-light"], purpose: "a peer, and the upstream of every round" },
    Need { program: "haproxy", packages: &["haproxy"], purpose: "a peer" },
    Need { program: "wrk", packages: &["wrk"], purpose: "the load generator" },
    Need { program: "h2load", packages: &["nghttp2-client"], purpose: "the load generator for HTTP/2" },
    Need { program: "slowhttptest", packages: &["slowhttptest"], purpose: "slow clients" },
    Need { program: "openssl", packages: &["openssl"], purpose: "makes the certificate and the token" },
    Need { program: "taskset", packages: &["util-linux"], purpose: "pins each process to a core" },
];

const INSTRUCTIONS: &[Need] = &[
    Need { program: "callgrind_control", packages: &["valgrind"], purpose: "it counts the gateway's instructions" },
    Need { program: "openssl", packages: &["openssl"], purpose: "makes the token" },
];

/// Installs or names what is missing.
///
/// # Errors
/// Something is missing that could not be installed; the message names it.
pub fn run(options: &Options) -> Result<()> {
    let bench: &[Need] = if options.bench { BENCH } else { &[] };
    let instructions: &[Need] = if options.instructions { INSTRUCTIONS } else { &[] };
    let missing: Vec<&Need> =
        BASE.iter().chain(bench).chain(instructions).filter(|need| shell::find(need.program).is_none()).collect();
    install(&missing)?;
    if options.ebpf {
        ebpf::setup_ebpf()?;
    }
    eprintln!("setup: nothing is missing");
    Ok(())
}

fn install(missing: &[&Need]) -> Result<()> {
    if missing.is_empty() {
        return Ok(());
    }
    for need in missing {
        eprintln!("setup: `{}` is missing: {}", need.program, need.purpose);
    }
    let packages: Vec<&str> = missing.iter().flat_map(|need| need.packages).copied().collect();
    if !shell::is_root() || shell::find("apt-get").is_none() {
        bail!(
            "install the programs above; on Debian or Ubuntu: sudo apt-get install --no-install-recommends {}",
            packages.join(" ")
        );
    }
    shell::run(shell::program("apt-get").args(["-q", "update"]))?;
    shell::run(
        shell::program("apt-get")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .args(["-q", "-y", "--no-install-recommends", "install"])
            .args(&packages),
    )
}
