//! Names to addresses, by the system's resolver off the request path. Each worker keeps answers for a short time and serves
//! the last good one while a new one is fetched, and when fetching fails.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

/// How long an answer is fresh; the system's resolver does not tell the record's own time.
const FRESH_NS: u64 = 10_000_000_000;
/// How long a look-up may take.
const LOOKUP_MAX: Duration = Duration::from_secs(5);
/// Names kept at once.
const NAMES_MAX: usize = 10_000;

struct Answer {
    addresses: Rc<[IpAddr]>,
    until_ns: u64,
    turn: Cell<usize>,
}

/// A worker's resolver.
#[derive(Default)]
pub struct Resolver {
    answers: RefCell<HashMap<String, Answer>>,
    refreshing: RefCell<std::collections::HashSet<String>>,
}

impl Resolver {
    /// An address of `name`, the next in turn. `None` when it does not resolve and never did.
    pub async fn address(self: &Rc<Self>, name: &str, now_ns: u64) -> Option<IpAddr> {
        if let Some((address, fresh)) = self.known(name, now_ns) {
            if !fresh && self.refreshing.borrow_mut().insert(name.to_owned()) {
                let (this, name) = (Rc::clone(self), name.to_owned());
                tokio::task::spawn_local(async move {
                    this.look_up(&name, now_ns).await;
                    this.refreshing.borrow_mut().remove(&name);
                });
            }
            return Some(address);
        }
        self.look_up(name, now_ns).await;
        self.known(name, now_ns).map(|(address, _)| address)
    }

    fn known(&self, name: &str, now_ns: u64) -> Option<(IpAddr, bool)> {
        let answers = self.answers.borrow();
        let answer = answers.get(name)?;
        let turn = answer.turn.get();
        answer.turn.set(turn.wrapping_add(1));
        let address = answer.addresses.get(turn % answer.addresses.len().max(1))?;
        Some((*address, now_ns < answer.until_ns))
    }

    async fn look_up(&self, name: &str, now_ns: u64) {
        let found = tokio::time::timeout(LOOKUP_MAX, tokio::net::lookup_host((name, 0))).await;
        let mut answers = self.answers.borrow_mut();
        match found {
            Ok(Ok(addresses)) => {
                let mut addresses: Vec<IpAddr> = addresses.map(|a| a.ip()).collect();
                addresses.sort();
                addresses.dedup();
                if addresses.is_empty() || (answers.len() >= NAMES_MAX && !answers.contains_key(name)) {
                    return;
                }
                let answer = Answer { addresses: addresses.into(), until_ns: now_ns + FRESH_NS, turn: Cell::new(0) };
                answers.insert(name.to_owned(), answer);
            }
            _ => {
                if let Some(answer) = answers.get_mut(name) {
                    answer.until_ns = now_ns + FRESH_NS / 10;
                }
            }
        }
    }
}
