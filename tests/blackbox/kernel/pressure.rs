//! Strangers and verified sources under a flood, frame by frame: who is let through, from what budget, and when the
//! pressure begins and ends.

use gateway_common::{
    Ceiling,
    map::{Cut, Gate, HAS_GATE, HAS_NEIGHBOURHOODS, PULSE_PRESSURE, RunMode, Standing},
};

use super::{
    frames::{self, L4, PORT, V4},
    loaded::{Loaded, may_load, now_ns},
};

const SECOND: u64 = 1_000_000_000;
const HOUR: u64 = 3_600 * SECOND;
const V4_TEXT: &str = "192.0.2.7";
const STRANGER: [u8; 4] = [198, 51, 100, 9];

/// However slow the machine is, the heartbeat stays fresh.
fn unhurried() -> Loaded {
    let mut loaded = Loaded::new(1_024, PORT);
    loaded.settings.stale_ns = 0;
    loaded.apply();
    loaded
}

/// Pressure that has just begun and outlasts the test, with these budgets.
fn pressed(syns: u64, packets: u64) -> Loaded {
    let mut loaded = unhurried();
    loaded.settings.lists |= HAS_GATE;
    loaded.settings.gate =
        Gate { syns: Ceiling::new(1, syns), packets: Ceiling::new(1, packets), hold_ns: HOUR, ..Gate::OPEN };
    loaded.apply();
    loaded.pulse(PULSE_PRESSURE, now_ns() + HOUR);
    loaded
}

#[test]
fn strangers_share_one_budget_and_verified_sources_keep_their_own() {
    if !may_load("kernel::pressure::strangers_share_one_budget") {
        return;
    }
    let mut loaded = pressed(20, 10);
    loaded.verify(V4_TEXT);
    for host in 0..200 {
        loaded.run(&frames::v4([198, 51, 100, host], L4::Syn(PORT)), 1);
        loaded.run(&frames::v4([203, 0, 113, host], L4::Ack(PORT)), 1);
        assert!(!loaded.run(&frames::v4(V4, L4::Syn(PORT)), 1).0, "a verified source is let in");
        assert!(!loaded.run(&frames::v4(V4, L4::Ack(PORT)), 1).0, "and served");
    }
    let (stranger, syns, packets) =
        (loaded.packets("stranger"), loaded.packets("strangers"), loaded.packets("stranger_packets"));
    // The budgets refill by one a second while the test runs.
    assert!((30..=60).contains(&stranger), "{stranger}");
    assert_eq!(stranger + syns + packets, 400);
    assert!(syns >= 150 && packets >= 160, "{syns} {packets}");
    assert_eq!(loaded.packets("clean"), 400);
}

#[test]
fn a_flood_of_forged_sources_charges_nobodys_cell() {
    if !may_load("kernel::pressure::a_flood_of_forged_sources_charges_nobodys_cell") {
        return;
    }
    let mut loaded = pressed(1, 1);
    // Two cells for everybody: a forged packet that were charged would be charged to the verified source too.
    loaded.settings.cells_mask = 1;
    loaded.settings.packets = Ceiling::new(1, 100);
    loaded.apply();
    loaded.verify(V4_TEXT);
    for host in 0..=255 {
        loaded.run(&frames::v4([198, 51, 100, host], L4::Syn(PORT)), 10);
    }
    loaded.run(&frames::v4(V4, L4::Ack(PORT)), 100);
    assert_eq!(loaded.packets("clean"), 100);
}

#[test]
fn in_shadow_strangers_are_counted_and_let_in() {
    if !may_load("kernel::pressure::in_shadow_strangers_are_counted_and_let_in") {
        return;
    }
    let mut loaded = pressed(1, 1);
    loaded.settings.mode = RunMode::Shadow as u32;
    loaded.apply();
    assert!(!loaded.run(&frames::v4(STRANGER, L4::Syn(PORT)), 100).0);
    assert!(loaded.packets("shadow_strangers") >= 90);
}

#[test]
fn pressure_begins_at_one_rate_ends_at_another_and_lasts_as_told() {
    if !may_load("kernel::pressure::pressure_begins_at_one_rate") {
        return;
    }
    let mut loaded = unhurried();
    loaded.settings.lists |= HAS_GATE;
    let hold_ns = 2 * SECOND;
    // A burst of 3,200 begins it; the strangers' budget lets none of what follows in.
    loaded.settings.gate = Gate {
        enter: Ceiling::new(1, 3_200),
        stay: Ceiling::new(1, 64),
        hold_ns,
        syns: Ceiling::new(1, 1),
        packets: Ceiling::new(1, 1),
    };
    loaded.apply();
    let syn = frames::v4(STRANGER, L4::Syn(PORT));
    loaded.run(&syn, 3_000);
    assert_eq!(loaded.packets("clean"), 3_000, "a burst is no flood");
    // Packets of connections are no SYNs.
    loaded.run(&frames::v4(STRANGER, L4::Ack(PORT)), 10_000);
    assert_eq!(loaded.packets("clean"), 13_000);
    loaded.run(&syn, 1_000);
    let shed = loaded.packets("strangers");
    assert!((600..=800).contains(&shed), "{shed}");
    // It lasts without another SYN, and then ends by itself.
    let begun = now_ns();
    let ended = loop {
        let closed = loaded.run(&frames::v4(STRANGER, L4::Ack(PORT)), 1).0;
        if !closed && now_ns() > begun + SECOND / 4 {
            let before = loaded.packets("clean");
            loaded.run(&frames::v4(STRANGER, L4::Ack(PORT)), 10);
            if loaded.packets("clean") == before + 10 {
                break now_ns();
            }
        }
        assert!(now_ns() < begun + 20 * SECOND, "it never ends");
        std::thread::yield_now();
    };
    let lasted = ended - begun;
    assert!(lasted > hold_ns / 2 && lasted < hold_ns + 5 * SECOND, "{lasted}");
}

