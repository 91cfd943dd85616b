//! Good traffic under a flood of SYNs, in namespaces: clients behind a router, the flood from the router itself, so that
//! both share the one queue of the gateway's interface. That queue and the gateway share one CPU; the flood, the router
//! and the clients have the other. Nothing of it leaves the namespaces.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    os::fd::OwnedFd,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use gateway_tests::{
    Gateway, Setup, bar,
    netns::{End, Lab, Space},
};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};

use crate::{
    bare,
    generator::{Generator, Target},
    load::{self, Counts},
};

/// The gateway's CPU, and everybody else's.
pub const OURS: usize = 0;
pub const THEIRS: usize = 1;
/// Good traffic alone, before the flood begins and after it.
const WARM: Duration = Duration::from_secs(2);
/// Of the flood, before counting begins: pressure is felt within a second.
const SETTLE: Duration = Duration::from_secs(2);
const DEADLINE: Duration = Duration::from_secs(10);
/// Whose address the flood of one source uses.
const FORGED: Ipv4Addr = Ipv4Addr::new(11, 1, 2, 3);

/// What stands before the gateway.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Filter {
    /// Nothing.
    None,
    /// nftables on the interface's ingress: a set of sources with a rate each.
    Meter,
    /// A counter of requests for each address, in the gateway: it answers 429.
    Refusal,
    /// The kernel program with ceilings for each source.
    Ceilings,
    /// The same with the gate.
    Gate,
}

impl Filter {
    pub const ALL: [Self; 5] = [Self::None, Self::Meter, Self::Refusal, Self::Ceilings, Self::Gate];

    pub fn name(self) -> &'static str {
        match self {
            Self::None => "no filter",
            Self::Meter => "nftables meter",
            Self::Refusal => "user-space 429",
            Self::Ceilings => "ours, no gate",
            Self::Gate => "ours, gate",
        }
    }

    fn is_ours(self) -> bool {
        matches!(self, Self::Ceilings | Self::Gate)
    }
}

/// What was seen in one run.
pub struct Row {
    /// SYNs sent a second, in millions.
    pub sent: f64,
    /// Requests over kept connections answered a second.
    pub requests: f64,
    /// Strangers answered, in percent of those that came.
    pub welcomed: f64,
    /// Share of its CPU that the queue took, in percent.
    pub queue: f64,
    /// Entries of the tables and their bytes, before the flood and after it.
    pub packets: String,
    /// Whether the flood's one source, whose address a forger had used, is under no verdict afterwards.
    pub spared: bool,
}

/// Whatever a run sets up; it goes when this is dropped.
struct Scene {
    gate: Space,
    net: Space,
    near: End,
    far: End,
    queue: Pid,
    gateway: Gateway,
    _programs: Vec<OwnedFd>,
    client: Space,
    _lab: Lab,
}

/// One run: the flood lasts `seconds`, from one source or from random ones.
///
/// # Errors
/// Something could not be set up.
pub fn run(filter: Filter, random: bool, per_second: u64, seconds: u64) -> Result<Row> {
    let scene = Scene::build(filter)?;
    let (counts, stop) = (Arc::new(Counts::default()), Arc::new(AtomicBool::new(false)));
    let to = SocketAddr::new(scene.near.v4.into(), scene.gateway.proxy().port());
    thread::scope(|scope| {
        let load = scope.spawn(|| {
            scene.client.enter()?;
            pin(Pid::from_raw(0), THEIRS)?;
            load::run(to, &counts, &stop)
        });
        let row = scene.flood(&counts, random, to.port(), per_second, seconds);
        stop.store(true, Relaxed);
        load.join().map_err(|_| anyhow::anyhow!("the good traffic's thread panicked"))??;
        row
    })
}

