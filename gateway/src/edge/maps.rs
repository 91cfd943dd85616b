//! The kernel's maps by their types. It carries single operations out and must not decide which; only `reconcile` calls
//! what writes.

use std::net::Ipv6Addr;

use aya::{
    Ebpf, Pod,
    maps::{Array, HashMap, LpmTrie, Map, MapData, MapError, PerCpuArray, RingBuf, lpm_trie::Key},
};
use gateway_common::{
    Address, Source,
    map::{
        Allowance, Counter, Cut, Flow, LISTENERS_WORDS, PULSE_HEARTBEAT, PULSE_KILL, PULSE_PRESSURE, Payer, Settings,
        Standing, Verdict, Verified, listener_bit, name,
    },
    packet::{TCP, UDP},
};
use ipnet::IpNet;

use super::userspace::prefix_bits;

/// What maps hold that an earlier process wrote.
pub(super) struct Held {
    pub settings: Settings,
    pub ports: Vec<u16>,
    pub never_drop: Vec<IpNet>,
    pub deny: Vec<IpNet>,
    pub verdicts: Vec<(Source, Verdict)>,
    pub cuts: Vec<(Flow, Cut)>,
    pub raised: Vec<(Source, Standing)>,
    /// Accounts of consumers, up to the last that was ever opened.
    pub allowances: Vec<Allowance>,
}

/// `gateway_common::map::Pressure`, read as words: its first is `until_ns`.
type PressureWords = [u64; size_of::<gateway_common::map::Pressure>() / 8];
const _: () = assert!(std::mem::offset_of!(gateway_common::map::Pressure, until_ns) == 0);

/// `gateway_common::map::Sent`, read as words: bytes, packets.
type SentWords = [u64; size_of::<gateway_common::map::Sent>() / 8];
const _: () = assert!(std::mem::offset_of!(gateway_common::map::Sent, packets) == 8);

/// `gateway_common::map::Spent`, read as words: bytes, packets, TAT, bytes and packets above the ceiling.
type SpentWords = [u64; size_of::<gateway_common::map::Spent>() / 8];
const _: () = assert!(std::mem::offset_of!(gateway_common::map::Spent, above_bytes) == 24);

/// What was sent to a source.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct SentTo {
    pub bytes: u64,
    pub packets: u64,
}

/// One of the two lists of prefixes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum List {
    NeverDrop,
    Deny,
}

pub(super) struct Maps {
    settings: Array<MapData, Settings>,
    pulse: Array<MapData, u64>,
    listeners: Array<MapData, u64>,
    never_drop: LpmTrie<MapData, [u8; 16], u32>,
    deny: LpmTrie<MapData, [u8; 16], u32>,
    verdicts: HashMap<MapData, Source, Verdict>,
    flows: HashMap<MapData, Flow, Cut>,
    standings: HashMap<MapData, Source, Standing>,
    verified: HashMap<MapData, Source, Verified>,
    pressure: Array<MapData, PressureWords>,
    egress: HashMap<MapData, Source, SentWords>,
    payers: HashMap<MapData, Flow, Payer>,
    allowances: Array<MapData, Allowance>,
    spent: Array<MapData, SpentWords>,
    counters: PerCpuArray<MapData, Counter>,
}

impl Maps {
    /// Takes the maps out of a loaded object.
    pub fn take(ebpf: &mut Ebpf) -> Result<(Self, RingBuf<MapData>), MapError> {
        let mut take = |name: &str| {
            ebpf.take_map(name).ok_or_else(|| MapError::InvalidName { name: format!("{name} is not in the object") })
        };
        let maps = Self {
            settings: array(take(name::SETTINGS)?)?,
            pulse: array(take(name::PULSE)?)?,
            listeners: array(take(name::LISTENERS)?)?,
            never_drop: LpmTrie::try_from(take(name::NEVER_DROP)?)?,
            deny: LpmTrie::try_from(take(name::DENY)?)?,
            verdicts: HashMap::try_from(take(name::VERDICTS)?)?,
            flows: HashMap::try_from(take(name::FLOWS)?)?,
            standings: HashMap::try_from(take(name::STANDINGS)?)?,
            verified: HashMap::try_from(take(name::VERIFIED)?)?,
            pressure: array(take(name::PRESSURE)?)?,
            egress: HashMap::try_from(take(name::EGRESS)?)?,
            payers: HashMap::try_from(take(name::PAYERS)?)?,
            allowances: array(take(name::ALLOWANCES)?)?,
            spent: array(take(name::SPENT)?)?,
            counters: PerCpuArray::try_from(take(name::COUNTERS)?)?,
        };
        Ok((maps, RingBuf::try_from(take(name::EVENTS)?)?))
    }

