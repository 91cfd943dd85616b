//! What the edge costs while nothing is wrong (R3): CPU time a request and system calls a request, of a gateway with the
//! edge on its interface beside one without, in turns.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use gateway_tests::{
    Gateway, Setup, bar,
    deadline::skip,
    netns::{Lab, Space},
};
use nix::unistd::Pid;

use crate::{
    bare,
    flood::{self, Filter, OURS, THEIRS},
    median,
};

const ROUNDS: usize = 15;
const ROUND: Duration = Duration::from_millis(1_500);
/// Requests in a row on the one connection: with one each, waking the worker would be most of what is measured; with several
/// connections, how many requests a wake serves is chance, and a tenth of the figure.
const BATCH: usize = 16;
/// Of one connection while system calls are counted.
const REQUESTS: u64 = 2_000;
const TRACED: Duration = Duration::from_secs(10);

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: bench\r\n\r\n";
const ANSWER: &[u8] = b"HTTP/1.1 200";

/// Measures and prints both rows.
///
/// # Errors
/// Something could not be set up.
pub fn run() -> Result<()> {
    let mut lab = Lab::new("bench edge --tax").context("namespaces cannot be made")?;
    let (gate, client) = (lab.space("gate")?, lab.space("client")?);
    let pass = bare::Program::load(bare::PASS)?;
    let mut programs = Vec::new();
    let mut start = |filter, passes: bool| -> Result<(Gateway, SocketAddr)> {
        let (near, _far) = lab.join(&gate, &client)?;
        if passes {
            programs.push(gate.run(|| pass.attach(&near.interface))?);
        }
        let text = flood::configuration(filter, &near);
        let gateway = gate.run(|| -> Result<Gateway> {
            flood::pin(Pid::from_raw(0), OURS)?;
            Ok(Setup::new(&text).start())
        })?;
        let to = SocketAddr::new(near.v4.into(), gateway.proxy().port());
        Ok((gateway, to))
    };
    let gateways = [start(Filter::None, false)?, start(Filter::None, true)?, start(Filter::Gate, false)?];
    let in_force = gate.run(|| gateways[2].0.admin_get("/edge")).json()["mode"]["in_force"].clone();
    ensure!(in_force == "native", "the edge is {in_force}");
    cpu(&client, &gateways)?;
    calls(&client, [&gateways[0], &gateways[2]])
}

/// Nanoseconds of the processor a request, in turns: what disturbs one disturbs the others. A veth pair copies each packet
/// for any program, which a device's driver does not: what the edge itself costs is seen beside a program that only passes.
fn cpu(client: &Space, gateways: &[(Gateway, SocketAddr); 3]) -> Result<()> {
    let mut figures = [const { Vec::new() }; 3];
    for round in 0..=ROUNDS {
        for (at, (gateway, to)) in gateways.iter().enumerate() {
            let before = ran_ns(gateway.pid())?;
            let requests = client.run(|| ask_for(*to, ROUND))?;
            let ran = ran_ns(gateway.pid())? - before;
            if round > 0 {
                figures[at].push(ran as f64 / requests as f64);
            }
        }
    }
    let more = |than: usize| {
        let pairs = figures[than].iter().zip(&figures[2]);
        median(pairs.map(|(off, on)| 100.0 * (on - off) / off).collect())
    };
    let beside = [more(0), more(1)];
    let [off, passing, on] = figures.map(median);
    println!(
        "R3 CPU a request, medians of {ROUNDS} rounds in turns: {off:.0} ns without an edge, {passing:.0} ns with a program \
         that passes everything, {on:.0} ns with the edge"
    );
    bar::at_most("R3", "CPU a request more than with a program that passes everything", beside[1], 2.0, "%");
    bar::at_most("R3", "CPU a request more than without any program (veth copies for it)", beside[0], 2.0, "%");
    Ok(())
}

/// What all threads of a process have run, nanoseconds.
fn ran_ns(pid: u32) -> Result<u64> {
    let mut sum = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))?.flatten() {
        let text = fs::read_to_string(task.path().join("schedstat"))?;
        sum += text.split(' ').next().context("a schedstat line")?.parse::<u64>()?;
    }
    Ok(sum)
}

