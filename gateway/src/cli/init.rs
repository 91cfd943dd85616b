//! `gateway init`: a file to start from.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;

use super::openapi;

/// Prints a configuration to start from.
#[derive(Debug, Args)]
pub struct Init {
    /// Make services and routes of an OpenAPI 3 or Swagger 2 document, YAML or JSON.
    #[arg(long, value_name = "FILE")]
    openapi: Option<PathBuf>,
    /// URL of the upstream, in place of the document's server.
    #[arg(long, default_value = None)]
    upstream: Option<String>,
    /// Write to this file, which must not be there yet, instead of to standard output.
    #[arg(short, long)]
    output: Option<PathBuf>,
}

/// Bytes of an OpenAPI document at most.
const DOCUMENT_MAX: u64 = 32 << 20;

const START: &str = r##"# A configuration in Kong's declarative format. `gateway check kong.yml` tells what is wrong with it,
# `gateway explain GET http://localhost:8000/hello` which way a request takes, `gateway schema` is for your editor.
_format_version: "3.0"

services:
- name: example
  url: @UPSTREAM@
  # connect_timeout: 60000   # milliseconds, as write_timeout and read_timeout
  # retries: 5               # further attempts when nothing was sent yet
  routes:
  - name: hello
    paths: [/hello]          # a string prefix; "~/users/\d+$" is a regular expression
    # strip_path: true       # take the matched prefix off before the upstream is asked
    # methods: [GET, POST]
    # hosts: [api.example.com]
  plugins:
  - name: rate-limiting
    config: { minute: 600, policy: local }

# plugins:                   # without a scope they hold everywhere
# - name: key-auth
#   config: { key_names: [apikey] }

# consumers:
# - username: alice
#   keyauth_credentials:
#   - key: "{vault://env/alice-key}"   # from the environment variable ALICE_KEY

# The gateway's own settings; without this block it behaves as Kong does.
# gateway:
#   listen: ["0.0.0.0:8000"]
#   admin: "127.0.0.1:8001"
#   access_log: stdout
#   edge:
#     mode: shadow           # watch first; `enforce` lets the kernel drop sources that keep on abusing
#     interfaces: [eth0]
"##;

impl Init {
    /// Prints or writes the file.
    ///
    /// # Errors
    /// When the document cannot be read, or the file is there already.
    pub fn run(&self) -> anyhow::Result<ExitCode> {
        let text = match &self.openapi {
            Some(path) => {
                let shown = path.display();
                let length = std::fs::metadata(path).with_context(|| format!("cannot read {shown}"))?.len();
                anyhow::ensure!(length <= DOCUMENT_MAX, "{shown} is larger than {} MiB", DOCUMENT_MAX >> 20);
                let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {shown}"))?;
                openapi::convert(&text, self.upstream.as_deref()).with_context(|| shown.to_string())?
            }
            None => START.replace("@UPSTREAM@", self.upstream.as_deref().unwrap_or("http://127.0.0.1:8080")),
        };
        match &self.output {
            Some(path) => {
                let mut file =
                    std::fs::File::create_new(path).with_context(|| format!("cannot write {}", path.display()))?;
                file.write_all(text.as_bytes())?;
            }
            None => write!(std::io::stdout(), "{text}")?,
        }
        Ok(ExitCode::SUCCESS)
    }
}