    pub fn put_settings(&mut self, settings: Settings) -> Result<(), MapError> {
        self.settings.set(0, settings, 0)
    }

    pub fn beat(&mut self, now_ns: u64) -> Result<(), MapError> {
        self.pulse.set(PULSE_HEARTBEAT, now_ns, 0)
    }

    pub fn kill(&mut self, on: bool) -> Result<(), MapError> {
        self.pulse.set(PULSE_KILL, u64::from(on), 0)
    }

    /// Whether the kill switch is on: another program may have written it.
    pub fn is_killed(&self) -> Result<bool, MapError> {
        Ok(self.pulse.get(&PULSE_KILL, 0)? != 0)
    }

    /// Protects a TCP and UDP port, or leaves it alone again.
    pub fn protect(&mut self, port: u16, protect: bool) -> Result<(), MapError> {
        for protocol in [TCP, UDP] {
            let (index, bit) = listener_bit(protocol, port);
            let word = self.listeners.get(&index, 0)?;
            self.listeners.set(index, if protect { word | bit } else { word & !bit }, 0)?;
        }
        Ok(())
    }

    pub fn enlist(&mut self, list: List, net: &IpNet) -> Result<(), MapError> {
        self.list(list).insert(&key(net), 1, 0)
    }

    pub fn strike_off(&mut self, list: List, net: &IpNet) -> Result<(), MapError> {
        present(self.list(list).remove(&key(net)))
    }

    pub fn put_verdict(&mut self, source: Source, verdict: Verdict) -> Result<(), MapError> {
        self.verdicts.insert(source, verdict, 0)
    }

    pub fn remove_verdict(&mut self, source: Source) -> Result<(), MapError> {
        present(self.verdicts.remove(&source))
    }

    pub fn cut(&mut self, flow: Flow, cut: Cut) -> Result<(), MapError> {
        self.flows.insert(flow, cut, 0)
    }

    pub fn mend(&mut self, flow: Flow) -> Result<(), MapError> {
        present(self.flows.remove(&flow))
    }

    pub fn raise(&mut self, source: Source, standing: Standing) -> Result<(), MapError> {
        self.standings.insert(source, standing, 0)
    }

    pub fn lower(&mut self, source: Source) -> Result<(), MapError> {
        present(self.standings.remove(&source))
    }

    /// Only where no program of the kernel writes this map.
    pub fn verify(&mut self, source: Source, at_ns: u64) -> Result<(), MapError> {
        self.verified.insert(source, Verified { at_ns }, 0)
    }

    /// When the source completed its latest handshake, if it is remembered.
    pub fn verified_at_ns(&self, source: Source) -> Option<u64> {
        self.verified.get(&source, 0).ok().map(|verified| verified.at_ns)
    }

    /// What was sent to the source, if it is counted.
    pub fn sent_to(&self, source: Source) -> Option<SentTo> {
        self.egress.get(&source, 0).ok().map(|[bytes, packets, _]| SentTo { bytes, packets })
    }

    /// What was sent, by source.
    pub fn sent(&self) -> impl Iterator<Item = (Source, SentTo)> {
        self.egress.iter().flatten().map(|(source, [bytes, packets, _])| (source, SentTo { bytes, packets }))
    }

    /// Accounts of consumers that there may be.
    pub fn accounts(&self) -> u32 {
        self.allowances.len().min(self.spent.len())
    }

    /// Opens, changes or closes a consumer's account.
    pub fn put_allowance(&mut self, account: u32, allowance: Allowance) -> Result<(), MapError> {
        self.allowances.set(account, allowance, 0)
    }

    /// Clears what is on an account, for another consumer.
    pub fn clear(&mut self, account: u32) -> Result<(), MapError> {
        self.spent.set(account, SpentWords::default(), 0)
    }

    /// Puts a connection on an account.
    pub fn put_payer(&mut self, flow: Flow, payer: Payer) -> Result<(), MapError> {
        self.payers.insert(flow, payer, 0)
    }

