//! The program in the kernel and on its interfaces: native first, generic only if that was allowed, never in place of
//! somebody else's program, and always by a link that dies with this process. What fails is named, with its remedy.

use aya::{
    Ebpf, EbpfError, EbpfLoader,
    maps::{MapData, RingBuf},
    programs::{ProgramError, Xdp, XdpError, XdpMode, links::FdLink, loaded_programs},
};
use gateway_common::map::name;

use super::{host::loads_without_barriers, link::xdp_program, maps::Maps};

static OBJECT: &[u8] = aya::include_bytes_aligned!("gateway.bpf.o");

/// How an interface is guarded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Guard {
    Native,
    Generic,
}

impl Guard {
    pub fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
        }
    }
}

/// Entries of the tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Sizes {
    pub cells: u32,
    pub verdicts: u32,
    pub verified: u32,
    pub egress: u32,
}

/// What kept the edge from being what was asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Trouble {
    pub interface: Option<String>,
    /// One word.
    pub problem: &'static str,
    pub detail: String,
    pub remedy: &'static str,
}

pub(super) struct Attached {
    pub interface: String,
    pub guard: Guard,
    pub index: u32,
    /// Detaches when it is dropped, or when the process ends however it ends.
    _link: FdLink,
}

pub(super) struct Kernel {
    ebpf: Ebpf,
    pub attached: Vec<Attached>,
    pub troubles: Vec<Trouble>,
    /// What works, but could work better.
    pub advice: Option<Trouble>,
}

impl Kernel {
    /// Loads the program with tables of these sizes; it is not attached yet.
    pub fn load(sizes: Sizes) -> Result<(Self, Maps, RingBuf<MapData>), Trouble> {
        let mut ebpf = EbpfLoader::new()
            .map_max_entries(name::CELLS, sizes.cells)
            .map_max_entries(name::VERDICTS, sizes.verdicts.max(1))
            .map_max_entries(name::VERIFIED, sizes.verified.max(1))
            .map_max_entries(name::EGRESS, sizes.egress.max(1))
            .load(OBJECT)
            .map_err(|error| not_loaded(&error))?;
        xdp(&mut ebpf).and_then(Xdp::load).map_err(|error| not_loaded(&error.into()))?;
        let (maps, events) = Maps::take(&mut ebpf).map_err(|error| not_loaded(&error.into()))?;
        let advice = (!loads_without_barriers()).then(|| Trouble {
            interface: None,
            problem: "slow_program",
            detail: "loaded without CAP_PERFMON, so the kernel put barriers against speculation into the program"
                .into(),
            remedy: "add CAP_PERFMON: the program costs a fifth then",
        });
        Ok((Self { ebpf, attached: Vec::new(), troubles: Vec::new(), advice }, maps, events))
    }

    /// For the programs on other hooks.
    pub fn object(&mut self) -> &mut Ebpf {
        &mut self.ebpf
    }

    /// Lets go of interfaces that are gone, or whose name belongs to another one now.
    pub fn let_go(&mut self) {
        self.attached.retain(|one| nix::net::if_::if_nametoindex(one.interface.as_str()) == Ok(one.index));
    }

    /// Attaches to what is wanted and not attached yet, and leaves what is no longer wanted.
    pub fn attach(&mut self, interfaces: &[String], allow_generic: bool) {
        self.attached.retain(|attached| interfaces.contains(&attached.interface));
        self.troubles.clear();
        for interface in interfaces {
            if self.attached.iter().any(|attached| attached.interface == *interface) {
                continue;
            }
            match attach_one(&mut self.ebpf, interface, allow_generic) {
                Ok(attached) => self.attached.push(attached),
                Err(trouble) => self.troubles.push(trouble),
            }
        }
    }
}

fn xdp(ebpf: &mut Ebpf) -> Result<&mut Xdp, ProgramError> {
    ebpf.program_mut(name::PROGRAM).ok_or(ProgramError::NotLoaded)?.try_into()
}

