//! Consistent hashing: a ring of points, each target with points by its weight, so that a target that comes or goes moves
//! only its own share. Pure; several gateways with the same file agree.

/// Points of a target of average weight (Kong's number).
const POINTS: u64 = 160;

/// The ring.
#[derive(Debug, Default)]
pub struct Ring(Vec<(u32, u16)>);

impl Ring {
    /// The ring of targets with their names and weights.
    #[must_use]
    pub fn new<'a>(targets: impl ExactSizeIterator<Item = (&'a str, u32)> + Clone) -> Self {
        let total: u64 = targets.clone().map(|(_, weight)| u64::from(weight)).sum();
        let count = targets.len() as u64;
        let mut points = Vec::new();
        for (at, (name, weight)) in targets.enumerate().take(usize::from(u16::MAX)) {
            let share = (u64::from(weight) * count * POINTS).checked_div(total).unwrap_or(0);
            let share = if weight > 0 { share.max(1) } else { 0 };
            points.extend((0..share).map(|i| (hash(format!("{i} {name}").as_bytes()), at as u16)));
        }
        points.sort_unstable();
        Ring(points)
    }

    /// Targets in the order in which a hash meets them; each may come several times.
    pub fn walk(&self, hash: u32) -> impl Iterator<Item = usize> + '_ {
        let start = self.0.partition_point(|(point, _)| *point < hash);
        self.0[start..].iter().chain(&self.0[..start]).map(|(_, target)| usize::from(*target))
    }
}

/// xxHash32 (seed 0), as its specification describes it.
#[must_use]
pub fn hash(bytes: &[u8]) -> u32 {
    const P: [u32; 5] = [0x9e37_79b1, 0x85eb_ca77, 0xc2b2_ae3d, 0x27d4_eb2f, 0x1656_67b1];
    let lane = |at: &[u8]| u32::from_le_bytes([at[0], at[1], at[2], at[3]]);
    let stripes = bytes.chunks_exact(16);
    let rest = stripes.remainder();
    let mut state = if bytes.len() >= 16 {
        let mut lanes = [P[0].wrapping_add(P[1]), P[1], 0, 0_u32.wrapping_sub(P[0])];
        for stripe in stripes {
            for (state, word) in lanes.iter_mut().zip(stripe.chunks_exact(4)) {
                *state = state.wrapping_add(lane(word).wrapping_mul(P[1])).rotate_left(13).wrapping_mul(P[0]);
            }
        }
        let turned = lanes.iter().zip([1, 7, 12, 18]).map(|(state, bits)| state.rotate_left(bits));
        turned.fold(0_u32, u32::wrapping_add)
    } else {
        P[4]
    };
    state = state.wrapping_add(bytes.len() as u32);
    let words = rest.chunks_exact(4);
    let tail = words.remainder();
    for word in words {
        state = state.wrapping_add(lane(word).wrapping_mul(P[2])).rotate_left(17).wrapping_mul(P[3]);
    }
    for byte in tail {
        state = state.wrapping_add(u32::from(*byte).wrapping_mul(P[4])).rotate_left(11).wrapping_mul(P[0]);
    }
    state = (state ^ state >> 15).wrapping_mul(P[1]);
    state = (state ^ state >> 13).wrapping_mul(P[2]);
    state ^ state >> 16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_the_published_one() {
        for (text, expected) in [
            ("", 0x02cc_5d05),
            ("a", 0x550d_7456),
            ("abc", 0x32d1_53ff),
            ("Nobody inspects the spammish repetition", 0xe229_3b2f),
        ] {
            assert_eq!(hash(text.as_bytes()), expected, "{text}");
        }
    }

    fn first(ring: &Ring, key: u32) -> usize {
        ring.walk(hash(&key.to_le_bytes())).next().expect("a target")
    }

    #[test]
    fn shares_follow_weights_and_stay_when_a_target_goes() {
        let names = ["a:1", "b:1", "c:1", "d:1"];
        let full = Ring::new(names.iter().map(|name| (*name, 100)));
        let less = Ring::new(names.iter().map(|name| (*name, if *name == "d:1" { 0 } else { 100 })));
        let mut counts = [0; 4];
        let mut moved = 0;
        for key in 0..10_000 {
            let (before, after) = (first(&full, key), first(&less, key));
            counts[before] += 1;
            moved += usize::from(before != 3 && before != after);
            assert_ne!(after, 3);
        }
        assert!(counts.iter().all(|count| (1_500..3_500).contains(count)), "{counts:?}");
        // A fourth of the points of each are new, for shares are by the average; most keys stay.
        assert!(moved < 3_000, "{moved}");
        let heavy = Ring::new([("a:1", 900), ("b:1", 100)].into_iter());
        let share = (0..10_000).filter(|key| first(&heavy, *key) == 0).count();
        assert!((8_000..9_700).contains(&share), "{share}");
    }

    #[test]
    fn an_empty_ring_has_nobody() {
        assert_eq!(Ring::new([("a:1", 0)].into_iter()).walk(7).next(), None);
        assert_eq!(Ring::default().walk(7).next(), None);
    }
}
