//! The kernel side seen from user space. The rest of the gateway knows four things of this room: `Policy` (what the
//! configuration wants), `Edge` (the control plane's handle), `Reporter` (a worker's way to tell what it saw) and
//! `Standings` (what a worker asks before it serves). It must not know plugins, routes or HTTP.

mod accounts;
mod attach;
mod control;
pub mod doctor;
mod egress;
mod events;
mod handle;
mod hook;
mod host;
mod ladder;
mod link;
mod maps;
mod metrics;
mod neighbours;
mod netlink;
mod notice;
mod pcap;
mod pins;
mod plans;
mod policy;
mod pressure;
mod reconcile;
mod report;
mod sockets;
mod status;
mod tables;
mod userspace;
mod watch;

pub use accounts::{Member, Roll};
pub use gateway_common::{Reason, map::LIST_ENTRIES_MAX};
pub use handle::Edge;
pub use metrics::Metric;
pub use notice::Notice;
pub use policy::{
    Ceilings, ConsumersPolicy, EgressPolicy, Fallback, FleetPolicy, GatePolicy, LadderPolicy, Mode, Policy, Rate,
};
pub use report::{Cause, Good, Identity, Offence, OffenceKind, Peer, Reporter};
pub use userspace::{Admission, Standing, Standings};
