//! A bounded set of watched sources: the least recently seen one makes room, unless it is under a verdict. A flood of
//! sources can neither grow it nor push a verdict's owner out.

use std::collections::HashMap;

use gateway_common::Source;

const NONE: u32 = u32::MAX;
/// How many pinned entries are passed over before a newcomer is turned away: the work of one insertion is bounded.
const PASSED_OVER_MAX: usize = 16;

struct Node<T> {
    source: Source,
    newer: u32,
    older: u32,
    value: T,
}

pub(super) struct Watch<T> {
    places: HashMap<Source, u32>,
    nodes: Vec<Node<T>>,
    newest: u32,
    oldest: u32,
    max: usize,
}

impl<T: Default> Watch<T> {
    pub fn new(max: u32) -> Self {
        let max = max.clamp(1, 1 << 24) as usize;
        Self { places: HashMap::new(), nodes: Vec::new(), newest: NONE, oldest: NONE, max }
    }

    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    pub fn iter(&self) -> impl Iterator<Item = (Source, &T)> {
        self.nodes.iter().map(|node| (node.source, &node.value))
    }

    pub fn peek(&self, source: Source) -> Option<&T> {
        self.places.get(&source).map(|&place| &self.nodes[place as usize].value)
    }

    /// The source's entry, made if need be; none if everybody who might make room is pinned.
    pub fn touch(&mut self, source: Source, is_pinned: impl Fn(&T) -> bool) -> Option<&mut T> {
        let place = match self.places.get(&source) {
            Some(&place) => place,
            None => self.insert(source, is_pinned)?,
        };
        if self.newest != place {
            self.unlink(place);
            self.link_newest(place);
        }
        Some(&mut self.nodes[place as usize].value)
    }

    fn insert(&mut self, source: Source, is_pinned: impl Fn(&T) -> bool) -> Option<u32> {
        let place = if self.nodes.len() < self.max {
            let place = self.nodes.len() as u32;
            self.nodes.push(Node { source, newer: NONE, older: NONE, value: T::default() });
            self.link_newest(place);
            place
        } else {
            let place = self.evict(is_pinned)?;
            self.places.remove(&self.nodes[place as usize].source);
            let node = &mut self.nodes[place as usize];
            node.source = source;
            node.value = T::default();
            place
        };
        self.places.insert(source, place);
        Some(place)
    }

    fn evict(&mut self, is_pinned: impl Fn(&T) -> bool) -> Option<u32> {
        for _ in 0..PASSED_OVER_MAX {
            let place = self.oldest;
            if !is_pinned(&self.nodes[place as usize].value) {
                return Some(place);
            }
            self.unlink(place);
            self.link_newest(place);
        }
        None
    }

    fn unlink(&mut self, place: u32) {
        let (newer, older) = (self.nodes[place as usize].newer, self.nodes[place as usize].older);
        match newer {
            NONE => self.newest = older,
            newer => self.nodes[newer as usize].older = older,
        }
        match older {
            NONE => self.oldest = newer,
            older => self.nodes[older as usize].newer = newer,
        }
    }

    fn link_newest(&mut self, place: u32) {
        let before = self.newest;
        let node = &mut self.nodes[place as usize];
        (node.newer, node.older) = (NONE, before);
        match before {
            NONE => self.oldest = place,
            before => self.nodes[before as usize].newer = place,
        }
        self.newest = place;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(n: u32) -> Source {
        Source::new(std::net::Ipv4Addr::from(n).into(), 64)
    }

    #[test]
    fn the_least_recently_seen_makes_room() {
        let mut watch = Watch::<u32>::new(3);
        for n in 0..3 {
            *watch.touch(source(n), |_| false).unwrap() = n + 1;
        }
        watch.touch(source(0), |_| false).unwrap();
        watch.touch(source(9), |_| false).unwrap();
        assert_eq!(watch.peek(source(0)), Some(&1));
        assert_eq!(watch.peek(source(1)), None);
        assert_eq!(watch.peek(source(9)), Some(&0));
        assert_eq!(watch.len(), 3);
    }

    #[test]
    fn a_flood_neither_grows_it_nor_evicts_the_pinned() {
        let mut watch = Watch::<bool>::new(100);
        for n in 0..50 {
            *watch.touch(source(n), |pinned| *pinned).unwrap() = true;
        }
        for n in 1_000..21_000 {
            watch.touch(source(n), |pinned| *pinned);
        }
        assert_eq!(watch.len(), 100);
        assert_eq!(watch.places.len(), 100);
        assert!((0..50).all(|n| watch.peek(source(n)) == Some(&true)));
    }

    #[test]
    fn when_all_are_pinned_a_newcomer_is_turned_away() {
        let mut watch = Watch::<bool>::new(40);
        for n in 0..40 {
            *watch.touch(source(n), |pinned| *pinned).unwrap() = true;
        }
        assert!(watch.touch(source(99), |pinned| *pinned).is_none());
        assert!(watch.touch(source(5), |pinned| *pinned).is_some());
    }
}
