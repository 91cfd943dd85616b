//! A directory of a test's own (slapd): on free ports of loopback, with a few people in it, ended with the value. It can be
//! killed, paused and started again on its ports, and tells who has asked to bind.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::deadline::eventually;
use crate::process;
use crate::process::Output;
use crate::tls::Pair;

/// Where everything is.
pub const BASE: &str = "dc=a,dc=test";
/// Where people are.
pub const PEOPLE: &str = "ou=people,dc=a,dc=test";

/// Who is there, with names as they stand in a distinguished name and as they are, and passwords.
const ENTRIES: &[(&str, &str, &str)] = &[
    ("ann", "ann", "ann-word"),
    ("ben", "ben", "ben:word"),
    ("smith\\, john\\+1", "smith, john+1", "smith-word"),
    ("jürgen", "jürgen", "jürgen-word"),
];

/// A running directory.
pub struct Directory {
    folder: TempDir,
    plain: u16,
    tls: u16,
    child: Option<(Child, Output)>,
}

impl Directory {
    /// A directory that shows `pair` where TLS is asked for. It grants binds without a password, as the standard has it.
    #[track_caller]
    pub fn start(pair: &Pair) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let at = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
        fs::write(at("cert.pem"), &pair.certificate_pem).expect("writable");
        fs::write(at("key.pem"), &pair.key_pem).expect("writable");
        fs::create_dir(at("db")).expect("writable");
        let schemas =
            ["core", "cosine", "inetorgperson"].map(|name| format!("include /etc/ldap/schema/{name}.schema\n"));
        let settings = format!(
            "{}modulepath /usr/lib/ldap\nmoduleload back_mdb\nallow bind_anon_cred\nTLSCertificateFile {}\n\
             TLSCertificateKeyFile {}\ndatabase mdb\nsuffix \"{BASE}\"\ndirectory {}\nmaxsize 10485760\n",
            schemas.concat(),
            at("cert.pem"),
            at("key.pem"),
            at("db"),
        );
        fs::write(at("slapd.conf"), settings).expect("writable");
        fs::write(at("people.ldif"), people()).expect("writable");
        let mut load = program("slapadd");
        load.args(["-f", &at("slapd.conf"), "-l", &at("people.ldif")]);
        let loaded = load.output().expect("slapd is installed");
        assert!(loaded.status.success(), "{}", String::from_utf8_lossy(&loaded.stderr));
        let mut directory = Directory { folder, plain: free_port(), tls: free_port(), child: None };
        directory.restart();
        directory
    }

    /// The port in the clear, where TLS may be asked for.
    pub fn port(&self) -> u16 {
        self.plain
    }

    /// The port that speaks TLS from the first byte.
    pub fn tls_port(&self) -> u16 {
        self.tls
    }

    /// The certificate's file.
    pub fn certificate(&self) -> std::path::PathBuf {
        self.folder.path().join("cert.pem")
    }

    /// Starts it on its ports.
    #[track_caller]
    pub fn restart(&mut self) {
        self.kill();
        let at = |name: &str| self.folder.path().join(name).to_string_lossy().into_owned();
        let urls = format!("ldap://127.0.0.1:{}/ ldaps://127.0.0.1:{}/", self.plain, self.tls);
        let mut command = program("slapd");
        // A level of debugging keeps it in the foreground; this one tells every operation.
        command.args(["-h", &urls, "-f", &at("slapd.conf"), "-d", "stats"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("slapd is installed");
        let output = Output::of(&mut child);
        self.child = Some((child, output));
        eventually("the directory listens", || {
            [self.plain, self.tls].iter().all(|port| TcpStream::connect(("127.0.0.1", *port)).is_ok())
        });
    }

    /// Ends it at once.
    pub fn kill(&mut self) {
        if let Some((mut child, _)) = self.child.take() {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// It accepts connections and answers nothing any more.
    pub fn pause(&self) {
        process::pause(&self.child.as_ref().expect("it runs").0);
    }

    /// It goes on.
    pub fn resume(&self) {
        process::resume(&self.child.as_ref().expect("it runs").0);
    }

    /// The names that have asked to bind since it was started, as it writes them.
    pub fn binds(&self) -> Vec<String> {
        let said = self.child.as_ref().map(|(_, output)| output.stderr()).unwrap_or_default();
        let asked = said.lines().filter(|line| line.contains(" BIND dn=") && line.contains("method=128"));
        asked.filter_map(|line| Some(line.split_once("dn=\"")?.1.rsplit_once("\" method")?.0.to_owned())).collect()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A program of the directory, which may stand where only administrators look.
fn program(name: &str) -> Command {
    let path = format!("/usr/sbin/{name}");
    Command::new(if Path::new(&path).exists() { path } else { name.to_owned() })
}

fn people() -> String {
    let mut text = format!(
        "dn: {BASE}\nobjectClass: dcObject\nobjectClass: organization\no: a\ndc: a\n\n\
         dn: {PEOPLE}\nobjectClass: organizationalUnit\nou: people\n\n"
    );
    for (escaped, name, password) in ENTRIES {
        text += &format!(
            "dn: uid={escaped},{PEOPLE}\nobjectClass: inetOrgPerson\nuid: {name}\ncn: {name}\nsn: x\n\
             userPassword: {password}\n\n"
        );
    }
    text
}

/// A port that is free now. Another process may take it before the directory does; then the test says so.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    listener.local_addr().expect("the listener is bound").port()
}
