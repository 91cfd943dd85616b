//! Ceilings follow the quota of whoever is recognised behind a source, in the kernel.

use std::{net::Ipv4Addr, time::Duration};

use gateway_tests::{Client, Gateway, Request, eventually};

use super::scene::Scene;

/// A SYN that is not answered within this time was dropped.
const PATIENCE: Duration = Duration::from_millis(300);

/// How many of these new connections come about.
fn connects(scene: &Scene, gateway: &Gateway, from: Ipv4Addr, count: usize) -> usize {
    let door = scene.door(gateway);
    let once = |_: &usize| Client::try_connect_within(door, from, PATIENCE).is_ok();
    scene.yard.run(|| (0..count).filter(once).count())
}

#[test]
fn a_large_plan_raises_its_sources_ceilings_and_nobody_elses() {
    let test = "kernel::plans::a_large_plan_raises_its_sources_ceilings_and_nobody_elses";
    let Some(scene) = Scene::new(test) else { return };
    let more = "    ceilings: { connections: { per_second: 2, burst: 10 } }\n    authenticated_factor: 1\n";
    let gateway = scene.start(&format!("{}{more}", scene.config("enforce", "gate_for: 60s")));
    let (large, small) = (scene.address(10), scene.address(11));
    for (from, key) in [(large, "good-key"), (small, "greedy-key")] {
        let request = Request::get("/api").header("apikey", key);
        scene.yard.run(|| Client::connect_from(scene.door(&gateway), from).send(&request)).expect(200);
    }
    // A million a minute: ten times as many connections are 83,334 times two a second, and the next power of two is the most.
    eventually("the plan is known", || scene.why(&gateway, large)["ceilings_raised_times"] == 65_536);
    assert_eq!(connects(&scene, &gateway, large, 60), 60);
    let of_stranger = connects(&scene, &gateway, scene.address(12), 15);
    assert!((10..15).contains(&of_stranger), "{of_stranger}");
    // Five a minute are one a second at most, and ten connections for it are not yet eight times two.
    let why = scene.why(&gateway, small);
    assert_eq!(why["ceilings_raised_times"], 8, "{why:#}");
}
