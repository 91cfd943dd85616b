//! Desired minus applied is what is written: a pure plan, and the one writer of every map and of the workers' table.

use std::{collections::HashMap, sync::Arc};

use aya::maps::MapError;
use gateway_common::{
    Source,
    map::{
        Cut, FLOWS_MAX, Flow, HAS_DENY, HAS_FLOWS, HAS_NEVER_DROP, HAS_STANDINGS, HAS_VERDICTS, LIST_ENTRIES_MAX,
        STANDINGS_MAX, Settings, Standing, Verdict, rung,
    },
};
use ipnet::IpNet;

use super::{
    accounts::{Accounts, Roll},
    maps::{Held, List, Maps},
    userspace::{Prefix, Rules, Standings},
};

mod payers;

/// One change of the kernel's verdicts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Operation {
    Put(Source, Verdict),
    Remove(Source),
}

/// What leads from `applied` to `desired` for one source. Only rungs that the kernel carries out are its business.
pub(super) fn plan_one(source: Source, desired: Option<&Verdict>, applied: Option<&Verdict>) -> Option<Operation> {
    match (desired.filter(|verdict| verdict.rung >= rung::GATED), applied) {
        (Some(wanted), applied) if Some(wanted) != applied => Some(Operation::Put(source, *wanted)),
        (None, Some(_)) => Some(Operation::Remove(source)),
        _ => None,
    }
}

/// What leads from `applied` to `desired`; removals first, so that a full table has room again.
pub(super) fn plan(desired: &HashMap<Source, Verdict>, applied: &HashMap<Source, Verdict>) -> Vec<Operation> {
    let gone = applied.iter().filter_map(|(source, old)| plan_one(*source, desired.get(source), Some(old)));
    let mut operations: Vec<_> = gone.filter(|operation| matches!(operation, Operation::Remove(_))).collect();
    operations.extend(
        desired
            .iter()
            .filter_map(|(source, wanted)| plan_one(*source, Some(wanted), applied.get(source)))
            .filter(|operation| matches!(operation, Operation::Put(..))),
    );
    operations
}

/// Everything of a policy that the tables hold.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Wanted {
    pub settings: Settings,
    pub v6_prefix: u8,
    pub ports: Vec<u16>,
    pub never_drop: Vec<IpNet>,
    pub deny: Vec<IpNet>,
    pub roll: Arc<Roll>,
}

pub(super) struct Writer {
    standings: Arc<Standings>,
    kernel: Option<Maps>,
    wanted: Wanted,
    /// What the kernel's lists hold.
    ports: Vec<u16>,
    never_drop: Vec<IpNet>,
    deny: Vec<IpNet>,
    settings: Option<Settings>,
    desired: HashMap<Source, Verdict>,
    applied: HashMap<Source, Verdict>,
    /// Connections that the workers and the kernel cut.
    cuts: HashMap<Flow, Cut>,
    /// Sources whose ceilings the kernel raises.
    raised: HashMap<Source, Standing>,
    /// Accounts of consumers; none without a kernel.
    accounts: Accounts,
    pub failures: u64,
    pub last_failure: Option<String>,
}

impl Writer {
    pub fn new(standings: Arc<Standings>, wanted: Wanted) -> Self {
        Self {
            standings,
            kernel: None,
            wanted,
            ports: Vec::new(),
            never_drop: Vec::new(),
            deny: Vec::new(),
            settings: None,
            desired: HashMap::new(),
            applied: HashMap::new(),
            cuts: HashMap::new(),
            raised: HashMap::new(),
            accounts: Accounts::new(0, 0),
            failures: 0,
            last_failure: None,
        }
    }

