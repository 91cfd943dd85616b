//! What the host's TCP knows of a packet, and a SYN answered in its place by a cookie that it will accept. The cookie is
//! the kernel's own, made for the listener that the SYN asks for: its acknowledgement makes the connection in the host,
//! and here nothing is kept. Headers with IP options or extensions are left alone. It must not judge.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::{__sk_buff, BPF_F_CURRENT_NETNS, BPF_TCP_LISTEN, bpf_sock, xdp_md},
    helpers::generated::{bpf_sk_release, bpf_skc_lookup_tcp, bpf_tcp_check_syncookie, bpf_tcp_gen_syncookie},
    programs::{TcContext, XdpContext},
};
use gateway_common::{
    judge::Proof,
    packet::{Cursor as _, Packet, TAGS_MAX, TCP},
};

use crate::{
    classify,
    frame::{self, Far, Words},
    tables::Evidence,
};

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;

/// Headers as 32-bit words in memory order: the compiler keeps words in registers, and bytes on the small stack.
type Ipv4 = [u32; 5];
type Ipv6 = [u32; 10];
type Tcp = [u32; 5];
/// With one option, the maximum segment size: a SYN as the kernel is asked about it, and the answer.
type Syn = [u32; 6];

/// RFC 9293 §3.1: the offset of the data in words, in the upper four bits; SYN and ACK.
const OFFSET: u8 = (size_of::<Syn>() as u8 / 4) << 4;
const SYN_ACK: u8 = 0x12;
/// The segment that fits an Ethernet frame.
const IPV4_SEGMENT_BYTES: u16 = 1_460;
const IPV6_SEGMENT_BYTES: u16 = 1_440;
/// What a peer that names no size may be sent (RFC 9293 §3.7.1).
const IPV4_SEGMENT_DEFAULT: u16 = 536;
const IPV6_SEGMENT_DEFAULT: u16 = 1_220;
/// Without window scaling, for which a cookie has no room.
const WINDOW: u16 = 64_240;
const HOPS: u8 = 64;

/// The host's sockets, asked about the frame in hand.
pub struct Host<'a>(pub &'a XdpContext);

impl Evidence for Host<'_> {
    #[inline(always)]
    fn proof(&self, _packet: &Packet) -> Proof {
        shown(prove_frame(self.0.ctx))
    }
}

/// The same at TC ingress.
pub struct HostBehind<'a>(pub &'a TcContext);

impl Evidence for HostBehind<'_> {
    #[inline(always)]
    fn proof(&self, _packet: &Packet) -> Proof {
        shown(prove_buffer(self.0.skb.skb))
    }
}

const CONNECTION: u32 = 1;
const COOKIE: u32 = 2;

#[inline(always)]
fn shown(proof: u32) -> Proof {
    match proof {
        CONNECTION => Proof::Connection,
        COOKIE => Proof::Cookie,
        _ => Proof::None,
    }
}

/// A function of its own, so that what it keeps on the stack is no burden to the path that never needs it. Its plain name
/// keeps the object independent of where it is built: a mangled one carries a hash of the package's folder.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn prove_frame(ctx: *mut xdp_md) -> u32 {
    prove(ctx.cast(), frame::start(ctx))
}

/// As with [`prove_frame`].
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn prove_buffer(skb: *mut __sk_buff) -> u32 {
    prove(skb.cast(), classify::start(skb))
}

#[inline(always)]
fn prove(ctx: *mut c_void, start: impl Words) -> u32 {
    let proof = match network(start) {
        Some((ETHERTYPE_IPV4, at)) => prove_ipv4(ctx, at),
        Some((_, at)) => prove_ipv6(ctx, at),
        None => None,
    };
    proof.unwrap_or(0)
}

#[inline(always)]
fn prove_ipv4(ctx: *mut c_void, at: impl Words) -> Option<u32> {
    let ip = ipv4(at)?;
    let tcp: Tcp = at.skip(size_of::<Ipv4>()).read()?;
    proof(look_up_ipv4(ctx, &ip, tcp[0]), &ip, &tcp)
}

#[inline(always)]
fn prove_ipv6(ctx: *mut c_void, at: impl Words) -> Option<u32> {
    let ip = ipv6(at)?;
    let tcp: Tcp = at.skip(size_of::<Ipv6>()).read()?;
    proof(look_up_ipv6(ctx, &ip, tcp[0]), &ip, &tcp)
}

/// Turns a SYN into the answer to it; false, and the frame unchanged, if the listener would give no cookie.
#[inline(always)]
pub fn challenge(ctx: &XdpContext, frame_bytes: u64) -> bool {
    answers(ctx.ctx, frame_bytes as u32) != 0
}

/// As with [`prove_frame`].
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn answers(ctx: *mut xdp_md, frame_bytes: u32) -> u32 {
    let answered = match network(frame::start(ctx)) {
        Some((ETHERTYPE_IPV4, at)) => challenge_ipv4(ctx, at, frame_bytes),
        Some((_, at)) => challenge_ipv6(ctx, at, frame_bytes),
        None => None,
    };
    answered.is_some() as u32
}

