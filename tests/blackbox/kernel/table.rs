//! One row: a frame, what is set up, how the frame must leave and under which word.

use aya::programs::{SchedClassifier, SockOps};
use gateway_common::{
    Ceiling,
    map::{PULSE_HEARTBEAT, PULSE_KILL, RunMode, Verdict, name, rung},
};

use gateway_tests::bar;

use super::{
    frames::{self, L4, PORT, V4, V6},
    loaded::{Loaded, may_load, now_ns},
};

const SECOND: u64 = 1_000_000_000;
const V4_TEXT: &str = "192.0.2.7";
const TAG: u16 = 0x8100;
const SERVICE_TAG: u16 = 0x88a8;

type SetUp = fn(&mut Loaded);

fn row(name: &'static str, frame: Vec<u8>, set_up: SetUp, drops: bool, word: &'static str) -> Row {
    Row { name, frame, set_up, drops, word }
}

struct Row {
    name: &'static str,
    frame: Vec<u8>,
    set_up: SetUp,
    drops: bool,
    word: &'static str,
}

fn nothing(_: &mut Loaded) {}

fn verdict(rung: u32, expiry_ns: u64) -> Verdict {
    Verdict { expiry_ns, decision: 42, rung, spare: 0, packets: Ceiling::UNLIMITED }
}

fn gated(loaded: &mut Loaded) {
    loaded.judge(V4_TEXT, verdict(rung::GATED, now_ns() + 60 * SECOND));
}

fn dropped(loaded: &mut Loaded) {
    loaded.judge(V4_TEXT, verdict(rung::DROPPED, now_ns() + 60 * SECOND));
}

fn dropped_v6(loaded: &mut Loaded) {
    loaded.judge("2001:db8:1:2:ffff::1", verdict(rung::DROPPED, now_ns() + 60 * SECOND));
}

fn denied(loaded: &mut Loaded) {
    loaded.list(name::DENY, "192.0.2.0", 96 + 24);
}

fn shadow(loaded: &mut Loaded) {
    loaded.settings.mode = RunMode::Shadow as u32;
    loaded.apply();
}

// A row a line: this is a table to be read.
#[rustfmt::skip]
fn parsing() -> Vec<Row> {
    let syn = || frames::v4(V4, L4::Syn(PORT));
    let hop: (u8, &[u8]) = (0, &[0; 6]);
    let dest: (u8, &[u8]) = (60, &[0; 14]);
    let first: (u8, &[u8]) = (44, &[0, 1, 0, 0, 0, 9]);
    let later: (u8, &[u8]) = (44, &[0, 16, 0, 0, 0, 9]);
    let auth: (u8, &[u8]) = (51, &[0; 10]);
    vec![
        row("untagged SYN", syn(), nothing, false, "clean"),
        row("denied SYN", syn(), denied, true, "deny"),
        row("one tag", frames::tagged(&syn(), &[TAG]), denied, true, "deny"),
        row("two tags", frames::tagged(&syn(), &[SERVICE_TAG, TAG]), denied, true, "deny"),
        row("old service tag", frames::tagged(&syn(), &[0x9100, TAG]), denied, true, "deny"),
        row("three tags", frames::tagged(&syn(), &[SERVICE_TAG, TAG, TAG]), denied, false, "many_tags"),
        row("one word of options", frames::v4_options(L4::Syn(PORT), 1), denied, true, "deny"),
        row("ten words of options", frames::v4_options(L4::Syn(PORT), 10), denied, true, "deny"),
        row("options behind two tags", frames::tagged(&frames::v4_options(L4::Udp(PORT), 10), &[TAG, TAG]), denied, true, "deny"),
        row("first fragment", frames::v4_fragment(L4::Udp(PORT), 0x2000), denied, true, "deny"),
        row("later fragment", frames::v4_fragment(L4::Udp(PORT), 0x0010), denied, false, "fragment"),
        row("IPv6", frames::v6(V6, &[], L4::Syn(PORT)), dropped_v6, true, "drop"),
        row("IPv6 behind two tags", frames::tagged(&frames::v6(V6, &[], L4::Syn(PORT)), &[TAG, TAG]), dropped_v6, true, "drop"),
        row("IPv6 with hop-by-hop", frames::v6(V6, &[hop], L4::Syn(PORT)), dropped_v6, true, "drop"),
        row("IPv6 with three headers", frames::v6(V6, &[hop, dest, auth], L4::Udp(PORT)), dropped_v6, true, "drop"),
        row("IPv6 with six headers", frames::v6(V6, &[hop, dest, dest, dest, auth, dest], L4::Syn(PORT)), dropped_v6, true, "drop"),
        row("IPv6 with seven headers", frames::v6(V6, &[hop, dest, dest, dest, dest, dest, dest], L4::Syn(PORT)), dropped_v6, false, "many_extensions"),
        row("IPv6 first fragment", frames::v6(V6, &[first], L4::Udp(PORT)), dropped_v6, true, "drop"),
        row("IPv6 later fragment", frames::v6(V6, &[later], L4::Udp(PORT)), dropped_v6, false, "fragment"),
        row("IPv6 without a transport", frames::v6_raw(V6, &[], 59, &[]), dropped_v6, false, "other_protocol"),
        row("ARP", frames::other(0x0806), denied, false, "arp"),
        row("LLDP", frames::other(0x88cc), denied, false, "other_ethertype"),
        row("ICMP", frames::v4_protocol(1), denied, false, "icmp"),
        row("neighbour solicitation", frames::v6_raw(V6, &[], 58, &[135; 24]), dropped_v6, false, "icmp"),
        row("GRE", frames::v4_protocol(47), denied, false, "other_protocol"),
        row("bad header length", { let mut f = syn(); f[14] = 0x44; f }, denied, false, "malformed"),
        row("IPv4 ethertype, version 6", { let mut f = syn(); f[14] = 0x65; f }, denied, false, "malformed"),
        row("IPv6 ethertype, version 4", { let mut f = frames::v6(V6, &[], L4::Syn(PORT)); f[14] = 0x40; f }, dropped_v6, false, "malformed"),
        row("Ethernet header only", syn()[..14].to_vec(), denied, false, "malformed"),
        row("cut in the IPv4 header", syn()[..33].to_vec(), denied, false, "malformed"),
        row("cut in the TCP header", syn()[..53].to_vec(), denied, false, "malformed"),
        row("extension header beyond the end", frames::v6_raw(V6, &[(0, &[0; 6])], 60, &[6, 200, 0, 0]), dropped_v6, false, "malformed"),
    ]
}

