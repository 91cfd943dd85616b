//! Network namespaces for the demo. Each is held by a thread of this process alone, without a name in the file
//! system, so that whatever ends the process (a panic, Ctrl-C, SIGKILL) takes namespaces, interfaces and programs with
//! it. It must not know what runs inside.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Sender, channel};

use anyhow::{Context, Result, anyhow, bail};
use nix::sched::{CloneFlags, unshare};

use crate::shell;

type Job = Box<dyn FnOnce() + Send>;

/// A network namespace and the thread that lives in it.
pub struct Namespace {
    pub name: &'static str,
    thread_id: i32,
    jobs: Sender<Job>,
}

impl Namespace {
    /// Makes a namespace with its loopback up. Needs root.
    ///
    /// # Errors
    /// The kernel refused, or `ip` failed.
    pub fn create(name: &'static str) -> Result<Self> {
        let (jobs, queue) = channel::<Job>();
        let (made, outcome) = channel();
        std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            let unshared = unshare(CloneFlags::CLONE_NEWNET).map(|()| nix::unistd::gettid().as_raw());
            let usable = unshared.is_ok();
            if made.send(unshared).is_ok() && usable {
                queue.into_iter().for_each(|job| job());
            }
        })?;
        let thread_id = outcome.recv()?.context("a network namespace needs root (CAP_SYS_ADMIN)")?;
        let namespace = Self { name, thread_id, jobs };
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    /// Runs `job` in the namespace and waits for what it returns. Threads that it starts are in the namespace too.
    ///
    /// # Errors
    /// The job panicked.
    pub fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        let (answer, wait) = channel();
        let job: Job = Box::new(move || {
            let _unheard = answer.send(std::panic::catch_unwind(std::panic::AssertUnwindSafe(job)));
        });
        self.jobs.send(job).map_err(|_| anyhow!("the thread of namespace {} has ended", self.name))?;
        wait.recv()?.map_err(|_| anyhow!("a job in namespace {} panicked", self.name))
    }

    /// Starts a command made by [`bound`] in the namespace; it is killed when the namespace's thread ends, however that
    /// comes about.
    ///
    /// # Errors
    /// The program could not be started.
    pub fn spawn(&self, mut command: Command) -> Result<Child> {
        let text = shell::typed(&command);
        self.run(move || command.spawn())?.with_context(|| format!("cannot start `{text}`"))
    }

    /// Joins this namespace and another by a pair of interfaces with addresses (`ADDRESS/BITS`).
    ///
    /// # Errors
    /// `ip` failed.
    pub fn join(&self, here: (&str, &str), other: &Self, there: (&str, &str)) -> Result<()> {
        let path = other.path();
        self.ip(&format!("link add {} type veth peer name {} netns {}", here.0, there.0, path.display()))?;
        for (namespace, (interface, address)) in [(self, here), (other, there)] {
            namespace.ip(&format!("address add {address} dev {interface}"))?;
            namespace.ip(&format!("link set {interface} up"))?;
        }
        Ok(())
    }

    /// Runs `ip` in the namespace.
    ///
    /// # Errors
    /// It failed; the message holds what it said.
    pub fn ip(&self, words: &str) -> Result<()> {
        let mut command = Command::new(shell::find("ip").context("`ip` (iproute2) is missing")?);
        command.args(words.split_whitespace());
        let output = self.run(move || command.output())??;
        if !output.status.success() {
            bail!("`ip {words}` in namespace {}: {}", self.name, String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(())
    }

    fn path(&self) -> PathBuf {
        format!("/proc/{}/task/{}/ns/net", std::process::id(), self.thread_id).into()
    }
}

/// A command that the kernel kills when the thread that started it ends.
///
/// # Errors
/// `setpriv` is missing.
pub fn bound(program: impl AsRef<OsStr>) -> Result<Command> {
    let mut command = Command::new(shell::find("setpriv").context("`setpriv` (util-linux) is missing")?);
    command.args(["--pdeathsig", "KILL"]).arg(program).stdin(Stdio::null());
    Ok(command)
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::{TcpListener, TcpStream};
    use std::time::Duration;

    use super::*;

    #[test]
    fn namespaces_reach_each_other_and_nothing_else() {
        if !shell::is_root() {
            println!("SKIP namespaces_reach_each_other_and_nothing_else: needs root");
            return;
        }
        let (left, right) = (Namespace::create("left").unwrap(), Namespace::create("right").unwrap());
        left.join(("one", "10.90.0.1/24"), &right, ("two", "10.90.0.2/24")).unwrap();
        let listener = left.run(|| TcpListener::bind("10.90.0.1:0").unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let wait = Duration::from_secs(5);
        let met = right.run(move || TcpStream::connect_timeout(&address, wait).is_ok()).unwrap();
        assert!(met);
        assert!(TcpStream::connect_timeout(&address, Duration::from_millis(200)).is_err());
    }

    #[test]
    fn a_bound_process_ends_with_its_namespace() {
        if !shell::is_root() {
            println!("SKIP a_bound_process_ends_with_its_namespace: needs root");
            return;
        }
        let place = Namespace::create("short").unwrap();
        let mut command = bound("sh").unwrap();
        command.args(["-c", "echo up; exec sleep 60"]).stdout(Stdio::piped());
        let mut child = place.spawn(command).unwrap();
        let mut output = child.stdout.take().unwrap();
        output.read_exact(&mut [0; 3]).unwrap();
        drop(place);
        // The pipe ends with the process, long before its minute.
        output.read_to_end(&mut Vec::new()).unwrap();
        assert!(!child.wait().unwrap().success());
    }
}
