//! Three namespaces and a gateway: its own with the upstream in it, a yard where abusers come from, a town where nobody
//! does harm. It starts and asks, and judges nothing.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use gateway_tests::{
    Gateway, Reply, Request, Setup, Upstream, Visitor,
    gateway::command,
    netns::{End, Lab, Space},
};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::Value;

/// `/api` answers 401 without a key, soon 429 to the greedy one, and 200 to the good one.
const CONFIG: &str = r#"
_format_version: "3.0"
services:
- name: echo
  url: @UP@
  routes:
  - { name: open, paths: [/open] }
  - name: api
    paths: [/api]
    plugins:
    - { name: key-auth }
    - { name: rate-limiting, config: { minute: 5 } }
consumers:
- { username: good, keyauth_credentials: [{ key: good-key }] }
- { username: greedy, keyauth_credentials: [{ key: greedy-key }] }
plugins:
- { name: rate-limiting, route: api, consumer: good, config: { minute: 1000000 } }
"#;

/// More than the 50 strikes from the gate to the drop, by what a busy machine lets through before it decides.
const SPARES: usize = 250;
/// A drop shows as silence: the gateway answers in milliseconds, and this machine may be busy.
const SILENCE: Duration = Duration::from_secs(2);
/// Nobody climbs further than this many requests.
const REQUESTS_MAX: usize = 2_000;

/// Where a story is played.
pub struct Scene {
    /// Taken out to be ended in the namespace where it listens.
    upstream: Option<Upstream>,
    pub server: Space,
    pub yard: Space,
    pub town: Space,
    /// The gateway's end of the link, then the other one.
    pub to_yard: (End, End),
    pub to_town: (End, End),
    _lab: Lab,
}

impl Scene {
    /// None where this user may not make namespaces; the laboratory says so.
    pub fn new(test: &str) -> Option<Self> {
        let mut lab = Lab::new(test)?;
        // The spares are two descriptors each, and many tests share the process.
        let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).expect("the limit can be read");
        setrlimit(Resource::RLIMIT_NOFILE, most, most).expect("a limit may be raised as far as it goes");
        let mut space = |label| lab.space(label).expect("a namespace");
        let (server, yard, town) = (space("server"), space("yard"), space("town"));
        let to_yard = lab.join(&server, &yard).expect("a veth pair");
        let to_town = lab.join(&server, &town).expect("a veth pair");
        let upstream = Some(server.run(Upstream::echo));
        Some(Self { upstream, server, yard, town, to_yard, to_town, _lab: lab })
    }

    /// The configuration, with these words for the edge's mode and ladder.
    pub fn config(&self, mode: &str, ladder: &str) -> String {
        let upstream = self.upstream.as_ref().expect("it lives as long as the scene");
        let interfaces = format!("{}, {}", self.to_yard.0.interface, self.to_town.0.interface);
        let text = format!(
            "{CONFIG}\ngateway:\n  listen: [\"0.0.0.0:0\"]\n  timeouts: {{ header: 60s, idle: 60s }}\n  edge:\n    \
             mode: {mode}\n    interfaces: [{interfaces}]\n    ladder: {{ {ladder} }}\n"
        );
        upstream.fill(&text)
    }

    /// Starts the gateway, and waits until its program is on both interfaces.
    #[track_caller]
    pub fn start(&self, config: &str) -> Gateway {
        let gateway = self.server.run(|| Setup::new(config).start());
        let edge = self.admin(&gateway, "/edge");
        assert_eq!(edge["mode"]["in_force"], "native", "{edge:#}");
        gateway
    }

    /// The gateway as the yard sees it.
    pub fn door(&self, gateway: &Gateway) -> SocketAddr {
        SocketAddr::new(self.to_yard.0.v4.into(), gateway.proxy().port())
    }

    /// One more address in the yard.
    pub fn address(&self, host: u8) -> Ipv4Addr {
        let [a, b, c, _] = self.to_yard.1.v4.octets();
        let address = Ipv4Addr::new(a, b, c, host);
        self.yard.add_address(&self.to_yard.1.interface, address.into()).expect("the address is free");
        address
    }

    /// An answer of the admin API, asked from inside.
    #[track_caller]
    pub fn admin(&self, gateway: &Gateway, target: &str) -> Value {
        self.server.run(|| gateway.admin_get(target)).expect(200).json()
    }

    /// What the command `gateway why` says, run inside.
    #[track_caller]
    pub fn why(&self, gateway: &Gateway, address: Ipv4Addr) -> Value {
        let arguments = ["why", &address.to_string(), "--admin", &gateway.admin_url()];
        let exit = self.server.run(|| command(&arguments));
        assert_eq!(exit.code, Some(0), "{exit:?}");
        serde_json::from_str(&exit.stdout).expect("the answer is JSON")
    }

    /// Packets that the kernel counted under a word.
    #[track_caller]
    pub fn packets(&self, gateway: &Gateway, word: &str) -> u64 {
        self.admin(gateway, "/edge")["packets"][word]["packets"].as_u64().unwrap_or(0)
    }

    /// Abuses until no connection is answered any more, and then over older connections until these are silent too.
    #[track_caller]
    pub fn climb(&self, gateway: &Gateway, from: Ipv4Addr, request: &Request) -> Climb {
        self.climb_with(gateway, from, request, SPARES, SILENCE)
    }

    /// The same with so many older connections, and so long a silence for a drop.
    #[track_caller]
    pub fn climb_with(
        &self,
        gateway: &Gateway,
        from: Ipv4Addr,
        request: &Request,
        spares: usize,
        silence: Duration,
    ) -> Climb {
        let door = self.door(gateway);
        self.yard.run(|| {
            let visitor = || Visitor::new(door, from, request.clone()).patience(silence);
            let mut spares: Vec<Visitor> = std::iter::repeat_with(visitor).take(spares).collect();
            assert!(spares.iter_mut().all(Visitor::connect), "before the abuse everybody may connect");
            let mut climb = Climb::default();
            let mut abuser = visitor();
            climb.until_silence(|| abuser.ask());
            let mut spares = spares.iter_mut();
            climb.until_silence(|| spares.next().expect("the drop comes before they are used up").ask());
            climb
        })
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let upstream = self.upstream.take();
        self.server.run(|| drop(upstream));
    }
}

