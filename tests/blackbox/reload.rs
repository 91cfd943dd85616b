//! A new configuration without a new process: by SIGHUP, by a changed file, by the admin API; a bad
//! one changes nothing and is told.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use gateway_tests::{Gateway, Upstream, eventually};
use nix::sys::signal::Signal;

fn config(path: &str) -> String {
    format!(
        r#"
_format_version: "3.0"
services:
- name: s
  url: @UP@
  routes: [{{ name: r, paths: [{path}] }}]
"#
    )
}

fn scene() -> (Upstream, Gateway) {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&upstream.fill(&config("/one")));
    (upstream, gateway)
}

#[test]
fn a_changed_file_is_taken() {
    let (upstream, gateway) = scene();
    let pid = gateway.pid();
    gateway.get("/one").expect(200);
    gateway.replace_file(&upstream.fill(&config("/two")));
    eventually("the new route", || gateway.get("/two").status == 200);
    gateway.get("/one").expect(404);
    // Written in place, as `cp` and some editors do.
    let text = gateway_tests::listeners::with_listeners(&upstream.fill(&config("/three")));
    std::fs::write(gateway.config_file(), text).unwrap();
    eventually("the third route", || gateway.get("/three").status == 200);
    assert_eq!(gateway.pid(), pid);
}

#[test]
fn a_hangup_reloads() {
    let (upstream, gateway) = scene();
    gateway.replace_file(&upstream.fill(&config("/two")));
    gateway.signal(Signal::SIGHUP);
    eventually("the new route", || gateway.get("/two").status == 200);
    gateway.signal(Signal::SIGHUP);
    gateway.get("/two").expect(200);
}

#[test]
fn a_bad_file_changes_nothing_and_is_told() {
    let (upstream, mut gateway) = scene();
    assert!(gateway.status()["config"]["last_error"].is_null());
    gateway.replace_file(&upstream.fill(&config("/two")).replace("paths:", "pahts:"));
    gateway.signal(Signal::SIGHUP);
    eventually("the error is shown", || !gateway.status()["config"]["last_error"].is_null());
    let error = gateway.status()["config"]["last_error"].to_string();
    assert!(error.contains("pahts"), "{error}");
    gateway.get("/one").expect(200);
    assert!(gateway.runs());
    gateway.replace_file(&upstream.fill(&config("/three")));
    gateway.signal(Signal::SIGHUP);
    eventually("the mended file is taken", || gateway.get("/three").status == 200);
    eventually("the error is gone", || gateway.status()["config"]["last_error"].is_null());
}

#[test]
fn a_missing_file_changes_nothing() {
    let (_upstream, mut gateway) = scene();
    std::fs::remove_file(gateway.config_file()).unwrap();
    gateway.signal(Signal::SIGHUP);
    eventually("the error is shown", || !gateway.status()["config"]["last_error"].is_null());
    gateway.get("/one").expect(200);
    assert!(gateway.runs());
}

#[test]
fn no_request_is_lost_and_no_connection_cut_by_reloads() {
    let (upstream, gateway) = scene();
    let stop = Arc::new(AtomicBool::new(false));
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let mut client = gateway.connect();
            let stop = Arc::clone(&stop);
            thread::spawn(move || {
                let mut served = 0u32;
                while !stop.load(Ordering::SeqCst) {
                    client.get("/one").expect(200);
                    served += 1;
                }
                served
            })
        })
        .collect();
    for at in 0..10 {
        let text = upstream.fill(&config("/one")).replace("name: r,", &format!("name: r{at}, tags: [t],"));
        gateway.replace_file(&format!("{text}- {{ name: extra{at}, url: \"http://127.0.0.1:1\", routes: [{{ paths: [/e{at}], plugins: [{{ name: request-termination, config: {{ status_code: 200 }} }}] }}] }}\n"));
        gateway.signal(Signal::SIGHUP);
        eventually("each is taken", || gateway.get(&format!("/e{at}")).status == 200);
    }
    stop.store(true, Ordering::SeqCst);
    let served: Vec<u32> = threads.into_iter().map(|thread| thread.join().expect("none failed")).collect();
    assert!(served.iter().all(|count| *count > 10), "{served:?}");
}
