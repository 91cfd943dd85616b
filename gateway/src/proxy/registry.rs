//! The connections of one worker, looked at by its tick: who is overdue, who is to finish, who is to be cut off. A connection
//! itself has no timer and no watcher; it is woken only when something is asked of it.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};

use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use super::line::{Line, Lines};
use super::presence::{Finding, Patience, Presence};

/// Credentials remembered of one connection. A client has one or two; the oldest makes room.
const SHOWN_MAX: usize = 16;

/// What is asked of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Order {
    /// Go on.
    Go,
    /// Give up what is only needed for requests, until the next one comes.
    Rest,
    /// Finish what is in flight, then close.
    Finish,
    /// Close now.
    Cut,
}

/// One connection as the tick sees it.
pub struct Entry {
    /// What the connection is doing.
    pub presence: Arc<Presence>,
    /// The TCP peer.
    pub peer: SocketAddr,
    /// The address that it connected to.
    pub local: SocketAddr,
    order: Cell<Order>,
    waker: RefCell<Option<Waker>>,
    /// Ids of the credentials that were accepted on it, the latest last.
    shown: RefCell<SmallVec<[Arc<str>; 1]>>,
    /// A trusted proxy's: it carries many people.
    shared: Cell<bool>,
    /// The consumer on whose account the edge was told to put it, and when, monotonic nanoseconds.
    payer: Cell<(u128, u64)>,
}

/// After this time the edge is told again: it forgets connections that were quiet while many others were busy.
const PAYER_NS: u64 = 5_000_000_000;

impl Entry {
    /// What is asked; `waker` is woken when that changes.
    pub fn order(&self, waker: &Waker) -> Order {
        let mut known = self.waker.borrow_mut();
        if !known.as_ref().is_some_and(|k| k.will_wake(waker)) {
            *known = Some(waker.clone());
        }
        self.order.get()
    }

    /// Polls `task` until it ends, or until `least` or more is asked; then there is nothing to return.
    pub async fn until<T>(&self, least: Order, task: impl Future<Output = T>) -> Option<T> {
        let mut task = pin!(task);
        std::future::poll_fn(|cx| match self.order(cx.waker()) {
            order if order >= least => Poll::Ready(None),
            _ => task.as_mut().poll(cx).map(Some),
        })
        .await
    }

    /// A request on this connection was accepted by a credential; `shared` says that a trusted proxy sent it. To be called
    /// from the task that serves the request.
    pub fn show(&self, credential: &Arc<str>, shared: bool) {
        self.shared.set(shared);
        if shared && let Some(line) = Line::current() {
            return line.show(credential);
        }
        let mut shown = self.shown.borrow_mut();
        if shown.last() == Some(credential) {
            return;
        }
        if shared {
            shown.clear();
        }
        shown.retain(|known| known != credential);
        if shown.len() == SHOWN_MAX {
            shown.remove(0);
        }
        shown.push(Arc::clone(credential));
    }

    /// Whether the edge knows that it is on this consumer's account.
    #[must_use]
    pub fn is_on_account_of(&self, consumer: u128, now_ns: u64) -> bool {
        let (payer, told_ns) = self.payer.get();
        payer == consumer && now_ns.saturating_sub(told_ns) < PAYER_NS
    }

    /// The edge was told so.
    pub fn put_on_account_of(&self, consumer: u128, now_ns: u64) {
        self.payer.set((consumer, now_ns));
    }

    /// Closes the connection now, with a reset. True when that is new.
    pub fn reset(&self) -> bool {
        self.presence.reset();
        self.ask(Order::Cut)
    }

    /// Whether the connection lives by one of these credentials. One that carries many people does while it serves whoever
    /// showed it.
    fn lives_by(&self, is_gone: impl Fn(&str) -> bool) -> bool {
        let shown = self.shown.borrow();
        shown.iter().any(|credential| is_gone(credential)) && (!self.shared.get() || self.presence.is_busy())
    }

    /// The connection has rested as it was asked to, or cannot.
    pub fn rested(&self) {
        if self.order.get() == Order::Rest {
            self.order.set(Order::Go);
        }
    }