#[test]
fn a_cut_connection_is_dropped_and_its_neighbours_are_not() {
    if !may_load("kernel::pressure::a_cut_connection_is_dropped") {
        return;
    }
    let mut loaded = unhurried();
    let client_port = 40_000;
    loaded.cut(V4_TEXT, client_port, PORT, Cut { expiry_ns: now_ns() + HOUR, decision: 9 });
    loaded.cut(V4_TEXT, client_port, PORT + 1, Cut { expiry_ns: now_ns() + HOUR, decision: 10 });
    assert!(loaded.run(&frames::v4(V4, L4::Ack(PORT)), 1).0);
    assert!(loaded.run(&frames::v6("::ffff:192.0.2.7", &[], L4::Ack(PORT)), 1).0, "v4-mapped is the same");
    assert!(!loaded.run(&frames::v4(V4, L4::Udp(PORT)), 1).0, "a connection is TCP's");
    assert!(!loaded.run(&frames::v4([192, 0, 2, 8], L4::Ack(PORT)), 1).0);
    let mut other = frames::v4(V4, L4::Ack(PORT));
    other[34..36].copy_from_slice(&40_001_u16.to_be_bytes());
    assert!(!loaded.run(&other, 1).0, "another connection of the same source");
    assert_eq!(loaded.packets("flow"), 2);
    loaded.cut(V4_TEXT, client_port, PORT, Cut { expiry_ns: now_ns() - 1, decision: 9 });
    assert!(!loaded.run(&frames::v4(V4, L4::Ack(PORT)), 1).0, "expired");
}

#[test]
fn a_neighbourhood_is_shaped_to_its_ceiling() {
    if !may_load("kernel::pressure::a_neighbourhood_is_shaped_to_its_ceiling") {
        return;
    }
    let mut loaded = unhurried();
    loaded.settings.lists |= HAS_NEIGHBOURHOODS;
    loaded.settings.neighbourhood.packets = Ceiling::new(1, 300);
    loaded.settings.neighbourhood.connections = Ceiling::new(1, 50);
    loaded.apply();
    let start = now_ns();
    for host in 0..=255 {
        loaded.run(&frames::v4([192, 0, 2, host], L4::Udp(PORT)), 2);
    }
    let more = (now_ns() - start).div_ceil(SECOND);
    let clean = loaded.packets("clean");
    assert!((300..=300 + more).contains(&clean), "{clean}");
    assert_eq!(loaded.packets("prefix"), 512 - clean);
    // Another neighbourhood has a cell of its own, and its own count of connections; so does an IPv6 /48.
    for host in 0..=255 {
        loaded.run(&frames::v4([192, 0, 3, host], L4::Syn(PORT)), 1);
        loaded.run(&frames::v6(&format!("2001:db8:1:{host:x}::1"), &[], L4::Syn(PORT)), 1);
    }
    let more = (now_ns() - start).div_ceil(SECOND);
    let passed = loaded.packets("clean") - clean;
    assert!((100..=100 + 2 * more).contains(&passed), "{passed} {:?}", loaded.counted());
}

#[test]
fn a_source_in_good_standing_may_do_more() {
    if !may_load("kernel::pressure::a_source_in_good_standing_may_do_more") {
        return;
    }
    let count = |standing: Option<Standing>| {
        let mut loaded = unhurried();
        let (rate, burst) = (20_000, 20);
        loaded.settings.packets = Ceiling::new(rate, burst);
        loaded.apply();
        if let Some(standing) = standing {
            loaded.raise(V4_TEXT, standing);
        }
        let frame = frames::v4(V4, L4::Udp(PORT));
        let ran_ns: u64 = (0..20).map(|_| loaded.run(&frame, 50_000).1.as_nanos() as u64 * 50_000).sum();
        let most = (ran_ns * rate / SECOND).max(1);
        loaded.packets("clean") as f64 / most as f64
    };
    let expiry_ns = now_ns() + HOUR;
    let general = count(None);
    let raised = count(Some(Standing { expiry_ns, raise: 3, spare: 0 }));
    let expired = count(Some(Standing { expiry_ns: 1, raise: 3, spare: 0 }));
    // Other work on the machine stretches the time on the wall, never the other way round.
    assert!((0.9..2.0).contains(&general), "{general}");
    assert!((0.9..2.0).contains(&expired), "{expired}");
    assert!(raised > 5.0 * general.min(expired), "{raised} beside {general}");
}
