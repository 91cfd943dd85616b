//! The connections of one worker, looked at by its tick: who is overdue, who is to finish. A connection itself has no timer
//! and no watcher; it is woken only when something is asked of it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;

use rustc_hash::FxHashMap;

use crate::proxy::line::Lines;
use crate::proxy::presence::{Finding, Patience, Presence};

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

    /// True when that is new.
    fn ask(&self, order: Order) -> bool {
        let new = self.order.replace(order) != order;
        if new && let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
        new
    }
}

/// The connections of a worker.
#[derive(Default)]
pub struct Registry {
    entries: RefCell<FxHashMap<u64, Rc<Entry>>>,
    next: Cell<u64>,
    finishing: Cell<bool>,
    /// Streams of HTTP/2.
    pub lines: Rc<Lines>,
}

/// Keeps a connection in the registry as long as it lives.
pub struct Registered {
    registry: Rc<Registry>,
    id: u64,
    /// The connection's entry.
    pub entry: Rc<Entry>,
    /// Where its streams are listed.
    pub lines: Rc<Lines>,
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
        let entry =
            Rc::new(Entry { presence: Arc::clone(presence), order: Cell::new(order), waker: RefCell::default() });
        self.entries.borrow_mut().insert(id, Rc::clone(&entry));
        Registered { registry: Rc::clone(self), id, entry, lines: Rc::clone(&self.lines) }
    }

    /// Lets the connections go that have been quiet for long, and cuts those that have had their time. `tell` hears the
    /// reason of each cut.
    pub fn sweep(&self, now_ns: u64, patience: &Patience, mut tell: impl FnMut(&'static str)) {
        for entry in self.entries.borrow().values() {
            match entry.presence.judge(now_ns, patience) {
                Finding::Fine => {}
                Finding::Quiet => drop(entry.ask(Order::Finish)),
                Finding::Overdue(reason) => {
                    if entry.ask(Order::Cut) {
                        tell(reason);
                    }
                }
            }
        }
        for _ in 0..self.lines.sweep(now_ns, patience.write) {
            tell("stream_write");
        }
    }

    /// Asks all to finish, those to come as well.
    pub fn finish(&self) {
        if !self.finishing.replace(true) {
            for entry in self.entries.borrow().values() {
                let _ = entry.ask(Order::Finish);
            }
        }
    }
}
