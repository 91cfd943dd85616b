//! Peers that vanish without a word, as a machine does whose power fails: no FIN, no RST, no answer to anything. In namespaces
//! of the test's own; whoever vanishes loses its address.

use std::net::SocketAddr;
use std::time::Duration;

use gateway_tests::deadline::say;
use gateway_tests::netns::{End, Lab, Space};
use gateway_tests::process::descriptors;
use gateway_tests::upstream::response;
use gateway_tests::{Answer, Client, Gateway, Request, Upstream, eventually, send};
use serde_json::Value;

/// The far end's, known to the near one for good: otherwise the kernel would soon say that nobody is there.
const HARDWARE: &str = "02:00:00:00:00:07";
const PORT: u16 = 18_080;

/// The gateway's namespace and one that can vanish.
struct Scene {
    near: Space,
    far: Space,
    near_end: End,
    far_end: End,
    /// Taken out to be ended where it listens.
    upstream: Option<Upstream>,
    _lab: Lab,
}

impl Scene {
    fn new(test: &str) -> Option<Self> {
        let mut lab = Lab::new(test)?;
        let (near, far) = (lab.space("near").unwrap(), lab.space("far").unwrap());
        let (near_end, far_end) = lab.join(&near, &far).unwrap();
        far.ip(&["link", "set", &far_end.interface, "address", HARDWARE]).unwrap();
        let (address, interface) = (far_end.v4.to_string(), near_end.interface.as_str());
        near.ip(&["neigh", "replace", &address, "lladdr", HARDWARE, "nud", "permanent", "dev", interface]).unwrap();
        let at = SocketAddr::from((far_end.v4, PORT));
        let upstream = far.run(|| Upstream::echo_at(at).unwrap());
        Some(Self { near, far, near_end, far_end, upstream: Some(upstream), _lab: lab })
    }

    fn upstream(&self) -> &Upstream {
        self.upstream.as_ref().unwrap()
    }

    /// From now on what comes to the far end is dropped, and nothing leaves it.
    fn vanish(&self) {
        let address = format!("{}/24", self.far_end.v4);
        self.far.ip(&["addr", "del", &address, "dev", &self.far_end.interface]).unwrap();
    }

    fn return_(&self) {
        self.far.add_address(&self.far_end.interface, self.far_end.v4.into()).unwrap();
    }

    fn start(&self, text: &str) -> Gateway {
        self.near.run(|| Gateway::start(text))
    }

    fn get(&self, gateway: &Gateway) -> u16 {
        self.near.run(|| gateway.get("/x").status)
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let upstream = self.upstream.take();
        self.far.run(|| drop(upstream));
    }
}

#[test]
fn a_target_that_vanishes_costs_nobody_an_answer_and_is_left_out() {
    let name = "hostile::vanished::a_target_that_vanishes_costs_nobody_an_answer_and_is_left_out";
    let Some(scene) = Scene::new(name) else { return };
    let other = scene.near.run(Upstream::echo);
    let target = scene.upstream().address().to_string();
    let gateway = scene.start(&format!(
        r#"
_format_version: "3.0"
services:
- {{ host: pool, connect_timeout: 500, read_timeout: 700, retries: 3, routes: [{{ paths: [/] }}] }}
upstreams:
- name: pool
  healthchecks: {{ passive: {{ unhealthy: {{ timeouts: 3 }} }} }}
  targets: [{{ target: "{target}" }}, {{ target: "{}" }}]
"#,
        other.address()
    ));
    (0..20).for_each(|_| assert_eq!(scene.get(&gateway), 200));
    assert!(scene.upstream().count() > 0 && other.count() > 0, "both are asked, and have pooled connections");
    scene.vanish();
    let (before, mut slow) = (other.count(), 0);
    for _ in 0..40 {
        let begun = std::time::Instant::now();
        assert_eq!(scene.get(&gateway), 200);
        slow += u32::from(begun.elapsed() > Duration::from_millis(400));
    }
    assert_eq!(other.count() - before, 40, "the other one takes over");
    // Idle connections and new ones: each that finds nobody is one of the three that leave the target out.
    assert!((1..=3).contains(&slow), "{slow} waited");
    let health = |gateway: &Gateway| -> Value {
        let page = scene.near.run(|| gateway.admin_get("/upstreams/pool/health").expect(200).json());
        let list = page["data"].as_array().unwrap().clone();
        list.into_iter().find(|entry| entry["target"] == target).unwrap()["health"].clone()
    };
    assert_eq!(health(&gateway), "UNHEALTHY");
    scene.return_();
    let back = format!("/upstreams/pool/targets/{target}/healthy");
    scene.near.run(|| {
        let request = Request::new("PUT", &back).host(&gateway.admin().to_string());
        send(gateway.admin(), &request).expect(204)
    });
    let seen = scene.upstream().count();
    eventually("it is asked again", || scene.get(&gateway) == 200 && scene.upstream().count() > seen);
    say(&format!("FIGURE target that vanishes: 0 of 40 lost, {slow} waited, left out after 3"));
    scene.near.run(|| drop((gateway, other)));
}