impl Scene {
    fn build(filter: Filter) -> Result<Self> {
        let mut lab = Lab::new("bench edge --flood").context("namespaces cannot be made")?;
        let (gate, net, client) = (lab.space("gate")?, lab.space("net")?, lab.space("client")?);
        let (near, far) = lab.join(&gate, &net)?;
        let (inner, outer) = lab.join(&net, &client)?;
        gate.ip(&["route", "add", "default", "via", &far.v4.to_string()])?;
        client.ip(&["route", "add", "default", "via", &inner.v4.to_string()])?;
        // Strangers' addresses; and what is answered to forged ones ends here.
        client.ip(&["route", "add", "local", "10.78.0.0/16", "dev", "lo"])?;
        net.ip(&["route", "add", "10.78.0.0/16", "via", &outer.v4.to_string()])?;
        net.ip(&["route", "add", "blackhole", "default"])?;
        set(&net, "net/ipv4/ip_forward", "1")?;
        set(&gate, "net/ipv4/tcp_max_syn_backlog", "4096")?;
        let pass = bare::Program::load(bare::PASS)?;
        // Live frames enter a veth end only if it has a program; so does what our program sends back.
        let mut programs = vec![net.run(|| pass.attach(&far.interface))?];
        if !filter.is_ours() {
            programs.push(gate.run(|| pass.attach(&near.interface))?);
        }
        if filter == Filter::Meter {
            meter(&gate, &near.interface)?;
        }
        let gateway = gate.run(|| -> Result<Gateway> {
            pin(Pid::from_raw(0), OURS)?;
            Ok(Setup::new(&configuration(filter, &near)).start())
        })?;
        let queue = threaded(&gate, &near.interface, OURS)?;
        let router = threaded(&net, &far.interface, THEIRS)?;
        // As a device's interrupts do, they go before everything else.
        for thread in [queue, router] {
            tell("chrt", &["--fifo", "--pid", "1", &thread.to_string()])?;
        }
        Ok(Self { gate, net, near, far, queue, gateway, _programs: programs, client, _lab: lab })
    }

    fn flood(&self, counts: &Counts, random: bool, port: u16, per_second: u64, seconds: u64) -> Result<Row> {
        thread::sleep(WARM);
        let before = counts.requests.swap(0, Relaxed) as f64 / WARM.as_secs_f64();
        ensure!(before > 0.5 * f64::from(load::REQUESTS_PER_SECOND), "{before:.0} requests a second before the flood");
        let target = Target {
            macs: [mac(&self.net, &self.far.interface)?, mac(&self.gate, &self.near.interface)?],
            to: self.near.v4,
            port,
            from: (!random).then_some(FORGED),
        };
        let generator = Generator::load(target, per_second)?;
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            let flood = scope.spawn(|| -> Result<()> {
                self.net.enter()?;
                pin(Pid::from_raw(0), THEIRS)?;
                // It spins; the clients on the same CPU must not wait for it.
                tell("renice", &["-n", "5", "-p", &nix::unistd::gettid().to_string()])?;
                let index = nix::net::if_::if_nametoindex(self.far.interface.as_str())?;
                while !over.load(Relaxed) {
                    // Some tens of milliseconds: then the end is looked for.
                    generator.run(index, 1 << 20)?;
                }
                Ok(())
            });
            let row = self.count(counts, &generator, seconds);
            over.store(true, Relaxed);
            flood.join().map_err(|_| anyhow::anyhow!("the flood's thread panicked"))??;
            row
        })
    }

    fn count(&self, counts: &Counts, generator: &Generator, seconds: u64) -> Result<Row> {
        thread::sleep(SETTLE);
        for counter in [&counts.requests, &counts.strangers, &counts.welcomed] {
            counter.store(0, Relaxed);
        }
        let (sent, cpu, start) = (generator.sent()?, cpu_seconds(self.queue)?, Instant::now());
        thread::sleep(Duration::from_secs(seconds));
        let took = start.elapsed().as_secs_f64();
        let rate = |count: u64| count as f64 / took;
        Ok(Row {
            sent: rate(generator.sent()? - sent) / 1e6,
            requests: rate(counts.requests.load(Relaxed)),
            welcomed: 100.0 * counts.welcomed.load(Relaxed) as f64 / counts.strangers.load(Relaxed).max(1) as f64,
            queue: 100.0 * (cpu_seconds(self.queue)? - cpu) / took,
            packets: self.packets(),
            spared: self.spares(FORGED),
        })
    }

    /// Whether nothing is held against an address.
    fn spares(&self, address: Ipv4Addr) -> bool {
        let why = || self.gate.run(|| self.gateway.admin_get(&format!("/edge/why?ip={address}"))).json();
        !self.gateway.has_admin() || why()["verdict"].is_null()
    }

    /// The reasons by which most packets left, if the program is ours.
    fn packets(&self) -> String {
        if !self.gateway.has_admin() {
            return String::new();
        }
        let status = self.gate.run(|| self.gateway.admin_get("/edge"));
        let status = status.json();
        let Some(packets) = status["packets"].as_object() else { return String::new() };
        let mut all: Vec<(&str, u64)> =
            packets.iter().map(|(name, count)| (name.as_str(), count["packets"].as_u64().unwrap_or(0))).collect();
        all.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        all.iter().take(4).map(|(name, count)| format!("{name} {count}")).collect::<Vec<_>>().join(", ")
    }
}

