//! Which of the kernel's accounts belongs to which consumer, and under which ceiling. Pure: it says what is to be written,
//! and must not write it.

use std::{collections::HashMap, sync::Arc};

use gateway_common::{
    Ceiling,
    map::{Allowance, Payer},
};

use super::policy::{BURST_BYTES_MIN, Rate};

/// A consumer as the edge knows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    /// For whoever reads the status.
    pub name: Box<str>,
    /// Bytes a second on the wire over all connections; none means counted only.
    pub rate: Option<Rate>,
}

/// The consumers of a configuration, by the number of their UUID.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Roll(HashMap<u128, Member>);

impl FromIterator<(u128, Member)> for Roll {
    fn from_iter<I: IntoIterator<Item = (u128, Member)>>(members: I) -> Self {
        Self(members.into_iter().collect())
    }
}

impl Roll {
    /// A consumer.
    #[must_use]
    pub fn member(&self, consumer: u128) -> Option<&Member> {
        self.0.get(&consumer)
    }

    /// How many they are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// What is to be written of one account.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Entry {
    pub account: u32,
    pub allowance: Allowance,
    /// Another consumer's: what is on it is to be cleared before.
    pub is_new: bool,
}

pub(super) struct Accounts {
    roll: Arc<Roll>,
    /// Accounts in the kernel's arrays.
    max: u32,
    open: HashMap<u128, (u32, Allowance)>,
    closed: Vec<u32>,
    /// The first account that was never opened.
    fresh: u32,
    /// The latest number that an account was opened or closed with.
    epoch: u32,
    /// How often a connection was put on an account.
    pub told: u64,
    /// How often there was no account left for one.
    pub refused: u64,
}

impl Accounts {
    /// As many as `max`, none of them open. Epochs count from a random number on, lest two processes draw the same.
    pub fn new(max: u32, epoch: u32) -> Self {
        let (open, closed) = (HashMap::new(), Vec::new());
        Self { roll: Arc::default(), max, open, closed, fresh: 0, epoch, told: 0, refused: 0 }
    }

    /// Takes for its own what an earlier process opened: one account after another, from the first on.
    pub fn adopt(&mut self, held: Vec<Allowance>) {
        for (account, allowance) in (0..self.max).zip(held) {
            self.fresh = account + 1;
            match owner(&allowance) {
                0 => self.closed.push(account),
                consumer => drop(self.open.insert(consumer, (account, allowance))),
            }
        }
    }

    /// The consumers that there are.
    pub fn roll(&self) -> &Arc<Roll> {
        &self.roll
    }

    /// Another configuration's consumers: accounts of those that are gone are closed, other ceilings hold from now on.
    /// What is on the accounts that stay is kept.
    pub fn enroll(&mut self, roll: Arc<Roll>) -> Vec<Entry> {
        self.roll = roll;
        let mut entries = Vec::new();
        let gone: Vec<u128> =
            self.open.keys().filter(|consumer| self.roll.member(**consumer).is_none()).copied().collect();
        for consumer in gone {
            let Some((account, _)) = self.open.remove(&consumer) else { continue };
            let epoch = self.next_epoch();
            let allowance = Allowance { owner: [0, 0], ceiling: Ceiling::UNLIMITED, epoch, spare: 0 };
            self.closed.push(account);
            entries.push(Entry { account, allowance, is_new: false });
        }
        for (consumer, (account, allowance)) in &mut self.open {
            let ceiling = ceiling(self.roll.member(*consumer));
            if allowance.ceiling != ceiling {
                allowance.ceiling = ceiling;
                entries.push(Entry { account: *account, allowance: *allowance, is_new: false });
            }
        }
        entries
    }

    /// A connection is this consumer's: what its packets are on, and what is to be written before. Nothing for somebody who
    /// is not on the roll, and when all accounts are open.
    pub fn recognise(&mut self, consumer: u128) -> Option<(Payer, Option<Entry>)> {
        if let Some((account, allowance)) = self.open.get(&consumer) {
            self.told += 1;
            return Some((Payer { account: *account, epoch: allowance.epoch }, None));
        }
        let ceiling = ceiling(Some(self.roll.member(consumer)?));
        let Some(account) = self.closed.pop().or_else(|| (self.fresh < self.max).then_some(self.fresh)) else {
            self.refused += 1;
            return None;
        };
        self.told += 1;
        self.fresh = self.fresh.max(account + 1);
        let epoch = self.next_epoch();
        let owner = [(consumer >> 64) as u64, consumer as u64];
        let allowance = Allowance { owner, ceiling, epoch, spare: 0 };
        self.open.insert(consumer, (account, allowance));
        Some((Payer { account, epoch }, Some(Entry { account, allowance, is_new: true })))
    }

