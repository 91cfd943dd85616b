//! What a file may say besides entities: several files, folders, variables, references to secrets, decK's dialect, old
//! names, keys and vaults.

use std::fs;

use gateway_tests::gateway::command;
use gateway_tests::process::Exit;
use gateway_tests::{Setup, Upstream, eventually};

const HEAD: &str = "_format_version: \"3.0\"\n";

fn check(files: &[(&str, &str)], arguments: &[&str]) -> Exit {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(folder.path().join(name), text).unwrap();
    }
    let mut all = vec!["check"];
    all.extend(arguments);
    let path = folder.path().to_str().unwrap().to_owned();
    all.push(&path);
    command(&all)
}

#[test]
fn a_folder_is_one_configuration() {
    let exit = check(
        &[
            ("a.yml", &format!("{HEAD}services: [{{ name: s, url: 'http://a.test' }}]\n")),
            (
                "b.json",
                "{\"_format_version\": \"3.0\", \"routes\": [{\"name\": \"r\", \"service\": \"s\", \"paths\": [\"/\"]}]}",
            ),
            // Another format, whose paths mean something else.
            ("c.yaml", "_format_version: \"1.1\"\nroutes: [{ name: q, service: s, paths: ['/x/\\d+$'] }]\n"),
        ],
        &[],
    );
    assert_eq!(exit.code, Some(0), "{}", exit.stderr);
    assert!(exit.stderr.contains("1 services, 2 routes"), "{}", exit.stderr);
}

#[test]
fn faults_of_several_files_name_both() {
    let exit = check(
        &[
            ("a.yml", &format!("{HEAD}services:\n- {{ name: s, url: 'http://a.test' }}\ngateway: {{ workers: 1 }}\n")),
            (
                "b.yml",
                &format!(
                    "{HEAD}services:\n- {{ name: s, url: 'http://b.test', retrys: 1 }}\ngateway: {{ workers: 2 }}\n"
                ),
            ),
        ],
        &[],
    );
    assert_eq!(exit.code, Some(2));
    let told: Vec<&str> = exit.stderr.lines().filter(|line| line.contains(": error: ")).collect();
    assert_eq!(told.len(), 3, "{}", exit.stderr);
    assert!(told.iter().all(|line| line.contains("b.yml:")), "{}", exit.stderr);
    assert!(
        told.iter().any(|l| l.contains("already declared (first at ") && l.contains("a.yml:3:3)")),
        "{}",
        exit.stderr
    );
    assert!(told.iter().any(|l| l.contains("`gateway` stands in two files (first at")), "{}", exit.stderr);
}

#[test]
fn a_changed_file_of_a_folder_is_taken() {
    let upstream = Upstream::echo();
    let folder = tempfile::tempdir().unwrap();
    let route = |path: &str| format!("{HEAD}routes: [{{ name: r, service: s, paths: [{path}] }}]\n");
    fs::write(folder.path().join("routes.yml"), route("/one")).unwrap();
    let text = upstream.fill(&format!("{HEAD}services: [{{ name: s, url: '@UP@' }}]\n"));
    let gateway = Setup::new(&text).argument("-c").argument(folder.path().to_str().unwrap()).start();
    gateway.get("/one").expect(200);
    fs::write(folder.path().join("routes.yml"), route("/two")).unwrap();
    eventually("the new route", || gateway.get("/two").status == 200);
}

#[test]
fn variables_are_filled_in_when_asked_for() {
    let text =
        format!("{HEAD}services: [{{ name: s, host: '${{GW_TEST_HOST:-h.test}}', port: ${{GW_TEST_PORT:-81}} }}]\n");
    assert_eq!(check(&[("a.yml", &text)], &["--env-subst"]).code, Some(0));
    let plain = check(&[("a.yml", &text)], &[]);
    assert_eq!(plain.code, Some(2));
    let unset = check(&[("a.yml", &text.replace(":-81", ""))], &["--env-subst"]);
    assert!(unset.stderr.contains("`${GW_TEST_PORT}`: the variable is not set"), "{}", unset.stderr);
}

