//! prometheus: counters by service, route and code on the admin listener, in the text format.

use gateway_tests::{Gateway, Request, Upstream, eventually};

const CONFIG: &str = r#"
_format_version: "3.0"
services:
- name: echo
  url: @UP@
  routes:
  - { name: open, paths: [/open] }
  - { name: closed, paths: [/closed], plugins: [{ name: key-auth }] }
consumers:
- { username: ann, keyauth_credentials: [{ key: ann }] }
plugins:
- name: prometheus
  config: { status_code_metrics: true, latency_metrics: true, bandwidth_metrics: true, per_consumer: true }
"#;

/// The sum of the samples of `name` whose labels have all of `labels`.
fn sample(text: &str, name: &str, labels: &[&str]) -> f64 {
    text.lines()
        .filter(|line| line.starts_with(&format!("{name}{{")))
        .filter(|line| labels.iter().all(|label| line.contains(label)))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum()
}

#[test]
fn requests_are_counted_by_their_labels() {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&upstream.fill(CONFIG));
    let mut client = gateway.connect();
    for _ in 0..3 {
        client.get("/open").expect(200);
    }
    client.get("/closed").expect(401);
    client.send(&Request::get("/closed").header("apikey", "ann")).expect(200);
    let total = "kong_http_requests_total";
    let mut page = String::new();
    eventually("all five are counted", || {
        page = gateway.admin_get("/metrics").expect(200).text();
        sample(&page, total, &["service=\"echo\""]) >= 5.0
    });
    let count = |labels: &[&str]| sample(&page, total, labels);
    assert_eq!(count(&["route=\"open\"", "code=\"200\"", "source=\"service\""]), 3.0, "{page}");
    assert_eq!(count(&["route=\"closed\"", "code=\"401\"", "source=\"kong\""]), 1.0);
    assert_eq!(count(&["route=\"closed\"", "consumer=\"ann\""]), 1.0);
    for name in ["kong_kong_latency_ms_bucket", "kong_upstream_latency_ms_bucket", "kong_request_latency_ms_bucket"] {
        assert!(sample(&page, name, &["route=\"open\"", "le=\"+Inf\""]) >= 3.0, "{name} in {page}");
    }
    let egress = sample(&page, "kong_bandwidth_bytes", &["route=\"open\"", "direction=\"egress\""]);
    assert!(egress > 0.0, "{page}");
    assert!(page.contains("# TYPE kong_http_requests_total counter"));
    assert!(page.contains("# HELP kong_http_requests_total "));
}

#[test]
fn the_page_is_well_formed_and_has_the_base_metrics() {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&upstream.fill(CONFIG));
    gateway.get("/open").expect(200);
    let reply = gateway.admin_get("/metrics").expect(200);
    assert!(reply.header("content-type").is_some_and(|kind| kind.starts_with("text/plain")));
    let page = reply.text();
    let sample = regex::Regex::new(
        r#"^[a-zA-Z_:][a-zA-Z0-9_:]*(\{([a-zA-Z_]\w*="([^"\\]|\\.)*",?)*\})? [-+]?([0-9.eE+-]+|Inf|NaN)$"#,
    )
    .unwrap();
    for line in page.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        assert!(sample.is_match(line), "{line:?}");
    }
    let names: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
    let mut once = names.clone();
    once.sort_unstable();
    once.dedup();
    assert_eq!(once.len(), names.len(), "each family stands once");
    assert!(page.contains("kong_node_info{"));
    assert!(page.contains("kong_datastore_reachable"));
}