#[rustfmt::skip]
fn judging() -> Vec<Row> {
    let v4 = |l4| frames::v4(V4, l4);
    let mapped = |l4| frames::v6("::ffff:192.0.2.7", &[], l4);
    vec![
        row("other port", v4(L4::Syn(22)), denied, false, "other_port"),
        row("other UDP port", v4(L4::Udp(53)), denied, false, "other_port"),
        row("rung 5, SYN", v4(L4::Syn(PORT)), dropped, true, "drop"),
        row("rung 5, ACK", v4(L4::Ack(PORT)), dropped, true, "drop"),
        row("rung 5, UDP", v4(L4::Udp(PORT)), dropped, true, "drop"),
        row("rung 5, other port", v4(L4::Syn(22)), dropped, false, "other_port"),
        row("rung 5, neighbouring address", frames::v4([192, 0, 2, 8], L4::Syn(PORT)), dropped, false, "clean"),
        row("rung 5, v4-mapped", mapped(L4::Ack(PORT)), dropped, true, "drop"),
        row("rung 5, other /64", frames::v6("2001:db8:1:3::7", &[], L4::Syn(PORT)), dropped_v6, false, "clean"),
        row("rung 4, ACK", v4(L4::Ack(PORT)), gated, false, "gate_established"),
        row("rung 4, SYN+ACK", v4(L4::SynAck(PORT)), gated, false, "gate_established"),
        row("rung 4, RST", v4(L4::Rst(PORT)), gated, false, "gate_established"),
        row("rung 4, UDP", v4(L4::Udp(PORT)), gated, false, "gate_established"),
        row("rung 5 on the deny list", v4(L4::Ack(PORT)), |l| { denied(l); dropped(l) }, true, "drop"),
        row("rung 4 on the deny list", v4(L4::Ack(PORT)), |l| { denied(l); gated(l) }, true, "deny"),
        row("expired verdict", v4(L4::Syn(PORT)), |l| l.judge(V4_TEXT, verdict(rung::DROPPED, now_ns() - 1)), false, "clean"),
        row("stale heartbeat", v4(L4::Syn(PORT)), |l| { dropped(l); l.pulse(PULSE_HEARTBEAT, now_ns() - 6 * SECOND) }, false, "stale"),
        row("stale heartbeat, held", v4(L4::Syn(PORT)), |l| { l.settings.stale_ns = 0; dropped(l); l.pulse(PULSE_HEARTBEAT, 0) }, true, "drop"),
        row("heartbeat ahead of the clock", v4(L4::Syn(PORT)), |l| { dropped(l); l.pulse(PULSE_HEARTBEAT, now_ns() + 3_600 * SECOND) }, true, "drop"),
        row("kill switch", v4(L4::Syn(PORT)), |l| { dropped(l); l.pulse(PULSE_KILL, 1) }, false, "killed"),
        row("mode off", v4(L4::Syn(PORT)), |l| { l.settings.mode = RunMode::Off as u32; dropped(l) }, false, "off"),
        row("another ABI", v4(L4::Syn(PORT)), |l| { l.settings.abi += 1; dropped(l) }, false, "off"),
        row("shadow, rung 5", v4(L4::Syn(PORT)), |l| { dropped(l); shadow(l) }, false, "shadow_drop"),
        row("shadow, deny", v4(L4::Udp(PORT)), |l| { denied(l); shadow(l) }, false, "shadow_deny"),
        row("shadow, clean", v4(L4::Syn(PORT)), shadow, false, "clean"),
        row("never-drop over deny", v4(L4::Syn(PORT)), |l| { denied(l); l.list(name::NEVER_DROP, V4_TEXT, 128) }, false, "never_drop"),
        row("never-drop over rung 5", v4(L4::Syn(PORT)), |l| { dropped(l); l.list(name::NEVER_DROP, "192.0.2.0", 96 + 28) }, false, "never_drop"),
        row("never-drop, v4-mapped", mapped(L4::Syn(PORT)), |l| { dropped(l); l.list(name::NEVER_DROP, V4_TEXT, 128) }, false, "never_drop"),
        row("never-drop of another", v4(L4::Syn(PORT)), |l| { denied(l); l.list(name::NEVER_DROP, "192.0.2.8", 128) }, true, "deny"),
        row("deny everything but IPv6", frames::v6(V6, &[], L4::Syn(PORT)), |l| l.list(name::DENY, "0.0.0.0", 96), false, "clean"),
        row("deny an IPv6 prefix", frames::v6(V6, &[], L4::Syn(PORT)), |l| l.list(name::DENY, "2001:db8::", 32), true, "deny"),
    ]
}

