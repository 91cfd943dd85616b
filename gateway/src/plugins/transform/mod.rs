//! Plugins that change headers, queries and bodies on their way. This file reads their common configuration, five lists
//! of edits in the order in which they are made; `headers`, `pairs` and `json` make them.

pub mod expression;
pub mod headers;
pub mod json;
pub mod lua_pattern;
pub mod multipart;
pub mod pairs;
pub mod request_transformer;
pub mod response_transformer;
pub mod template;

use http::header::{CONNECTION, CONTENT_LENGTH, HOST, HeaderName, HeaderValue, TRANSFER_ENCODING};

use crate::document::{Fields, Place};

/// The longest body that is held to be changed; it keeps a client from filling the memory.
pub const BODY_BYTES_MAX: usize = 1 << 20;

/// Edits of named values, made in the order of the fields (Kong's order).
#[derive(Debug)]
pub struct Edits<N, V> {
    /// Names that go.
    pub remove: Vec<N>,
    /// Old name and new name.
    pub rename: Vec<(N, N)>,
    /// New values of names that are there.
    pub replace: Vec<(N, V)>,
    /// Values of names that are not there.
    pub add: Vec<(N, V)>,
    /// Further values, whether the name is there or not.
    pub append: Vec<(N, V)>,
}

impl<N, V> Edits<N, V> {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        let Edits { remove, rename, replace, add, append } = self;
        remove.is_empty() && rename.is_empty() && replace.is_empty() && add.is_empty() && append.is_empty()
    }

    /// Nothing to do.
    #[must_use]
    pub fn none() -> Self {
        Edits { remove: Vec::new(), rename: Vec::new(), replace: Vec::new(), add: Vec::new(), append: Vec::new() }
    }

    /// The same edits with what `make` makes of each value.
    ///
    /// # Errors
    /// The first of `make`.
    pub fn try_map<W, E>(&self, make: impl Fn(&V) -> Result<W, E>) -> Result<Edits<N, W>, E>
    where
        N: Clone,
    {
        let each = |list: &[(N, V)]| {
            list.iter().map(|(name, value)| Ok::<_, E>((name.clone(), make(value)?))).collect::<Result<Vec<_>, E>>()
        };
        Ok(Edits {
            remove: self.remove.clone(),
            rename: self.rename.clone(),
            replace: each(&self.replace)?,
            add: each(&self.add)?,
            append: each(&self.append)?,
        })
    }
}

/// The five maps of a transformer's `config`.
pub struct Sections<'a> {
    remove: Option<Fields<'a>>,
    rename: Option<Fields<'a>>,
    /// `replace`, which may hold more than lists.
    pub replace: Option<Fields<'a>>,
    add: Option<Fields<'a>>,
    append: Option<Fields<'a>>,
    dollar: Dollar,
}

/// What `$(…)` in a value is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Dollar {
    /// A template, which the plugin reads.
    Template,
    /// Text, in Kong too.
    Text,
}

/// One entry of a list, `name:value`.
pub struct Entry {
    /// Where it stands.
    pub place: Place,
    /// Up to the first colon.
    pub name: String,
    /// What follows the colon or colons.
    pub value: String,
}

impl<'a> Sections<'a> {
    /// Opens the maps that are given.
    pub fn of(fields: &Fields<'a>, dollar: Dollar) -> Self {
        Sections {
            dollar,
            remove: fields.fields("remove"),
            rename: fields.fields("rename"),
            replace: fields.fields("replace"),
            add: fields.fields("add"),
            append: fields.fields("append"),
        }
    }

    /// The edits of the list `key` in each map. `value` makes of an entry and its index what the plugin applies, or
    /// reports and returns nothing.
    pub fn edits<V>(
        &self,
        key: &'static str,
        value: impl Fn(&Fields<'a>, usize, &Entry) -> Option<V>,
    ) -> Edits<String, V> {
        let valued = |section: &Option<Fields<'a>>| -> Vec<(String, V)> {
            let Some(section) = section else { return Vec::new() };
            let entries = self.entries(section, key).into_iter().enumerate();
            entries.filter_map(|(i, entry)| value(section, i, &entry).map(|v| (entry.name, v))).collect()
        };
        let names = self.remove.as_ref().and_then(|section| section.strings(key)).unwrap_or_default();
        let renames = self.rename.as_ref().map(|section| self.renames(section, key)).unwrap_or_default();
        Edits {
            remove: names.into_iter().map(|(_, name)| name).collect(),
            rename: renames.into_iter().map(|e| (e.name, e.value)).collect(),
            replace: valued(&self.replace),
            add: valued(&self.add),
            append: valued(&self.append),
        }
    }

