//! What consumers are sent, over all their connections and addresses: held to one ceiling, which follows the configuration.

use std::{
    net::{Ipv4Addr, SocketAddr},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use gateway_tests::{Answer, Client, Gateway, Request, Setup, Upstream, eventually};
use serde_json::Value;

use super::{
    privileges::{has_setpriv, setpriv},
    stage::{PORT, Stage},
};

/// `/N` is so many bytes.
const CONFIG: &str = r#"
_format_version: "3.0"
services:
- name: files
  url: @UP@
  routes: [{ name: all, paths: [/] }]
  plugins: [{ name: key-auth }]
consumer_groups: [{ name: bulk }, { name: gold }]
consumers:
- { username: ann, keyauth_credentials: [{ key: ann }] }
- { username: bob, groups: [gold, bulk], keyauth_credentials: [{ key: bob }] }
"#;
/// Longer than any download here takes when the ceiling is as it should be.
const PATIENCE: Duration = Duration::from_secs(60);

struct Scene {
    stage: Stage,
    /// Taken out to be ended in the namespace where it listens.
    upstream: Option<Upstream>,
}

impl Scene {
    fn new(test: &str) -> Option<Self> {
        let stage = Stage::new(test)?;
        let upstream = stage.server.run(|| {
            Upstream::new(|seen| {
                let bytes = seen.target.trim_start_matches('/').parse().unwrap_or(0);
                Answer::reply(200, &[], &vec![7; bytes])
            })
        });
        Some(Self { stage, upstream: Some(upstream) })
    }

    /// The configuration with these ceilings, and further lines of the edge's block.
    fn config(&self, egress: &str, edge: &str) -> String {
        let Stage { near, .. } = &self.stage;
        let text = format!(
            "{CONFIG}gateway:\n  listen: [\"{}:{PORT}\"]\n  edge:\n    interfaces: [{}]\n    egress: {{ {egress} }}\n{edge}",
            near.v4, near.interface
        );
        self.upstream.as_ref().expect("it lives as long as the scene").fill(&text)
    }

    /// Starts a gateway, unless this kernel has nowhere to count what is sent.
    #[track_caller]
    fn start(&self, test: &str, text: &str) -> Option<Gateway> {
        let gateway = self.stage.server.run(|| Setup::new(text).start());
        let edge = self.stage.edge(&gateway);
        if edge["mode"]["advice"].as_array().is_some_and(|all| all.iter().any(|one| one["problem"] == "no_egress")) {
            eprintln!("SKIP {test}: {}", edge["mode"]["advice"]);
            return None;
        }
        assert_eq!(edge["sent_to_consumers"]["judged"], true, "{edge:#}");
        Some(gateway)
    }

    /// A connection of somebody from one of the client's addresses, once the kernel knows whose it is.
    #[track_caller]
    fn connect(&self, gateway: &Gateway, key: &'static str, from: Ipv4Addr) -> Client {
        let told = |edge: Value| edge["sent_to_consumers"]["recognised"].as_u64().unwrap_or(0);
        let before = told(self.stage.edge(gateway));
        let to = SocketAddr::from((self.stage.near.v4, PORT));
        let mut client = self.stage.client.run(|| Client::connect_from(to, from));
        client.patience(PATIENCE);
        client.send(&Request::get("/1").header("apikey", key)).expect(200);
        eventually("the connection is on the account", || told(self.stage.edge(gateway)) > before);
        client
    }

    fn consumer(&self, gateway: &Gateway, name: &str) -> Value {
        let target = format!("/edge/why?consumer={name}");
        self.stage.server.run(|| gateway.admin_get(&target)).expect(200).json()["sent"].clone()
    }

    fn bytes(&self, gateway: &Gateway, name: &str) -> u64 {
        self.consumer(gateway, name)["bytes"].as_u64().expect("the consumer was seen")
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let upstream = self.upstream.take();
        self.stage.server.run(|| drop(upstream));
    }
}

/// So many bytes over a connection; when they were all there.
fn download(mut client: Client, key: &'static str, bytes: usize, closing: bool) -> JoinHandle<Instant> {
    thread::spawn(move || {
        let request = Request::get(&format!("/{bytes}")).header("apikey", key);
        let request = if closing { request.header("Connection", "close") } else { request };
        let reply = client.send(&request).expect(200);
        assert_eq!(reply.body.len(), bytes);
        Instant::now()
    })
}

#[test]
fn a_consumer_is_sent_no_more_than_its_ceiling_over_all_its_addresses_and_another_one_everything() {
    let test = "kernel::bandwidth::a_consumer_is_sent_no_more_than_its_ceiling_over_all_its_addresses";
    let Some(scene) = Scene::new(test) else { return };
    let (rate, burst) = (2_000_000, 200_000);
    let ample = "{ per_second: 10000000000, burst: 10000000000 }";
    let text = scene.config(
        &format!(
            "consumer_bytes: {{ per_second: {rate}, burst: {burst} }}, \
             groups: {{ gold: {{ per_second: 1 }}, bulk: {ample} }}"
        ),
        "",
    );
    let Some(gateway) = scene.start(test, &text) else { return };
    let (home, office) = (scene.stage.address(4), scene.stage.address(5));
    let (first, second) = (scene.connect(&gateway, "ann", home), scene.connect(&gateway, "ann", office));
    let neighbour = scene.connect(&gateway, "bob", home);
    let before = scene.bytes(&gateway, "ann");
    let start = Instant::now();
    // What a closed connection has left to the host is the consumer's too.
    let of_ann = [download(first, "ann", 3_000_000, false), download(second, "ann", 3_000_000, true)];
    let of_bob = download(neighbour, "bob", 5_000_000, false);
    let bob_at = of_bob.join().expect("bob is sent everything");
    let ann_at = of_ann.map(|one| one.join().expect("ann is sent everything in the end")).into_iter().max();
    let ann_at = ann_at.expect("there are two");

    let sent = scene.bytes(&gateway, "ann") - before;
    let most = burst + rate * start.elapsed().as_millis() as u64 / 1_000;
    assert!(sent <= most + most / 50, "{sent} of {most}");
    assert!(sent > 6_000_000, "{sent}");
    assert!(ann_at - start > Duration::from_millis(2_800), "{:?}", ann_at - start);
    let ann = scene.consumer(&gateway, "ann");
    assert_eq!(ann["ceiling"], serde_json::json!({ "per_second": rate, "burst": burst }));
    assert!(ann["dropped"]["packets"].as_u64() > Some(0), "{ann:#}");

    // The file names gold after bulk.
    let bob = scene.consumer(&gateway, "bob");
    assert_eq!(bob["ceiling"]["per_second"], 10_000_000_000_u64, "{bob:#}");
    assert_eq!(bob["dropped"]["packets"], 0, "{bob:#}");
    assert!(bob["bytes"].as_u64() > Some(5_000_000) && bob_at < ann_at, "{bob:#}");
    let edge = scene.stage.edge(&gateway);
    assert!(edge["packets"]["consumer_bandwidth"]["packets"].as_u64() > Some(0), "{edge:#}");
    assert_eq!(edge["packets"]["bandwidth"], Value::Null);
    assert_eq!(edge["sent_to_consumers"]["most"][0]["consumer"], "ann", "{edge:#}");
    assert_eq!(edge["sent_to_consumers"]["consumers"], 2);
}

#[test]
fn a_reload_changes_the_ceiling_of_a_running_download_and_closes_the_account_of_whoever_went() {
    let test = "kernel::bandwidth::a_reload_changes_the_ceiling_of_a_running_download";
    let Some(scene) = Scene::new(test) else { return };
    let text = |rate: u64| scene.config(&format!("consumer_bytes: {{ per_second: {rate}, burst: 200000 }}"), "");
    let Some(gateway) = scene.start(test, &text(200_000)) else { return };
    let client = scene.connect(&gateway, "ann", scene.stage.address(4));
    // At this rate it would take more than PATIENCE.
    let of_ann = download(client, "ann", 20_000_000, false);
    eventually("the ceiling is met", || scene.consumer(&gateway, "ann")["dropped"]["packets"].as_u64() > Some(0));
    let before = scene.bytes(&gateway, "ann");
    scene.stage.server.run(|| {
        gateway.reload(&text(1_000_000_000), || {
            scene.consumer(&gateway, "ann")["ceiling"]["per_second"] == 1_000_000_000_u64
        });
    });
    of_ann.join().expect("it comes to its end");
    let after = scene.bytes(&gateway, "ann");
    assert!(after > 20_000_000 && after > before, "{before}, then {after}: the account is the same");

    let kept = scene.connect(&gateway, "bob", scene.stage.address(4));
    drop(kept);
    let without = text(1_000_000_000).replace("- { username: ann, keyauth_credentials: [{ key: ann }] }\n", "");
    let consumers = || scene.stage.edge(&gateway)["sent_to_consumers"]["consumers"].clone();
    assert_eq!(consumers(), 2);
    scene.stage.server.run(|| gateway.reload(&without, || consumers() == 1));
    assert!(scene.bytes(&gateway, "bob") > 0);
}

#[test]
fn accounts_survive_a_restart_that_is_pinned() {
    let test = "kernel::bandwidth::accounts_survive_a_restart_that_is_pinned";
    let Some(scene) = Scene::new(test) else { return };
    let pins = format!("    pin: {}\n    keep: true\n", scene.stage.bpffs.pins().display());
    let text = scene.config("consumer_bytes: { per_second: 1000000000 }", &pins);
    let Some(mut gateway) = scene.start(test, &text) else { return };
    let client = scene.connect(&gateway, "ann", scene.stage.address(4));
    download(client, "ann", 1_000_000, false).join().expect("nothing is in the way");
    let before = scene.bytes(&gateway, "ann");
    assert!(before > 1_000_000, "{before}");
    gateway.sigterm();
    assert!(gateway.wait(PATIENCE).is_some_and(|status| status.success()), "{}", gateway.stderr());
    let Some(gateway) = scene.start(test, &text) else { return };
    assert!(scene.bytes(&gateway, "ann") >= before);
    assert_eq!(scene.consumer(&gateway, "bob"), Value::Null);
    drop(scene.connect(&gateway, "bob", scene.stage.address(4)));
    assert!((1..100_000).contains(&scene.bytes(&gateway, "bob")), "another account");
    assert!(scene.bytes(&gateway, "ann") >= before);
}

#[test]
fn without_perfmon_the_kernel_takes_the_program_that_counts_what_is_sent() {
    let test = "kernel::bandwidth::without_perfmon_the_kernel_takes_the_program";
    let Some(scene) = Scene::new(test).filter(|_| has_setpriv(test)) else { return };
    let text = scene.config("consumer_bytes: { per_second: 1000000 }", "");
    let words = setpriv("+bpf,+net_admin");
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let gateway = scene.stage.server.run(|| Setup::new(&text).through(&words).start());
    let edge = scene.stage.edge(&gateway);
    let problems: Vec<&Value> = edge["mode"]["advice"].as_array().into_iter().flatten().collect();
    assert!(problems.iter().all(|one| one["problem"] != "no_egress" || has_no_tcx(one)), "{edge:#}");
    assert_eq!(edge["mode"]["in_force"], "native", "{edge:#}");
}

/// Before Linux 6.6 there is nowhere to attach it; the verifier has its own words.
fn has_no_tcx(advice: &Value) -> bool {
    advice["detail"].as_str().is_some_and(|detail| !detail.contains("verifier") && !detail.contains("BPF_PROG_LOAD"))
}
