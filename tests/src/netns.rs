//! A laboratory: network namespaces joined by veth pairs, made for one test and removed with it. Nothing in it touches
//! the machine's own network.

use std::{
    fs::File,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    process::{Child, Command},
    sync::atomic::{AtomicU32, Ordering},
    thread,
};

use anyhow::{Context as _, Result, ensure};
use nix::sched::{CloneFlags, setns};

/// Set to keep the namespaces of a failed test for a look inside.
const KEEP: &str = "GATEWAY_TESTS_KEEP_NETNS";

static NEXT: AtomicU32 = AtomicU32::new(0);

/// One test's namespaces.
pub struct Lab {
    name: String,
    spaces: Vec<Space>,
    links: u8,
}

/// One namespace of a laboratory.
#[derive(Clone, Debug)]
pub struct Space {
    name: String,
}

/// One end of a veth pair.
#[derive(Clone, Debug)]
pub struct End {
    /// The interface, in its own namespace.
    pub interface: String,
    /// Its IPv4 address.
    pub v4: Ipv4Addr,
    /// Its IPv6 address.
    pub v6: Ipv6Addr,
}

impl Lab {
    /// An empty laboratory, or none where this user may not make namespaces; then it says that the test is skipped.
    #[must_use]
    pub fn new(test: &str) -> Option<Self> {
        let reason = if !nix::unistd::geteuid().is_root() {
            "making network namespaces needs root"
        } else if run(Command::new("ip").arg("-V")).is_err() {
            "the command `ip` (iproute2) is missing"
        } else {
            let name = format!("gw{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
            return Some(Self { name, spaces: Vec::new(), links: 0 });
        };
        eprintln!("SKIP {test}: {reason}");
        None
    }

    /// A new namespace with its loopback up.
    ///
    /// # Errors
    /// Whatever `ip` complains of.
    pub fn space(&mut self, label: &str) -> Result<Space> {
        let space = Space { name: format!("{}-{label}", self.name) };
        run(Command::new("ip").args(["netns", "add", &space.name]))?;
        self.spaces.push(space.clone());
        space.ip(&["link", "set", "lo", "up"])?;
        Ok(space)
    }

    /// Joins two namespaces by a veth pair with addresses 10.77.N.1 and .2, fd77:0:0:N::1 and ::2.
    ///
    /// # Errors
    /// Whatever `ip` complains of.
    pub fn join(&mut self, a: &Space, b: &Space) -> Result<(End, End)> {
        let n = self.links;
        self.links += 1;
        let end = |host: u8| End {
            interface: format!("veth{n}"),
            v4: Ipv4Addr::new(10, 77, n, host),
            v6: Ipv6Addr::new(0xfd77, 0, 0, u16::from(n), 0, 0, 0, u16::from(host)),
        };
        let (one, two) = (end(1), end(2));
        a.ip(&["link", "add", &one.interface, "type", "veth", "peer", "name", &two.interface, "netns", &b.name])?;
        for (space, end) in [(a, &one), (b, &two)] {
            space.ip(&["addr", "add", &format!("{}/24", end.v4), "dev", &end.interface])?;
            // Without duplicate detection the address works at once.
            space.ip(&["addr", "add", &format!("{}/64", end.v6), "dev", &end.interface, "nodad"])?;
            space.ip(&["link", "set", &end.interface, "up"])?;
        }
        Ok((one, two))
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if thread::panicking() {
            for space in &self.spaces {
                eprintln!("look inside with {KEEP}=1: nsenter --net=/run/netns/{}", space.name);
            }
            if std::env::var_os(KEEP).is_some() {
                return;
            }
        }
        for space in &self.spaces {
            if let Err(error) = run(Command::new("ip").args(["netns", "del", &space.name])) {
                eprintln!("{error:#}");
            }
        }
    }
}

impl Space {
    /// The name under which `ip netns` knows it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `work` on a thread of this namespace and waits for it. Sockets, attachments and child processes made there
    /// stay in the namespace wherever they go afterwards.
    ///
    /// # Panics
    /// If `work` does, or if the namespace is gone.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let work = move || {
            self.enter().expect("the laboratory keeps its namespaces until it is dropped");
            work()
        };
        thread::scope(|scope| match scope.spawn(work).join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    }

    /// Moves the calling thread into the namespace for good: for threads that a test starts and ends itself.
    ///
    /// # Errors
    /// If the namespace is gone.
    pub fn enter(&self) -> Result<()> {
        let path = format!("/run/netns/{}", self.name);
        let file = File::open(&path).context(path)?;
        setns(file, CloneFlags::CLONE_NEWNET)?;
        Ok(())
    }

    /// Starts a process in the namespace.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn spawn(&self, command: &mut Command) -> Result<Child> {
        let text = format!("{command:?}");
        self.run(|| command.spawn()).context(text)
    }

    /// Runs `ip` in the namespace.
    ///
    /// # Errors
    /// Whatever it complains of.
    pub fn ip(&self, arguments: &[&str]) -> Result<()> {
        run(Command::new("ip").args(["-n", &self.name]).args(arguments))
    }

    /// Gives an interface of the namespace one more address.
    ///
    /// # Errors
    /// Whatever `ip` complains of.
    pub fn add_address(&self, interface: &str, address: IpAddr) -> Result<()> {
        match address {
            IpAddr::V4(v4) => self.ip(&["addr", "add", &format!("{v4}/24"), "dev", interface]),
            IpAddr::V6(v6) => self.ip(&["addr", "add", &format!("{v6}/64"), "dev", interface, "nodad"]),
        }
    }
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}
