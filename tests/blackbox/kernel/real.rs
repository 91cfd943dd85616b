//! The real binary on an interface of a namespace: it feels pressure, arms the host's cookies, and lets go again.

use std::{
    fs,
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use gateway_tests::{
    Gateway, Request, Setup, eventually,
    netns::{End, Lab, Space},
    send,
};
use serde_json::Value;

use super::loaded::may_load;

const PATIENCE: Duration = Duration::from_secs(5);
const SYNCOOKIES: &str = "/proc/sys/net/ipv4/tcp_syncookies";

struct Scene {
    gateway: Gateway,
    server: Space,
    client: Space,
    near: End,
    far: End,
    _lab: Lab,
}

impl Scene {
    fn new(test: &str, edge: &str) -> Option<Self> {
        if !may_load(test) {
            return None;
        }
        let mut lab = Lab::new(test)?;
        let server = lab.space("server").expect("a namespace");
        let client = lab.space("client").expect("a namespace");
        let (near, far) = lab.join(&server, &client).expect("a veth pair");
        let text = format!(
            "_format_version: \"3.0\"\ngateway:\n  listen: [\"{}:0\"]\n  admin: \"127.0.0.1:0\"\n  edge:\n    interfaces: \
             [{}]\n{edge}services:\n- name: answer\n  url: http://127.0.0.1:9\n  routes:\n  - name: all\n    paths: [/]\n    \
             plugins: [{{ name: request-termination, config: {{ status_code: 200 }} }}]\n",
            near.v4, near.interface
        );
        let gateway = server.run(|| Setup::new(&text).start());
        Some(Self { gateway, server, client, near, far, _lab: lab })
    }

    fn edge(&self, path: &str) -> Value {
        self.server.run(|| self.gateway.admin_get(path)).expect(200).json()
    }

    fn connects(&self) -> bool {
        let address = SocketAddr::new(self.near.v4.into(), self.gateway.proxy().port());
        self.client.run(|| TcpStream::connect_timeout(&address, PATIENCE)).is_ok()
    }

    fn syncookies(&self) -> String {
        self.server.run(|| fs::read_to_string(SYNCOOKIES)).expect("every namespace has it").trim().to_owned()
    }
}

#[test]
fn pressure_is_felt_answered_shown_and_let_go() {
    let test = "kernel::real::pressure_is_felt_answered_shown_and_let_go";
    let edge = "    gate: { syns_per_second: 10, hold: 2s }\n";
    let Some(scene) = Scene::new(test, edge) else { return };
    let before = scene.syncookies();
    let pressure = |name: &str| scene.edge("/edge")["pressure"][name].clone();
    assert_eq!(pressure("under_pressure"), false);
    assert_eq!(pressure("handshakes_told_by"), "kernel", "{}", scene.edge("/edge"));
    assert!(scene.connects());
    let why = scene.edge(&format!("/edge/why?ip={}", scene.far.v4));
    assert!(why["handshake_completed"].is_string(), "{why}");
    // Ten new connections a second are allowed for, and a burst of sixty-four.
    for _ in 0..400 {
        assert!(scene.connects());
    }
    eventually("pressure", || pressure("under_pressure") == true);
    assert_eq!(pressure("always_cookies"), true);
    assert_eq!(scene.syncookies(), "2");
    assert!(scene.connects(), "a verified source is served as before");
    eventually("no pressure", || pressure("under_pressure") == false);
    assert_eq!(pressure("entered"), 1);
    assert_eq!(scene.syncookies(), before);
}

#[test]
fn what_is_sent_is_shown_by_source() {
    let test = "kernel::real::what_is_sent_is_shown_by_source";
    let Some(scene) = Scene::new(test, "    egress: {}\n") else { return };
    let address = SocketAddr::new(scene.near.v4.into(), scene.gateway.proxy().port());
    scene.client.run(|| send(address, &Request::get("/"))).expect(200);
    let why = scene.edge(&format!("/edge/why?ip={}", scene.far.v4));
    assert!(why["sent"]["bytes"].as_u64().is_some_and(|bytes| bytes > 100), "{why}");
    let sent = scene.edge("/edge")["sent"].clone();
    assert_eq!(sent["most"][0]["source"], scene.far.v4.to_string(), "{sent}");
}