#[test]
fn secrets_come_from_the_environment() {
    let upstream = Upstream::echo();
    let text = upstream.fill(&format!(
        "{HEAD}vaults: [{{ name: env, prefix: mine, config: {{ prefix: GW_TEST_ }} }}]\n\
         services: [{{ name: s, url: '@UP@', routes: [{{ paths: [/] }}], plugins: [{{ name: key-auth }}] }}]\n\
         consumers: [{{ username: ann, keyauth_credentials: [{{ key: '{{vault://mine/pair/key}}' }}] }},\n\
         \x20 {{ username: bob, keyauth_credentials: [{{ key: '{{vault://env/gw-test-none}}' }}] }}]\n"
    ));
    let gateway = Setup::new(&text).env("GW_TEST_PAIR", r#"{"key": "from-the-environment"}"#).start();
    gateway.get("/?apikey=from-the-environment").expect(200);
    gateway.get("/?apikey=%7Bvault%3A%2F%2Fenv%2Fgw-test-none%7D").expect(401);
    gateway.get("/?apikey=").expect(401);
    assert!(gateway.stderr().contains("is not set here"), "{}", gateway.stderr());
    // What is shown is the reference.
    let shown = gateway.admin_get("/key-auths").expect(200).text();
    assert!(shown.contains("{vault://mine/pair/key}") && !shown.contains("from-the-environment"), "{shown}");
    let other = check(&[("a.yml", &text.replace("vault://mine", "vault://hcv"))], &[]);
    assert!(other.stderr.contains("no vault `hcv`"), "{}", other.stderr);
}

#[test]
fn decks_dialect_means_the_same() {
    let upstream = Upstream::echo();
    let text = upstream.fill(&format!(
        "{HEAD}_workspace: default\n_info:\n  select_tags: [team-a]\n  defaults: {{ route: {{ strip_path: false }} }}\n\
         _plugin_configs: {{ end: {{ status_code: 418 }} }}\n\
         services: [{{ name: s, url: '@UP@', routes: [{{ name: r, paths: [/one] }}, {{ name: t, paths: [/tea], plugins: [{{ name: request-termination, _config: end }}] }}] }}]\n"
    ));
    let gateway = Setup::new(&text).env("DECK_HOST", "x").start();
    assert_eq!(gateway.get("/one/x").expect(200).echoed_uri(), "/one/x");
    gateway.get("/tea").expect(418);
    assert_eq!(gateway.admin_get("/routes/r").expect(200).json()["tags"][0], "team-a");
    for (key, word) in [
        ("_workspace: other", "workspace"),
        ("_konnect: { control_plane_name: x }", "_konnect"),
        ("rbac_roles: []", "rbac_roles"),
    ] {
        let exit = check(&[("a.yml", &format!("{HEAD}{key}\n"))], &[]);
        assert!(exit.code == Some(2) && exit.stderr.contains(word), "{key}: {}", exit.stderr);
    }
    let template =
        check(&[("a.yml", &format!("{HEAD}services: [{{ name: s, host: ${{{{ env \"DECK_GW_NONE\" }}}} }}]\n"))], &[]);
    assert!(template.stderr.contains("`DECK_GW_NONE`: the variable is not set"), "{}", template.stderr);
}

#[test]
fn old_names_still_count() {
    let upstream = Upstream::echo();
    let text = upstream.fill(&format!(
        "{HEAD}services: [{{ name: s, url: '@UP@', routes: [{{ paths: [/] }}] }}]\n\
         plugins: [{{ name: ip-restriction, config: {{ blacklist: [127.0.0.0/8] }} }}]\n"
    ));
    let gateway = Setup::new(&text).start();
    gateway.get("/").expect(403);
    assert!(gateway.stderr().contains("`blacklist` is deprecated: it is `deny` now"), "{}", gateway.stderr());
}

#[test]
fn keys_sets_and_vaults_are_read() {
    let good = format!(
        "{HEAD}key_sets: [{{ name: set }}]\nkeys: [{{ name: k, kid: one, set: set, jwk: '{{\"kty\": \"oct\"}}' }}]\n\
         vaults: [{{ name: env, prefix: mine, config: {{ prefix: A_ }} }}]\n_transform: false\n"
    );
    assert_eq!(check(&[("a.yml", &good)], &[]).code, Some(0));
    let exit = check(&[("a.yml", &good.replace("set: set", "set: other").replace("name: env", "name: aws"))], &[]);
    assert!(exit.stderr.contains("no such entry in 'key_sets'"), "{}", exit.stderr);
    assert!(exit.stderr.contains("enterprise"), "{}", exit.stderr);
}