fn attach_one(ebpf: &mut Ebpf, interface: &str, allow_generic: bool) -> Result<Attached, Trouble> {
    let trouble =
        |problem, detail: String, remedy| Trouble { interface: Some(interface.to_owned()), problem, detail, remedy };
    let Ok(index) = nix::net::if_::if_nametoindex(interface) else {
        return Err(trouble("no_interface", format!("there is no interface {interface}"), "check its name: `ip link`"));
    };
    match xdp_program(index) {
        Ok(None) => {}
        Ok(Some(foreign)) => {
            let detail = format!("{} is attached to {interface}", describe(foreign.program));
            return Err(trouble(
                "foreign_program",
                detail,
                "it is never replaced; detach it, or name another interface",
            ));
        }
        Err(error) => return Err(trouble("unknown_state", error.to_string(), "see the kernel's log")),
    }
    let native = match link(ebpf, index, XdpMode::Driver) {
        Ok(link) => return Ok(Attached { interface: interface.to_owned(), guard: Guard::Native, index, _link: link }),
        Err(failure) => failure,
    };
    if !allow_generic || !native.may_be_generic {
        return Err(trouble(native.problem, native.detail, native.remedy));
    }
    match link(ebpf, index, XdpMode::Skb) {
        Ok(link) => Ok(Attached { interface: interface.to_owned(), guard: Guard::Generic, index, _link: link }),
        Err(failure) => Err(trouble(failure.problem, failure.detail, failure.remedy)),
    }
}

struct Failure {
    problem: &'static str,
    detail: String,
    remedy: &'static str,
    may_be_generic: bool,
}

fn link(ebpf: &mut Ebpf, index: u32, mode: XdpMode) -> Result<FdLink, Failure> {
    let program = xdp(ebpf).map_err(failure)?;
    let id = program.attach_to_if_index(index, mode).map_err(failure)?;
    let link = program.take_link(id).map_err(failure)?;
    // An attachment by netlink would outlive a crash and drop on; dropping it here takes it off again.
    FdLink::try_from(link).map_err(|_netlink| Failure {
        problem: "no_link",
        detail: "the kernel or the driver refused a BPF link and left only netlink".to_owned(),
        remedy: "needs Linux 5.9; lower the MTU or turn LRO off if the driver refuses XDP",
        may_be_generic: mode == XdpMode::Driver,
    })
}

fn failure(error: ProgramError) -> Failure {
    let errno = match &error {
        ProgramError::SyscallError(syscall) => syscall.io_error.raw_os_error(),
        _ => None,
    };
    let (problem, remedy, may_be_generic) = match errno {
        Some(libc::EOPNOTSUPP) => {
            ("no_native_xdp", "the driver has no native XDP: allow generic mode (slow), or do without", true)
        }
        Some(libc::EPERM | libc::EACCES) => ("not_permitted", "needs CAP_NET_ADMIN and CAP_BPF", false),
        Some(libc::EBUSY | libc::EEXIST) => {
            ("foreign_program", "it is never replaced; detach it, or name another interface", false)
        }
        Some(libc::ERANGE | libc::EINVAL) => {
            ("refused_by_driver", "lower the MTU, turn LRO off, or use half of the queues (`ethtool -L`)", true)
        }
        _ if matches!(error, ProgramError::XdpError(XdpError::NetlinkError(_))) => {
            ("refused_by_driver", "lower the MTU, turn LRO off, or use half of the queues (`ethtool -L`)", true)
        }
        _ => ("not_attached", "see the kernel's log", false),
    };
    Failure { problem, detail: chain(&error), remedy, may_be_generic }
}

fn not_loaded(error: &EbpfError) -> Trouble {
    let detail = chain(error);
    let denied = detail.contains("os error 1)") || detail.contains("os error 13)");
    let (problem, remedy) = if denied {
        ("not_permitted", "needs CAP_BPF and CAP_NET_ADMIN (root has both)")
    } else {
        ("not_loaded", "needs Linux 5.18 or later, with BPF; the detail has the verifier's words")
    };
    Trouble { interface: None, problem, detail, remedy }
}

fn chain(error: &dyn std::error::Error) -> String {
    /// A verifier's log may be long; its end says what was wrong.
    const DETAIL_BYTES_MAX: usize = 2_000;
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text = format!("{text}: {inner}");
        source = inner.source();
    }
    let from = text.len().saturating_sub(DETAIL_BYTES_MAX);
    text.split_off(text.ceil_char_boundary(from))
}

fn describe(program: u32) -> String {
    let info = loaded_programs().flatten().find(|info| info.id() == program);
    let name = info.as_ref().and_then(|info| info.name_as_str()).unwrap_or("without a name").to_owned();
    format!("the XDP program {name} (id {program})")
}
