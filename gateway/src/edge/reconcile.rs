//! Desired minus applied is what is written: a pure plan, and the one writer of every map and of the workers' table.

use std::{collections::HashMap, sync::Arc};

use gateway_common::{
    Source,
    map::{HAS_DENY, HAS_NEVER_DROP, HAS_VERDICTS, LIST_ENTRIES_MAX, Settings, Verdict, rung},
};
use ipnet::IpNet;

use super::{
    maps::{List, Maps},
    userspace::{Prefix, Rules, Standings},
};

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
            failures: 0,
            last_failure: None,
        }
    }

    /// Takes another kernel's maps, or none; the new ones are empty.
    pub fn adopt(&mut self, kernel: Option<Maps>) {
        self.kernel = kernel;
        self.settings = None;
        self.applied.clear();
        (self.ports, self.never_drop, self.deny) = (Vec::new(), Vec::new(), Vec::new());
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
        settings.lists = self.lists() | HAS_VERDICTS;
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
        self.sync();
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
        let Some(kernel) = &mut self.kernel else { return };
        let mut failed = None;
        for net in applied.clone().iter().filter(|net| !wanted.contains(net)) {
            match kernel.strike_off(list, net) {
                Ok(()) => applied.retain(|other| other != net),
                Err(error) => failed = Some(error),
            }
        }
        for net in wanted.iter().take(LIST_ENTRIES_MAX as usize) {
            if applied.contains(net) {
                continue;
            }
            match kernel.enlist(list, net) {
                Ok(()) => applied.push(*net),
                Err(error) => failed = Some(error),
            }
        }
        self.note(failed.map(Err));
    }

    fn sync_ports(&mut self) {
        let Some(kernel) = &mut self.kernel else { return };
        let mut failed = None;
        for port in self.ports.clone().iter().filter(|port| !self.wanted.ports.contains(port)) {
            match kernel.protect(*port, false) {
                Ok(()) => self.ports.retain(|other| other != port),
                Err(error) => failed = Some(error),
            }
        }
        for port in &self.wanted.ports {
            if self.ports.contains(port) {
                continue;
            }
            match kernel.protect(*port, true) {
                Ok(()) => self.ports.push(*port),
                Err(error) => failed = Some(error),
            }
        }
        self.note(failed.map(Err));
    }

    fn sync_settings(&mut self) {
        let mut settings = self.wanted.settings;
        settings.lists = self.lists();
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

    fn note(&mut self, result: Option<Result<(), aya::maps::MapError>>) {
        if let Some(Err(error)) = result {
            self.failures += 1;
            self.last_failure = Some(error.to_string());
            tracing::warn!(error = %error, "a map of the edge could not be written");
        }
    }
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
    fn what_expired_is_forgotten_by_the_workers_too() {
        let standings = Arc::new(Standings::new(1));
        let wanted = Wanted {
            settings: Settings { mode: gateway_common::map::RunMode::Enforce as u32, ..Settings::OFF },
            v6_prefix: 64,
            ports: vec![],
            never_drop: vec![],
            deny: vec![],
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