    /// Takes another kernel's maps, or none; the new ones are empty unless `held` says what is in them.
    pub fn adopt(&mut self, kernel: Option<Maps>, held: Option<Held>) {
        self.accounts = Accounts::new(kernel.as_ref().map_or(0, Maps::accounts), rand::random());
        self.kernel = kernel;
        self.settings = None;
        self.applied.clear();
        // A standing is earned again within seconds; a cut connection is closed by its worker.
        for source in std::mem::take(&mut self.raised).into_keys() {
            self.standings.lower(source);
        }
        (self.ports, self.never_drop, self.deny) = (Vec::new(), Vec::new(), Vec::new());
        if let Some(held) = held {
            (self.ports, self.never_drop, self.deny) = (held.ports, held.never_drop, held.deny);
            self.applied = held.verdicts.into_iter().collect();
            self.accounts.adopt(held.allowances);
            // Each until it expires.
            self.cuts.extend(held.cuts);
            self.raised = held.raised.into_iter().collect();
            self.raised.iter().for_each(|(source, standing)| self.standings.raise(*source, *standing));
        }
        if self.standings.is_killed() {
            // The switch outlives a reload.
            self.kill(true);
        }
    }

    /// Takes verdicts for its own that another process left in the maps; whatever else is there is removed with the next
    /// sweep.
    pub fn inherit(&mut self, now_ns: u64, verdicts: impl IntoIterator<Item = (Source, Verdict)>) -> usize {
        let before = self.desired.len();
        for (source, verdict) in verdicts {
            if verdict.expiry_ns > now_ns && !self.desired.contains_key(&source) {
                self.standings.put(source, verdict);
                self.desired.insert(source, verdict);
            }
        }
        self.desired.len() - before
    }

    /// Verdicts in the maps that this process did not write: the one that it succeeds may have been late.
    pub fn strangers(&mut self) -> Vec<(Source, Verdict)> {
        let Some(Ok(mut found)) = self.kernel.as_ref().map(Maps::verdicts) else { return Vec::new() };
        found.retain(|(source, _)| !self.applied.contains_key(source));
        self.applied.extend(found.iter().copied());
        // What nobody knows would stay in the maps for ever.
        if let Some(kernel) = &self.kernel {
            for (flow, cut) in kernel.cuts().into_iter().flatten() {
                self.cuts.entry(flow).or_insert(cut);
            }
            for (source, standing) in kernel.raised().into_iter().flatten() {
                self.raised.entry(source).or_insert(standing);
            }
        }
        found
    }

    pub fn kernel(&self) -> Option<&Maps> {
        self.kernel.as_ref()
    }

    pub fn desired(&self) -> &HashMap<Source, Verdict> {
        &self.desired
    }

    pub fn applied(&self) -> &HashMap<Source, Verdict> {
        &self.applied
    }

    /// Verdicts that the kernel holds or should hold.
    pub fn kernel_wanted(&self) -> usize {
        self.desired.values().filter(|verdict| verdict.rung >= rung::GATED).count()
    }

    /// Puts a policy into force, here and in the kernel.
    pub fn want(&mut self, wanted: Wanted) {
        self.wanted = wanted;
        let old = self.standings.rules();
        let count = self.wanted.settings.cells_mask + 1;
        let cells = if old.cells.len() == count as usize { old.cells.clone() } else { super::userspace::cells(count) };
        let mut settings = self.wanted.settings;
        // Only the door is judged here: packets and bytes are the kernel's.
        (settings.packets, settings.bytes) = Default::default();
        settings.lists = self.lists() | HAS_VERDICTS | HAS_STANDINGS;
        settings.neighbourhood = gateway_common::map::Ceilings::UNLIMITED;
        self.standings.replace(Rules {
            settings,
            v6_prefix: self.wanted.v6_prefix,
            never_drop: self.wanted.never_drop.iter().map(Prefix::new).collect(),
            deny: self.wanted.deny.iter().map(Prefix::new).collect(),
            cells,
        });
        self.sync();
    }

