//! Builds the kernel programs, and checks that the object in the repository is what its sources build to. The object is
//! checked in, so nobody needs this toolchain to build the gateway; whoever has it can prove that the bytes are honest.

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};

const TARGET: &str = "bpfel-unknown-none";
const OBJECT: &str = "gateway/src/edge/gateway.bpf.o";
/// The compiler, the linker and the strip tool that made the object.
const RECORD: &str = "gateway/src/edge/gateway.bpf.toolchain";
const LINKER_VERSION: &str = "0.13.0";
/// Debian's compiler for kernel and web targets lives beside any other.
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_CARGO: &str = "/usr/bin/cargo";
const DEBIAN_PACKAGES: [&str; 8] = [
    "rustc-web",
    "rust-web-src",
    "cargo-web",
    "llvm-22",
    "llvm-22-dev",
    "libpolly-22-dev",
    "libzstd-dev",
    "zlib1g-dev",
];
const REMEDY: &str = "`cargo xtask setup --ebpf` installs it on Debian as root; elsewhere: \
    `rustup toolchain install nightly --component rust-src`, `cargo install bpf-linker` and LLVM's llvm-strip";

/// What builds the kernel programs.
struct Toolchain {
    rustc: PathBuf,
    cargo: PathBuf,
    linker: PathBuf,
    strip: PathBuf,
}

/// Builds the object and writes it beside the room that loads it; with `check`, compares it instead, byte for byte.
///
/// # Errors
/// A missing tool, a build that fails, or (`check`) an object that differs.
pub fn build_ebpf(check: bool) -> Result<()> {
    let root = root();
    let toolchain = match Toolchain::find(&root) {
        Ok(toolchain) => toolchain,
        Err(missing) if check => {
            eprintln!("SKIP build-ebpf --check: {missing:#}");
            return Ok(());
        }
        Err(missing) => return Err(missing.context(REMEDY)),
    };
    let versions = toolchain.versions()?;
    if check {
        let recorded = fs::read_to_string(root.join(RECORD)).context(RECORD)?;
        if recorded != versions {
            eprintln!("SKIP build-ebpf --check: the object was built by\n{recorded}and this machine has\n{versions}");
            return Ok(());
        }
    }
    let built = toolchain.build(&root)?;
    let object = root.join(OBJECT);
    if !check {
        fs::write(&object, &built)?;
        fs::write(root.join(RECORD), &versions)?;
        eprintln!("{OBJECT}: {} bytes, built by\n{versions}", built.len());
        return Ok(());
    }
    ensure!(
        fs::read(&object)? == built,
        "{OBJECT} is not what its sources build to: run `cargo xtask build-ebpf` and commit it"
    );
    eprintln!("{OBJECT}: {} bytes, as built by\n{versions}", built.len());
    Ok(())
}

/// Installs what is missing; returns at once if nothing is.
///
/// # Errors
/// Another system than Debian, no root, or a package or build that fails.
pub fn setup_ebpf() -> Result<()> {
    let root = root();
    if Toolchain::find(&root).is_ok() {
        return Ok(());
    }
    if find_compiler().is_err() || find_strip().is_err() {
        install_packages()?;
    }
    if find_linker(&root).is_err() {
        install_linker(&root)?;
    }
    Toolchain::find(&root).map(drop)
}

fn install_packages() -> Result<()> {
    ensure!(Path::new("/etc/debian_version").exists() && nix::unistd::geteuid().is_root(), REMEDY);
    run(Command::new("apt-get").args(["install", "-y", "--no-install-recommends"]).args(DEBIAN_PACKAGES))
}

fn install_linker(root: &Path) -> Result<()> {
    let mut cargo = Command::new("cargo");
    cargo
        .args(["install", "bpf-linker", "--locked", "--version", LINKER_VERSION, "--root"])
        .arg(root.join("target/tools"));
    let llvm = Path::new("/usr/lib/llvm-22");
    if llvm.exists() {
        // Without the prefix it looks for the library where Debian does not put it.
        cargo.env("LLVM_PREFIX", llvm).args(["--no-default-features", "--features", "llvm-22"]);
    }
    run(&mut cargo)
}

impl Toolchain {
    fn find(root: &Path) -> Result<Self> {
        let (rustc, cargo) = find_compiler()?;
        Ok(Self { rustc, cargo, linker: find_linker(root)?, strip: find_strip()? })
    }

    /// What the bytes depend on.
    fn versions(&self) -> Result<String> {
        let rustc = output(Command::new(&self.rustc).arg("-vV"))?;
        let of = |key: &str| rustc.lines().find_map(|line| line.strip_prefix(key)).unwrap_or("unknown").to_owned();
        let compiler = rustc.lines().next().unwrap_or("unknown").to_owned();
        let linker = output(Command::new(&self.linker).arg("--version"))?;
        let strip = output(Command::new(&self.strip).arg("--version"))?;
        let strip = strip.lines().find(|line| line.contains("version")).unwrap_or("unknown").trim().to_owned();
        Ok(format!("{compiler}, LLVM {}\n{}\nllvm-strip: {strip}\n", of("LLVM version: "), linker.trim()))
    }