/// A request that was answered.
pub struct Answered {
    pub id: String,
    pub status: u16,
    pub sent: Instant,
    pub heard: Instant,
}

/// Requests one after another, and the times when the first packet of one that was not answered was sent.
#[derive(Default)]
pub struct Climb {
    answered: Vec<Answered>,
    silences: Vec<Instant>,
}

impl Climb {
    #[track_caller]
    fn until_silence(&mut self, mut ask: impl FnMut() -> Option<Reply>) {
        while self.answered.len() < REQUESTS_MAX {
            let sent = Instant::now();
            let Some(reply) = ask() else { return self.silences.push(sent) };
            let id = reply.header("x-kong-request-id").unwrap_or_default().to_owned();
            self.answered.push(Answered { id, status: reply.status, sent, heard: Instant::now() });
        }
        panic!("still answered after {REQUESTS_MAX} requests");
    }

    /// The request with this id.
    #[track_caller]
    pub fn find(&self, id: &str) -> &Answered {
        let found = self.answered.iter().find(|one| one.id == id);
        found.unwrap_or_else(|| panic!("no request of this client was {id}"))
    }

    /// When the first packet was lost after an answer, and how many further answers came before that.
    #[track_caller]
    pub fn silence_after(&self, answer: &Answered) -> (Instant, usize) {
        let silence = *self.silences.iter().find(|silence| **silence >= answer.heard).expect("it ends in silence");
        let between = |one: &&Answered| one.heard > answer.heard && one.heard <= silence;
        (silence, self.answered.iter().filter(between).count())
    }
}

/// The id of the request that brought the source of this `why` to a rung.
#[track_caller]
pub fn cause_of(why: &Value, rung: u32) -> String {
    let decisions = why["decisions"].as_array().cloned().unwrap_or_default();
    let decision = decisions.iter().find(|decision| decision["rung"] == rung);
    let decision = decision.unwrap_or_else(|| panic!("no decision for rung {rung}: {why:#}"));
    decision["request_id"].as_str().unwrap_or_default().to_owned()
}

/// Somebody who does no harm and never rests, in a thread of its own.
pub struct Regular {
    stop: Arc<AtomicBool>,
    good: Arc<AtomicUsize>,
    thread: JoinHandle<Vec<String>>,
}

impl Regular {
    /// Every tenth request comes over a new connection.
    pub fn start(space: &Space, to: SocketAddr, from: Ipv4Addr, request: Request) -> Self {
        let (stop, good, space) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)), space.clone());
        let (stopped, served) = (Arc::clone(&stop), Arc::clone(&good));
        let thread = thread::spawn(move || {
            space.enter().expect("the namespace is there");
            let mut visitor = Visitor::new(to, from, request);
            let mut lost = Vec::new();
            for number in 0_usize.. {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                if number.is_multiple_of(10) {
                    visitor.hang_up();
                }
                match visitor.ask() {
                    Some(reply) if reply.status == 200 => drop(served.fetch_add(1, Ordering::Relaxed)),
                    Some(reply) => lost.push(format!("request {number}: {}", reply.status)),
                    None => lost.push(format!("request {number}: no answer")),
                }
                // A client's pace, not a wait for anything.
                thread::sleep(Duration::from_millis(2));
            }
            lost
        });
        Self { stop, good, thread }
    }

    /// Good answers so far.
    pub fn good(&self) -> usize {
        self.good.load(Ordering::Relaxed)
    }

    /// Ends it: the good answers, and what became of the other requests.
    pub fn end(self) -> (usize, Vec<String>) {
        self.stop.store(true, Ordering::Relaxed);
        let lost = self.thread.join().expect("a regular does not panic");
        (self.good.load(Ordering::Relaxed), lost)
    }
}
