//! `cargo xtask dist`: the binary as it is published. Built twice: first with counters, run under a load of all sorts, then
//! again for what was seen (profile-guided optimisation). Falls back to the plain `dist` profile where the tool is missing.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::bench::duty::Keys;
use crate::upstream::Upstream;
use crate::{build, http, shell};

/// How long the instrumented binary is used.
const TRAINING: Duration = Duration::from_secs(12);
/// And by each of the other protocols.
const OTHERS: Duration = Duration::from_secs(3);
const CLIENTS: usize = 4;
const EACH: Duration = Duration::from_secs(5);

/// Builds the published binary and prints where it is.
///
/// # Errors
/// A build failed, or the training did.
pub fn run() -> Result<()> {
    println!("{}", gateway()?.display());
    Ok(())
}

/// Builds the published binary and returns its path.
///
/// # Errors
/// A build failed, or the training did.
pub fn gateway() -> Result<PathBuf> {
    let Some(profdata) = profdata() else {
        eprintln!("dist: no llvm-profdata of the compiler's LLVM: the binary is built without training");
        return build::gateway(build::Profile::Dist);
    };
    let folder = shell::target().join("trained");
    let profile = folder.join("gateway.profdata");
    if is_older(&profile, &shell::root()) {
        train(&profdata, &folder, &profile)?;
    }
    compile(&folder.join("use"), &format!("-Cprofile-use={}", profile.display()))
}

fn compile(target: &Path, flags: &str) -> Result<PathBuf> {
    let mut cargo = shell::cargo();
    cargo.args(["build", "--locked", "--package", "gateway", "--profile", "dist", "--target-dir"]).arg(target);
    shell::run(cargo.env("RUSTFLAGS", flags))?;
    Ok(target.join("dist").join("gateway"))
}

fn train(profdata: &Path, folder: &Path, profile: &Path) -> Result<()> {
    let raw = folder.join("raw");
    let binary = compile(&folder.join("generate"), &format!("-Cprofile-generate={}", raw.display()))?;
    // Build scripts are instrumented as well, and have counted what nobody asks for.
    let _nothing_before = std::fs::remove_dir_all(&raw);
    std::fs::create_dir_all(&raw)?;
    let upstream = Upstream::start("127.0.0.1:0")?;
    let keys = Keys::make(folder).context("the training needs a certificate: run `cargo xtask setup --bench`")?;
    let text = std::fs::read_to_string(shell::root().join("bench/training.kong.yml"))?;
    let quoted = |path: &Path| Ok::<_, anyhow::Error>(serde_json::to_string(&std::fs::read_to_string(path)?)?);
    let text = text
        .replace("UPSTREAM", &upstream.address.to_string())
        .replace("PUBLIC_KEY", &quoted(&keys.public)?)
        .replace("CERTIFICATE_KEY", &quoted(&keys.certificate_key)?)
        .replace("CERTIFICATE", &quoted(&keys.certificate)?);
    let (config, ready) = (folder.join("training.kong.yml"), folder.join("ready.json"));
    std::fs::write(&config, text)?;
    let _nothing_before = std::fs::remove_file(&ready);
    let mut command = shell::program(&binary);
    command.arg("run").arg("-c").arg(&config).arg("--ready-file").arg(&ready).stdout(Stdio::null());
    let mut gateway = command.spawn().context("cannot start the instrumented gateway")?;
    let trained = listeners(&ready).and_then(|(plain, tls)| {
        load(plain)?;
        load_others(plain, tls, &keys.token)
    });
    // It writes what it counted when it ends by itself.
    let _gone_already = kill(Pid::from_raw(i32::try_from(gateway.id())?), Signal::SIGTERM);
    let status = gateway.wait()?;
    trained?;
    if !status.success() {
        bail!("the instrumented gateway ended with {status}");
    }
    shell::run(shell::program(profdata).arg("merge").arg("-o").arg(profile).arg(&raw))
}

