//! What a thread of the process may still do. Capabilities are a thread's own, and a new thread has those of the one that
//! starts it: each gives up what it does not need before it meets anything from outside. Nothing here raises one.

use caps::{CapSet, Capability, CapsHashSet};

/// Reading and writing files that are somebody else's: root has these, and its files may need them.
const FILES: &[Capability] = &[Capability::CAP_DAC_OVERRIDE, Capability::CAP_DAC_READ_SEARCH];
/// What the kernel side needs as long as interfaces come and go.
const EDGE: &[Capability] = &[Capability::CAP_BPF, Capability::CAP_PERFMON, Capability::CAP_NET_ADMIN];
/// What only the start needs: low ports, and a bpffs that is not mounted.
const START: &[Capability] = &[Capability::CAP_NET_BIND_SERVICE, Capability::CAP_SYS_ADMIN];

/// Before the first thread is started: whatever no part of the gateway ever needs goes, for good.
pub fn at_start() {
    if let Err(error) = nix::sys::prctl::set_no_new_privs() {
        tracing::warn!(%error, "cannot give up new privileges");
    }
    retain(&[FILES, EDGE, START].concat());
}

/// On the control plane's thread, when everything is bound and attached.
pub fn of_control(has_edge: bool) {
    retain(&if has_edge { [FILES, EDGE].concat() } else { FILES.to_vec() });
    let kept = caps::read(None, CapSet::Effective).unwrap_or_default();
    let mut kept: Vec<String> = kept.into_iter().map(|capability| capability.to_string()).collect();
    kept.sort_unstable();
    tracing::info!(?kept, "capabilities of the control plane; the workers have none");
}

/// On a thread that only writes or watches files.
pub fn of_files() {
    retain(FILES);
}

/// On a worker's thread: it meets the world and opens nothing.
pub fn of_worker() {
    retain(&[]);
}

fn retain(wanted: &[Capability]) {
    let reduce = || -> Result<(), caps::errors::CapsError> {
        let permitted = caps::read(None, CapSet::Permitted)?;
        let kept: CapsHashSet = wanted.iter().copied().filter(|capability| permitted.contains(capability)).collect();
        // The ambient set follows the inheritable one, which follows nothing: what is inherited is given up first.
        caps::clear(None, CapSet::Inheritable)?;
        caps::set(None, CapSet::Effective, &kept)?;
        caps::set(None, CapSet::Permitted, &kept)
    };
    if let Err(error) = reduce() {
        tracing::warn!(%error, "cannot give up capabilities");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_has_nothing_and_cannot_take_it_back() {
        std::thread::spawn(|| {
            of_worker();
            for set in [CapSet::Effective, CapSet::Permitted, CapSet::Inheritable, CapSet::Ambient] {
                assert_eq!(caps::read(None, set).unwrap(), CapsHashSet::new(), "{set:?}");
            }
            assert!(caps::raise(None, CapSet::Effective, Capability::CAP_NET_ADMIN).is_err());
        })
        .join()
        .unwrap();
    }

    #[test]
    fn nobody_gains_by_retaining() {
        std::thread::spawn(|| {
            of_files();
            let before = caps::read(None, CapSet::Permitted).unwrap();
            retain(&[EDGE, FILES].concat());
            assert_eq!(caps::read(None, CapSet::Permitted).unwrap(), before);
        })
        .join()
        .unwrap();
    }
}
