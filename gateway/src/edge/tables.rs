//! A policy as the kernel's tables hold it: their sizes, and what is to be in them. Pure; it must not write them.

use gateway_common::map::{LIST_ENTRIES_MAX, PAYERS_DEFAULT};
use ipnet::IpNet;

use super::{
    attach::{Sizes, Trouble},
    policy::Policy,
    reconcile::Wanted,
};

pub(super) fn list_troubles(wanted: &Wanted) -> Vec<Trouble> {
    let lists = [
        ("never_drop", &wanted.never_drop, "no program is loaded; name fewer or wider prefixes"),
        ("deny", &wanted.deny, "the kernel denies the first ones only; name fewer or wider prefixes"),
    ];
    let too_long = lists.into_iter().filter(|(_, list, _)| list.len() > LIST_ENTRIES_MAX as usize);
    let trouble = |(name, list, remedy): (&str, &Vec<IpNet>, &'static str)| Trouble {
        interface: None,
        problem: "list_too_long",
        detail: format!("{name} has {} prefixes, the kernel's list holds {LIST_ENTRIES_MAX}", list.len()),
        remedy,
    };
    too_long.map(trouble).collect()
}

pub(super) fn sizes(policy: &Policy) -> Sizes {
    /// What is off needs no memory.
    const LRU_MIN: u32 = 64;
    Sizes {
        cells: cells(policy.cells),
        verdicts: policy.verdicts_max.max(1),
        verified: policy.gate.as_ref().map_or(LRU_MIN, |gate| gate.verified_max.max(LRU_MIN)),
        egress: policy.egress.as_ref().map_or(LRU_MIN, |egress| egress.sources_max.max(LRU_MIN)),
        consumers: policy.consumers().map_or(1, |consumers| consumers.consumers_max.max(1)),
        payers: policy.consumers().map_or(LRU_MIN, |_| PAYERS_DEFAULT),
    }
}

/// The number of cells that holds at least `wanted`.
pub(super) fn cells(wanted: u32) -> u32 {
    const CELLS_MAX: u32 = 1 << 24;
    wanted.clamp(1, CELLS_MAX).next_power_of_two()
}

pub(super) fn wanted(policy: &Policy, vital: &[IpNet], seed: [u64; 2]) -> Wanted {
    let never_drop: Vec<IpNet> = policy.never_drop.iter().chain(&policy.trusted).chain(vital).copied().collect();
    let mut ports = policy.ports.clone();
    ports.sort_unstable();
    ports.dedup();
    Wanted {
        settings: policy.settings(seed, cells(policy.cells)),
        v6_prefix: policy.v6_prefix,
        ports,
        never_drop: IpNet::aggregate(&never_drop),
        deny: IpNet::aggregate(&policy.deny),
        roll: policy.consumers().map(|consumers| consumers.roll.clone()).unwrap_or_default(),
    }
}
