//! The program in the kernel and on its interfaces: native XDP first, generic only if that was allowed, TC ingress where
//! XDP cannot be had, never in place of somebody else's program, and always by a link: it dies with this process unless
//! it is pinned. What fails is named, with its remedy.

use std::path::Path;

use aya::{
    Ebpf, EbpfError, EbpfLoader,
    maps::{MapData, RingBuf},
    programs::{
        XdpMode,
        links::{FdLink, PinnedLink},
        loaded_programs,
    },
};
use gateway_common::{Source, map::Verdict, map::name};

use super::{
    hook::{Failure, Guard, attach_tc, attach_xdp, load_xdp, replace_tc, replace_xdp, xdp_id},
    host::loads_without_barriers,
    link::xdp_program,
    maps::{Held, Maps},
    pins::{Found, Hook, Pins, Shape, remove},
    policy::{Fallback, Policy},
};

static OBJECT: &[u8] = aya::include_bytes_aligned!("gateway.bpf.o");

/// Entries of the tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Sizes {
    pub cells: u32,
    pub verdicts: u32,
    pub verified: u32,
    pub egress: u32,
    pub consumers: u32,
    pub payers: u32,
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
    /// Why it is not native XDP.
    pub instead: Option<Trouble>,
    pub index: u32,
    /// Detaches when it is dropped, or when the process ends however it ends; unless it is pinned.
    link: FdLink,
}

impl Attached {
    fn hook(&self) -> Hook {
        if self.guard == Guard::Tc { Hook::Tc } else { Hook::Xdp }
    }
}

pub(super) struct Kernel {
    ebpf: Ebpf,
    /// Of its tables, which cannot be resized.
    pub sizes: Sizes,
    pub attached: Vec<Attached>,
    pub troubles: Vec<Trouble>,
    /// What works, but could work better.
    pub advice: Option<Trouble>,
    pins: Option<Pins>,
    /// Why nothing is pinned although that was asked for.
    pub pin_trouble: Option<Trouble>,
}

/// A program that is not attached yet.
pub(super) struct Loaded {
    pub kernel: Kernel,
    pub maps: Maps,
    pub ring: RingBuf<MapData>,
    /// What is in the maps, if they are an earlier process's.
    pub held: Option<Held>,
    /// What can be read of an earlier process's maps that could not be taken over.
    pub verdicts: Vec<(Source, Verdict)>,
}

impl Kernel {
    /// Loads the program with tables of these sizes, or with those that an earlier process pinned.
    pub fn load(sizes: Sizes, pin: Option<&Path>) -> Result<Loaded, Trouble> {
        let shape = Shape::new(sizes);
        let claimed = pin.map(|folder| Pins::claim(folder, shape, rand::random())).transpose();
        let (mut pins, mut pin_trouble) = match claimed {
            Ok(pins) => (pins, None),
            Err(trouble) => (None, Some(trouble)),
        };
        let mut ebpf = match load_object(sizes, pins.as_ref()) {
            Err(_) if pins.as_ref().is_some_and(|pins| pins.found == Found::Same) => {
                pins.iter_mut().for_each(Pins::disown);
                load_object(sizes, None)
            }
            loaded => loaded,
        }
        .map_err(|error| not_loaded(&error))?;
        let verdicts = pins.as_ref().map(Pins::verdicts).unwrap_or_default();
        let is_taken_over = pins.as_ref().is_some_and(|pins| pins.found == Found::Same);
        say_what_was_found(pins.as_ref(), verdicts.len());
        if let Some(Err(trouble)) = pins.as_mut().map(|pins| pins.keep(&ebpf)) {
            (pins, pin_trouble) = (None, Some(trouble));
        }
        let (maps, ring) = Maps::take(&mut ebpf).map_err(|error| not_loaded(&error.into()))?;
        let held = is_taken_over.then(|| maps.held()).transpose().map_err(|error| not_loaded(&error.into()))?;
        let (attached, troubles) = (Vec::new(), Vec::new());
        let kernel = Self { ebpf, sizes, attached, troubles, advice: advice(), pins, pin_trouble };
        Ok(Loaded { kernel, maps, ring, held, verdicts })
    }

    /// The folder in which links and maps are pinned.
    pub fn pinned(&self) -> Option<&Path> {
        self.pins.as_ref().map(Pins::folder)
    }

    /// Whether another process has taken the pins over: then this one writes no more.
    pub fn is_superseded(&self) -> bool {
        self.pins.as_ref().is_some_and(|pins| !pins.is_ours())
    }

    /// Ends this process's part. What is pinned goes too, unless it is to stay.
    pub fn release(self, keep: bool) {
        if let Some(pins) = self.pins.filter(|_| !keep) {
            pins.remove();
        }
    }

    /// For the programs on other hooks.
    pub fn object(&mut self) -> &mut Ebpf {
        &mut self.ebpf
    }

