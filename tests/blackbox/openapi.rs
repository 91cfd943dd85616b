//! What `openapi-2-kong` makes of public OpenAPI documents loads here, and every operation finds its way. It needs Node,
//! the package (`npm install openapi-2-kong@3.6.0`) and documents; see tests/README.md.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use gateway_tests::deadline::say;
use gateway_tests::{Gateway, Request, Upstream, skip};
use serde_json::{Value, json};

#[test]
fn generated_files_load_and_route() {
    let (Some(package), Some(documents)) = (folder("OPENAPI_2_KONG"), folder("OPENAPI_DOCUMENTS")) else {
        skip("openapi", "OPENAPI_2_KONG and OPENAPI_DOCUMENTS do not name the package's and the documents' folders");
        return;
    };
    let mut files: Vec<PathBuf> = fs::read_dir(documents).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    for file in files {
        one(&package, &file);
    }
}

fn folder(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable).map(PathBuf::from).filter(|path| path.is_dir())
}

fn one(package: &Path, document: &Path) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("openapi/convert.cjs");
    let output = Command::new("node").arg(script).arg(document).current_dir(package).output().unwrap();
    assert!(output.status.success(), "{}: {}", document.display(), String::from_utf8_lossy(&output.stderr));
    let mut config: Value = serde_json::from_slice(&output.stdout).unwrap();
    let upstream = Upstream::echo();
    let upstreams: Vec<Value> =
        config["upstreams"].as_array().into_iter().flatten().map(|upstream| upstream["name"].clone()).collect();
    for service in config["services"].as_array_mut().unwrap() {
        service["protocol"] = "http".into();
        service["path"] = "/".into();
        // A service asks an upstream, whose targets become the echo, or a host.
        if !upstreams.contains(&service["host"]) {
            service["host"] = "127.0.0.1".into();
            service["port"] = upstream.port().into();
        }
        // Only what is generated for everybody: validators and security need what a test has not.
        service["plugins"] = json!([]);
        for route in service["routes"].as_array_mut().unwrap() {
            route["plugins"] = json!([]);
        }
    }
    for target in config["upstreams"].as_array_mut().into_iter().flatten() {
        target["targets"] = json!([{ "target": upstream.address().to_string() }]);
    }
    let gateway = Gateway::start(&config.to_string());
    let mut asked = 0;
    for route in config["services"].as_array().unwrap().iter().flat_map(|s| s["routes"].as_array().unwrap()) {
        for (method, path) in operations(route) {
            let reply = gateway.send(&Request::new(&method, &path));
            assert_eq!(reply.status, 200, "{method} {path}: {}", reply.text());
            if method != "HEAD" {
                assert_eq!(reply.echoed_uri(), path);
            }
            asked += 1;
        }
    }
    assert!(asked > 0);
    say(&format!("openapi {}: {asked} operations routed", document.file_name().unwrap().to_string_lossy()));
}

/// A request for each method of a route; parameters become words that fit.
fn operations(route: &Value) -> Vec<(String, String)> {
    let parameter = regex::Regex::new(r"\(\?<[^>]+>[^()]*\)").unwrap();
    let mut found = Vec::new();
    for path in route["paths"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        let plain = parameter.replace_all(path.trim_start_matches('~').trim_end_matches('$'), "word").replace('\\', "");
        for method in route["methods"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            found.push((method.to_owned(), plain.clone()));
        }
    }
    found
}
