//! Replays the fuzz targets' corpora, and mutants of them by a seed, as plain tests: no sanitizer, no other compiler.

#[path = "../../fuzz/src/lib.rs"]
mod targets;

use std::fs;
use std::path::Path;

use targets::TARGETS;

/// Mutants of each seed in an ordinary run; `GATEWAY_MUTANTS` asks for more.
const MUTANTS: u64 = 40;

fn corpus(name: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(name);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let files = entries.map(|entry| entry.expect("the folder can be read").path());
    let mut all: Vec<_> =
        files.map(|file| (file.display().to_string(), fs::read(&file).expect("a seed can be read"))).collect();
    all.sort();
    all
}

struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 11).expect("53 bits fit") % sides.max(1)
    }
}

fn mutate(dice: &mut Dice, seed: &[u8]) -> Vec<u8> {
    let mut out = seed.to_vec();
    for _ in 0..=dice.roll(3) {
        let at = dice.roll(out.len() + 1);
        match dice.roll(4) {
            0 if at < out.len() => drop(out.remove(at)),
            1 if at < out.len() => out[at] = u8::try_from(dice.roll(256)).expect("a byte"),
            2 => out.insert(at, u8::try_from(dice.roll(256)).expect("a byte")),
            _ => {
                let piece = out[at..(at + dice.roll(12)).min(out.len())].to_vec();
                drop(out.splice(at..at, piece));
            }
        }
    }
    out
}

#[test]
fn every_corpus_holds() {
    let asked = std::env::var("GATEWAY_MUTANTS").ok().and_then(|text| text.parse().ok());
    let mutants = asked.unwrap_or(MUTANTS);
    for (name, check) in TARGETS {
        let seeds = corpus(name);
        assert!(!seeds.is_empty(), "{name} has no corpus");
        for (file, seed) in &seeds {
            // A panic below says the assertion; this line says the input.
            println!("{file}");
            check(seed);
        }
        let mut dice = Dice(0x5eed);
        for at in 0..mutants * seeds.len() as u64 {
            let mutant = mutate(&mut dice, &seeds[usize::try_from(at).expect("fits") % seeds.len()].1);
            println!("{name} {:?}", String::from_utf8_lossy(&mutant));
            check(&mutant);
        }
    }
}
