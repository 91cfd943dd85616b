//! Frames to judge, built by etherparse where it can and by hand where it will not.

use std::net::IpAddr;

use etherparse::PacketBuilder;

/// The protected port.
pub const PORT: u16 = 8000;
/// The source of most frames.
pub const V4: [u8; 4] = [192, 0, 2, 7];
/// Its IPv6 counterpart.
pub const V6: &str = "2001:db8:1:2::7";

const MAC_A: [u8; 6] = [2, 0, 0, 0, 0, 1];
const MAC_B: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// What the transport header says.
#[derive(Clone, Copy)]
pub enum L4 {
    /// TCP with SYN.
    Syn(u16),
    /// TCP with SYN and ACK.
    SynAck(u16),
    /// TCP with ACK.
    Ack(u16),
    /// TCP with RST.
    Rst(u16),
    /// UDP.
    Udp(u16),
}

fn transport(l4: L4) -> (u8, Vec<u8>) {
    let (port, flags) = match l4 {
        L4::Syn(port) => (port, 0x02),
        L4::SynAck(port) => (port, 0x12),
        L4::Ack(port) => (port, 0x10),
        L4::Rst(port) => (port, 0x04),
        L4::Udp(port) => {
            let mut out = 40_000u16.to_be_bytes().to_vec();
            out.extend(port.to_be_bytes());
            out.extend([0, 16, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]);
            return (17, out);
        }
    };
    let mut out = 40_000u16.to_be_bytes().to_vec();
    out.extend(port.to_be_bytes());
    out.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    (6, out)
}

/// An IPv4 frame from `source`.
pub fn v4(source: [u8; 4], l4: L4) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(MAC_A, MAC_B).ipv4(source, [10, 0, 0, 1], 64);
    let (port, syn, ack, rst) = match l4 {
        L4::Syn(port) => (port, true, false, false),
        L4::SynAck(port) => (port, true, true, false),
        L4::Ack(port) => (port, false, true, false),
        L4::Rst(port) => (port, false, false, true),
        L4::Udp(port) => {
            let mut out = Vec::new();
            builder.udp(40_000, port).write(&mut out, &[7; 8]).expect("a vector takes every byte");
            return out;
        }
    };
    let mut tcp = etherparse::TcpHeader::new(40_000, port, 1, 65_535);
    (tcp.syn, tcp.ack, tcp.rst) = (syn, ack, rst);
    let mut out = Vec::new();
    builder.tcp_header(tcp).write(&mut out, &[]).expect("a vector takes every byte");
    out
}

/// The same frame behind `tags` (ethertypes, outermost first).
pub fn tagged(frame: &[u8], tags: &[u16]) -> Vec<u8> {
    let mut out = frame[..12].to_vec();
    for tag in tags {
        out.extend(tag.to_be_bytes());
        out.extend([0, 100]);
    }
    out.extend(&frame[12..]);
    out
}

/// IPv4 with `words` words of options.
pub fn v4_options(l4: L4, words: u8) -> Vec<u8> {
    let plain = v4(V4, l4);
    let mut out = plain[..34].to_vec();
    out[14] = 0x40 | (5 + words);
    let total = u16::from_be_bytes([out[16], out[17]]) + 4 * u16::from(words);
    out[16..18].copy_from_slice(&total.to_be_bytes());
    out.extend(vec![1; 4 * usize::from(words)]);
    out.extend(&plain[34..]);
    out
}

/// IPv4 with the given flags and fragment offset word.
pub fn v4_fragment(l4: L4, word: u16) -> Vec<u8> {
    let mut out = v4(V4, l4);
    out[20..22].copy_from_slice(&word.to_be_bytes());
    out
}

/// IPv6 with extension headers: (number, body beyond the first two bytes).
pub fn v6(source: &str, extensions: &[(u8, &[u8])], l4: L4) -> Vec<u8> {
    let (protocol, payload) = transport(l4);
    v6_raw(source, extensions, protocol, &payload)
}

/// IPv6 with any payload.
pub fn v6_raw(source: &str, extensions: &[(u8, &[u8])], protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    for (index, (number, rest)) in extensions.iter().enumerate() {
        body.push(extensions.get(index + 1).map_or(protocol, |next| next.0));
        body.push(match number {
            44 => 0,
            51 => ((rest.len() + 2) / 4 - 2) as u8,
            _ => ((rest.len() + 2) / 8 - 1) as u8,
        });
        body.extend(*rest);
    }
    body.extend(payload);
    let mut out = [MAC_B, MAC_A].concat();
    out.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
    out.extend((body.len() as u16).to_be_bytes());
    out.push(extensions.first().map_or(protocol, |first| first.0));
    out.push(64);
    let IpAddr::V6(address) = source.parse().expect("an IPv6 address") else { panic!("an IPv6 address") };
    out.extend(address.octets());
    out.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    out.extend(body);
    out
}

/// Any frame of another ethertype.
pub fn other(ethertype: u16) -> Vec<u8> {
    let mut out = [MAC_B, MAC_A].concat();
    out.extend(ethertype.to_be_bytes());
    out.extend([0; 46]);
    out
}

/// IPv4 with another protocol.
pub fn v4_protocol(protocol: u8) -> Vec<u8> {
    let mut out = v4(V4, L4::Udp(PORT));
    out[23] = protocol;
    out
}
