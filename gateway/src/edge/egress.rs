//! The program that enters what is sent, on the way out of every guarded interface. Without it nothing is counted and
//! everything is sent. It must not know what is done with the book.

use aya::programs::{
    LinkOrder, ProgramError, SchedClassifier, TcAttachType,
    links::FdLink,
    tc::{SchedClassifierLink, TcAttachOptions},
};
use gateway_common::map::name;

use super::attach::{Kernel, Trouble};

/// Attachments; they go when this is dropped, or when the process ends.
#[derive(Default)]
pub(super) struct Egress {
    links: Vec<(String, u32, FdLink)>,
    is_loaded: bool,
    pub troubles: Vec<Trouble>,
}

impl Egress {
    /// Attaches wherever the kernel's side guards the way in, or nowhere.
    pub fn attach(&mut self, kernel: &mut Kernel, wanted: bool) {
        self.troubles.clear();
        let guarded: Vec<(String, u32)> = match wanted {
            true => kernel.attached.iter().map(|one| (one.interface.clone(), one.index)).collect(),
            false => Vec::new(),
        };
        self.links.retain(|(interface, index, _)| guarded.iter().any(|one| one.0 == *interface && one.1 == *index));
        for (interface, index) in guarded {
            if self.links.iter().any(|(_, held, _)| *held == index) {
                continue;
            }
            match self.link(kernel, &interface) {
                Ok(link) => self.links.push((interface, index, link)),
                Err(error) => self.troubles.push(Trouble {
                    interface: Some(interface),
                    problem: "no_egress",
                    detail: error.to_string(),
                    remedy: "needs Linux 6.6 (tcx): without it nothing that is sent is counted or held to a ceiling",
                }),
            }
        }
    }

    /// Whether anything that is sent is entered.
    pub fn is_attached(&self) -> bool {
        !self.links.is_empty()
    }

    fn link(&mut self, kernel: &mut Kernel, interface: &str) -> Result<FdLink, Box<dyn std::error::Error>> {
        let program = kernel.object().program_mut(name::EGRESS_PROGRAM).ok_or(ProgramError::NotLoaded)?;
        let program: &mut SchedClassifier = program.try_into()?;
        if !self.is_loaded {
            program.load()?;
            self.is_loaded = true;
        }
        // Only as a link: a filter of the older sort would outlive a crash and drop on.
        let options = TcAttachOptions::TcxOrder(LinkOrder::default());
        let id = program.attach_with_options(interface, TcAttachType::Egress, options)?;
        let link: SchedClassifierLink = program.take_link(id)?;
        Ok(FdLink::try_from(link)?)
    }
}
