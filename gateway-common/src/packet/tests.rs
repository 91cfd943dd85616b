//! The parser against frames whose content is known and against etherparse reading the same bytes.

use std::{vec, vec::Vec};

use super::*;
use etherparse::{LaxSlicedPacket, NetSlice, SlicedPacket, TransportSlice};

/// Frames in the normal run.
const FRAMES: u64 = 20_000;

/// A small generator (xorshift64*), so that a failing frame can be made again from its number.
struct Dice(u64);

impl Dice {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % sides
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.roll(256) as u8).collect()
    }
}

struct Made {
    frame: Vec<u8>,
    expected: Result<Packet, Unparsed>,
}

fn make(dice: &mut Dice) -> Made {
    let mut frame = dice.bytes(12);
    for _ in 0..dice.roll(3) {
        let tag = [0x8100u16, 0x88a8, 0x9100][dice.roll(3) as usize];
        frame.extend(tag.to_be_bytes());
        frame.extend(dice.bytes(2));
    }
    let protocol = [TCP, UDP, ICMP, 47][dice.roll(4) as usize];
    if dice.roll(2) == 0 { make_ipv4(dice, frame, protocol) } else { make_ipv6(dice, frame, protocol) }
}

fn make_ipv4(dice: &mut Dice, mut frame: Vec<u8>, protocol: u8) -> Made {
    frame.extend(0x0800u16.to_be_bytes());
    let options = dice.roll(11) as usize;
    let (payload, port, opens) = make_transport(dice, protocol);
    let sender_port = u16::from_be_bytes([payload[0], payload[1]]);
    let total = (20 + 4 * options + payload.len()) as u16;
    let late = dice.roll(8) == 0;
    let address: [u8; 4] = dice.bytes(4).try_into().unwrap();
    frame.push(0x40 | (5 + options as u8));
    frame.push(0);
    frame.extend(total.to_be_bytes());
    frame.extend([0, 1]);
    frame.extend(if late { 0x0007u16 } else { 0x4000 }.to_be_bytes());
    frame.extend([64, protocol, 0, 0]);
    frame.extend(address);
    frame.extend([10, 0, 0, 1]);
    frame.extend(vec![1u8; 4 * options]);
    frame.extend(payload);
    let expected =
        if late { Err(Unparsed::Fragment) } else { expect(protocol, Address::v4(address), [sender_port, port], opens) };
    Made { frame, expected }
}

fn make_ipv6(dice: &mut Dice, mut frame: Vec<u8>, protocol: u8) -> Made {
    frame.extend(0x86ddu16.to_be_bytes());
    let mut late = false;
    let count = dice.roll(8) as usize;
    let kinds: Vec<u8> =
        (0..count).map(|_| [ROUTING, FRAGMENT, AUTHENTICATION, DESTINATION][dice.roll(4) as usize]).collect();
    let mut extensions = Vec::new();
    for (index, kind) in kinds.iter().enumerate() {
        let next = kinds.get(index + 1).copied().unwrap_or(protocol);
        extensions.extend(make_extension(dice, *kind, next, index < EXTENSIONS_MAX && !late, &mut late));
    }
    let (payload, port, opens) = make_transport(dice, protocol);
    let sender_port = u16::from_be_bytes([payload[0], payload[1]]);
    let high: [u8; 8] = dice.bytes(8).try_into().unwrap();
    let low: [u8; 8] = dice.bytes(8).try_into().unwrap();
    frame.extend([0x60, 0, 0, 0]);
    frame.extend(((extensions.len() + payload.len()) as u16).to_be_bytes());
    frame.push(kinds.first().copied().unwrap_or(protocol));
    frame.push(64);
    frame.extend(high);
    frame.extend(low);
    frame.extend([0u8; 16]);
    frame.extend(extensions);
    frame.extend(payload);
    let expected = if late {
        Err(Unparsed::Fragment)
    } else if count > EXTENSIONS_MAX {
        Err(Unparsed::ManyExtensions)
    } else {
        expect(protocol, Address::v6(high, low), [sender_port, port], opens)
    };
    Made { frame, expected }
}

fn make_extension(dice: &mut Dice, kind: u8, next: u8, may_be_late: bool, late: &mut bool) -> Vec<u8> {
    let mut out = vec![next];
    match kind {
        FRAGMENT => {
            let offset = if may_be_late && dice.roll(8) == 0 { 0x0010u16 } else { 0 };
            *late |= offset != 0;
            out.push(0);
            out.extend(offset.to_be_bytes());
            out.extend([0, 0, 0, 9]);
        }
        AUTHENTICATION => {
            let units = 2 + dice.roll(4) as u8;
            out.push(units - 1);
            out.extend(vec![0u8; (usize::from(units) + 1) * 4 - 2]);
        }
        _ => {
            let units = dice.roll(4) as u8;
            out.push(units);
            out.extend(vec![0u8; (usize::from(units) + 1) * 8 - 2]);
        }
    }
    out
}

fn make_transport(dice: &mut Dice, protocol: u8) -> (Vec<u8>, u16, bool) {
    let port = dice.roll(65_536) as u16;
    let mut out = dice.bytes(2);
    out.extend(port.to_be_bytes());
    match protocol {
        TCP => {
            let flags = dice.roll(64) as u8;
            out.extend(dice.bytes(8));
            out.push(0x50);
            out.push(flags);
            out.extend([0u8; 6]);
            out.extend(dice.bytes(7));
            (out, port, flags & 0x12 == 0x02)
        }
        UDP => {
            out.extend(16u16.to_be_bytes());
            out.extend([0u8; 10]);
            (out, port, false)
        }
        _ => {
            out.extend([0u8; 12]);
            (out, port, false)
        }
    }
}