    /// Asks for more than was asked before; true when it is more.
    fn ask(&self, order: Order) -> bool {
        let more = order > self.order.get();
        if more {
            self.order.set(order);
            if let Some(waker) = &*self.waker.borrow() {
                waker.wake_by_ref();
            }
        }
        more
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
    /// Adds a connection from `peer` to `local`.
    #[must_use]
    pub fn add(self: &Rc<Self>, presence: &Arc<Presence>, peer: SocketAddr, local: SocketAddr) -> Rc<Registered> {
        let id = self.next.get();
        self.next.set(id + 1);
        let order = if self.finishing.get() { Order::Finish } else { Order::Go };
        let entry = Rc::new(Entry {
            presence: Arc::clone(presence),
            peer,
            local,
            order: Cell::new(order),
            waker: RefCell::default(),
            shown: RefCell::default(),
            shared: Cell::new(false),
            payer: Cell::default(),
        });
        self.entries.borrow_mut().insert(id, Rc::clone(&entry));
        Rc::new(Registered { registry: Rc::clone(self), id, entry, lines: Rc::clone(&self.lines) })
    }

    /// Lets the connections go that have been quiet for long, and cuts those that have had their time. `tell` hears the
    /// reason of each cut. True when some are to rest.
    pub fn sweep(&self, now_ns: u64, patience: &Patience, mut tell: impl FnMut(&'static str)) -> bool {
        let mut some_rest = false;
        for entry in self.entries.borrow().values() {
            match entry.presence.judge(now_ns, patience) {
                Finding::Fine => {}
                Finding::Rest => some_rest |= entry.ask(Order::Rest),
                Finding::Quiet => drop(entry.ask(Order::Finish)),
                Finding::Overdue(reason) => {
                    if reason == "write" {
                        // What it does not take would wait in the kernel's memory for as long as it likes.
                        entry.presence.reset();
                    }
                    if entry.ask(Order::Cut) {
                        tell(reason);
                    }
                }
            }
        }
        for _ in 0..self.lines.sweep(now_ns, patience.write) {
            tell("stream_write");
        }
        some_rest
    }

    /// Closes the connections that `is_cut` names, each with a reset; how many those are.
    pub fn sever(&self, is_cut: impl Fn(&Entry) -> bool) -> u64 {
        let entries = self.entries.borrow();
        entries.values().filter(|entry| is_cut(entry) && entry.reset()).count() as u64
    }

    /// Closes what lives by credentials that are gone, with a reset: connections, and of those that carry many people the
    /// streams. How many those are.
    pub fn revoke(&self, is_gone: impl Fn(&str) -> bool) -> u64 {
        self.sever(|entry| entry.lives_by(&is_gone)) + self.lines.revoke(is_gone)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(registry: &Rc<Registry>) -> (Arc<Presence>, Rc<Registered>) {
        let presence = Presence::new(0);
        let peer = SocketAddr::from(([192, 0, 2, 1], 40_000));
        let registered = registry.add(&presence, peer, SocketAddr::from(([192, 0, 2, 9], 8000)));
        (presence, registered)
    }

    fn order(registered: &Registered) -> Order {
        registered.entry.order(Waker::noop())
    }

    #[test]
    fn who_showed_what_is_gone_is_reset_and_nobody_else() {
        let registry = Rc::new(Registry::default());
        let (a, b) = (entry(&registry), entry(&registry));
        a.1.entry.show(&Arc::from("one"), false);
        a.1.entry.show(&Arc::from("two"), false);
        b.1.entry.show(&Arc::from("three"), false);
        assert_eq!(registry.revoke(|id| id == "one"), 1);
        assert_eq!((order(&a.1), order(&b.1)), (Order::Cut, Order::Go));
        assert!(a.0.resets() && !b.0.resets());
        assert_eq!(registry.revoke(|id| id == "one"), 0, "once");
    }

    #[test]
    fn a_shared_connection_is_reset_only_while_it_serves_the_one_who_is_gone() {
        let registry = Rc::new(Registry::default());
        let (presence, registered) = entry(&registry);
        registered.entry.show(&Arc::from("one"), true);
        assert_eq!(registry.revoke(|id| id == "one"), 0, "it is idle: the next request is somebody's own");
        let (_, serving) = presence.enter();
        registered.entry.show(&Arc::from("two"), true);
        assert_eq!(registry.revoke(|id| id == "one"), 0);
        assert_eq!(registry.revoke(|id| id == "two"), 1);
        drop(serving);
    }

    #[test]
    fn an_account_is_told_once_a_consumer_and_again_after_a_while() {
        let registry = Rc::new(Registry::default());
        let (_, registered) = entry(&registry);
        let entry = &registered.entry;
        assert!(!entry.is_on_account_of(1, 9));
        entry.put_on_account_of(1, 9);
        assert!(entry.is_on_account_of(1, 8 + PAYER_NS) && !entry.is_on_account_of(2, 10));
        assert!(!entry.is_on_account_of(1, 9 + PAYER_NS));
        entry.put_on_account_of(2, 20);
        assert!(!entry.is_on_account_of(1, 21), "the latest one's");
    }

    #[test]
    fn what_a_connection_remembers_is_bounded() {
        let registry = Rc::new(Registry::default());
        let (_, registered) = entry(&registry);
        for n in 0..=SHOWN_MAX {
            registered.entry.show(&Arc::from(n.to_string()), false);
        }
        assert_eq!(registered.entry.shown.borrow().len(), SHOWN_MAX);
        assert_eq!(registry.revoke(|id| id == "0"), 0, "the oldest made room");
        assert_eq!(registry.revoke(|id| id == SHOWN_MAX.to_string()), 1);
    }
}