    /// Lets go of interfaces that are gone, whose name belongs to another one now, or off which somebody took the program.
    pub fn let_go(&mut self) {
        let own = xdp_id(&self.ebpf);
        let is_there = |one: &Attached| {
            let same = nix::net::if_::if_nametoindex(one.interface.as_str()) == Ok(one.index);
            same && (one.guard == Guard::Tc || stands(one, own))
        };
        for gone in self.attached.extract_if(.., |one| !is_there(one)) {
            self.pins.iter().for_each(|pins| remove(&pins.link(gone.hook(), &gone.interface)));
        }
    }

    /// Attaches to what is wanted and not attached yet, and leaves what is no longer wanted.
    pub fn attach(&mut self, policy: &Policy) {
        self.attached.retain(|attached| policy.interfaces.contains(&attached.interface));
        self.pins.iter().for_each(|pins| pins.leave_all_but(&policy.interfaces));
        self.troubles.clear();
        for interface in &policy.interfaces {
            if let Some(at) = self.attached.iter().position(|attached| attached.interface == *interface) {
                self.improve(at);
                continue;
            }
            match self.guard(interface, policy) {
                Ok(attached) => self.attached.push(attached),
                Err(trouble) => self.troubles.push(trouble),
            }
        }
    }

    /// By the link that an earlier process pinned, or by a new one, which is pinned then.
    fn guard(&mut self, interface: &str, policy: &Policy) -> Result<Attached, Trouble> {
        let Ok(index) = nix::net::if_::if_nametoindex(interface) else {
            let detail = format!("there is no interface {interface}");
            return Err(trouble(interface, "no_interface", detail, "check its name: `ip link`"));
        };
        if let Some(attached) = self.take_over(interface, index, policy) {
            return Ok(attached);
        }
        let attached = attach_somewhere(&mut self.ebpf, interface, index, policy)?;
        match self.pin(attached) {
            Some(attached) => Ok(attached),
            // A link that could not be pinned is gone.
            None => attach_somewhere(&mut self.ebpf, interface, index, policy),
        }
    }

    fn pin(&mut self, attached: Attached) -> Option<Attached> {
        let Some(pins) = &self.pins else { return Some(attached) };
        let path = pins.link(attached.hook(), &attached.interface);
        remove(&path);
        match attached.link.pin(&path) {
            Ok(pinned) => Some(Attached { link: pinned.into(), ..attached }),
            Err(error) => {
                let remedy = "the folder must be writable by the gateway's user, and the user needs CAP_BPF";
                let detail = format!("{}: {}", path.display(), chain(&error));
                self.pin_trouble = Some(trouble(&attached.interface, "not_pinned", detail, remedy));
                self.pins = None;
                None
            }
        }
    }

    /// Moves to native XDP when the program that was in its way is gone.
    fn improve(&mut self, at: usize) {
        let one = &self.attached[at];
        let was_in_the_way = one.instead.as_ref().is_some_and(|trouble| trouble.problem == "foreign_program");
        if one.guard != Guard::Tc || !was_in_the_way || !matches!(xdp_program(one.index), Ok(None)) {
            return;
        }
        let (interface, index) = (one.interface.clone(), one.index);
        let Ok(link) = attach_xdp(&mut self.ebpf, index, XdpMode::Driver) else { return };
        let native = Attached { interface, guard: Guard::Native, instead: None, index, link };
        let Some(native) = self.pin(native) else { return };
        self.pins.iter().for_each(|pins| remove(&pins.link(Hook::Tc, &native.interface)));
        self.attached[at] = native;
    }

    /// Puts this program in the place of the pinned one: between the two no packet passes unjudged.
    fn take_over(&mut self, interface: &str, index: u32, policy: &Policy) -> Option<Attached> {
        let pins = self.pins.as_ref()?;
        let (at_xdp, at_tc) = (pins.link(Hook::Xdp, interface), pins.link(Hook::Tc, interface));
        let open = |path: &Path| PinnedLink::from_pin(path).ok().map(FdLink::from);
        let attached = |guard, link, instead| Attached { interface: interface.to_owned(), guard, instead, index, link };
        if let Some((link, guard)) = open(&at_xdp).and_then(|link| replace_xdp(&mut self.ebpf, index, link))
            && (guard == Guard::Native || policy.allow_generic)
        {
            remove(&at_tc);
            return Some(attached(guard, link, None));
        }
        // A link that is not on this interface any more, or not by a hook that is allowed now.
        remove(&at_xdp);
        if policy.fallback == Fallback::Tc
            && let Some(link) = open(&at_tc).and_then(|link| replace_tc(&mut self.ebpf, interface, link))
        {
            let (detail, remedy) = ("an earlier process fell back to TC ingress", "see `gateway edge doctor`");
            let why = trouble(interface, "foreign_program", detail.to_owned(), remedy);
            return Some(attached(Guard::Tc, link, Some(why)));
        }
        remove(&at_tc);
        None
    }
}