#[test]
fn an_only_upstream_that_vanishes_is_answered_for_and_found_again() {
    let name = "hostile::vanished::an_only_upstream_that_vanishes_is_answered_for_and_found_again";
    let Some(scene) = Scene::new(name) else { return };
    let text = format!(
        r#"
_format_version: "3.0"
services:
- {{ url: "http://{}", connect_timeout: 300, read_timeout: 300, write_timeout: 300, retries: 1, routes: [{{ paths: [/] }}] }}
"#,
        scene.upstream().address()
    );
    let gateway = scene.start(&text);
    assert_eq!(scene.get(&gateway), 200);
    let open = descriptors(gateway.pid());
    scene.vanish();
    // Over the pooled connection, and over a new one.
    let post = |at: u32| scene.near.run(|| gateway.send(&Request::post("/x", format!("pay-{at}"))).status);
    let answers: Vec<u16> = (0..5).map(post).collect();
    assert!(answers.iter().all(|status| *status == 504), "{answers:?}");
    assert_eq!(scene.get(&gateway), 504);
    scene.return_();
    eventually("it is found again", || scene.get(&gateway) == 200);
    let seen = scene.upstream().seen();
    for at in 0..5 {
        let body = format!("pay-{at}").into_bytes();
        assert!(seen.iter().filter(|seen| seen.body == body).count() <= 1, "a POST was sent twice");
    }
    eventually("nothing of it stays", || descriptors(gateway.pid()) <= open + 1);
    scene.near.run(|| drop(gateway));
}

#[test]
fn clients_that_vanish_are_let_go() {
    let Some(scene) = Scene::new("hostile::vanished::clients_that_vanish_are_let_go") else { return };
    let large = vec![b'x'; 8 << 20];
    let upstream = scene.near.run(|| {
        Upstream::new(move |seen| match &*seen.target {
            "/large" => Answer::Bytes(response(200, &[], &large)),
            "/never" => Answer::Hang,
            _ => Answer::Bytes(response(200, &[], b"ok")),
        })
    });
    let text = r#"
_format_version: "3.0"
services:
- { url: @UP@, read_timeout: 2000, routes: [{ paths: [/] }] }
gateway:
  listen: ["0.0.0.0:0"]
  timeouts: { header: 1s, idle: 2s, body: 1s, request: 3s, write: 2s }
"#;
    let gateway = scene.start(&upstream.fill(text));
    let door = SocketAddr::from((scene.near_end.v4, gateway.proxy().port()));
    let clients = scene.far.run(|| {
        let mut idle = Client::connect(door);
        idle.get("/x").expect(200);
        let sent = |bytes: &[u8]| {
            let mut client = Client::connect(door);
            client.write(bytes).unwrap();
            client
        };
        [
            idle,
            sent(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n"),
            sent(b"GET /never HTTP/1.1\r\nHost: a\r\n\r\n"),
            sent(b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhalf"),
            sent(b"GET /x HTTP/1.1\r\nHo"),
        ]
    });
    let connections =
        || scene.near.run(|| gateway.status()["server"]["connections_active"].as_u64().unwrap_or(u64::MAX));
    eventually("all are there", || connections() == 5 || upstream.count() >= 3);
    scene.vanish();
    eventually("all are let go", || connections() == 0);
    assert_eq!(scene.near.run(|| gateway.get("/x").status), 200);
    drop(clients);
    scene.near.run(|| drop((gateway, upstream)));
}