/// Without CAP_PERFMON the verifier is stricter: no arithmetic on a packet's pointer, no comparison of it with a number.
#[test]
fn two_capabilities_load_it() {
    use caps::{CapSet, Capability};

    if !may_load("kernel::table::two_capabilities_load_it") {
        return;
    }
    // Capabilities are a thread's own.
    let poor = std::thread::spawn(|| {
        let few = [Capability::CAP_BPF, Capability::CAP_NET_ADMIN].into_iter().collect();
        caps::set(None, CapSet::Effective, &few).expect("giving up is always allowed");
        let mut loaded = Loaded::new(1_024, PORT);
        let sockets = loaded.ebpf.program_mut(name::SOCKETS).expect("it is there");
        <&mut SockOps>::try_from(sockets).expect("it is for sockets").load().expect("it loads too");
        let egress = loaded.ebpf.program_mut(name::EGRESS_PROGRAM).expect("it is there");
        <&mut SchedClassifier>::try_from(egress).expect("it is a classifier").load().expect("it loads too");
        denied(&mut loaded);
        let frame = frames::v4_options(L4::Syn(PORT), 3);
        loaded.run(&frame, 1).0 && loaded.classify(&frame) == Some(true)
    });
    assert!(poor.join().expect("it loads and runs"), "and judges as always");
}

/// The same rows at the other hook, but for the few frames of which the kernel's test run makes no packet.
#[test]
fn every_row_leaves_the_classifier_by_the_same_way() {
    if !may_load("kernel::table::every_row_leaves_the_classifier_by_the_same_way") {
        return;
    }
    let (mut wrong, mut judged) = (Vec::new(), 0);
    for row in parsing().into_iter().chain(judging()) {
        let mut loaded = Loaded::new(1_024, PORT);
        (row.set_up)(&mut loaded);
        let Some(drops) = loaded.classify(&row.frame) else { continue };
        judged += 1;
        let counted = loaded.counted();
        let words: Vec<_> = counted.iter().map(|(word, counter)| (*word, counter.packets)).collect();
        if drops != row.drops || words != [(row.word, 1)] {
            wrong.push(format!("{}: drops {drops}, {words:?}, want {} {}", row.name, row.drops, row.word));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(judged >= 58, "{judged}");
}

#[test]
fn every_row_leaves_as_the_table_says() {
    if !may_load("kernel::table") {
        return;
    }
    let rows: Vec<Row> = parsing().into_iter().chain(judging()).collect();
    assert!(rows.len() >= 60, "{}", rows.len());
    let mut wrong = Vec::new();
    for row in &rows {
        let mut loaded = Loaded::new(1_024, PORT);
        (row.set_up)(&mut loaded);
        let (drops, _) = loaded.run(&row.frame, 1);
        let counted = loaded.counted();
        let [(word, counter)] = counted[..] else {
            wrong.push(format!("{}: counted {counted:?}", row.name));
            continue;
        };
        if (drops, word, counter.packets, counter.bytes) != (row.drops, row.word, 1, row.frame.len() as u64) {
            wrong.push(format!("{}: drops {drops}, {word} {counter:?}, want {} {}", row.name, row.drops, row.word));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let all = format!("{} of {}", rows.len(), rows.len());
    bar::holds("R11", "frames counted once, under the reason that a table foretells", "all", all, true);
    let parsed = parsing().len();
    let words = "the same verdict untagged, tagged twice, with options, with six extension headers, in fragments";
    bar::holds("R9", words, "all", format!("{parsed} of {parsed} shapes"), true);
}
