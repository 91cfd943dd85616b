//! Counts tests from what cargo and the test harness print. Pure: lines go in, counts come out. It must not start
//! anything.

use crate::bars::{self, Row};

/// How many tests passed, failed and were skipped, and why.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub passed: usize,
    pub failed: usize,
    pub skipped: usize,
    /// One line for each failed test.
    pub failures: Vec<String>,
    /// One line for each skip: `name: reason`.
    pub skips: Vec<String>,
    /// Rows of the table of bars.
    pub bars: Vec<Row>,
}

impl Tally {
    /// Counts one check of our own.
    pub fn check(&mut self, name: &str, good: bool) {
        if good {
            self.passed += 1;
        } else {
            self.fail(name);
        }
    }

    pub fn fail(&mut self, name: &str) {
        self.failed += 1;
        self.failures.push(name.to_owned());
    }

    pub fn skip(&mut self, name: &str, reason: &str) {
        self.skipped += 1;
        self.skips.push(format!("{name}: {reason}"));
    }

    pub fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
        self.failures.extend(other.failures);
        self.skips.extend(other.skips);
        self.bars.extend(other.bars);
    }

    /// The line that ends `cargo xtask test`.
    #[must_use]
    pub fn summary(&self) -> String {
        format!("{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

/// Reads the output of `cargo test -- --show-output`, in which each test's own lines stand in a section of its name.
#[derive(Default)]
pub struct Reader {
    tally: Tally,
    /// The test whose captured output is being read.
    test: Option<String>,
    of_success: bool,
    listing: bool,
    /// Tests of the current binary that ended well.
    passed: Vec<String>,
    /// Names in skips of the current binary, with the test in whose captured output they stood (a test may also print
    /// past the capture).
    skips: Vec<(Option<String>, String)>,
}

impl Reader {
    /// Takes one line; returns whether a person wants to see it.
    pub fn line(&mut self, line: &str) -> bool {
        if let Some(row) = bars::row(line) {
            self.tally.bars.push(row);
            return false;
        }
        if let Some(rest) = line.strip_prefix("test result: ") {
            (self.test, self.of_success, self.listing) = (None, false, false);
            self.result(rest);
            return true;
        }
        match line {
            "successes:" => (self.test, self.of_success, self.listing) = (None, true, true),
            "failures:" => (self.test, self.of_success, self.listing) = (None, false, true),
            _ => {}
        }
        if self.listing
            && let Some(name) = line.strip_prefix("---- ").and_then(|rest| rest.strip_suffix(" stdout ----"))
        {
            self.test = Some(name.to_owned());
            return !self.of_success;
        }
        if let Some((name, reason)) = line.strip_prefix("SKIP ").and_then(|rest| rest.split_once(": ")) {
            self.tally.skip(name, reason);
            self.skips.push((self.test.clone(), name.to_owned()));
            return true;
        }
        if let Some((name, end)) = line.strip_prefix("test ").and_then(|rest| rest.rsplit_once(" ... ")) {
            match end {
                "ok" => self.passed.push(name.to_owned()),
                "FAILED" => self.tally.failures.push(name.to_owned()),
                _ => {}
            }
        }
        !self.of_success
    }

    /// Ends the reading. `good` is how the command ended: one that failed without a failed test did not build or died.
    #[must_use]
    pub fn finish(mut self, step: &str, good: bool) -> Tally {
        if !good && self.tally.failed == 0 {
            self.tally.fail(step);
        }
        self.tally
    }

    /// `ok. 12 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s`
    fn result(&mut self, rest: &str) {
        let counts = rest.split_once(". ").map_or(rest, |(_, counts)| counts);
        for part in counts.split("; ") {
            let Some((number, word)) = part.split_once(' ') else { continue };
            let Ok(number) = number.parse::<usize>() else { continue };
            match word {
                "passed" => self.tally.passed += number,
                "failed" => self.tally.failed += number,
                "ignored" => self.tally.skipped += number,
                _ => {}
            }
        }
        let mut whole: Vec<&String> =
            self.skips.iter().filter_map(|(test, name)| self.skipped(test.as_ref(), name)).collect();
        whole.sort_unstable();
        whole.dedup();
        self.tally.passed = self.tally.passed.saturating_sub(whole.len());
        self.skips.clear();
        self.passed.clear();
    }

    /// The test that a skip is about, which then returned as if it had passed: the one that is named so, or the one in
    /// whose output the skip stands under the name of its module. Any other skip is one case of a test that went on.
    fn skipped(&self, within: Option<&String>, name: &str) -> Option<&String> {
        self.passed.iter().find(|test| {
            let named = *test == name || test.ends_with(&format!("::{name}"));
            let module = within == Some(test) && test.split("::").any(|part| part == name);
            named || module
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, good: bool) -> Tally {
        let mut reader = Reader::default();
        for line in text.lines() {
            reader.line(line);
        }
        reader.finish("step", good)
    }

    const WITH_SKIPS: &str = "
running 3 tests
test a::one ... ok
test kernel::attach ... ok
test corpus::cases ... ok

successes:

---- kernel::attach stdout ----
SKIP attach: needs root
---- corpus::cases stdout ----
SKIP key-auth/7: needs redis
some noise
SKIP key-auth/9: needs redis

successes:
    a::one

test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s
";

    #[test]
    fn a_test_that_skipped_itself_did_not_pass_and_a_skipped_case_does_not_hide_its_test() {
        let tally = read(WITH_SKIPS, true);
        assert_eq!((tally.passed, tally.failed, tally.skipped), (2, 0, 3));
        assert_eq!(tally.skips[0], "attach: needs root");
    }

    #[test]
    fn a_skip_printed_past_the_capture_is_matched_by_the_test_that_it_names() {
        let text = "SKIP rate::shared: the minute ended\ntest rate::shared ... ok\nSKIP corpus jwt: 3 cases: needs redis\n\
                    test corpus::cases ... ok\ntest result: ok. 2 passed; 0 failed; 0 ignored; 0 measured\n";
        let tally = read(text, true);
        assert_eq!((tally.passed, tally.failed, tally.skipped), (1, 0, 2));
    }

    #[test]
    fn results_of_several_binaries_add_up_and_failures_are_named() {
        let tally = read(
            "test x ... ok\ntest result: ok. 1 passed; 0 failed; 2 ignored; 0 measured\n\
             test b::y ... FAILED\ntest result: FAILED. 4 passed; 1 failed; 0 ignored; 0 measured\n",
            false,
        );
        assert_eq!((tally.passed, tally.failed, tally.skipped), (5, 1, 2));
        assert_eq!(tally.failures, ["b::y"]);
    }

    #[test]
    fn a_command_that_failed_before_any_test_counts_as_one_failure() {
        let tally = read("error: could not compile", false);
        assert_eq!((tally.passed, tally.failed), (0, 1));
        assert_eq!(tally.failures, ["step"]);
    }

    #[test]
    fn output_of_tests_that_passed_is_not_shown_but_a_skip_is() {
        let mut reader = Reader::default();
        let shown: Vec<bool> = WITH_SKIPS.lines().map(|line| reader.line(line)).collect();
        let lines: Vec<&str> =
            WITH_SKIPS.lines().zip(&shown).filter(|(_, shown)| **shown).map(|(line, _)| line).collect();
        assert!(lines.contains(&"SKIP key-auth/9: needs redis"));
        assert!(!lines.contains(&"some noise"));
    }
}
