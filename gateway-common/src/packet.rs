//! What a frame says about its sender: Ethernet, VLAN tags, IPv4 with options, IPv6 with extension headers, and as much
//! of TCP and UDP as a decision needs. It reads through a cursor that checks bounds, so the kernel and the host's tests
//! run the same parser. It must not decide anything.

use crate::source::Address;

/// VLAN tags looked through (802.1Q, 802.1ad).
pub const TAGS_MAX: usize = 2;
/// IPv6 extension headers looked through.
pub const EXTENSIONS_MAX: usize = 6;

/// TCP's protocol number.
pub const TCP: u8 = 6;
/// UDP's protocol number.
pub const UDP: u8 = 17;

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const ETHERTYPE_TAG: u16 = 0x8100;
const ETHERTYPE_SERVICE_TAG: u16 = 0x88a8;
const ETHERTYPE_OLD_SERVICE_TAG: u16 = 0x9100;

const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;
const MOBILITY: u8 = 135;
const HIP: u8 = 139;
const SHIM6: u8 = 140;

/// A position in a frame that cannot be read past its end.
pub trait Cursor: Copy {
    /// The next `N` bytes, if the frame has them. By value: an optional reference is told apart by comparing it with
    /// null, and the verifier lets only privileged programs compare a pointer into a packet with a number.
    fn bytes<const N: usize>(self) -> Option<[u8; N]>;
    /// The position `count` bytes on; it may lie past the end, where nothing can be read. `count` must be known when
    /// the program is compiled.
    fn skip(self, count: usize) -> Self;
    /// The same for a distance that the frame itself names. Another type, because the verifier lets only privileged
    /// programs (CAP_PERFMON) add a number that it does not know to a pointer into a packet.
    type Far: Cursor<Far = Self::Far>;
    /// The position `count` bytes on.
    fn jump(self, count: usize) -> Self::Far;
}

/// A whole frame in memory, for tests and for user space.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a>(pub &'a [u8]);

impl Cursor for Frame<'_> {
    fn bytes<const N: usize>(self) -> Option<[u8; N]> {
        self.0.first_chunk().copied()
    }

    fn skip(self, count: usize) -> Self {
        Frame(self.0.get(count..).unwrap_or_default())
    }

    type Far = Self;

    fn jump(self, count: usize) -> Self {
        self.skip(count)
    }
}

/// What a decision needs of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Packet {
    /// The sender, as the header claims.
    pub address: Address,
    /// [`TCP`] or [`UDP`].
    pub protocol: u8,
    /// The destination port.
    pub port: u16,
    /// The source port.
    pub sender_port: u16,
    /// Whether it asks for a new TCP connection (SYN without ACK).
    pub opens: bool,
}

/// Why a frame is none of the gateway's business, or cannot be told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unparsed {
    /// Shorter than its headers say, or a header that contradicts itself.
    Malformed,
    /// More VLAN tags than [`TAGS_MAX`].
    ManyTags,
    /// ARP.
    Arp,
    /// Neither IPv4 nor IPv6.
    OtherEthertype,
    /// ICMP or ICMPv6, with them neighbour discovery and packet-too-big.
    Icmp,
    /// A fragment other than the first: it has no port.
    Fragment,
    /// More extension headers than [`EXTENSIONS_MAX`].
    ManyExtensions,
    /// Neither TCP nor UDP.
    OtherProtocol,
}

/// Reads a frame from its Ethernet header on.
///
/// # Errors
/// Anything but a TCP or UDP header that can be read in full up to what [`Packet`] needs.
#[inline(always)]
pub fn parse(frame: impl Cursor) -> Result<Packet, Unparsed> {
    parse_side::<false>(frame)
}

/// Reads a frame that this host sends: the address and the sender's port are the receiver's, the port is this host's, and
/// `opens` says that SYN or RST is set.
///
/// # Errors
/// As [`parse`].
#[inline(always)]
pub fn parse_sent(frame: impl Cursor) -> Result<Packet, Unparsed> {
    parse_side::<true>(frame)
}

#[inline(always)]
fn parse_side<const SENT: bool>(frame: impl Cursor) -> Result<Packet, Unparsed> {
    let ethernet = frame.bytes::<14>().ok_or(Unparsed::Malformed)?;
    let mut ethertype = u16::from_be_bytes([ethernet[12], ethernet[13]]);
    let mut at = frame.skip(14);
    for _ in 0..TAGS_MAX {
        if !is_tag(ethertype) {
            break;
        }
        let tag = at.bytes::<4>().ok_or(Unparsed::Malformed)?;
        ethertype = u16::from_be_bytes([tag[2], tag[3]]);
        at = at.skip(4);
    }
    match ethertype {
        ETHERTYPE_IPV4 => ipv4::<SENT>(at),
        ETHERTYPE_IPV6 => ipv6::<SENT>(at),
        ETHERTYPE_ARP => Err(Unparsed::Arp),
        other if is_tag(other) => Err(Unparsed::ManyTags),
        _ => Err(Unparsed::OtherEthertype),
    }
}

