//! One Rust file as the rules see it: its lines with comments, string contents and tests told apart. A small scanner,
//! not a parser: it must be right about what the project writes, and no more.

/// A line of a source file.
pub struct Line {
    /// From 1.
    pub number: usize,
    /// As written.
    pub text: String,
    /// Without comments, and with the contents of strings and characters blanked.
    pub code: String,
    /// Within a `#[cfg(test)]` item, or in a file `tests.rs`.
    pub test: bool,
}

/// A source file.
pub struct Source {
    /// Below the workspace's top folder, with `/`.
    pub name: String,
    pub lines: Vec<Line>,
}

impl Source {
    #[must_use]
    pub fn new(name: &str, text: &str) -> Self {
        let mut lines: Vec<Line> = text
            .lines()
            .zip(strip(text).lines())
            .enumerate()
            .map(|(index, (text, code))| Line {
                number: index + 1,
                text: text.to_owned(),
                code: code.to_owned(),
                test: false,
            })
            .collect();
        if name.ends_with("/tests.rs") {
            lines.iter_mut().for_each(|line| line.test = true);
        }
        mark_tests(&mut lines);
        Self { name: name.to_owned(), lines }
    }

    /// The lines that are neither blank, comment nor test.
    pub fn code(&self) -> impl Iterator<Item = &Line> {
        self.lines.iter().filter(|line| !line.test && !line.code.trim().is_empty())
    }

    /// `file:line`, as a terminal makes it clickable.
    #[must_use]
    pub fn at(&self, line: &Line) -> String {
        format!("{}:{}", self.name, line.number)
    }
}

/// Marks each item under `#[cfg(test)]`, from the attribute to the end of its braces or to its semicolon.
fn mark_tests(lines: &mut [Line]) {
    let mut index = 0;
    while index < lines.len() {
        if !lines[index].code.trim_start().starts_with("#[cfg(test)]") {
            index += 1;
            continue;
        }
        let mut depth = 0_i32;
        let mut entered = false;
        while index < lines.len() {
            lines[index].test = true;
            for character in lines[index].code.chars() {
                match character {
                    '{' => (depth, entered) = (depth + 1, true),
                    '}' => depth -= 1,
                    _ => {}
                }
            }
            let ends = if entered { depth == 0 } else { lines[index].code.trim_end().ends_with(';') };
            index += 1;
            if ends {
                break;
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Code,
    LineComment,
    /// Nesting depth.
    BlockComment(u32),
    String,
    /// Number of `#`.
    RawString(usize),
}

/// The text with comments and the contents of strings and characters blanked, line by line as it was.
fn strip(text: &str) -> String {
    let characters: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let (mut state, mut index) = (State::Code, 0);
    while index < characters.len() {
        let (next_state, taken, kept) = step(state, &characters, index);
        for &character in &characters[index..index + taken] {
            out.push(if kept || character == '\n' { character } else { ' ' });
        }
        (state, index) = (next_state, index + taken);
    }
    out
}

/// What the characters at `index` are: the state after them, how many they are, and whether they are code.
fn step(state: State, characters: &[char], index: usize) -> (State, usize, bool) {
    let starts = |text: &str| text.chars().enumerate().all(|(offset, c)| characters.get(index + offset) == Some(&c));
    let here = characters[index];
    match state {
        State::Code if starts("//") => (State::LineComment, 2, false),
        State::Code if starts("/*") => (State::BlockComment(1), 2, false),
        State::Code if here == '"' => (State::String, 1, true),
        State::Code if here == '\'' => (State::Code, character_length(&characters[index..]), false),
        State::Code => match raw_string(characters, index) {
            Some((taken, hashes)) => (State::RawString(hashes), taken, true),
            None => (State::Code, 1, true),
        },
        State::LineComment if here == '\n' => (State::Code, 1, true),
        State::LineComment => (State::LineComment, 1, false),
        State::BlockComment(depth) if starts("/*") => (State::BlockComment(depth + 1), 2, false),
        State::BlockComment(1) if starts("*/") => (State::Code, 2, false),
        State::BlockComment(depth) if starts("*/") => (State::BlockComment(depth - 1), 2, false),
        State::BlockComment(depth) => (State::BlockComment(depth), 1, false),
        State::String if here == '\\' => (State::String, 2.min(characters.len() - index), false),
        State::String if here == '"' => (State::Code, 1, true),
        State::String => (State::String, 1, false),
        State::RawString(hashes) if here == '"' && starts(&format!("\"{}", "#".repeat(hashes))) => {
            (State::Code, 1 + hashes, true)
        }
        State::RawString(hashes) => (State::RawString(hashes), 1, false),
    }
}

/// The length of the character literal that begins here, or 1 for the quote of a lifetime.
fn character_length(rest: &[char]) -> usize {
    match rest {
        [_, '\\', _, tail @ ..] => 3 + tail.iter().position(|&c| c == '\'').map_or(0, |end| end + 1),
        [_, _, '\'', ..] => 3,
        _ => 1,
    }
}

/// Whether a raw string opens here: the length of its opening and the number of `#`.
fn raw_string(characters: &[char], index: usize) -> Option<(usize, usize)> {
    let word = |c: &char| c.is_alphanumeric() || *c == '_';
    if characters[index] != 'r' || (index > 0 && word(&characters[index - 1]) && characters[index - 1] != 'b') {
        return None;
    }
    let hashes = characters[index + 1..].iter().take_while(|&&c| c == '#').count();
    (characters.get(index + 1 + hashes) == Some(&'"')).then_some((2 + hashes, hashes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codes(text: &str) -> Vec<String> {
        Source::new("a.rs", text).lines.into_iter().map(|line| line.code.trim().to_owned()).collect()
    }

    #[test]
    fn comments_and_strings_are_not_code() {
        assert_eq!(codes("a(); // unsafe\n/* b\n/* c */ d */ e();"), ["a();", "", "e();"]);
        assert_eq!(codes(r##"f("// no", 'x', '\'', r#"a"b"#);"##), [r##"f("     ",    ,     , r#"   "#);"##]);
        assert_eq!(
            codes("fn f<'a>(x: &'a str) {} // c"),
            ["fn f<a>(x: &a str) {}".replace("<a", "< a").replace("&a", "& a")]
        );
        assert_eq!(codes("x(\"a\\\"b\"); y"), ["x(\"    \"); y"]);
    }

    #[test]
    fn a_test_module_ends_where_its_braces_end() {
        let source =
            Source::new("a.rs", "a();\n#[cfg(test)]\nmod tests {\n  fn b() {}\n}\nc();\n#[cfg(test)]\nuse d;\ne();");
        let tests: Vec<usize> = source.lines.iter().filter(|line| line.test).map(|line| line.number).collect();
        assert_eq!(tests, [2, 3, 4, 5, 7, 8]);
        assert_eq!(source.code().count(), 3);
    }
}