#[inline(always)]
fn challenge_ipv4(ctx: *mut xdp_md, at: Far, frame_bytes: u32) -> Option<()> {
    let ip = ipv4(at)?;
    let syn = syn(at.skip(size_of::<Ipv4>()), IPV4_SEGMENT_DEFAULT)?;
    let cookie = cookie(look_up_ipv4(ctx.cast(), &ip, syn[0]), &ip, &syn)?;
    let tcp = answer(&syn, cookie, IPV4_SEGMENT_BYTES, u64::from(ip[3]) + u64::from(ip[4]));
    send(ctx, at, &answer_ipv4(&ip), &tcp, frame_bytes)
}

#[inline(always)]
fn challenge_ipv6(ctx: *mut xdp_md, at: Far, frame_bytes: u32) -> Option<()> {
    let ip = ipv6(at)?;
    let syn = syn(at.skip(size_of::<Ipv6>()), IPV6_SEGMENT_DEFAULT)?;
    let cookie = cookie(look_up_ipv6(ctx.cast(), &ip, syn[0]), &ip, &syn)?;
    let tcp = answer(&syn, cookie, IPV6_SEGMENT_BYTES, sum(&ip) - u64::from(ip[0]) - u64::from(ip[1]));
    send(ctx, at, &answer_ipv6(&ip), &tcp, frame_bytes)
}

/// The ethertype behind the tags, and where its header lies.
#[inline(always)]
fn network<W: Words>(start: W) -> Option<(u16, W)> {
    let mut at = start.skip(12);
    for _ in 0..=TAGS_MAX {
        let [ethertype] = at.read::<u16, 1>()?;
        let ethertype = u16::from_be(ethertype);
        if ethertype == ETHERTYPE_IPV4 || ethertype == ETHERTYPE_IPV6 {
            return Some((ethertype, at.skip(2)));
        }
        at = at.skip(4);
    }
    None
}

/// Without options.
#[inline(always)]
fn ipv4(at: impl Words) -> Option<Ipv4> {
    at.read().filter(|ip: &Ipv4| ip[0].to_ne_bytes()[0] == 0x45)
}

/// Without extension headers.
#[inline(always)]
fn ipv6(at: impl Words) -> Option<Ipv6> {
    at.read().filter(|ip: &Ipv6| ip[1].to_ne_bytes()[2] == TCP)
}

#[inline(always)]
fn proof<const IP: usize>(socket: *mut bpf_sock, ip: &[u32; IP], tcp: &Tcp) -> Option<u32> {
    if socket.is_null() {
        return None;
    }
    // SAFETY: the look-up found it, and it is released below, after its last use; the headers are whole.
    let proof = unsafe {
        let proof = if (&raw const (*socket).state).read_volatile() != BPF_TCP_LISTEN {
            CONNECTION
        } else if bpf_tcp_check_syncookie(
            socket.cast(),
            ip.as_ptr().cast_mut().cast(),
            size_of::<[u32; IP]>() as u32,
            tcp.as_ptr().cast_mut().cast(),
            size_of::<Tcp>() as u32,
        ) == 0
        {
            COOKIE
        } else {
            0
        };
        bpf_sk_release(socket.cast());
        proof
    };
    Some(proof)
}

/// The SYN's header with no option but its segment size: the kernel asks a cookie about nothing else. That option comes
/// first wherever it was seen; behind others it is not looked for, and the default holds.
#[inline(always)]
fn syn(at: Far, segment_default: u16) -> Option<Syn> {
    let tcp: Tcp = at.read()?;
    let [offset, flags, high, low] = tcp[3].to_ne_bytes();
    let mut option = segment_option(segment_default);
    if offset >> 4 > 5
        && let Some([own]) = at.skip(size_of::<Tcp>()).read::<u32, 1>()
        && (own ^ option).to_ne_bytes()[0] == 0
        && (own ^ option).to_ne_bytes()[1] == 0
    {
        option = own;
    }
    Some([tcp[0], tcp[1], tcp[2], u32::from_ne_bytes([OFFSET, flags, high, low]), 0, option])
}

/// RFC 9293 §3.2: kind 2, four bytes.
#[inline(always)]
fn segment_option(segment: u16) -> u32 {
    let [high, low] = segment.to_be_bytes();
    u32::from_ne_bytes([2, 4, high, low])
}

/// The listener's cookie. It gives one while `net.ipv4.tcp_syncookies` is 2 or its queue of half-open connections is
/// full, and from then on it accepts what it gave.
#[inline(always)]
fn cookie<const IP: usize>(socket: *mut bpf_sock, ip: &[u32; IP], syn: &Syn) -> Option<u32> {
    if socket.is_null() {
        return None;
    }
    // SAFETY: the look-up found it, and it is released after its last use; the headers are whole.
    let made = unsafe {
        let made = if (&raw const (*socket).state).read_volatile() == BPF_TCP_LISTEN {
            bpf_tcp_gen_syncookie(
                socket.cast(),
                ip.as_ptr().cast_mut().cast(),
                size_of::<[u32; IP]>() as u32,
                syn.as_ptr().cast_mut().cast(),
                size_of::<Syn>() as u32,
            )
        } else {
            -1
        };
        bpf_sk_release(socket.cast());
        made
    };
    // The upper half is the segment size that the cookie holds.
    if made < 0 { None } else { Some(made as u32) }
}