    /// One source's new verdict, or none: written at once.
    pub fn decide(&mut self, source: Source, verdict: Option<Verdict>) {
        match verdict {
            Some(verdict) => {
                self.standings.put(source, verdict);
                self.desired.insert(source, verdict);
            }
            None => {
                self.standings.remove(source);
                self.desired.remove(&source);
            }
        }
        if self.kernel.is_some() {
            let operation = plan_one(source, self.desired.get(&source), self.applied.get(&source));
            self.carry_out(operation);
        }
    }

    /// Ends what has expired, and repairs whatever an earlier failure left undone.
    pub fn sweep(&mut self, now_ns: u64) {
        let over: Vec<Source> =
            self.desired.iter().filter(|(_, verdict)| verdict.expiry_ns <= now_ns).map(|(source, _)| *source).collect();
        for source in over {
            self.decide(source, None);
        }
        self.sweep_cuts(now_ns);
        self.sweep_raised(now_ns);
        self.sync();
    }

    /// Cuts a connection; false if no more are cut at once.
    pub fn cut(&mut self, flow: Flow, cut: Cut) -> bool {
        if self.cuts.len() >= FLOWS_MAX as usize && !self.cuts.contains_key(&flow) {
            return false;
        }
        let is_first = self.cuts.is_empty();
        self.cuts.insert(flow, cut);
        self.standings.cut(flow, cut);
        if is_first {
            // The program must look into the table before there is something in it.
            self.sync_settings();
        }
        let result = self.kernel.as_mut().map(|kernel| kernel.cut(flow, cut));
        self.note(result);
        true
    }

    pub fn cuts(&self) -> &HashMap<Flow, Cut> {
        &self.cuts
    }

    fn sweep_cuts(&mut self, now_ns: u64) {
        let over: Vec<Flow> =
            self.cuts.iter().filter(|(_, cut)| cut.expiry_ns <= now_ns).map(|(flow, _)| *flow).collect();
        for flow in over {
            self.cuts.remove(&flow);
            self.standings.mend(flow);
            let result = self.kernel.as_mut().map(|kernel| kernel.mend(flow));
            self.note(result);
        }
    }

    /// Raises a source's ceilings. What is far from its end is not written again.
    pub fn raise(&mut self, source: Source, standing: Standing, now_ns: u64) {
        let held = self.raised.get(&source);
        let left_ns = |standing: &Standing| standing.expiry_ns.saturating_sub(now_ns);
        let is_fresh = held.is_some_and(|held| held.raise == standing.raise && left_ns(held) > left_ns(&standing) / 2);
        if is_fresh || held.is_none() && self.raised.len() >= STANDINGS_MAX as usize {
            return;
        }
        let is_first = self.raised.is_empty();
        self.raised.insert(source, standing);
        self.standings.raise(source, standing);
        if is_first {
            self.sync_settings();
        }
        let result = self.kernel.as_mut().map(|kernel| kernel.raise(source, standing));
        self.note(result);
    }

    pub fn raised(&self) -> &HashMap<Source, Standing> {
        &self.raised
    }

    fn sweep_raised(&mut self, now_ns: u64) {
        let over: Vec<Source> =
            self.raised.iter().filter(|(_, one)| one.expiry_ns <= now_ns).map(|(source, _)| *source).collect();
        for source in over {
            self.raised.remove(&source);
            self.standings.lower(source);
            let result = self.kernel.as_mut().map(|kernel| kernel.lower(source));
            self.note(result);
        }
    }

    /// A source completed a handshake: for where no program of the kernel says so.
    pub fn verify(&mut self, source: Source, at_ns: u64) {
        let result = self.kernel.as_mut().map(|kernel| kernel.verify(source, at_ns));
        self.note(result);
    }

    /// Until when the kernel's own measure keeps strangers out.
    pub fn pressure_until_ns(&self) -> u64 {
        self.kernel.as_ref().and_then(|kernel| kernel.pressure_until_ns().ok()).unwrap_or(0)
    }

    /// Keeps strangers out until then.
    pub fn press(&mut self, until_ns: u64) {
        let result = self.kernel.as_mut().map(|kernel| kernel.press(until_ns));
        self.note(result);
    }

