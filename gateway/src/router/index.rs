//! The index of the table: which entries a host and a path can match, longest text first. What the index itself compares
//! needs no second look, and a search ends as soon as nothing shorter can win. Pure.

use rustc_hash::FxHashMap;
use smallvec::SmallVec;

/// An entry of the table, as far as a search asks.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    /// Its place in the order of priority; the least wins.
    pub rank: u32,
    /// Place of its route.
    pub route: u32,
    /// Whether it asks for nothing but the host and the text that it stands under.
    pub settled: bool,
}

/// The candidates of one text, best first.
#[derive(Clone, Copy, Debug)]
struct Group {
    /// Beside the key: most texts have one alone.
    first: Candidate,
    /// The others, as a range of `PathIndex::further`.
    further: (u32, u32),
}

/// The texts of one length.
#[derive(Clone, Copy, Debug)]
struct Level {
    bytes: usize,
    /// The best rank among texts of this length and of all shorter ones.
    best: u32,
}

/// Candidates by the text that their paths begin with.
#[derive(Debug, Default)]
pub struct PathIndex {
    /// The longest first.
    levels: SmallVec<[Level; 3]>,
    by_text: FxHashMap<Box<[u8]>, Group>,
    further: Vec<Candidate>,
}

/// What a search has found so far.
pub struct Search {
    /// Ranks that are worth a look: below that of the entry which is known to fit.
    bound: u32,
    /// Route of that entry, and the bytes of the path that it matched.
    known: Option<(u32, usize)>,
    open: SmallVec<[u32; 16]>,
}

impl PathIndex {
    /// An index of texts with their entries, which come best first.
    #[must_use]
    pub fn new(entries: &[(&str, Candidate)]) -> Self {
        let mut by_text: FxHashMap<&str, Vec<Candidate>> = FxHashMap::default();
        for (text, candidate) in entries {
            let candidates = by_text.entry(text).or_default();
            // A route may name a host twice.
            if candidates.last().is_none_or(|last| last.rank != candidate.rank) {
                candidates.push(*candidate);
            }
        }
        let mut index = PathIndex::default();
        for (text, candidates) in by_text {
            let Some((first, others)) = candidates.split_first() else { continue };
            let begin = index.further.len() as u32;
            index.further.extend_from_slice(others);
            let group = Group { first: *first, further: (begin, index.further.len() as u32) };
            index.by_text.insert(text.as_bytes().into(), group);
            match index.levels.iter_mut().find(|level| level.bytes == text.len()) {
                Some(level) => level.best = level.best.min(first.rank),
                None => index.levels.push(Level { bytes: text.len(), best: first.rank }),
            }
        }
        index.levels.sort_unstable_by_key(|level| level.bytes);
        let mut best = u32::MAX;
        for level in &mut index.levels {
            best = best.min(level.best);
            level.best = best;
        }
        index.levels.reverse();
        index
    }

    /// Adds to `search` what the path can match here.
    pub fn search(&self, path: &str, search: &mut Search) {
        for level in &self.levels {
            if level.best >= search.bound {
                return;
            }
            let Some(text) = path.as_bytes().get(..level.bytes) else { continue };
            let Some(group) = self.by_text.get(text) else { continue };
            search.weigh(group.first, level.bytes);
            let (begin, end) = group.further;
            for candidate in self.further.get(begin as usize..end as usize).unwrap_or_default() {
                search.weigh(*candidate, level.bytes);
            }
        }
    }
}

impl Default for Search {
    fn default() -> Self {
        Search { bound: u32::MAX, known: None, open: SmallVec::new() }
    }
}

impl Search {
    fn weigh(&mut self, candidate: Candidate, bytes: usize) {
        if candidate.rank >= self.bound {
            return;
        }
        if candidate.settled {
            self.bound = candidate.rank;
            self.known = Some((candidate.route, bytes));
        } else {
            self.open.push(candidate.rank);
        }
    }

    /// The ranks that must be tried before `known` wins, best first.
    pub fn open(&mut self) -> &[u32] {
        let bound = self.bound;
        self.open.retain(|rank| *rank < bound);
        self.open.sort_unstable();
        self.open.dedup();
        &self.open
    }

    /// The route of the best entry that fits without a look, with the bytes of the path that it matched.
    #[must_use]
    pub fn known(&self) -> Option<(usize, usize)> {
        self.known.map(|(route, bytes)| (route as usize, bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn search(index: &PathIndex, path: &str) -> (Option<(usize, usize)>, Vec<u32>) {
        let mut search = Search::default();
        index.search(path, &mut search);
        let open = search.open().to_vec();
        (search.known(), open)
    }

    #[test]
    fn what_is_settled_hides_what_is_worse_and_nothing_else() {
        let entry = |rank, settled| Candidate { rank, route: rank + 100, settled };
        let index = PathIndex::new(&[
            ("/a", entry(0, false)),
            ("/a/b", entry(1, true)),
            ("/a/b", entry(2, false)),
            ("/a/b/c", entry(3, false)),
            ("/", entry(4, false)),
            ("/", entry(5, true)),
            ("/", entry(6, true)),
        ]);
        assert_eq!(search(&index, "/a/b/c"), (Some((101, 4)), vec![0]));
        assert_eq!(search(&index, "/a/c"), (Some((105, 1)), vec![0, 4]));
        assert_eq!(search(&index, "/x"), (Some((105, 1)), vec![4]));
        assert_eq!(search(&index, ""), (None, vec![]));
    }
}