    /// The edits of `headers`, with values that stand in the file.
    pub fn headers(&self) -> Edits<HeaderName, HeaderValue> {
        self.headers_of(false, |section, entry| header_value(section, entry.place, &entry.value))
    }

    /// The edits of `headers`. With `host`, only `replace` may name `Host`, as in Kong. `value` is as for `edits`.
    pub fn headers_of<V>(&self, host: bool, value: impl Fn(&Fields<'a>, &Entry) -> Option<V>) -> Edits<HeaderName, V> {
        let names = self.remove.as_ref().map(|section| {
            let names = section.strings("headers").unwrap_or_default();
            names.into_iter().filter_map(|(place, name)| header_name(section, place, &name, false)).collect()
        });
        let renames = self.rename.as_ref().map(|section| {
            let entries = self.renames(section, "headers").into_iter();
            entries
                .filter_map(|e| {
                    let old = header_name(section, e.place, &e.name, false);
                    old.zip(header_name(section, e.place, &e.value, false))
                })
                .collect()
        });
        let valued = |section: &Option<Fields<'a>>, host: bool| -> Vec<(HeaderName, V)> {
            let Some(section) = section else { return Vec::new() };
            let entries = self.entries(section, "headers").into_iter();
            entries.filter_map(|e| header_name(section, e.place, &e.name, host).zip(value(section, &e))).collect()
        };
        Edits {
            remove: names.unwrap_or_default(),
            rename: renames.unwrap_or_default(),
            replace: valued(&self.replace, host),
            add: valued(&self.add, false),
            append: valued(&self.append, false),
        }
    }

    /// Entries whose value is a name, which no template can make.
    fn renames(&self, section: &Fields<'a>, key: &'static str) -> Vec<Entry> {
        let mut entries = self.entries(section, key);
        if self.dollar == Dollar::Template {
            entries.retain(|entry| {
                let template = entry.value.contains("$(");
                if template {
                    section.report.unsupported(
                        entry.place,
                        format!("template in the new name of `{}`", entry.name),
                        None,
                    );
                }
                !template
            });
        }
        entries
    }

    fn entries(&self, section: &Fields<'a>, key: &'static str) -> Vec<Entry> {
        let strings = section.strings(key).unwrap_or_default();
        strings.into_iter().filter_map(|(place, text)| self.entry(section, place, &text)).collect()
    }

    /// Kong's grammar, `^([^:]+):*(.-)$` with a value.
    fn entry(&self, section: &Fields<'a>, place: Place, text: &str) -> Option<Entry> {
        let (name, value) =
            text.split_once(':').map_or((text, ""), |(name, value)| (name, value.trim_start_matches(':')));
        if name.is_empty() || value.is_empty() {
            section.report.mismatch(place, format!("the entry of `{name}` has no value"), "`name:value`");
            return None;
        }
        if self.dollar == Dollar::Text && value.contains("$(") {
            let words = format!("the entry of `{name}` is no template: `$(` is sent as it stands");
            section.report.warn(place, words);
        }
        Some(Entry { place, name: name.to_owned(), value: value.to_owned() })
    }
}

fn header_name(section: &Fields<'_>, place: Place, name: &str, host: bool) -> Option<HeaderName> {
    let Ok(parsed) = HeaderName::try_from(name.trim()) else {
        section.report.mismatch(place, format!("`{name}` is no header name"), "a header name");
        return None;
    };
    let decided = [CONTENT_LENGTH, TRANSFER_ENCODING, CONNECTION].contains(&parsed) || (parsed == HOST && !host);
    if decided {
        section.report.warn(place, format!("`{name}` is decided by the gateway: this entry has no effect"));
        return None;
    }
    Some(parsed)
}

/// A value for a header; reports what cannot be one.
fn header_value(section: &Fields<'_>, place: Place, value: &str) -> Option<HeaderValue> {
    let parsed = HeaderValue::try_from(value.trim()).ok();
    if parsed.is_none() {
        section.report.mismatch(place, "the entry's value is no header value", "visible characters");
    }
    parsed
}

/// Whether a content type is `media`, whatever its parameters; of a comma list any one counts (Kong's rule).
#[must_use]
pub fn is_media(content_type: Option<&HeaderValue>, media: &str) -> bool {
    let Some(text) = content_type.and_then(|v| v.to_str().ok()) else { return false };
    text.split(',').any(|one| one.split(';').next().is_some_and(|m| m.trim().eq_ignore_ascii_case(media)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn media_types_are_compared_without_parameters() {
        let is = |text: &str| is_media(Some(&HeaderValue::try_from(text).expect("value")), "application/json");
        assert!(
            is("application/json") && is("Application/JSON; charset=utf-8") && is("text/html, application/json;q=1")
        );
        assert!(!is("application/json-patch+json") && !is("text/plain") && !is_media(None, "application/json"));
    }
}
