//! A request's way through limits that are shared by Redis: from slices that are held here, then by counters there. A
//! request that one limit refuses is counted in none.

use std::sync::Arc;

use smallvec::SmallVec;

use super::{Limit, NANOS, Rule, Usages};
use crate::limits::store::exact::{self, Counter};
use crate::limits::store::lease::{Account, Now, OnLoss, Single, Terms};
use crate::limits::store::slice::Take;
use crate::limits::store::{Fault, Server};
use crate::limits::window::Usage;
use crate::plugins::{Flow, Resume};
use crate::proxy::exchange::Exchange;

/// Lets a request through the limits of `rule`: those of which `terms` say so from slices, the others by `server`.
pub(super) fn pass(
    rule: &Arc<Rule>,
    server: &Arc<Server>,
    terms: Option<(&Arc<Terms>, u64)>,
    key: u64,
    now: Now,
    exchange: &mut Exchange,
) -> Flow {
    let mut passage = Passage::new(rule, terms, key, now, exchange);
    match passage.take_all() {
        Step::Done if passage.is_whole() => {
            let usages = passage.usages(None);
            rule.answer(&usages, exchange)
        }
        Step::Refused(at) => {
            let usages = passage.refuse(at);
            rule.answer(&usages, exchange)
        }
        Step::Lost => lost(rule, terms.map(|(terms, _)| terms.on_loss)),
        Step::Done | Step::Short(_) => {
            let server = Arc::clone(server);
            Flow::Wait(Box::pin(async move {
                let end = passage.settle(&server).await;
                let resume: Resume = Box::new(move |exchange| match end {
                    End::Told(usages) => passage.rule.answer(&usages, exchange),
                    End::Lost => lost(&passage.rule, passage.terms.map(|terms| terms.on_loss)),
                    End::Failed(fault) => passage.rule.without_store(&fault),
                });
                resume
            }))
        }
    }
}

/// The store is lost and this process does not go on with a share.
fn lost(rule: &Rule, on_loss: Option<OnLoss>) -> Flow {
    match on_loss {
        Some(OnLoss::Closed) => super::failure().into(),
        _ => rule.without_store(&Fault::Down),
    }
}

struct Passage {
    rule: Arc<Rule>,
    terms: Option<Arc<Terms>>,
    from: u64,
    identifier: Vec<u8>,
    key: u64,
    now: Now,
    /// The limits that are leased, in the order of the rule's; the others are counted by the store.
    accounts: SmallVec<[Option<Account>; 2]>,
    /// The windows from which was taken so far, in the same order.
    took: SmallVec<[u32; 2]>,
}

/// How far a passage got.
enum Step {
    /// Everything leased is taken.
    Done,
    /// This limit refused.
    Refused(usize),
    /// Nothing is held of this one now.
    Short(usize),
    /// The store is lost.
    Lost,
}

/// How a passage ended that had to ask.
enum End {
    Told(Usages),
    Lost,
    Failed(Fault),
}

impl Passage {
    fn new(rule: &Arc<Rule>, terms: Option<(&Arc<Terms>, u64)>, key: u64, now: Now, exchange: &Exchange) -> Self {
        let account = |limit: &Limit| {
            let (_, from) = terms?;
            let slice = (limit.requests >= from).then(|| rule.shared.fleet.slice(key, limit.period))??;
            slice.see();
            Some(Account { key, slice, limit: limit.requests, period: limit.period })
        };
        Passage {
            identifier: rule.who.identifier(exchange, &rule.identities).into_owned(),
            rule: Arc::clone(rule),
            terms: terms.map(|(terms, _)| Arc::clone(terms)),
            from: terms.map_or(u64::MAX, |(_, from)| from),
            key,
            now,
            accounts: rule.limits.iter().map(account).collect(),
            took: SmallVec::new(),
        }
    }

    /// Whether every limit is leased.
    fn is_whole(&self) -> bool {
        self.accounts.iter().all(Option::is_some)
    }

    /// Whether gateways lease the limit, and count it in a key of their own.
    fn is_leased(&self, at: usize) -> bool {
        self.terms.as_ref().is_some_and(|terms| !terms.counts) && self.rule.limits[at].requests >= self.from
    }

    fn unix_s(&self) -> u64 {
        self.now.unix_ns / NANOS
    }

    /// The store's key of a limit in the window that holds a second.
    fn store_key(&self, at: usize, unix_s: u64) -> Vec<u8> {
        let rule = &self.rule;
        let kongs = exact::key(&rule.route, &rule.service, &self.identifier, rule.limits[at].period, unix_s);
        if self.is_leased(at) { [&b"gateway:lease:"[..], &kongs].concat() } else { kongs }
    }

    /// Takes from the slices that were not taken from yet, until one has nothing.
    fn take_all(&mut self) -> Step {
        let Some(terms) = self.terms.clone() else { return Step::Done };
        for at in self.took.len()..self.accounts.len() {
            let Some(account) = &self.accounts[at] else {
                self.took.push(0);
                continue;
            };
            let (window, took) =
                account.take(&self.rule.shared.fleet, &terms, self.now, &|unix_s| self.store_key(at, unix_s));
            match took {
                Take::Over => return Step::Refused(at),
                Take::Short if !account.slice.is_lost(window) => return Step::Short(at),
                Take::Short if terms.on_loss == OnLoss::Share => return Step::Refused(at),
                Take::Short => {
                    self.give_back();
                    return Step::Lost;
                }
                Take::Taken(_) => self.took.push(window),
            }
        }
        Step::Done
    }

