//! What consumers were sent, for an operator. It only reads.

use std::{cmp::Reverse, sync::atomic::Ordering};

use serde_json::{Value, json};

use super::{SENT_READ_MAX, SHOWN_OF_ONE_MAX};
use crate::edge::{accounts::Member, control::Control, maps::SentTo};

/// The consumers to whom most was sent.
pub(super) fn sent(control: &Control) -> Value {
    let (Some(kernel), Some(_)) = (control.writer.kernel(), control.policy.consumers()) else { return Value::Null };
    let accounts = control.writer.accounts();
    let read = |(consumer, account)| Some((consumer, kernel.spent(account)?));
    let mut all: Vec<(u128, (SentTo, SentTo))> = accounts.open().take(SENT_READ_MAX).filter_map(read).collect();
    all.sort_unstable_by_key(|(consumer, (sent, _))| (Reverse(sent.bytes), *consumer));
    let one = |(consumer, spent): &(u128, (SentTo, SentTo))| {
        let member = accounts.roll().member(*consumer);
        let mut shown = shown(*spent, member);
        shown["consumer"] = json!(member.map(|member| &*member.name));
        shown
    };
    json!({
        "judged": control.desk.has_accounts.load(Ordering::Relaxed),
        "consumers": accounts.open().count(),
        "max": accounts.max(),
        "recognised": accounts.told,
        "without_account": accounts.refused,
        "lost": control.desk.lost_recognised.load(Ordering::Relaxed),
        "bytes": all.iter().map(|(_, (sent, _))| sent.bytes).sum::<u64>(),
        "most": all.iter().take(SHOWN_OF_ONE_MAX).map(one).collect::<Vec<_>>(),
    })
}

/// What one of them was sent; nothing before it was seen.
pub(super) fn sent_to(control: &Control, consumer: u128) -> Value {
    let accounts = control.writer.accounts();
    let spent = accounts.of(consumer).zip(control.writer.kernel()).and_then(|(account, kernel)| kernel.spent(account));
    spent.map_or(Value::Null, |spent| shown(spent, accounts.roll().member(consumer)))
}

fn shown((sent, above): (SentTo, SentTo), member: Option<&Member>) -> Value {
    let ceiling = member.and_then(|member| member.rate);
    json!({
        "bytes": sent.bytes,
        "packets": sent.packets,
        "ceiling": ceiling.map(|rate| json!({ "per_second": rate.per_second, "burst": rate.burst })),
        "dropped": { "bytes": above.bytes, "packets": above.packets },
    })
}