/// Where it listens, in the clear and with TLS.
fn listeners(ready: &Path) -> Result<(SocketAddr, SocketAddr)> {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        if let Ok(text) = std::fs::read_to_string(ready) {
            let value: serde_json::Value = serde_json::from_str(&text)?;
            let first = |list: &str| value[list][0].as_str().unwrap_or_default().parse();
            return Ok((first("proxy")?, first("proxy_tls")?));
        }
        if Instant::now() > deadline {
            bail!("the instrumented gateway does not get ready");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Sends requests of all sorts from a few connections at once.
fn load(address: SocketAddr) -> Result<()> {
    let sent: u64 = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(move || client(address))).collect();
        clients.into_iter().map(|thread| thread.join().unwrap_or(0)).sum()
    });
    eprintln!("dist: trained with {sent} requests");
    if sent < 1000 {
        bail!("the training load was too small");
    }
    Ok(())
}

/// HTTP/2, TLS and tokens, which want a client with TLS.
fn load_others(plain: SocketAddr, tls: SocketAddr, token: &str) -> Result<()> {
    if shell::find("h2load").is_none() {
        eprintln!("dist: not trained on TLS and HTTP/2, which takes h2load (`cargo xtask setup --bench`)");
        return Ok(());
    }
    let bearer = format!("authorization: Bearer {token}");
    let (secure, clear) = (format!("https://{tls}"), format!("http://{plain}"));
    let runs: [(&[&str], String); 5] = [
        (&["-m8"], format!("{clear}/plain/x")),
        (&["-m8"], format!("{secure}/plain/x")),
        (&["--h1"], format!("{secure}/plain/x")),
        (&["--h1", "-H", &bearer], format!("{clear}/token/x")),
        (&["--h1", "-H", &bearer], format!("{secure}/token/x")),
    ];
    for (arguments, url) in runs {
        let mut h2load = shell::program("h2load");
        h2load.args(["-t1", "-c4", &format!("-D{}", OTHERS.as_secs())]).args(arguments).arg(&url);
        let text = shell::output(&mut h2load).context("h2load failed")?;
        if text.contains(" 0 2xx") {
            bail!("{url} answered no request of the training:\n{text}");
        }
    }
    Ok(())
}

fn client(address: SocketAddr) -> u64 {
    let body = vec![b'x'; 2048];
    let key = [("apikey", "training-key")];
    let usual = [("User-Agent", "training/1.0"), ("Accept", "*/*"), ("Accept-Encoding", "gzip")];
    let deadline = Instant::now() + TRAINING;
    let mut sent = 0;
    while Instant::now() < deadline {
        let Ok(mut client) = http::Client::connect(address, EACH, EACH) else { continue };
        // A connection serves for a while, as a browser's does.
        for turn in 0..500 {
            let answer = match turn % 16 {
                0 => client.send("POST", "/plain/form", &usual, &body),
                1 | 2 => client.send("GET", "/guarded/x?page=2", &key, &[]),
                3 => client.send("GET", "/guarded/x", &usual, &[]),
                4 => client.send("GET", "/nowhere", &usual, &[]),
                5 | 6 => client.send("GET", "/limited/x", &usual, &[]),
                _ => client.send("GET", "/plain/x", &usual, &[]),
            };
            if answer.is_err() || !client.is_open() || Instant::now() >= deadline {
                break;
            }
            sent += 1;
        }
    }
    sent
}

/// The `llvm-profdata` that fits the compiler: its own, or Debian's of the same major version.
fn profdata() -> Option<PathBuf> {
    let sysroot = shell::output(shell::program("rustc").args(["--print", "sysroot"]))?;
    let text = shell::output(shell::program("rustc").arg("-vV"))?;
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let (host, version) = (field("host:")?, field("LLVM version:")?);
    let own = Path::new(sysroot.trim()).join("lib/rustlib").join(host).join("bin/llvm-profdata");
    let major = version.split('.').next()?;
    let debian = PathBuf::from(format!("/usr/lib/llvm-{major}/bin/llvm-profdata"));
    [own, debian].into_iter().find(|path| path.is_file())
}

/// Whether the profile is missing, or older than the gateway's sources.
fn is_older(profile: &Path, root: &Path) -> bool {
    let Ok(made) = profile.metadata().and_then(|m| m.modified()) else { return true };
    let mut folders = vec![root.join("gateway/src"), root.join("gateway-common/src")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if entry.metadata().and_then(|m| m.modified()).is_ok_and(|changed| changed > made) {
                return true;
            }
        }
    }
    false
}