fn ask_for(to: SocketAddr, duration: Duration) -> Result<u64> {
    let until = Instant::now() + duration;
    flood::pin(Pid::from_raw(0), THEIRS)?;
    let mut stream = connect(to)?;
    let batch = REQUEST.repeat(BATCH);
    let mut count = 0;
    while Instant::now() < until {
        stream.write_all(&batch)?;
        answers(&mut stream, BATCH)?;
        count += BATCH as u64;
    }
    Ok(count)
}

/// Reads until so many answers have begun.
fn answers(stream: &mut TcpStream, mut left: usize) -> Result<()> {
    let (mut bytes, mut known) = ([0; 16_384], 0);
    while left > 0 {
        let count = stream.read(&mut bytes[known..])?;
        ensure!(count > 0, "closed");
        let read = &bytes[..known + count];
        left -= read.windows(ANSWER.len()).filter(|text| *text == ANSWER).count().min(left);
        // What may be the beginning of the next one's.
        let keep = read.len().min(ANSWER.len() - 1);
        let from = read.len() - keep;
        bytes.copy_within(from..from + keep, 0);
        known = keep;
    }
    Ok(())
}

fn connect(to: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect(to)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(TRACED))?;
    Ok(stream)
}

/// One request; its answer comes in one piece.
fn ask(stream: &mut TcpStream) -> Result<()> {
    stream.write_all(REQUEST)?;
    let mut answer = [0; 2_048];
    let count = stream.read(&mut answer)?;
    ensure!(answer[..count].starts_with(ANSWER), "refused");
    Ok(())
}

/// System calls of the one worker, by strace.
fn calls(client: &Space, gateways: [&(Gateway, SocketAddr); 2]) -> Result<()> {
    if Command::new("strace").arg("-V").output().is_err() {
        skip("bench edge --tax: system calls", "the command `strace` is missing");
        return Ok(());
    }
    let mut figures = [0.0; 2];
    for (figure, (gateway, to)) in figures.iter_mut().zip(gateways) {
        *figure = client.run(|| -> Result<f64> {
            let mut stream = connect(*to)?;
            ask(&mut stream)?;
            let summary = tempfile::NamedTempFile::new()?;
            let worker = worker(gateway.pid(), to.port(), &mut stream)?;
            let mut strace = Command::new("strace");
            strace.args(["-qq", "-c", "-o"]).arg(summary.path()).args(["-p", &worker.to_string()]);
            let mut strace = strace.spawn()?;
            while !fs::read_to_string(format!("/proc/{worker}/status"))?
                .contains(&format!("TracerPid:\t{}", strace.id()))
            {
                thread::sleep(Duration::from_millis(10));
            }
            for _ in 0..REQUESTS {
                ask(&mut stream)?;
            }
            nix::sys::signal::kill(Pid::from_raw(strace.id().cast_signed()), nix::sys::signal::Signal::SIGINT)?;
            strace.wait()?;
            let text = fs::read_to_string(summary.path())?;
            let total = text.lines().last().context("a summary")?;
            // % time, seconds, usecs/call, calls, then errors and the word.
            let calls: f64 = total.split_whitespace().nth(3).context("calls")?.parse()?;
            Ok(calls / REQUESTS as f64)
        })?;
    }
    let [off, on] = figures;
    println!("R3 system calls a request of the worker: {off:.3} without an edge, {on:.3} with it");
    // The worker's tick, five times a second, is in both.
    bar::at_most("R3", "system calls a request more than without an edge", (on - off).max(0.0), 0.01, "");
    Ok(())
}

/// The thread that serves this connection: the one that runs when it is asked.
fn worker(pid: u32, port: u16, stream: &mut TcpStream) -> Result<u32> {
    let ran = || -> Result<Vec<(u32, u64)>> {
        let tasks = fs::read_dir(format!("/proc/{pid}/task"))?.flatten();
        let named = tasks
            .filter(|task| fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name.starts_with("worker")));
        named
            .map(|task| {
                let text = fs::read_to_string(task.path().join("schedstat"))?;
                let id = task.file_name().to_string_lossy().parse()?;
                Ok((id, text.split(' ').next().context("a schedstat line")?.parse()?))
            })
            .collect()
    };
    let before = ran()?;
    for _ in 0..500 {
        ask(stream)?;
    }
    let after = ran()?;
    let most = after
        .iter()
        .max_by_key(|(id, now)| now - before.iter().find(|(other, _)| other == id).map_or(*now, |(_, then)| *then));
    most.map(|(id, _)| *id).with_context(|| format!("no worker serves port {port}"))
}