    /// Waits for what is short, then counts what is not leased.
    async fn settle(&mut self, server: &Arc<Server>) -> End {
        loop {
            match self.take_all() {
                Step::Done => break,
                Step::Lost => return End::Lost,
                Step::Refused(at) => return End::Told(self.refuse(at)),
                Step::Short(at) => {
                    if let Some(refused) = self.wait(at).await {
                        return End::Told(refused);
                    }
                }
            }
        }
        if self.is_whole() {
            return End::Told(self.usages(None));
        }
        self.count(server).await
    }

    /// Waits for more of a slice; what to tell, when there is none.
    async fn wait(&mut self, at: usize) -> Option<Usages> {
        let (account, terms) = (self.accounts[at].clone()?, self.terms.clone()?);
        let (window, took) = account.wait(&self.rule.shared.fleet, &terms, &|unix_s| self.store_key(at, unix_s)).await;
        self.now = Now::read();
        match took {
            Take::Taken(_) => self.took.push(window),
            Take::Short if account.slice.is_lost(window) => {}
            Take::Over | Take::Short => return Some(self.refuse(at)),
        }
        None
    }

    async fn count(&mut self, server: &Arc<Server>) -> End {
        let unix_s = self.unix_s();
        let asked = (0..self.accounts.len()).filter(|at| self.accounts[*at].is_none());
        let (singles, own): (SmallVec<[usize; 2]>, SmallVec<[usize; 2]>) = asked.partition(|at| self.is_leased(*at));
        let singles = match self.take_singles(&singles, server).await {
            Ok(singles) => singles,
            Err(end) => return end,
        };
        let counter = |at: &usize| {
            let limit = &self.rule.limits[*at];
            Counter { key: self.store_key(*at, unix_s), limit: limit.requests, period: limit.period }
        };
        let counters: SmallVec<[Counter; 2]> = own.iter().map(counter).collect();
        let told = match self.count_exactly(&counters, server).await {
            Ok(told) => told,
            Err(fault) => {
                self.give_back_singles(&singles, server).await;
                self.give_back();
                return End::Failed(fault);
            }
        };
        let refused = told.iter().any(|usage| !usage.admitted);
        if refused {
            self.give_back_singles(&singles, server).await;
            self.give_back();
        }
        let mut usages = self.usages(None);
        for (at, usage) in singles.iter().copied().chain(own.into_iter().zip(told)) {
            usages[at] = usage;
            // It has one more again.
            usages[at].remaining += u64::from(refused && self.is_leased(at));
        }
        if refused {
            self.rule.shared.fleet.denials.remember(self.key, &usages, unix_s);
        }
        End::Told(usages)
    }

    async fn count_exactly(&self, counters: &[Counter], server: &Arc<Server>) -> Result<Usages, Fault> {
        if counters.is_empty() {
            return Ok(Usages::new());
        }
        let answer = exact::count(server, counters, self.unix_s()).await;
        self.rule.shared.fleet.calls.note(&answer);
        answer
    }

    fn single(&self, at: usize) -> Single {
        let limit = &self.rule.limits[at];
        Single {
            key: self.key,
            store_key: self.store_key(at, self.unix_s()),
            limit: limit.requests,
            period: limit.period,
        }
    }

    /// Counts one request of each limit that is leased and of which nothing can be held here; or how the passage ends,
    /// with everything given back.
    async fn take_singles(&mut self, of: &[usize], server: &Arc<Server>) -> Result<SmallVec<[(usize, Usage); 2]>, End> {
        let (rule, unix_s) = (Arc::clone(&self.rule), self.unix_s());
        let mut taken = SmallVec::new();
        for &at in of {
            let end = match self.single(at).take(&rule.shared.fleet, server, unix_s).await {
                Ok(usage) if usage.admitted => {
                    taken.push((at, usage));
                    continue;
                }
                Ok(_) => None,
                Err(_) if self.terms.as_ref().is_some_and(|terms| terms.on_loss == OnLoss::Closed) => Some(End::Lost),
                Err(fault) => Some(End::Failed(fault)),
            };
            self.give_back_singles(&taken, server).await;
            let usages = self.refuse(at);
            return Err(end.unwrap_or_else(|| {
                rule.shared.fleet.denials.remember(self.key, &usages, unix_s);
                End::Told(usages)
            }));
        }
        Ok(taken)
    }

    async fn give_back_singles(&self, taken: &[(usize, Usage)], server: &Arc<Server>) {
        for (at, _) in taken {
            self.single(*at).give_back(&self.rule.shared.fleet, server, self.unix_s()).await;
        }
    }

    /// Gives back what was taken, to the windows from which it was.
    fn give_back(&mut self) {
        for (account, window) in self.accounts.iter().zip(&self.took) {
            if let Some(account) = account {
                account.slice.give_back(*window);
            }
        }
    }

    /// What the limits say when the one at `at` refuses.
    fn refuse(&mut self, at: usize) -> Usages {
        self.give_back();
        self.usages(Some(at))
    }

    /// What the limits say; those that the store counts, as if nothing had been used.
    fn usages(&self, refused: Option<usize>) -> Usages {
        let unix_s = self.unix_s();
        let usage = |(at, (limit, account)): (usize, (&Limit, &Option<Account>))| {
            let (_, end_s) = limit.period.window(unix_s);
            let window =
                |account: &Account| self.took.get(at).map_or_else(|| account.window(self.now), |window| *window);
            let left = account.as_ref().map_or(limit.requests, |a| a.slice.left(window(a), a.limit));
            let admitted = refused != Some(at);
            let remaining = if admitted { left } else { 0 };
            Usage { admitted, remaining, reset_s: end_s.saturating_sub(unix_s).max(1) }
        };
        self.rule.limits.iter().zip(&self.accounts).enumerate().map(usage).collect()
    }
}