pub fn configuration(filter: Filter, near: &End) -> String {
    let gate = if filter == Filter::Gate { "{}" } else { "off" };
    let edge = format!(
        "  edge:\n    interfaces: [{}]\n    gate: {gate}\n    ceilings:\n      connections: {{ per_second: 100 }}\n      \
         packets: {{ per_second: 20000 }}\n",
        near.interface
    );
    let edge = if filter.is_ours() { edge.as_str() } else { "" };
    // More than the good traffic asks for from one address.
    let limit = match filter {
        Filter::Refusal => "    - { name: rate-limiting, config: { second: 5000, limit_by: ip } }\n",
        _ => "",
    };
    format!(
        "_format_version: \"3.0\"\ngateway:\n  listen: [\"{}:0\"]\n  admin: \"127.0.0.1:0\"\n{edge}\
         services:\n- name: answer\n  url: http://127.0.0.1:9\n  routes:\n  - name: all\n    paths: [/]\n    plugins:\n{limit}    \
         - {{ name: request-termination, config: {{ status_code: 200, message: ok }} }}\n",
        near.v4
    )
}

/// Each source may open a hundred connections a second; a hundred thousand sources are remembered for a second.
fn meter(gate: &Space, interface: &str) -> Result<()> {
    let rules = format!(
        "table netdev bench {{\n set seen {{ type ipv4_addr; size 131072; flags dynamic,timeout; timeout 1s; }}\n \
         chain in {{ type filter hook ingress device {interface} priority 0;\n tcp flags & (syn|ack) == syn \
         update @seen {{ ip saddr limit rate over 100/second burst 100 packets }} drop\n }}\n}}\n"
    );
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("rules.nft");
    fs::write(&file, rules)?;
    let mut child = gate.spawn(Command::new("nft").arg("-f").arg(&file).stdout(Stdio::null()))?;
    ensure!(child.wait()?.success(), "nft refused the rules");
    Ok(())
}

fn set(space: &Space, name: &str, value: &str) -> Result<()> {
    let path = format!("/proc/sys/{name}");
    space.run(|| fs::write(&path, value)).with_context(|| path.clone())
}

fn tell(command: &str, arguments: &[&str]) -> Result<()> {
    let output = Command::new(command).args(arguments).output().with_context(|| command.to_owned())?;
    ensure!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

pub fn pin(task: Pid, cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu)?;
    Ok(sched_setaffinity(task, &set)?)
}

/// Has a thread of the kernel, on `cpu`, take the interface's frames off its queue; which one.
fn threaded(space: &Space, interface: &str, cpu: usize) -> Result<Pid> {
    let before = queues(interface)?;
    // `ip netns exec` mounts the sysfs that shows this namespace's interfaces.
    let script = format!("echo 1 > /sys/class/net/{interface}/threaded");
    let status = Command::new("ip").args(["netns", "exec", space.name(), "sh", "-c", &script]).status()?;
    ensure!(status.success(), "the interface's queue cannot be given a thread (Linux 5.12)");
    let start = Instant::now();
    loop {
        if let Some(queue) = queues(interface)?.into_iter().find(|queue| !before.contains(queue)) {
            pin(queue, cpu)?;
            return Ok(queue);
        }
        if start.elapsed() > DEADLINE {
            bail!("no thread for the queue of {interface}");
        }
        thread::yield_now();
    }
}

fn queues(interface: &str) -> Result<Vec<Pid>> {
    let prefix = format!("napi/{interface}-");
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        if fs::read_to_string(entry.path().join("comm")).is_ok_and(|comm| comm.starts_with(&prefix)) {
            found.push(Pid::from_raw(pid));
        }
    }
    Ok(found)
}