fn expect(protocol: u8, address: Address, [sender_port, port]: [u16; 2], opens: bool) -> Result<Packet, Unparsed> {
    match protocol {
        TCP | UDP => Ok(Packet { address, protocol, port, sender_port, opens }),
        ICMP => Err(Unparsed::Icmp),
        _ => Err(Unparsed::OtherProtocol),
    }
}

/// What etherparse makes of a frame, as far as it agrees to read it.
fn reference(net: Option<&NetSlice<'_>>, transport: Option<&TransportSlice<'_>>) -> Option<Packet> {
    let address = match net? {
        NetSlice::Ipv4(v4) => Address::v4(v4.header().source()),
        NetSlice::Ipv6(v6) => Address::from(core::net::IpAddr::V6(v6.header().source_addr())),
        NetSlice::Arp(_) => return None,
    };
    match transport? {
        TransportSlice::Tcp(tcp) => Some(Packet {
            address,
            protocol: TCP,
            port: tcp.destination_port(),
            sender_port: tcp.source_port(),
            opens: tcp.syn() && !tcp.ack(),
        }),
        TransportSlice::Udp(udp) => Some(Packet {
            address,
            protocol: UDP,
            port: udp.destination_port(),
            sender_port: udp.source_port(),
            opens: false,
        }),
        _ => None,
    }
}

/// `cargo xtask test edge` asks for as many frames as the bar does.
fn frames() -> u64 {
    let in_full = std::env::var_os("GATEWAY_BARS").is_some_and(|value| value == "full");
    if in_full { 1_000_000 } else { FRAMES }
}

/// A row of the table of bars (tests/src/bar.rs).
fn row(what: &str, frames: u64) {
    std::println!("BAR\tR9\t{what}\t1000000\t{frames}\t{}", if frames >= 1_000_000 { "pass" } else { "fewer" });
}

#[test]
fn made_frames_read_as_made_and_as_etherparse_reads_them() {
    let mut compared = 0;
    for seed in 0..frames() {
        let made = make(&mut Dice::new(seed));
        assert_eq!(parse(Frame(&made.frame)), made.expected, "frame {seed}");
        let sliced = match SlicedPacket::from_ethernet(&made.frame) {
            Ok(sliced) => sliced,
            // It also reads what lies within some types of ICMP, which here is noise.
            Err(_) if made.expected.is_err() => continue,
            Err(error) => panic!("frame {seed}: {error}"),
        };
        if let (Ok(packet), Some(theirs)) = (made.expected, reference(sliced.net.as_ref(), sliced.transport.as_ref())) {
            assert_eq!(packet, theirs, "frame {seed}");
            compared += 1;
        }
    }
    assert!(compared > frames() / 4, "{compared}");
    row("frames with tags, options, extension headers, fragments read as made and as etherparse reads them", frames());
}

#[test]
fn a_cut_frame_reads_as_the_whole_one_or_is_malformed() {
    for seed in 0..FRAMES / 10 {
        let made = make(&mut Dice::new(seed));
        for length in 0..made.frame.len() {
            let cut = parse(Frame(&made.frame[..length]));
            assert!(cut == made.expected || cut == Err(Unparsed::Malformed), "frame {seed} cut at {length}: {cut:?}");
        }
    }
}

#[test]
fn noise_never_reads_otherwise_than_etherparse_reads_it() {
    let mut compared = 0;
    for seed in 0..frames() {
        let mut dice = Dice::new(seed);
        let mut frame = make(&mut dice).frame;
        for _ in 0..=dice.roll(4) {
            let at = dice.roll(frame.len() as u64) as usize;
            frame[at] = dice.roll(256) as u8;
        }
        let ours = parse(Frame(&frame));
        let Ok(theirs) = LaxSlicedPacket::from_ethernet(&frame) else { continue };
        if theirs.stop_err.is_some() {
            continue;
        }
        let net = match &theirs.net {
            Some(etherparse::LaxNetSlice::Ipv4(v4)) if !v4.is_payload_fragmented() => Address::v4(v4.header().source()),
            Some(etherparse::LaxNetSlice::Ipv6(v6)) if !v6.is_payload_fragmented() => {
                Address::from(core::net::IpAddr::V6(v6.header().source_addr()))
            }
            _ => continue,
        };
        if let (Ok(packet), Some(TransportSlice::Tcp(tcp))) = (ours, &theirs.transport) {
            let want = (net, tcp.destination_port(), tcp.syn() && !tcp.ack());
            assert_eq!((packet.address, packet.port, packet.opens), want, "frame {seed}: {frame:02x?}");
            compared += 1;
        }
    }
    assert!(compared > frames() / 20, "{compared}");
    row("frames with noise in them, none read otherwise than by etherparse", frames());
}

#[test]
fn what_is_not_ip_is_named() {
    let mut frame = vec![0u8; 60];
    frame[12..14].copy_from_slice(&0x0806u16.to_be_bytes());
    assert_eq!(parse(Frame(&frame)), Err(Unparsed::Arp));
    frame[12..14].copy_from_slice(&0x88ccu16.to_be_bytes());
    assert_eq!(parse(Frame(&frame)), Err(Unparsed::OtherEthertype));
    for at in [12, 16, 20] {
        frame[at..at + 2].copy_from_slice(&0x8100u16.to_be_bytes());
    }
    assert_eq!(parse(Frame(&frame)), Err(Unparsed::ManyTags));
    frame[12..14].copy_from_slice(&0x0800u16.to_be_bytes());
    frame[14] = 0x44;
    assert_eq!(parse(Frame(&frame)), Err(Unparsed::Malformed));
    frame[14] = 0x65;
    assert_eq!(parse(Frame(&frame)), Err(Unparsed::Malformed));
}
