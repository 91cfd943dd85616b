//! The two places where the program can stand on an interface: XDP, and TC ingress where XDP cannot be had. What fails is
//! named, with its remedy. It must not choose between them.

use aya::{
    Ebpf,
    programs::{
        LinkOrder, ProgramError, SchedClassifier, TcAttachType, Xdp, XdpError, XdpMode,
        links::FdLink,
        tc::{SchedClassifierLink, TcAttachOptions},
        xdp::XdpLink,
    },
};
use gateway_common::map::name;

use super::{attach::chain, link};

/// How an interface is guarded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Guard {
    Native,
    Generic,
    /// TC ingress.
    Tc,
}

impl Guard {
    pub fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
            Self::Tc => "tc",
        }
    }
}

/// Why a program does not stand there.
pub(super) struct Failure {
    pub problem: &'static str,
    pub detail: String,
    pub remedy: &'static str,
    /// Whether another hook may do.
    pub may_be_other: bool,
}

pub(super) fn load_xdp(ebpf: &mut Ebpf) -> Result<(), ProgramError> {
    xdp_program(ebpf)?.load()
}

fn xdp_program(ebpf: &mut Ebpf) -> Result<&mut Xdp, ProgramError> {
    ebpf.program_mut(name::PROGRAM).ok_or(ProgramError::NotLoaded)?.try_into()
}

/// The id of the loaded XDP program.
pub(super) fn xdp_id(ebpf: &Ebpf) -> Option<u32> {
    let program: &Xdp = ebpf.program(name::PROGRAM)?.try_into().ok()?;
    program.info().ok().map(|info| info.id())
}

/// The classifier, loaded when it is first needed.
fn tc_program(ebpf: &mut Ebpf) -> Result<&mut SchedClassifier, ProgramError> {
    let program: &mut SchedClassifier =
        ebpf.program_mut(name::CLASSIFIER).ok_or(ProgramError::NotLoaded)?.try_into()?;
    if program.fd().is_err() {
        program.load()?;
    }
    Ok(program)
}

pub(super) fn attach_xdp(ebpf: &mut Ebpf, index: u32, mode: XdpMode) -> Result<FdLink, Failure> {
    let program = xdp_program(ebpf).map_err(failure)?;
    let id = program.attach_to_if_index(index, mode).map_err(failure)?;
    let link = program.take_link(id).map_err(failure)?;
    // An attachment by netlink would outlive a crash and drop on; dropping it here takes it off again.
    FdLink::try_from(link).map_err(|_netlink| Failure {
        problem: "no_link",
        detail: "the kernel or the driver refused a BPF link and left only netlink".to_owned(),
        remedy: "needs Linux 5.9; lower the MTU or turn LRO off if the driver refuses XDP",
        may_be_other: mode == XdpMode::Driver,
    })
}

/// Before whatever other classifiers there are; by a link, so that nothing outlives a crash (Linux 6.6).
pub(super) fn attach_tc(ebpf: &mut Ebpf, interface: &str) -> Result<FdLink, Failure> {
    let program = tc_program(ebpf).map_err(tc_failure)?;
    let options = TcAttachOptions::TcxOrder(LinkOrder::first());
    let id = program.attach_with_options(interface, TcAttachType::Ingress, options).map_err(tc_failure)?;
    let link = program.take_link(id).map_err(tc_failure)?;
    FdLink::try_from(link).map_err(|_netlink| Failure {
        problem: "no_tcx",
        detail: "the kernel gave no link for the classifier".to_owned(),
        remedy: "TC ingress needs Linux 6.6",
        may_be_other: false,
    })
}

/// Puts this program in the place of the one that an earlier process left on the interface, in one step. None if the
/// link is not on this interface any more.
pub(super) fn replace_xdp(ebpf: &mut Ebpf, index: u32, link: FdLink) -> Option<(FdLink, Guard)> {
    let on = link::xdp_program(index).ok()??;
    if link.info().ok()?.program_id() != on.program {
        return None;
    }
    let program = xdp_program(ebpf).ok()?;
    let id = program.attach_to_link(XdpLink::try_from(link).ok()?).ok()?;
    let link = FdLink::try_from(program.take_link(id).ok()?).ok()?;
    Some((link, if on.is_generic { Guard::Generic } else { Guard::Native }))
}

/// The same for TC ingress.
pub(super) fn replace_tc(ebpf: &mut Ebpf, interface: &str, link: FdLink) -> Option<FdLink> {
    let (_, programs) = SchedClassifier::query_tcx(interface, TcAttachType::Ingress).ok()?;
    let id = link.info().ok()?.program_id();
    if !programs.iter().any(|program| program.id() == id) {
        return None;
    }
    let program = tc_program(ebpf).ok()?;
    let id = program.attach_to_link(SchedClassifierLink::try_from(link).ok()?).ok()?;
    FdLink::try_from(program.take_link(id).ok()?).ok()
}

fn failure(error: ProgramError) -> Failure {
    let errno = match &error {
        ProgramError::SyscallError(syscall) => syscall.io_error.raw_os_error(),
        _ => None,
    };
    let (problem, remedy, may_be_other) = match errno {
        Some(libc::EOPNOTSUPP) => (
            "no_native_xdp",
            "the driver has no native XDP: TC ingress judges instead, or allow generic mode (both cost more)",
            true,
        ),
        Some(libc::EPERM | libc::EACCES) => ("not_permitted", "needs CAP_NET_ADMIN and CAP_BPF", false),
        Some(libc::EBUSY | libc::EEXIST) => {
            ("foreign_program", "it is never replaced; detach it, or name another interface", true)
        }
        Some(libc::ERANGE | libc::EINVAL) => {
            ("refused_by_driver", "lower the MTU, turn LRO off, or use half of the queues (`ethtool -L`)", true)
        }
        _ if matches!(error, ProgramError::XdpError(XdpError::NetlinkError(_))) => {
            ("refused_by_driver", "lower the MTU, turn LRO off, or use half of the queues (`ethtool -L`)", true)
        }
        _ => ("not_attached", "see the kernel's log", false),
    };
    Failure { problem, detail: chain(&error), remedy, may_be_other }
}

fn tc_failure(error: ProgramError) -> Failure {
    let remedy = "TC ingress needs Linux 6.6, CAP_NET_ADMIN and CAP_BPF";
    Failure { problem: "no_tcx", detail: chain(&error), remedy, may_be_other: false }
}
