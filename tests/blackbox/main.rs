//! The black-box tests: one process of the real gateway for each scenario, real sockets on loopback.
//! They know what `docs/` promises and what Kong's format means, and nothing of the code.

#![allow(clippy::unwrap_used, reason = "a test fails by a panic that says where")]

// What an operator sees.
mod access_log;
mod admin;
mod admin_entities;
mod admin_health;
mod command_line;
mod config_errors;
mod connections;
mod consumer_groups;
mod drain;
mod explain;
mod fleet;
mod format;
mod openapi;
mod reload;
mod revocation;
mod scale;

// What clients and upstreams see.
mod balancing;
mod bodies;
mod datagrams;
mod expressions;
mod failures;
mod forwarding;
mod grpc;
mod limits_lease;
mod limits_redis;
mod malformed;
mod malformed_h2;
mod names;
mod presentation;
mod protocols;
mod proxy_protocol;
mod routing;
mod scopes;
mod streams;

// One module a plugin, named as the plugin is.
mod acl;
mod basic_auth;
mod bot_detection;
mod circuit_breaker;
mod concurrency_limiting;
mod correlation_id;
mod cors;
mod file_log;
mod header_cert_auth;
mod hmac_auth;
mod ip_restriction;
mod issued_keys;
mod jwt;
mod jwt_issued;
mod key_auth;
mod ldap_auth;
mod mtls_auth;
mod oauth2_introspection;
mod openid_connect;
mod prometheus;
mod rate_limiting;
mod rate_limiting_advanced;
mod redirect;
mod regressions;
mod request_size_limiting;
mod request_termination;
mod request_transformer;
mod response_ratelimiting;
mod response_transformer;
mod session;

// The kernel programs.
mod kernel;

// The harness itself.
mod harness;

// Abuse, and whole files as users have them.
mod corpus;
mod hostile;
mod ladder;
mod seed;
