//! The kernel side seen from user space. The rest of the gateway knows four things of this room: `Policy` (what the
//! configuration wants), `Edge` (the control plane's handle), `Reporter` (a worker's way to tell what it saw) and
//! `Standings` (what a worker asks before it serves). It must not know plugins, routes or HTTP.

mod control;
mod policy;
mod report;
mod userspace;

pub use control::{Edge, Metric};
pub use gateway_common::Reason;
pub use policy::{Ceilings, LadderPolicy, Mode, Policy, Rate};
pub use report::{Cause, Identity, Offence, OffenceKind, Reporter};
pub use userspace::{Admission, Standing, Standings};
