//! Whether a target is healthy, by what is seen of it (Kong `healthchecks`). Pure: a state and a sign give the next state.
//! Knows no socket, no clock and no target.

/// What was seen of a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sign {
    /// It answered with this status.
    Status(u16),
    /// No connection, or it broke.
    TcpFailure,
    /// Nothing came in time.
    Timeout,
    /// A connection was all that was wanted, and it came.
    Connected,
}

/// Who saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Witness {
    /// A probe of the gateway's own.
    Probe,
    /// A client's request. It can find a target unhealthy, and never healthy again (Kong's rule: nobody is sent there).
    Request,
}

/// Limits of one kind of checks; 0 is off (Kong `healthchecks.{active,passive}`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checks {
    /// `healthy.http_statuses`, in order.
    pub healthy_statuses: Vec<u16>,
    /// `healthy.successes`.
    pub successes: u8,
    /// `unhealthy.http_statuses`, in order.
    pub unhealthy_statuses: Vec<u16>,
    /// `unhealthy.http_failures`.
    pub http_failures: u8,
    /// `unhealthy.tcp_failures`.
    pub tcp_failures: u8,
    /// `unhealthy.timeouts`.
    pub timeouts: u8,
}

impl Checks {
    /// Whether any limit can be reached.
    #[must_use]
    pub fn on(&self) -> bool {
        self.successes > 0 || self.http_failures > 0 || self.tcp_failures > 0 || self.timeouts > 0
    }
}

/// The state of a target: what is counted since the last turn, and which way it stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// Out of use.
    pub unhealthy: bool,
    successes: u8,
    http_failures: u8,
    tcp_failures: u8,
    timeouts: u8,
}

impl Health {
    /// The state after a sign.
    #[must_use]
    pub fn after(self, checks: &Checks, sign: Sign, witness: Witness) -> Self {
        let good = match sign {
            Sign::Connected => true,
            Sign::Status(status) if checks.healthy_statuses.contains(&status) => true,
            Sign::Status(status) if checks.unhealthy_statuses.contains(&status) => false,
            // A status in neither list says nothing.
            Sign::Status(_) => return self,
            Sign::TcpFailure | Sign::Timeout => false,
        };
        if good { self.after_success(checks, witness) } else { self.after_failure(checks, sign) }
    }

    fn after_success(self, checks: &Checks, witness: Witness) -> Self {
        if checks.successes == 0 {
            return self;
        }
        if !self.unhealthy {
            return Health::default();
        }
        if witness == Witness::Request {
            return self;
        }
        let successes = self.successes.saturating_add(1);
        if successes >= checks.successes { Health::default() } else { Health { successes, ..Health::out() } }
    }

    fn after_failure(self, checks: &Checks, sign: Sign) -> Self {
        if self.unhealthy {
            return Health::out();
        }
        let mut next = Health { successes: 0, ..self };
        let (count, limit) = match sign {
            Sign::TcpFailure => (&mut next.tcp_failures, checks.tcp_failures),
            Sign::Timeout => (&mut next.timeouts, checks.timeouts),
            _ => (&mut next.http_failures, checks.http_failures),
        };
        if limit == 0 {
            return self;
        }
        *count = count.saturating_add(1);
        if *count >= limit { Health::out() } else { next }
    }

    /// Out of use, nothing counted.
    #[must_use]
    pub fn out() -> Self {
        Health { unhealthy: true, ..Health::default() }
    }

    /// As one word, to be kept where several threads change it.
    #[must_use]
    pub fn packed(self) -> u64 {
        let counts = [self.successes, self.http_failures, self.tcp_failures, self.timeouts];
        u64::from(u32::from_le_bytes(counts)) | u64::from(self.unhealthy) << 32
    }

    /// From such a word.
    #[must_use]
    pub fn unpacked(word: u64) -> Self {
        let [successes, http_failures, tcp_failures, timeouts] = (word as u32).to_le_bytes();
        Health { unhealthy: word >> 32 & 1 == 1, successes, http_failures, tcp_failures, timeouts }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checks() -> Checks {
        Checks {
            healthy_statuses: vec![200, 302],
            successes: 2,
            unhealthy_statuses: vec![429, 500],
            http_failures: 3,
            tcp_failures: 2,
            timeouts: 1,
        }
    }

    fn run(from: Health, checks: &Checks, signs: &[Sign], witness: Witness) -> Health {
        let turned = signs.iter().fold(from, |health, sign| health.after(checks, *sign, witness));
        assert_eq!(Health::unpacked(turned.packed()), turned);
        turned
    }

    const OK: Sign = Sign::Status(200);
    const BAD: Sign = Sign::Status(500);

    #[test]
    fn limits_turn_a_target() {
        let up = Health::default();
        for (signs, unhealthy) in [
            (&[BAD, BAD][..], false),
            (&[BAD, BAD, BAD], true),
            (&[BAD, BAD, OK, BAD, BAD], false),
            (&[Sign::TcpFailure, BAD, BAD, Sign::TcpFailure], true),
            (&[Sign::Timeout], true),
            (&[Sign::Status(404); 9], false),
            (&[BAD, BAD, Sign::Status(404), BAD], true),
        ] {
            assert_eq!(run(up, &checks(), signs, Witness::Request).unhealthy, unhealthy, "{signs:?}");
        }
    }

    #[test]
    fn only_a_probe_brings_a_target_back() {
        let down = Health::out();
        assert!(run(down, &checks(), &[OK; 9], Witness::Request).unhealthy);
        assert!(run(down, &checks(), &[OK], Witness::Probe).unhealthy);
        assert!(run(down, &checks(), &[OK, BAD, OK], Witness::Probe).unhealthy);
        assert!(!run(down, &checks(), &[OK, OK], Witness::Probe).unhealthy);
        assert!(!run(down, &checks(), &[Sign::Connected, Sign::Status(302)], Witness::Probe).unhealthy);
    }

    #[test]
    fn a_limit_of_zero_is_off() {
        let off = Checks { successes: 0, http_failures: 0, tcp_failures: 0, timeouts: 0, ..checks() };
        assert!(!off.on());
        for sign in [BAD, Sign::TcpFailure, Sign::Timeout] {
            assert!(!run(Health::default(), &off, &[sign; 255], Witness::Request).unhealthy);
        }
        assert!(run(Health::out(), &off, &[OK; 255], Witness::Probe).unhealthy);
    }
}
