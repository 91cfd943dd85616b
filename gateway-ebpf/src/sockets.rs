//! Who completed a handshake, as the host's TCP says: the one evidence that a source's address is its own. It must not
//! change a socket.

use aya_ebpf::{
    bindings::{BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, bpf_sock_ops},
    programs::SockOpsContext,
};
use gateway_common::{
    Address,
    clock::Clock as _,
    map::{HAS_GATE, Verified},
    packet::TCP,
};

use crate::tables::{KernelClock, SETTINGS, VERIFIED, is_protected};

const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;

/// Remembers the peer of a connection that one of the gateway's listeners has just accepted.
#[inline(always)]
pub fn note(ctx: &SockOpsContext) {
    if ctx.op() != BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB || !is_protected(TCP, ctx.local_port() as u16) {
        return;
    }
    let Some(settings) = SETTINGS.get(0).filter(|settings| settings.lists & HAS_GATE != 0) else { return };
    let Some(address) = peer(ctx.ops, ctx.family()) else { return };
    let at_ns = KernelClock.now_ns();
    let _ = VERIFIED.insert(address.source(settings.v6_mask), Verified { at_ns }, 0);
}

#[inline(always)]
fn peer(ops: *mut bpf_sock_ops, family: u32) -> Option<Address> {
    // Word by word and volatile: the kernel allows this context to be read in words only.
    // SAFETY: the context is the one that the kernel gave to this run; both fields are its own.
    let (ip4, ip6) = unsafe { (&raw const (*ops).remote_ip4, (&raw const (*ops).remote_ip6).cast::<u32>()) };
    match family {
        // SAFETY: as above.
        AF_INET => Some(Address::v4(unsafe { ip4.read_volatile() }.to_ne_bytes())),
        AF_INET6 => {
            // SAFETY: as above; the field has four words.
            let words = unsafe {
                [
                    ip6.read_volatile(),
                    ip6.add(1).read_volatile(),
                    ip6.add(2).read_volatile(),
                    ip6.add(3).read_volatile(),
                ]
            };
            Some(Address::v6(half(words[0], words[1]), half(words[2], words[3])))
        }
        _ => None,
    }
}

#[inline(always)]
fn half(first: u32, second: u32) -> [u8; 8] {
    let (a, b) = (first.to_ne_bytes(), second.to_ne_bytes());
    [a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3]]
}
