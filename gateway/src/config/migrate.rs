//! Paths of format 1.1 and 2.1 in the form of 3.0: what was a regex then says so with `~` now.

/// Rewrites one path of an older file (Kong `migrations/route_path` for `_format_version` below 3.0).
#[must_use]
pub fn path(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b'~' | b'/' | b'%');
    if text.starts_with('~') || text.bytes().all(plain) { text.to_owned() } else { format!("~{text}") }
}

#[cfg(test)]
mod tests {
    #[test]
    fn only_regexes_get_the_mark() {
        assert_eq!(super::path("/pets"), "/pets");
        assert_eq!(super::path("/pets/(?<id>\\d+)$"), "~/pets/(?<id>\\d+)$");
    }
}