#[inline(always)]
const fn is_tag(ethertype: u16) -> bool {
    matches!(ethertype, ETHERTYPE_TAG | ETHERTYPE_SERVICE_TAG | ETHERTYPE_OLD_SERVICE_TAG)
}

/// RFC 791 §3.1.
#[inline(always)]
fn ipv4<const SENT: bool>(at: impl Cursor) -> Result<Packet, Unparsed> {
    let header = at.bytes::<20>().ok_or(Unparsed::Malformed)?;
    let header_bytes = usize::from(header[0] & 0x0f) * 4;
    if header[0] >> 4 != 4 || header_bytes < 20 {
        return Err(Unparsed::Malformed);
    }
    let address = if SENT {
        Address::v4([header[16], header[17], header[18], header[19]])
    } else {
        Address::v4([header[12], header[13], header[14], header[15]])
    };
    let fragment_offset = u16::from_be_bytes([header[6], header[7]]) & 0x1fff;
    if fragment_offset != 0 {
        return Err(Unparsed::Fragment);
    }
    if header_bytes == 20 {
        return transport::<SENT>(at.skip(20), header[9], address);
    }
    transport::<SENT>(at.jump(header_bytes), header[9], address)
}

/// RFC 8200 §3, §4.
#[inline(always)]
fn ipv6<const SENT: bool>(at: impl Cursor) -> Result<Packet, Unparsed> {
    let h = at.bytes::<40>().ok_or(Unparsed::Malformed)?;
    if h[0] >> 4 != 6 {
        return Err(Unparsed::Malformed);
    }
    let address = if SENT {
        Address::v6(
            [h[24], h[25], h[26], h[27], h[28], h[29], h[30], h[31]],
            [h[32], h[33], h[34], h[35], h[36], h[37], h[38], h[39]],
        )
    } else {
        Address::v6(
            [h[8], h[9], h[10], h[11], h[12], h[13], h[14], h[15]],
            [h[16], h[17], h[18], h[19], h[20], h[21], h[22], h[23]],
        )
    };
    if !is_extension(h[6]) {
        return transport::<SENT>(at.skip(40), h[6], address);
    }
    extensions::<SENT, _>(at.jump(40), h[6], address)
}

#[inline(always)]
const fn is_extension(next: u8) -> bool {
    matches!(next, HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION | MOBILITY | HIP | SHIM6)
}

#[inline(always)]
fn extensions<const SENT: bool, C: Cursor<Far = C>>(
    mut at: C,
    mut next: u8,
    address: Address,
) -> Result<Packet, Unparsed> {
    for _ in 0..EXTENSIONS_MAX {
        let extension_bytes = match next {
            HOP_BY_HOP | ROUTING | DESTINATION | MOBILITY | HIP | SHIM6 => {
                let e = at.bytes::<2>().ok_or(Unparsed::Malformed)?;
                next = e[0];
                (usize::from(e[1]) + 1) * 8
            }
            // RFC 4302 §2.2: the length counts 4-octet units, minus two.
            AUTHENTICATION => {
                let e = at.bytes::<2>().ok_or(Unparsed::Malformed)?;
                next = e[0];
                (usize::from(e[1]) + 2) * 4
            }
            FRAGMENT => {
                let e = at.bytes::<8>().ok_or(Unparsed::Malformed)?;
                if u16::from_be_bytes([e[2], e[3]]) & 0xfff8 != 0 {
                    return Err(Unparsed::Fragment);
                }
                next = e[0];
                8
            }
            _ => return transport::<SENT>(at, next, address),
        };
        at = at.jump(extension_bytes);
    }
    if is_extension(next) {
        return Err(Unparsed::ManyExtensions);
    }
    transport::<SENT>(at, next, address)
}

#[inline(always)]
fn transport<const SENT: bool>(at: impl Cursor, protocol: u8, address: Address) -> Result<Packet, Unparsed> {
    match protocol {
        TCP => {
            let header = at.bytes::<20>().ok_or(Unparsed::Malformed)?;
            let (sender_port, port) = ports::<SENT>([header[0], header[1], header[2], header[3]]);
            // RFC 9293 §3.1: ACK is 0x10, RST is 0x04, SYN is 0x02.
            let opens = if SENT { header[13] & 0x06 != 0 } else { header[13] & 0x12 == 0x02 };
            Ok(Packet { address, protocol, port, sender_port, opens })
        }
        UDP => {
            let header = at.bytes::<8>().ok_or(Unparsed::Malformed)?;
            let (sender_port, port) = ports::<SENT>([header[0], header[1], header[2], header[3]]);
            Ok(Packet { address, protocol, port, sender_port, opens: false })
        }
        ICMP | ICMPV6 => Err(Unparsed::Icmp),
        _ => Err(Unparsed::OtherProtocol),
    }
}

/// The other's port and this host's; TCP and UDP begin with source and destination.
#[inline(always)]
const fn ports<const SENT: bool>(p: [u8; 4]) -> (u16, u16) {
    let (source, destination) = (u16::from_be_bytes([p[0], p[1]]), u16::from_be_bytes([p[2], p[3]]));
    if SENT { (destination, source) } else { (source, destination) }
}

#[cfg(test)]
mod tests;
