//! A process under measurement: pinned to a core, awaited, read from /proc and ended. It must not know what it serves.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::{process, shell};

const STARTED_WITHIN: Duration = Duration::from_secs(20);

/// A pinned process that serves an address.
pub struct Server {
    pub address: SocketAddr,
    child: Child,
}

/// Where and on which core to start.
pub struct Place<'a> {
    pub folder: &'a Path,
    pub core: usize,
}

impl Place<'_> {
    /// A command on this place's core.
    ///
    /// # Errors
    /// The program is missing.
    pub fn pinned(&self, program: impl AsRef<std::ffi::OsStr>) -> Result<Command> {
        let program = program.as_ref();
        let path = if Path::new(program).is_absolute() {
            PathBuf::from(program)
        } else {
            let name = program.to_string_lossy();
            shell::find(&name).with_context(|| format!("`{name}` is missing: run `cargo xtask setup --bench`"))?
        };
        let mut command = shell::program("taskset");
        command.args(["-c", &self.core.to_string()]).arg(path);
        Ok(command)
    }

    /// A folder of its own for `name`.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn folder_of(&self, name: &str) -> Result<PathBuf> {
        let folder = self.folder.join(name);
        std::fs::create_dir_all(&folder)?;
        Ok(folder)
    }
}

impl Server {
    /// Starts `command` and waits until it takes connections on `address`.
    ///
    /// # Errors
    /// It did not start, with what it printed.
    pub fn start(address: SocketAddr, command: &mut Command, folder: &Path) -> Result<Self> {
        let log = folder.join("output.log");
        let output = std::fs::File::create(&log)?;
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let child = command.spawn().with_context(|| format!("cannot start `{}`", shell::typed(command)))?;
        let mut server = Self { address, child };
        let deadline = Instant::now() + STARTED_WITHIN;
        while TcpStream::connect(address).is_err() {
            let ended = server.child.try_wait()?;
            if ended.is_some() || Instant::now() > deadline {
                let text = std::fs::read_to_string(&log).unwrap_or_default();
                bail!("`{}` does not serve {address}:\n{text}", shell::typed(command));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(server)
    }

    /// Its process.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// CPU time of all its processes so far.
    ///
    /// # Errors
    /// One of them is gone.
    pub fn cpu_time(&self) -> Result<Duration> {
        process::family(self.child.id()).into_iter().map(process::cpu_time).sum()
    }

    /// Resident memory of all its processes.
    #[must_use]
    pub fn resident_kib(&self) -> u64 {
        process::family(self.child.id()).into_iter().map(process::resident_kib).sum()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A master ends its workers on SIGTERM, not on SIGKILL.
        let ended = i32::try_from(self.child.id()).is_ok_and(|pid| kill(Pid::from_raw(pid), Signal::SIGTERM).is_ok());
        let deadline = Instant::now() + Duration::from_secs(5);
        while ended && Instant::now() < deadline && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// An address on which nothing listens now.
///
/// # Errors
/// There is none.
pub fn free() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// Writes a file and says where it is.
///
/// # Errors
/// It cannot be written.
pub fn write(folder: &Path, name: &str, text: &str) -> Result<PathBuf> {
    let file = folder.join(name);
    std::fs::write(&file, text)?;
    Ok(file)
}