#[inline(always)]
fn look_up_ipv4(ctx: *mut c_void, ip: &Ipv4, ports: u32) -> *mut bpf_sock {
    find(ctx, &mut [ip[3], ip[4], ports])
}

#[inline(always)]
fn look_up_ipv6(ctx: *mut c_void, ip: &Ipv6, ports: u32) -> *mut bpf_sock {
    find(ctx, &mut [ip[2], ip[3], ip[4], ip[5], ip[6], ip[7], ip[8], ip[9], ports])
}

/// The host's socket for source, destination and ports: of their connection, else the listener; null if there is none.
#[inline(always)]
fn find<const N: usize>(ctx: *mut c_void, tuple: &mut [u32; N]) -> *mut bpf_sock {
    let here = BPF_F_CURRENT_NETNS as i64 as u64;
    // SAFETY: the tuple has as many bytes as are named, and outlives the call.
    unsafe { bpf_skc_lookup_tcp(ctx, tuple.as_mut_ptr().cast(), size_of::<[u32; N]>() as u32, here, 0) }
}

/// SYN and ACK with the cookie for a sequence number. `addresses` is the sum of the addresses, for the checksum.
#[inline(always)]
fn answer(syn: &Syn, cookie: u32, segment: u16, addresses: u64) -> Syn {
    let [high, low] = WINDOW.to_be_bytes();
    let mut tcp = [
        // The ports, turned round.
        syn[0].rotate_left(16),
        cookie.to_be(),
        u32::from_be(syn[1]).wrapping_add(1).to_be(),
        u32::from_ne_bytes([OFFSET, SYN_ACK, high, low]),
        0,
        segment_option(segment),
    ];
    let pseudo = u32::from_ne_bytes([0, TCP, 0, size_of::<Syn>() as u8]);
    let [first, second] = fold(sum(&tcp) + addresses + u64::from(pseudo));
    tcp[4] = u32::from_ne_bytes([first, second, 0, 0]);
    tcp
}

/// RFC 791 §3.1: not to be fragmented, the addresses turned round.
#[inline(always)]
fn answer_ipv4(ip: &Ipv4) -> Ipv4 {
    let mut out = [
        u32::from_ne_bytes([0x45, 0, 0, (size_of::<Ipv4>() + size_of::<Syn>()) as u8]),
        u32::from_ne_bytes([0, 0, 0x40, 0]),
        u32::from_ne_bytes([HOPS, TCP, 0, 0]),
        ip[4],
        ip[3],
    ];
    let [first, second] = fold(sum(&out));
    out[2] = u32::from_ne_bytes([HOPS, TCP, first, second]);
    out
}

/// RFC 8200 §3: the addresses turned round.
#[inline(always)]
fn answer_ipv6(ip: &Ipv6) -> Ipv6 {
    let version = u32::from_ne_bytes([0x60, 0, 0, 0]);
    let length = u32::from_ne_bytes([0, size_of::<Syn>() as u8, TCP, HOPS]);
    [version, length, ip[6], ip[7], ip[8], ip[9], ip[2], ip[3], ip[4], ip[5]]
}

/// The one's complement sum does not mind the order of bytes (RFC 1071 §2), nor the width of what is added.
#[inline(always)]
fn sum<const N: usize>(words: &[u32; N]) -> u64 {
    let mut sum = 0;
    let mut at = 0;
    while at < N {
        sum += u64::from(words[at]);
        at += 1;
    }
    sum
}

#[inline(always)]
fn fold(sum: u64) -> [u8; 2] {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    (!(sum as u16)).to_ne_bytes()
}

/// Writes the answer over the SYN. The frame becomes as long as the answer, and never longer than a SYN with one option.
#[inline(always)]
fn send<const IP: usize>(ctx: *mut xdp_md, at: Far, ip: &[u32; IP], tcp: &Syn, frame_bytes: u32) -> Option<()> {
    let start = frame::start(ctx);
    // Few words: without CAP_PERFMON none may lie where a pointer lay.
    let [a, b, c] = start.read::<u32, 3>()?;
    // The target is little-endian: two addresses of six bytes, turned round.
    let addresses = [b >> 16 | c << 16, c >> 16 | a << 16, a >> 16 | b << 16];
    let transport = at.skip(size_of::<[u32; IP]>());
    if !frame::resize(ctx, transport.skip(size_of::<Syn>()).offset(), frame_bytes) {
        return None;
    }
    // The whole range exists now: none of these fails after another has written.
    (start.write(&addresses) && at.write(ip) && transport.write(tcp)).then_some(())
}