    /// What was sent to a consumer by its account, and what was above the ceiling.
    pub fn spent(&self, account: u32) -> Option<(SentTo, SentTo)> {
        let [bytes, packets, _, above_bytes, above_packets] = self.spent.get(&account, 0).ok()?;
        Some((SentTo { bytes, packets }, SentTo { bytes: above_bytes, packets: above_packets }))
    }

    /// Until when the program holds the gate closed.
    pub fn pressure_until_ns(&self) -> Result<u64, MapError> {
        Ok(self.pressure.get(&0, 0)?[0])
    }

    /// Until when user space holds it closed.
    pub fn press(&mut self, until_ns: u64) -> Result<(), MapError> {
        self.pulse.set(PULSE_PRESSURE, until_ns, 0)
    }

    /// Each counter, summed over the CPUs.
    pub fn counters(&self) -> Vec<Counter> {
        let sum = |cpus: aya::maps::PerCpuValues<Counter>| {
            cpus.iter().fold(Counter::default(), |sum, cpu| Counter {
                packets: sum.packets + cpu.packets,
                bytes: sum.bytes + cpu.bytes,
            })
        };
        self.counters.iter().map(|cpus| cpus.map(sum).unwrap_or_default()).collect()
    }

    /// Everything that user space wrote.
    pub fn held(&self) -> Result<Held, MapError> {
        Ok(Held {
            settings: self.settings.get(&0, 0)?,
            ports: self.ports()?,
            never_drop: self.never_drop.keys().map(|key| key.map(|key| net(&key))).collect::<Result<_, _>>()?,
            deny: self.deny.keys().map(|key| key.map(|key| net(&key))).collect::<Result<_, _>>()?,
            verdicts: self.verdicts()?,
            cuts: self.cuts()?,
            raised: self.raised()?,
            allowances: self.allowances()?,
        })
    }

    pub fn verdicts(&self) -> Result<Vec<(Source, Verdict)>, MapError> {
        self.verdicts.iter().collect()
    }

    pub fn cuts(&self) -> Result<Vec<(Flow, Cut)>, MapError> {
        self.flows.iter().collect()
    }

    pub fn raised(&self) -> Result<Vec<(Source, Standing)>, MapError> {
        self.standings.iter().collect()
    }

    fn allowances(&self) -> Result<Vec<Allowance>, MapError> {
        // Accounts are opened one after another; an epoch of zero was never opened.
        let was_opened =
            |allowance: &Result<Allowance, MapError>| allowance.as_ref().map_or(true, |allowance| allowance.epoch != 0);
        self.allowances.iter().take_while(was_opened).collect()
    }

    /// Both protocols of a port are protected together.
    fn ports(&self) -> Result<Vec<u16>, MapError> {
        let mut ports = Vec::new();
        for index in 0..LISTENERS_WORDS / 2 {
            let word = self.listeners.get(&index, 0)?;
            ports.extend((0..64).filter(|bit| word >> bit & 1 != 0).map(|bit| (index * 64 + bit) as u16));
        }
        Ok(ports)
    }

    fn list(&mut self, list: List) -> &mut LpmTrie<MapData, [u8; 16], u32> {
        match list {
            List::NeverDrop => &mut self.never_drop,
            List::Deny => &mut self.deny,
        }
    }
}

fn array<V: Pod>(map: Map) -> Result<Array<MapData, V>, MapError> {
    Array::try_from(map)
}

fn key(net: &IpNet) -> Key<[u8; 16]> {
    Key::new(u32::from(prefix_bits(net)), Address::from(net.network()).octets())
}

/// The other way.
fn net(key: &Key<[u8; 16]>) -> IpNet {
    let (octets, bits) = (key.data(), key.prefix_len());
    let v6 = Ipv6Addr::from(octets);
    match v6.to_ipv4_mapped().filter(|_| bits >= 96) {
        Some(v4) => IpNet::new(v4.into(), (bits - 96) as u8),
        None => IpNet::new(v6.into(), bits as u8),
    }
    .unwrap_or_else(|_too_long| IpNet::from(std::net::IpAddr::from(v6)))
}

/// Removing what is not there is no failure.
fn present(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_reads_back_as_it_was_written() {
        for text in ["10.0.0.0/8", "192.0.2.7/32", "0.0.0.0/0", "2001:db8::/32", "::/0", "fe80::1/128"] {
            let prefix: IpNet = text.parse().unwrap();
            assert_eq!(net(&key(&prefix)), prefix);
        }
    }
}
