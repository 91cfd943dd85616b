//! Asks the readers of plugins and of the gateway's block what they would read. Must not know any of them.

use std::rc::Rc;
use std::sync::Arc;

use crate::config::settings::{self, Environment};
use crate::document::{Fields, Outline, Place, Report};
use crate::identity::Identities;
use crate::plugins::{Kind, Setup, Shared};
use crate::telemetry::writer::LogWriter;

/// The fields of a plugin's `config`.
pub fn plugin(kind: &Kind) -> Rc<Outline> {
    let outline = Rc::new(Outline::default());
    let Some(shared) = shared() else { return outline };
    let identities = Arc::new(Identities::default());
    // Once where nothing is given, once where everything fits: a reader may stop at either.
    for eager in [false, true] {
        let report = Report::new("", true);
        let setup = Setup {
            identities: &identities,
            shared: &shared,
            report: &report,
            place: Place::default(),
            id: "",
            route: "",
            service: "",
            group: "",
        };
        let fields = Fields::probe(Rc::clone(&outline), eager, "config", &report);
        let _ = (kind.compile)(&fields, &setup);
    }
    outline
}

/// The fields of `gateway:`.
pub fn gateway() -> Rc<Outline> {
    let outline = Rc::new(Outline::default());
    for eager in [false, true] {
        let report = Report::new("", true);
        let fields = Fields::probe(Rc::clone(&outline), eager, "`gateway`", &report);
        let _ = settings::read_fields(&fields, false, &Environment::default());
    }
    outline
}

/// Things to compile plugins with that never run.
fn shared() -> Option<Arc<Shared>> {
    let (writer, _) = LogWriter::start().ok()?;
    Some(Arc::new(Shared::new(writer)))
}