    pub fn beat(&mut self, now_ns: u64) {
        let result = self.kernel.as_mut().map(|kernel| kernel.beat(now_ns));
        self.note(result);
        // The switch may be thrown from outside, by a write to the map.
        if let Some(Ok(killed)) = self.kernel.as_ref().map(Maps::is_killed) {
            self.standings.kill(killed);
        }
    }

    pub fn kill(&mut self, on: bool) {
        self.standings.kill(on);
        let result = self.kernel.as_mut().map(|kernel| kernel.kill(on));
        self.note(result);
    }

    fn lists(&self) -> u32 {
        let never_drop = if self.wanted.never_drop.is_empty() { 0 } else { HAS_NEVER_DROP };
        never_drop | if self.wanted.deny.is_empty() { 0 } else { HAS_DENY }
    }

    /// Lists before the settings that point to them, and never-drop before anything that drops.
    fn sync(&mut self) {
        if self.kernel.is_none() {
            return;
        }
        self.sync_list(List::NeverDrop);
        self.sync_list(List::Deny);
        self.sync_ports();
        self.sync_accounts();
        self.sync_settings();
        for operation in plan(&self.desired, &self.applied) {
            self.carry_out(Some(operation));
        }
    }

    fn sync_list(&mut self, list: List) {
        let (wanted, applied) = match list {
            List::NeverDrop => (&self.wanted.never_drop, &mut self.never_drop),
            List::Deny => (&self.wanted.deny, &mut self.deny),
        };
        let wanted = &wanted[..wanted.len().min(LIST_ENTRIES_MAX as usize)];
        let Some(kernel) = &mut self.kernel else { return };
        let result =
            sync_entries(
                wanted,
                applied,
                |net, add| {
                    if add { kernel.enlist(list, net) } else { kernel.strike_off(list, net) }
                },
            );
        self.note(Some(result));
    }

    fn sync_ports(&mut self) {
        let Some(kernel) = &mut self.kernel else { return };
        let result = sync_entries(&self.wanted.ports, &mut self.ports, |port, add| kernel.protect(*port, add));
        self.note(Some(result));
    }

    fn sync_settings(&mut self) {
        let mut settings = self.wanted.settings;
        settings.lists |= self.lists();
        if !self.cuts.is_empty() {
            settings.lists |= HAS_FLOWS;
        }
        if !self.raised.is_empty() {
            settings.lists |= HAS_STANDINGS;
        }
        if self.kernel_wanted() > 0 || !self.applied.is_empty() {
            settings.lists |= HAS_VERDICTS;
        }
        if self.settings == Some(settings) {
            return;
        }
        let Some(kernel) = &mut self.kernel else { return };
        let result = kernel.put_settings(settings);
        if result.is_ok() {
            self.settings = Some(settings);
        }
        self.note(Some(result));
    }

    fn carry_out(&mut self, operation: Option<Operation>) {
        let Some(operation) = operation else { return };
        // The first verdict: the program must look into the table before there is something in it.
        if self.settings.is_some_and(|settings| settings.lists & HAS_VERDICTS == 0) {
            self.sync_settings();
        }
        let Some(kernel) = &mut self.kernel else { return };
        let result = match operation {
            Operation::Put(source, verdict) => kernel.put_verdict(source, verdict).map(|()| {
                self.applied.insert(source, verdict);
            }),
            Operation::Remove(source) => kernel.remove_verdict(source).map(|()| {
                self.applied.remove(&source);
            }),
        };
        self.note(Some(result));
    }

    fn note(&mut self, result: Option<Result<(), MapError>>) {
        if let Some(Err(error)) = result {
            self.failures += 1;
            self.last_failure = Some(error.to_string());
            tracing::warn!(error = %error, "a map of the edge could not be written");
        }
    }
}

