//! One stream of a connection that carries many: whether its client takes what it is given, and a way to cut it alone.
//! Only the worker's own thread touches it.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// A stream.
#[derive(Debug)]
pub struct Line {
    /// Since when a piece of the answer waits to be taken, monotonic nanoseconds; 0 is not now.
    offered_ns: Cell<u64>,
    listed: Cell<bool>,
    cut: Cell<bool>,
    waker: RefCell<Option<Waker>>,
    /// The credential by which its request was accepted, where the connection carries many people.
    shown: RefCell<Option<Arc<str>>>,
    list: Rc<Lines>,
}

/// The streams of a worker that have given their client something to take.
#[derive(Debug, Default)]
pub struct Lines(RefCell<Vec<Weak<Line>>>);

thread_local! {
    /// The stream whose task is being polled.
    static CURRENT: RefCell<Option<Rc<Line>>> = const { RefCell::new(None) };
}

impl Line {
    /// The stream whose task is being polled, if it is one.
    #[must_use]
    pub fn current() -> Option<Rc<Line>> {
        CURRENT.with_borrow(Clone::clone)
    }

    /// A piece of the answer was handed out.
    pub fn offer(self: &Rc<Self>, now_ns: u64) {
        self.offered_ns.set(now_ns.max(1));
        self.enlist();
    }

    /// Its request was accepted by a credential.
    pub fn show(self: &Rc<Self>, credential: &Arc<str>) {
        *self.shown.borrow_mut() = Some(Arc::clone(credential));
        self.enlist();
    }

    fn enlist(self: &Rc<Self>) {
        if !self.listed.replace(true) {
            self.list.0.borrow_mut().push(Rc::downgrade(self));
        }
    }

    /// True when that is new.
    fn sever(&self) -> bool {
        let new = !self.cut.replace(true);
        if new && let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
        new
    }

    /// The client took it: more is asked for.
    pub fn taken(&self) {
        self.offered_ns.set(0);
    }
}

impl Lines {
    /// Cuts the streams whose client has taken nothing for `limit`; how many those are.
    pub fn sweep(&self, now_ns: u64, limit: Duration) -> u64 {
        let mut cut = 0;
        self.0.borrow_mut().retain(|line| {
            let Some(line) = line.upgrade() else { return false };
            let since = line.offered_ns.get();
            if since != 0 && u128::from(now_ns.saturating_sub(since)) >= limit.as_nanos() {
                cut += u64::from(line.sever());
            }
            true
        });
        cut
    }

    /// Cuts the streams whose requests were accepted by credentials that are gone; how many those are.
    pub fn revoke(&self, is_gone: impl Fn(&str) -> bool) -> u64 {
        let lines = self.0.borrow();
        let lines = lines.iter().filter_map(Weak::upgrade);
        lines.filter(|line| line.shown.borrow().as_deref().is_some_and(&is_gone) && line.sever()).count() as u64
    }
}

/// A stream's task that can be cut: it then ends without finishing, which resets the stream.
pub struct Severable<F> {
    task: Option<Pin<Box<F>>>,
    line: Rc<Line>,
}

impl<F> Severable<F> {
    /// Makes `task` one of `list`.
    pub fn new(task: F, list: &Rc<Lines>) -> Self {
        let line = Line {
            offered_ns: Cell::new(0),
            listed: Cell::new(false),
            cut: Cell::new(false),
            waker: RefCell::new(None),
            shown: RefCell::new(None),
            list: Rc::clone(list),
        };
        Severable { task: Some(Box::pin(task)), line: Rc::new(line) }
    }
}

impl<F: Future> Future for Severable<F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.line.cut.get() {
            self.task = None;
        }
        let line = Rc::clone(&self.line);
        let Some(task) = &mut self.task else { return Poll::Ready(()) };
        let mut waker = line.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        drop(waker);
        CURRENT.set(Some(line));
        let polled = task.as_mut().poll(cx).map(drop);
        CURRENT.set(None);
        polled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_that_takes_nothing_is_cut_and_its_neighbour_is_not() {
        let lines = Rc::new(Lines::default());
        let offer = || {
            let line = Line::current().expect("a stream is polled");
            line.offer(100);
            std::future::pending::<()>()
        };
        let mut cx = Context::from_waker(Waker::noop());
        let mut stalled = Severable::new(async { offer().await }, &lines);
        let mut moving = Severable::new(async { offer().await }, &lines);
        assert!(Pin::new(&mut stalled).poll(&mut cx).is_pending() && Pin::new(&mut moving).poll(&mut cx).is_pending());
        moving.line.taken();
        assert!(Line::current().is_none(), "only while it is polled");
        assert_eq!(lines.sweep(149, Duration::from_nanos(50)), 0);
        assert_eq!(lines.sweep(150, Duration::from_nanos(50)), 1);
        assert!(Pin::new(&mut stalled).poll(&mut cx).is_ready() && Pin::new(&mut moving).poll(&mut cx).is_pending());
        drop((stalled, moving));
        assert_eq!(lines.sweep(1_000, Duration::ZERO), 0);
        assert!(lines.0.borrow().is_empty());
    }
}
