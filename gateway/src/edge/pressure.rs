//! Pressure as user space sees and answers it: overflowing accept queues are pressure too, and while it lasts the host
//! gives SYN cookies to everybody. Beginnings and ends are told once. It must not know maps.

use std::fs;

/// TcpExt, netstat(8): connections refused because a listener's accept queue was full.
const OVERFLOWS: &str = "ListenOverflows";
/// Overflows between two looks that are pressure.
const OVERFLOWS_MIN: u64 = 16;
const SYNCOOKIES: &str = "/proc/sys/net/ipv4/tcp_syncookies";
/// Always.
const ALWAYS: &str = "2";

/// The state of the gate.
#[derive(Default)]
pub(super) struct Pressure {
    overflows: Option<u64>,
    /// Until when overflows keep the gate closed.
    pub held_until_ns: u64,
    /// Since when strangers are shut out; none if they are not.
    pub since_ns: Option<u64>,
    /// How often they were.
    pub entered: u64,
    /// What the host did about SYN cookies before.
    before: Option<String>,
    /// Whether the host gives cookies always.
    pub always_cookies: bool,
}

/// What changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Turn {
    Entered,
    Left,
    None,
}

impl Pressure {
    /// Takes the host's count of overflows; true if it says pressure.
    pub fn count_overflows(&mut self, overflows: u64, now_ns: u64, hold_ns: u64) -> bool {
        let before = self.overflows.replace(overflows).unwrap_or(overflows);
        let is_pressure = overflows.saturating_sub(before) >= OVERFLOWS_MIN;
        if is_pressure {
            self.held_until_ns = now_ns.saturating_add(hold_ns);
        }
        is_pressure
    }

    /// Takes the kernel program's own measure.
    pub fn turn(&mut self, kernel_until_ns: u64, now_ns: u64) -> Turn {
        let pressed = kernel_until_ns.max(self.held_until_ns) > now_ns;
        match (pressed, self.since_ns) {
            (true, None) => {
                self.since_ns = Some(now_ns);
                self.entered += 1;
                Turn::Entered
            }
            (false, Some(_)) => {
                self.since_ns = None;
                Turn::Left
            }
            _ => Turn::None,
        }
    }

    /// Has the host give cookies always, and remembers what it did before.
    pub fn arm(&mut self) {
        let Some(before) = read(SYNCOOKIES) else { return };
        if before == ALWAYS {
            self.always_cookies = true;
            return;
        }
        match fs::write(SYNCOOKIES, ALWAYS) {
            Ok(()) => {
                self.before = Some(before);
                self.always_cookies = true;
            }
            Err(error) => tracing::warn!(
                %error,
                setting = "net.ipv4.tcp_syncookies",
                "strangers get SYN cookies only once a listener's queue is full: set it to 2"
            ),
        }
    }

    /// The host goes back to what it did. Cookies that are out stay good: the kernel accepts them for two minutes.
    pub fn disarm(&mut self) {
        self.always_cookies = false;
        let Some(before) = self.before.take() else { return };
        // Whoever changed it in between meant it.
        if read(SYNCOOKIES).as_deref() == Some(ALWAYS)
            && let Err(error) = fs::write(SYNCOOKIES, &before)
        {
            tracing::warn!(%error, value = before, "net.ipv4.tcp_syncookies could not be set back");
        }
    }
}

impl Drop for Pressure {
    fn drop(&mut self) {
        self.disarm();
    }
}

/// The host's count of overflows, in the calling thread's network namespace.
pub(super) fn overflows() -> Option<u64> {
    field(&read("/proc/thread-self/net/netstat")?, "TcpExt:", OVERFLOWS)
}

/// Two lines begin with the group's name: the fields' names, then their values.
fn field(netstat: &str, group: &str, name: &str) -> Option<u64> {
    let mut lines = netstat.lines().filter(|line| line.starts_with(group));
    let index = lines.next()?.split(' ').position(|field| field == name)?;
    lines.next()?.split(' ').nth(index)?.parse().ok()
}

fn read(path: &str) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn overflows_are_read_by_name() {
        let text = "TcpExt: SyncookiesSent ListenOverflows ListenDrops\nTcpExt: 1 42 7\nIpExt: A\nIpExt: 5\n";
        assert_eq!(field(text, "TcpExt:", OVERFLOWS), Some(42));
        assert_eq!(field(text, "TcpExt:", "Nothing"), None);
        assert_eq!(field("", "TcpExt:", OVERFLOWS), None);
        assert!(overflows().is_some(), "this host counts them");
    }

    #[test]
    fn a_first_look_is_no_pressure_and_a_jump_is() {
        let mut pressure = Pressure::default();
        assert!(!pressure.count_overflows(1_000, SECOND, 10 * SECOND));
        assert!(!pressure.count_overflows(1_005, 2 * SECOND, 10 * SECOND));
        assert_eq!(pressure.turn(0, 2 * SECOND), Turn::None);
        assert!(pressure.count_overflows(1_100, 3 * SECOND, 10 * SECOND));
        assert_eq!(pressure.turn(0, 3 * SECOND), Turn::Entered);
        assert_eq!(pressure.turn(0, 12 * SECOND), Turn::None);
        assert_eq!(pressure.turn(0, 13 * SECOND), Turn::Left);
        assert_eq!(pressure.entered, 1);
    }

    #[test]
    fn the_kernels_measure_counts_by_itself() {
        let mut pressure = Pressure::default();
        assert_eq!(pressure.turn(5 * SECOND, SECOND), Turn::Entered);
        assert_eq!(pressure.turn(5 * SECOND, 4 * SECOND), Turn::None);
        assert_eq!(pressure.turn(5 * SECOND, 5 * SECOND), Turn::Left);
    }
}