/// Whether the program still stands at the interface's XDP hook: root can force a link off (`bpftool link detach`), which then
/// guards nothing. What cannot be asked is taken as it was.
fn stands(one: &Attached, own: Option<u32>) -> bool {
    let stands = match xdp_program(one.index) {
        // Zero stands for several.
        Ok(Some(there)) => there.program == 0 || own.is_none_or(|own| own == there.program),
        Ok(None) => false,
        Err(_) => true,
    };
    if !stands {
        tracing::warn!(interface = one.interface, "the edge's program was taken off the interface by somebody else");
    }
    stands
}

/// The best hook that can be had.
fn attach_somewhere(ebpf: &mut Ebpf, interface: &str, index: u32, policy: &Policy) -> Result<Attached, Trouble> {
    let attached = |guard, link, instead| Ok(Attached { interface: interface.to_owned(), guard, instead, index, link });
    let (why, may_be_other) = match attach_native(ebpf, interface, index) {
        Ok(link) => return attached(Guard::Native, link, None),
        Err(why) => why,
    };
    if !may_be_other {
        return Err(why);
    }
    if policy.allow_generic
        && why.problem != "foreign_program"
        && let Ok(link) = attach_xdp(ebpf, index, XdpMode::Skb)
    {
        return attached(Guard::Generic, link, Some(why));
    }
    if policy.fallback == Fallback::None {
        return Err(why);
    }
    match attach_tc(ebpf, interface) {
        Ok(link) => attached(Guard::Tc, link, Some(why)),
        Err(failure) => {
            let detail = format!("{}; and at TC ingress ({}): {}", why.detail, failure.remedy, failure.detail);
            Err(Trouble { detail, ..why })
        }
    }
}

/// The link; or why there is none, and whether another hook may do.
fn attach_native(ebpf: &mut Ebpf, interface: &str, index: u32) -> Result<FdLink, (Trouble, bool)> {
    match xdp_program(index) {
        Ok(None) => {}
        Ok(Some(foreign)) => {
            let detail = format!("{} is attached to {interface}", describe(foreign.program));
            let remedy = "it is never replaced; detach it, or name another interface";
            return Err((trouble(interface, "foreign_program", detail, remedy), true));
        }
        Err(error) => {
            return Err((trouble(interface, "unknown_state", error.to_string(), "see the kernel's log"), false));
        }
    }
    attach_xdp(ebpf, index, XdpMode::Driver).map_err(|failure| {
        let Failure { problem, detail, remedy, may_be_other } = failure;
        (trouble(interface, problem, detail, remedy), may_be_other)
    })
}

fn trouble(interface: &str, problem: &'static str, detail: String, remedy: &'static str) -> Trouble {
    Trouble { interface: Some(interface.to_owned()), problem, detail, remedy }
}

fn load_object(sizes: Sizes, pins: Option<&Pins>) -> Result<Ebpf, EbpfError> {
    let maps = pins.map(Pins::maps).unwrap_or_default();
    let mut loader = EbpfLoader::new();
    loader
        .map_max_entries(name::CELLS, sizes.cells)
        .map_max_entries(name::VERDICTS, sizes.verdicts)
        .map_max_entries(name::VERIFIED, sizes.verified)
        .map_max_entries(name::EGRESS, sizes.egress)
        .map_max_entries(name::PAYERS, sizes.payers)
        .map_max_entries(name::ALLOWANCES, sizes.consumers)
        .map_max_entries(name::SPENT, sizes.consumers);
    for (map, path) in &maps {
        loader.map_pin_path(map, path.as_path());
    }
    let mut ebpf = loader.load(OBJECT)?;
    load_xdp(&mut ebpf)?;
    Ok(ebpf)
}

fn say_what_was_found(pins: Option<&Pins>, verdicts: usize) {
    let Some(pins) = pins else { return };
    let folder = pins.folder().display();
    match pins.found {
        Found::Nothing => tracing::info!(%folder, "the edge is pinned"),
        Found::Same => tracing::info!(%folder, "took over what an earlier process pinned"),
        Found::Resized => {
            tracing::warn!(%folder, verdicts, "pinned maps have other sizes: the verdicts move, cells and counters begin anew");
        }
        Found::Other => {
            tracing::warn!(%folder, "pinned maps are of another version: the program is replaced in one step, its maps begin anew");
        }
    }
}

fn advice() -> Option<Trouble> {
    (!loads_without_barriers()).then(|| Trouble {
        interface: None,
        problem: "slow_program",
        detail: "loaded without CAP_PERFMON, so the kernel put barriers against speculation into the program".into(),
        remedy: "add CAP_PERFMON: the program costs a fifth then",
    })
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

pub(super) fn chain(error: &dyn std::error::Error) -> String {
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

pub(super) fn describe(program: u32) -> String {
    let info = loaded_programs().flatten().find(|info| info.id() == program);
    let name = info.as_ref().and_then(|info| info.name_as_str()).unwrap_or("without a name").to_owned();
    format!("the XDP program {name} (id {program})")
}
