//! On whose account each connection is, and what holds for the accounts, as it is written to the kernel. It must not decide
//! who has one.

use std::sync::Arc;

use gateway_common::map::Flow;

use super::Writer;
use crate::edge::accounts::{Accounts, Entry};

impl Writer {
    /// Consumers and their accounts.
    pub fn accounts(&self) -> &Accounts {
        &self.accounts
    }

    /// A consumer was recognised on a connection: what is sent over it is on its account from now on. The connection's end
    /// needs no word: what the host still has to send then is the consumer's too, the kernel forgets a connection when
    /// another one begins between the same ends, and otherwise whichever sent nothing for longest makes room.
    pub fn recognise(&mut self, flow: Flow, consumer: u128) {
        if self.kernel.is_none() {
            return;
        }
        let Some((payer, entry)) = self.accounts.recognise(consumer) else { return };
        entry.into_iter().for_each(|entry| self.enter(entry));
        let result = self.kernel.as_mut().map(|kernel| kernel.put_payer(flow, payer));
        self.note(result);
    }

    /// Accounts of another configuration's consumers.
    pub(super) fn sync_accounts(&mut self) {
        if Arc::ptr_eq(self.accounts.roll(), &self.wanted.roll) {
            return;
        }
        for entry in self.accounts.enroll(Arc::clone(&self.wanted.roll)) {
            self.enter(entry);
        }
    }

    fn enter(&mut self, Entry { account, allowance, is_new }: Entry) {
        if is_new {
            let result = self.kernel.as_mut().map(|kernel| kernel.clear(account));
            self.note(result);
        }
        let result = self.kernel.as_mut().map(|kernel| kernel.put_allowance(account, allowance));
        self.note(result);
    }
}