/// Removes what is not wanted, then adds what is missing; `applied` is what holds afterwards, also if a write failed.
fn sync_entries<T: Clone + PartialEq>(
    wanted: &[T],
    applied: &mut Vec<T>,
    mut write: impl FnMut(&T, bool) -> Result<(), MapError>,
) -> Result<(), MapError> {
    if *applied == wanted {
        return Ok(());
    }
    for entry in applied.clone().iter().filter(|entry| !wanted.contains(entry)) {
        write(entry, false)?;
        applied.retain(|other| other != entry);
    }
    for entry in wanted {
        if !applied.contains(entry) {
            write(entry, true)?;
            applied.push(entry.clone());
        }
    }
    // In the order of the wish, so that the next look is one comparison.
    *applied = wanted.to_vec();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(rung: u32, expiry_ns: u64) -> Verdict {
        Verdict { expiry_ns, decision: 1, rung, spare: 0, packets: gateway_common::Ceiling::UNLIMITED }
    }

    fn source(n: u8) -> Source {
        Source::new([192, 0, 2, n].into(), 64)
    }

    #[test]
    fn the_plan_leads_from_applied_to_desired_and_then_is_empty() {
        let desired = HashMap::from([
            (source(1), verdict(rung::GATED, 10)),
            (source(2), verdict(rung::DROPPED, 20)),
            (source(3), verdict(rung::DEGRADED, 30)),
            (source(5), verdict(rung::GATED, 50)),
        ]);
        let mut applied = HashMap::from([
            (source(2), verdict(rung::GATED, 20)),
            (source(3), verdict(rung::GATED, 30)),
            (source(4), verdict(rung::GATED, 40)),
            (source(5), verdict(rung::GATED, 50)),
        ]);
        let operations = plan(&desired, &applied);
        assert_eq!(operations.len(), 4, "{operations:?}");
        assert!(operations[..2].iter().all(|operation| matches!(operation, Operation::Remove(_))));
        for operation in operations {
            match operation {
                Operation::Put(source, verdict) => applied.insert(source, verdict),
                Operation::Remove(source) => applied.remove(&source),
            };
        }
        assert_eq!(plan(&desired, &applied), []);
        assert!(!applied.contains_key(&source(3)), "degraded is not the kernel's business");
    }

    #[test]
    fn a_list_is_synced_and_a_failed_write_is_tried_again() {
        let mut applied = vec![1, 2, 3];
        let mut written = Vec::new();
        let failing = |entry: &i32, _| if *entry == 5 { Err(MapError::ElementNotFound) } else { Ok(()) };
        assert!(sync_entries(&[4, 2, 5], &mut applied, failing).is_err());
        assert_eq!(applied, [2, 4]);
        let mut write = |entry: &i32, add| {
            written.push((*entry, add));
            Ok(())
        };
        sync_entries(&[4, 2, 5], &mut applied, &mut write).unwrap();
        sync_entries(&[4, 2, 5], &mut applied, &mut write).unwrap();
        assert_eq!((applied, written), (vec![4, 2, 5], vec![(5, true)]));
    }

    #[test]
    fn what_expired_is_forgotten_by_the_workers_too() {
        let standings = Arc::new(Standings::new(1).0);
        let wanted = Wanted {
            settings: Settings { mode: gateway_common::map::RunMode::Enforce as u32, ..Settings::OFF },
            v6_prefix: 64,
            ports: vec![],
            never_drop: vec![],
            deny: vec![],
            roll: Arc::default(),
        };
        let mut writer = Writer::new(standings.clone(), wanted.clone());
        writer.want(wanted);
        writer.decide(source(1), Some(verdict(rung::DEGRADED, 100)));
        assert_eq!(standings.of([192, 0, 2, 1].into(), 50), crate::edge::Standing::Degraded);
        assert_eq!(standings.of([192, 0, 2, 1].into(), 100), crate::edge::Standing::Clear);
        writer.sweep(100);
        assert!(writer.desired().is_empty());
    }
}
