//! Two whole files as a beginner's guide has them: they must run as they are.

use std::fs;

use gateway_tests::gateway::command;
use gateway_tests::{Gateway, Redis, Setup, Upstream, fresh_minute};

/// Every request to the proxy is routed, sixty a minute.
const QUICK_START: &str = r#"_format_version: "3.0"
services:
  - name: my-api
    url: @UP@
    routes:
      - paths: ["/"]
plugins:
  - name: rate-limiting
    config:
      minute: 60
"#;

/// Routing, rate limits in Redis (the older, flat spelling) and tokens.
const MICROSERVICES: &str = r#"_format_version: "3.0"
services:
  - name: users-service
    url: @UP@
    routes:
      - paths: ["/api/users"]
        methods: ["GET", "POST"]
  - name: orders-service
    url: @UP@
    routes:
      - paths: ["/api/orders"]
plugins:
  - name: rate-limiting
    config:
      minute: 100
      policy: redis
      redis_host: redis
  - name: jwt
    config:
      claims_to_verify: ["exp"]
      header_names: ["Authorization"]
"#;

#[test]
fn the_sixty_first_request_of_a_minute_is_refused() {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&upstream.fill(QUICK_START));
    fresh_minute(10);
    let mut client = gateway.connect();
    for left in (0..60).rev() {
        let reply = client.get("/anything").expect(200);
        assert_eq!(reply.number("x-ratelimit-remaining-minute"), left);
    }
    let reply = client.get("/anything").expect_templated(429, "API rate limit exceeded");
    assert_eq!(reply.number("x-ratelimit-limit-minute"), 60);
    assert_eq!(reply.number("ratelimit-limit"), 60);
    assert_eq!(reply.number("ratelimit-remaining"), 0);
    assert!((1..=60).contains(&reply.number("retry-after")));
    assert_eq!(upstream.count(), 60);
}

#[test]
fn the_containers_environment_runs_the_quick_start() {
    let upstream = Upstream::echo();
    let gateway = Setup::by_environment(&upstream.fill(QUICK_START)).start();
    gateway.get("/").expect(200);
}

#[test]
fn the_older_spelling_of_redis_runs_as_it_is() {
    let upstream = Upstream::echo();
    let text = upstream.fill(MICROSERVICES);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("kong.yml");
    fs::write(&file, &text).unwrap();
    let name = file.to_str().unwrap();
    let exit = command(&["check", name]);
    assert_eq!(exit.code, Some(0), "{}", exit.stderr);
    let line = exit.stderr.lines().find(|line| line.contains("redis")).unwrap_or_default();
    assert!(line.starts_with(&format!("{name}:17:7: warning: `redis_host` is deprecated")), "{}", exit.stderr);

    let gateway = Gateway::start(&text);
    let reply = gateway.get("/api/users/1").expect_compact(401, r#"{"message":"Unauthorized"}"#);
    assert_eq!(reply.header("www-authenticate"), Some("Bearer"));
    gateway.get("/api/nothing").expect(404);
    assert_eq!(upstream.count(), 0);

    // With a server at hand, and without tokens.
    let redis = Redis::start();
    let text = text.replace("redis_host: redis", &format!("redis_host: 127.0.0.1\n      redis_port: {}", redis.port()));
    let text = text.replace(
        "  - name: jwt\n    config:\n      claims_to_verify: [\"exp\"]\n      header_names: [\"Authorization\"]\n",
        "",
    );
    let gateway = Gateway::start(&text);
    assert_eq!(gateway.get("/api/orders").expect(200).number("x-ratelimit-remaining-minute"), 99);
    assert_eq!(redis.say(&["DBSIZE"]), ["1"]);
}
