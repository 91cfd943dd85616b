//! The commands that look at files and run nothing: explain, diff, schema, init.

use std::fs;

use gateway_tests::gateway::command;
use gateway_tests::process::Exit;
use serde_json::Value;

const CONFIG: &str = r#"_format_version: "3.0"
services:
- name: pets
  url: http://pets.test:8080/v1
  routes:
  - { name: all, paths: [/pets] }
  - { name: one, paths: ["~/pets/(?<id>\\d+)$"], methods: [GET], plugins: [{ name: cors }] }
  - { name: post, paths: [/pets], methods: [POST], hosts: [pets.example] }
plugins:
- { name: key-auth }
- { name: rate-limiting, consumer: ann, config: { minute: 5 } }
consumers:
- { username: ann, keyauth_credentials: [{ key: very-secret-key }] }
gateway:
  edge: { deny: [192.0.2.0/24] }
"#;

fn with(text: &str, run: impl Fn(&str) -> Exit) -> Exit {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("kong.yml");
    fs::write(&file, text).unwrap();
    run(file.to_str().unwrap())
}

#[test]
fn explain_tells_the_whole_way() {
    let exit = with(CONFIG, |file| command(&["explain", "GET", "http://x.test/pets/7?q=1", "-H", "A: b", "-c", file]));
    assert_eq!(exit.code, Some(0), "{exit:?}");
    let words = [
        "route: one (",
        "of service pets",
        "capture id = `7`",
        "cors",
        "everywhere",
        "consumer ann",
        "GET http://pets.test:8080/v1?q=1",
        "Host: pets.test:8080",
        "all (",
        "fits too, but comes later",
        "method `GET` is not among POST",
    ];
    let mut rest = exit.stdout.as_str();
    for word in words {
        let at = rest.find(word).unwrap_or_else(|| panic!("{word} in this order in\n{}", exit.stdout));
        rest = &rest[at..];
    }
    let none = with(CONFIG, |file| command(&["explain", "GET", "http://x.test/other", "-c", file]));
    assert_eq!(none.code, Some(1));
    assert!(none.stdout.contains("404"), "{}", none.stdout);
    let crooked = with(CONFIG, |file| command(&["explain", "GET", "http://x.test/..%2f", "-c", file]));
    assert!(crooked.stdout.contains("bad_path"), "{}", crooked.stdout);
    assert_ne!(with(CONFIG, |file| command(&["explain", "GET", "/pets", "-c", file])).code, Some(0));
}

#[test]
fn diff_names_what_changes_and_no_secret() {
    let changed = CONFIG
        .replace("8080", "8081")
        .replace("minute: 5", "minute: 6")
        .replace("very-secret-key", "another-secret-key")
        .replace("name: all", "name: every")
        .replace("192.0.2.0/24", "198.51.100.0/24");
    let exit = with(CONFIG, |old| with(&changed, |new| command(&["diff", old, new])));
    assert_eq!(exit.code, Some(1), "{exit:?}");
    for line in [
        "~ service pets",
        "    port: 8080 → 8081",
        "- route all of service pets",
        "+ route every of service pets",
        "~ plugin rate-limiting of consumer ann",
        "    config.minute: 5 → 6",
        "~ gateway.edge.deny: - \"192.0.2.0/24\"",
        "~ gateway.edge.deny: + \"198.51.100.0/24\"",
    ] {
        assert!(exit.stdout.lines().any(|l| l == line), "{line}\n{}", exit.stdout);
    }
    assert!(exit.stdout.contains("of consumer ann") && !exit.stdout.contains("secret-key"), "{}", exit.stdout);
    let same = with(CONFIG, |old| with(&format!("# a comment\n{CONFIG}"), |new| command(&["diff", old, new])));
    assert_eq!((same.code, same.stdout.as_str()), (Some(0), ""));
    assert_eq!(with(CONFIG, |old| command(&["diff", old, "/nonexistent.yml"])).code, Some(2));
}

#[test]
fn the_schema_knows_entities_plugins_and_the_gateways_block() {
    let exit = command(&["schema"]);
    let schema: Value = serde_json::from_str(&exit.stdout).unwrap();
    assert_eq!(schema["$defs"]["route"]["properties"]["strip_path"]["default"], true);
    assert_eq!(schema["properties"]["gateway"]["properties"]["edge"]["properties"]["mode"]["enum"][0], "off");
    assert!(exit.stdout.contains("hide_credentials"));
}

#[test]
fn init_starts_a_file_that_runs() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    assert_eq!(command(&["init", "-o", &path("kong.yml")]).code, Some(0));
    assert_eq!(command(&["check", &path("kong.yml")]).code, Some(0));
    assert_ne!(command(&["init", "-o", &path("kong.yml")]).code, Some(0), "nothing is overwritten");
    let document = "openapi: 3.0.0\ninfo: { title: Pets }\nservers: [{ url: 'http://pets.test/v1' }]\n\
                    paths: { '/pets/{id}': { get: { operationId: one } } }\n";
    fs::write(folder.path().join("openapi.yml"), document).unwrap();
    assert_eq!(command(&["init", "--openapi", &path("openapi.yml"), "-o", &path("pets.yml")]).code, Some(0));
    let exit = command(&["explain", "GET", "http://x/pets/7", "-c", &path("pets.yml")]);
    assert!(
        exit.stdout.contains("route: pets-one (") && exit.stdout.contains("http://pets.test:80/v1/pets/7"),
        "{exit:?}"
    );
}
