//! The connections of one worker, looked at by its tick: who is overdue, who is to finish. A connection itself has no timer
//! and no watcher; it is woken only when something is asked of it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use rustc_hash::FxHashMap;

use crate::config::settings::Timeouts;
use crate::proxy::presence::{Finding, Presence};

/// What is asked of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Go on.
    Go,
    /// Finish what is in flight, then close.
    Finish,
    /// Close now.
    Cut,
}

/// One connection as the tick sees it.
pub struct Entry {
    /// What the connection is doing.
    pub presence: Arc<Presence>,
    order: Cell<Order>,
    /// Since when bodies wait for a peer that does not ask, with their number of asks then.
    waiting: Cell<Option<(u64, u64)>>,
    waker: RefCell<Option<Waker>>,
}

impl Entry {
    /// What is asked; `waker` is woken when that changes.
    pub fn order(&self, waker: &Waker) -> Order {
        let mut known = self.waker.borrow_mut();
        if !known.as_ref().is_some_and(|k| k.will_wake(waker)) {
            *known = Some(waker.clone());
        }
        self.order.get()
    }

    /// Whether the peer has kept its window closed for longer than `idle`.
    fn is_closed(&self, now_ns: u64, idle: Duration) -> bool {
        let Some(asks) = self.presence.waiting() else {
            self.waiting.set(None);
            return false;
        };
        match self.waiting.get() {
            Some((since_ns, before)) if before == asks => now_ns.saturating_sub(since_ns) as u128 > idle.as_nanos(),
            _ => {
                self.waiting.set(Some((now_ns, asks)));
                false
            }
        }
    }

    fn ask(&self, order: Order) {
        if self.order.replace(order) != order
            && let Some(waker) = &*self.waker.borrow()
        {
            waker.wake_by_ref();
        }
    }
}

/// The connections of a worker.
#[derive(Default)]
pub struct Registry {
    entries: RefCell<FxHashMap<u64, Rc<Entry>>>,
    next: Cell<u64>,
    finishing: Cell<bool>,
}

/// Keeps a connection in the registry as long as it lives.
pub struct Registered {
    registry: Rc<Registry>,
    id: u64,
    /// The connection's entry.
    pub entry: Rc<Entry>,
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.registry.entries.borrow_mut().remove(&self.id);
    }
}

impl Registry {
    /// Adds a connection.
    #[must_use]
    pub fn add(self: &Rc<Self>, presence: &Arc<Presence>) -> Registered {
        let id = self.next.get();
        self.next.set(id + 1);
        let order = if self.finishing.get() { Order::Finish } else { Order::Go };
        let entry = Rc::new(Entry {
            presence: Arc::clone(presence),
            order: Cell::new(order),
            waiting: Cell::default(),
            waker: RefCell::default(),
        });
        self.entries.borrow_mut().insert(id, Rc::clone(&entry));
        Registered { registry: Rc::clone(self), id, entry }
    }

    /// Cuts the connections that have had their time.
    pub fn sweep(&self, now_ns: u64, timeouts: Timeouts) {
        for entry in self.entries.borrow().values() {
            let overdue = entry.presence.judge(now_ns, timeouts.header, timeouts.idle) == Finding::Overdue;
            if overdue || entry.is_closed(now_ns, timeouts.idle) {
                entry.ask(Order::Cut);
            }
        }
    }

    /// Asks all to finish, those to come as well.
    pub fn finish(&self) {
        if !self.finishing.replace(true) {
            for entry in self.entries.borrow().values() {
                entry.ask(Order::Finish);
            }
        }
    }
}