/// proc_pid_schedstat: nanoseconds on a CPU come first.
fn cpu_seconds(task: Pid) -> Result<f64> {
    let text = fs::read_to_string(format!("/proc/{task}/schedstat"))?;
    let ran_ns: u64 = text.split(' ').next().context("a schedstat line")?.parse()?;
    Ok(ran_ns as f64 / 1e9)
}

fn mac(space: &Space, interface: &str) -> Result<[u8; 6]> {
    let output = Command::new("ip")
        .args(["netns", "exec", space.name(), "cat", &format!("/sys/class/net/{interface}/address")])
        .output()?;
    let text = String::from_utf8(output.stdout)?;
    let bytes: Vec<u8> = text.trim().split(':').map(|pair| u8::from_str_radix(pair, 16)).collect::<Result<_, _>>()?;
    bytes.try_into().map_err(|_| anyhow::anyhow!("{text} is no hardware address"))
}

/// The table, as far as it is known.
pub fn print(random: bool, per_second: u64, filter: Filter, row: &Row) {
    let source = if random { "random sources" } else { "one source" };
    println!(
        "{source:<15} {:>4.1} {:>5.2}  {:<15} {:>8.0} {:>9.0} {:>7.0}  {}",
        per_second as f64 / 1e6,
        row.sent,
        filter.name(),
        row.requests,
        row.welcomed,
        row.queue,
        row.packets
    );
}

/// All of them.
///
/// # Errors
/// Something could not be set up.
pub fn table(rates: &[u64], filters: &[Filter], seconds: u64) -> Result<()> {
    println!(
        "good traffic under a flood of SYNs: {} requests/s over kept connections, {} strangers/s; {seconds} s a row",
        load::REQUESTS_PER_SECOND,
        load::STRANGERS_PER_SECOND
    );
    println!(
        "{:<15} {:>4} {:>5}  {:<15} {:>8} {:>9} {:>7}  by reason",
        "flood", "Mpps", "sent", "filter", "kept/s", "strang. %", "queue %"
    );
    let mut ours = Vec::new();
    for random in [false, true] {
        for &rate in rates {
            for &filter in filters {
                if filter == Filter::Meter && Command::new("nft").arg("--version").output().is_err() {
                    println!("SKIP nftables meter: the command `nft` (nftables) is missing");
                    continue;
                }
                let row = run(filter, random, rate, seconds)?;
                print(random, rate, filter, &row);
                if filter == Filter::Gate {
                    ours.push((random, rate, row));
                }
            }
        }
    }
    bars(&ours);
    Ok(())
}

/// What the bars ask of the gate: flood of random sources or of one, SYNs a second, percent of the kept connections'
/// requests, percent of the strangers.
const ASKED: [(bool, u64, f64, Option<f64>); 3] =
    [(false, 2_000_000, 99.0, Some(99.0)), (true, 1_000_000, 99.0, Some(80.0)), (true, 2_000_000, 80.0, None)];

fn bars(ours: &[(bool, u64, Row)]) {
    let find = |random, rate| ours.iter().find(|row| (row.0, row.1) == (random, rate)).map(|row| &row.2);
    for (random, rate, kept, strangers) in ASKED {
        let Some(row) = find(random, rate) else { continue };
        let sources = if random { "random sources" } else { "one source" };
        let words =
            |what: &str| format!("{sources}, {:.1} M SYN/s asked, {:.1} M came: {what}", rate as f64 / 1e6, row.sent);
        let share = 100.0 * row.requests / f64::from(load::REQUESTS_PER_SECOND);
        bar::at_least("R2", &words("requests over kept connections"), share.min(100.0), kept, "%");
        if let Some(strangers) = strangers {
            bar::at_least("R2", &words("strangers answered"), row.welcomed, strangers, "%");
        }
    }
    if let (Some(one), Some(random)) = (find(false, 1_000_000), find(true, 1_000_000)) {
        let loss = 100.0 * (1.0 - random.requests / one.requests.max(1.0));
        bar::at_most("R4", "goodput lost against a flood of one source, 1 M SYN/s", loss.max(0.0), 20.0, "%");
    }
    let forged: Vec<&Row> = ours.iter().filter(|(random, ..)| !random).map(|(.., row)| row).collect();
    if !forged.is_empty() {
        let verdicts = forged.iter().filter(|row| !row.spared).count();
        bar::at_most("R7", "verdicts on an address that floods of millions of SYNs bore", verdicts as f64, 0.0, "");
    }
}