    fn build(&self, root: &Path) -> Result<Vec<u8>> {
        let target = root.join("target/ebpf");
        let mut cargo = Command::new(&self.cargo);
        // Whatever the outer build was told must not leak into this one.
        for name in
            ["RUSTFLAGS", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "RUSTUP_TOOLCHAIN", "CARGO", "CARGO_BUILD_TARGET"]
        {
            cargo.env_remove(name);
        }
        cargo
            .current_dir(root.join("gateway-ebpf"))
            .env("RUSTC", &self.rustc)
            // A stable compiler builds core and uses its intrinsics only so; never set for the user-space build.
            .env("RUSTC_BOOTSTRAP", "1")
            .env("CARGO_TARGET_DIR", &target)
            .env("CARGO_ENCODED_RUSTFLAGS", self.flags(root).join("\x1f"))
            .env("PATH", path_with(self.linker.parent()))
            .args(["build", "--locked", "--release", "--target", TARGET, "-Z", "build-std=core"]);
        run(&mut cargo)?;
        let raw = target.join(TARGET).join("release/gateway-ebpf");
        let stripped = target.join("gateway.bpf.o");
        // DWARF goes, BTF stays.
        run(Command::new(&self.strip).arg("-g").arg(raw).arg("-o").arg(&stripped))?;
        fs::read(&stripped).with_context(|| stripped.display().to_string())
    }

    /// The object must not know where it was built.
    fn flags(&self, root: &Path) -> Vec<String> {
        let cargo_home = env::var_os("CARGO_HOME")
            .map(PathBuf::from)
            .or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".cargo")))
            .unwrap_or_else(|| PathBuf::from(".cargo"));
        vec![
            "-Clink-arg=--btf".to_owned(),
            // 32-bit jumps and atomic compare-exchange.
            "-Ctarget-cpu=v3".to_owned(),
            format!("--remap-path-prefix={}=.", root.display()),
            format!("--remap-path-prefix={}=cargo", cargo_home.display()),
        ]
    }
}

fn find_compiler() -> Result<(PathBuf, PathBuf)> {
    if let Some(rustc) = env::var_os("GATEWAY_EBPF_RUSTC") {
        let cargo = env::var_os("GATEWAY_EBPF_CARGO").unwrap_or_else(|| "cargo".into());
        return Ok((rustc.into(), cargo.into()));
    }
    if let Some(nightly) = find_nightly() {
        return Ok(nightly);
    }
    let (rustc, cargo) = (PathBuf::from(DEBIAN_RUSTC), PathBuf::from(DEBIAN_CARGO));
    if cargo.exists() && has_sources(&rustc) {
        return Ok((rustc, cargo));
    }
    bail!("no compiler with the sources of core was found")
}

fn find_nightly() -> Option<(PathBuf, PathBuf)> {
    let which = |tool: &str| {
        let found = output(Command::new("rustup").args(["which", "--toolchain", "nightly", tool])).ok()?;
        Some(PathBuf::from(found.trim()))
    };
    let (rustc, cargo) = (which("rustc")?, which("cargo")?);
    has_sources(&rustc).then_some((rustc, cargo))
}

fn has_sources(rustc: &Path) -> bool {
    output(Command::new(rustc).args(["--print", "sysroot"]))
        .is_ok_and(|sysroot| Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core/Cargo.toml").exists())
}

fn find_linker(root: &Path) -> Result<PathBuf> {
    let own = root.join("target/tools/bin/bpf-linker");
    let found = env::var_os("GATEWAY_EBPF_LINKER").map(PathBuf::from).or_else(|| on_path("bpf-linker"));
    found.or_else(|| own.exists().then_some(own)).context("bpf-linker was not found")
}

fn find_strip() -> Result<PathBuf> {
    let versioned = (19..=25).rev().map(|version| PathBuf::from(format!("/usr/lib/llvm-{version}/bin/llvm-strip")));
    env::var_os("GATEWAY_EBPF_STRIP")
        .map(PathBuf::from)
        .or_else(|| versioned.into_iter().find(|path| path.exists()))
        .or_else(|| on_path("llvm-strip"))
        .context("llvm-strip was not found")
}

fn on_path(tool: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?).map(|dir| dir.join(tool)).find(|path| path.is_file())
}

fn path_with(first: Option<&Path>) -> OsString {
    let rest = env::var_os("PATH").unwrap_or_default();
    let dirs = first.map(Path::to_owned).into_iter().chain(env::split_paths(&rest));
    env::join_paths(dirs).unwrap_or(rest.clone())
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map_or_else(|| PathBuf::from("."), Path::to_owned)
}

fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("{command:?}"))?;
    ensure!(status.success(), "{command:?}: {status}");
    Ok(())
}

fn output(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", output.status);
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