    /// The open accounts, with their consumers.
    pub fn open(&self) -> impl Iterator<Item = (u128, u32)> {
        self.open.iter().map(|(consumer, (account, _))| (*consumer, *account))
    }

    /// The account of a consumer, if it was seen.
    pub fn of(&self, consumer: u128) -> Option<u32> {
        self.open.get(&consumer).map(|(account, _)| *account)
    }

    /// How many there may be.
    pub fn max(&self) -> u32 {
        self.max
    }

    fn next_epoch(&mut self) -> u32 {
        self.epoch = self.epoch.wrapping_add(1).max(1);
        self.epoch
    }
}

fn owner(allowance: &Allowance) -> u128 {
    u128::from(allowance.owner[0]) << 64 | u128::from(allowance.owner[1])
}

fn ceiling(member: Option<&Member>) -> Ceiling {
    let rate = member.and_then(|member| member.rate);
    rate.map_or(Ceiling::UNLIMITED, |rate| Ceiling::new(rate.per_second, rate.burst.max(BURST_BYTES_MIN)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn roll(members: &[(u128, u64)]) -> Arc<Roll> {
        let member = |(consumer, per_second): &(u128, u64)| {
            let rate = (*per_second > 0).then_some(Rate { per_second: *per_second, burst: 1_000_000 });
            (*consumer, Member { name: "somebody".into(), rate })
        };
        Arc::new(members.iter().map(member).collect())
    }

    #[test]
    fn a_consumer_keeps_its_account_and_takes_another_ceiling_in_place() {
        let mut accounts = Accounts::new(8, 100);
        assert_eq!(accounts.enroll(roll(&[(1 << 70, 1_000), (2, 2_000)])), []);
        let (payer, entry) = accounts.recognise(1 << 70).unwrap();
        let entry = entry.unwrap();
        assert_eq!((entry.is_new, entry.allowance.owner, entry.allowance.epoch), (true, [64, 0], payer.epoch));
        assert_eq!(entry.allowance.ceiling, Ceiling::new(1_000, 1_000_000));
        assert_eq!(accounts.recognise(1 << 70), Some((payer, None)), "the same one");
        assert_eq!(accounts.recognise(3), None, "nobody");

        let changed = accounts.enroll(roll(&[(1 << 70, 5_000), (2, 2_000)]));
        let ceiling = Ceiling::new(5_000, 1_000_000);
        assert_eq!(changed, [Entry { allowance: Allowance { ceiling, ..entry.allowance }, is_new: false, ..entry }]);
        assert_eq!(accounts.recognise(1 << 70), Some((payer, None)));
    }

    #[test]
    fn whoever_went_leaves_the_account_to_another_under_another_number() {
        let mut accounts = Accounts::new(2, u32::MAX - 1);
        accounts.enroll(roll(&[(1, 0), (2, 0), (3, 0)]));
        let (first, second) = (accounts.recognise(1).unwrap().0, accounts.recognise(2).unwrap().0);
        assert_ne!(first.account, second.account);
        assert_eq!((accounts.recognise(3), accounts.refused), (None, 1), "there are two");
        let closed = accounts.enroll(roll(&[(2, 0), (3, 0)]));
        assert_eq!(closed.len(), 1);
        assert_eq!((closed[0].account, closed[0].allowance.owner), (first.account, [0, 0]));
        assert_eq!(accounts.of(1), None);
        let (third, entry) = accounts.recognise(3).unwrap();
        assert_eq!((third.account, entry.unwrap().is_new), (first.account, true));
        let epochs = [first.epoch, second.epoch, closed[0].allowance.epoch, third.epoch];
        assert!(epochs.iter().all(|epoch| *epoch != 0) && third.epoch != first.epoch, "{epochs:?}");
    }

    #[test]
    fn what_another_process_opened_is_taken_over_and_whoever_went_meanwhile_is_closed() {
        let mut old = Accounts::new(8, 7);
        old.enroll(roll(&[(1, 10), (2, 20), (3, 30)]));
        let mut written: Vec<Allowance> = [1, 2, 3].map(|n| old.recognise(n).unwrap().1.unwrap().allowance).into();
        let closed = old.enroll(roll(&[(2, 20), (3, 30)]));
        written[closed[0].account as usize] = closed[0].allowance;

        let mut new = Accounts::new(8, 900);
        new.adopt(written);
        let entries = new.enroll(roll(&[(2, 20), (4, 40)]));
        assert_eq!(entries.len(), 1, "3 is gone, 2 is as it was: {entries:?}");
        assert_eq!(new.of(2), Some(1));
        let accounts: Vec<u32> = (0..3).filter_map(|_| new.recognise(4)).map(|(payer, _)| payer.account).collect();
        assert!([0, 2].contains(&accounts[0]) && accounts.iter().all(|account| *account == accounts[0]));
    }
}
