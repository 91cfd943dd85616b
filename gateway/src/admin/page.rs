//! Pages of a list, as Kong cuts them: `size`, an opaque `offset`, and `next` with the way to the next page.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

/// Entries of a page when nothing is said.
const SIZE: usize = 100;

/// Entries of a page at most.
const SIZE_MAX: usize = 1000;

/// What the query of a list says.
pub struct Page {
    size: usize,
    from: usize,
    /// Tags, and whether all of them must be there (`a,b`) or any (`a/b`).
    tags: Option<(Vec<String>, bool)>,
}

impl Page {
    /// Reads a query.
    ///
    /// # Errors
    /// What is wrong with it, by field.
    pub fn of(query: &str) -> Result<Self, Value> {
        let mut page = Page { size: SIZE, from: 0, tags: None };
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            match &*name {
                "size" => {
                    let size = value.parse().ok().filter(|size| (1..=SIZE_MAX).contains(size));
                    page.size =
                        size.ok_or_else(|| json!({ "size": format!("must be an integer between 1 and {SIZE_MAX}") }))?;
                }
                "offset" => page.from = offset(&value).ok_or_else(|| json!({ "offset": "invalid offset" }))?,
                "tags" => {
                    let all = !value.contains('/');
                    let tags = value.split([',', '/']).map(str::to_owned).collect();
                    page.tags = Some((tags, all));
                }
                _ => {}
            }
        }
        Ok(page)
    }

    /// The page of a list whose address is `path`.
    pub fn cut<'a>(&self, list: impl Iterator<Item = &'a Value>, path: &str) -> Value {
        let mut data = Vec::new();
        let mut more = false;
        for entity in list.filter(|entity| self.has_tags(entity)).skip(self.from) {
            if data.len() == self.size {
                more = true;
                break;
            }
            data.push(entity.clone());
        }
        if !more {
            return json!({ "data": data, "next": null });
        }
        let offset = URL_SAFE_NO_PAD.encode((self.from + self.size).to_string());
        let mut next = format!("{path}?offset={offset}&size={}", self.size);
        if let Some((tags, all)) = &self.tags {
            let joined = tags.join(if *all { "," } else { "/" });
            next.push_str("&tags=");
            next.extend(form_urlencoded::byte_serialize(joined.as_bytes()));
        }
        json!({ "data": data, "next": next, "offset": offset })
    }

    fn has_tags(&self, entity: &Value) -> bool {
        let Some((wanted, all)) = &self.tags else { return true };
        let has = |tag: &String| entity["tags"].as_array().is_some_and(|tags| tags.iter().any(|t| t == tag.as_str()));
        if *all { wanted.iter().all(has) } else { wanted.iter().any(has) }
    }
}

fn offset(text: &str) -> Option<usize> {
    std::str::from_utf8(&URL_SAFE_NO_PAD.decode(text).ok()?).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_lead_to_the_end() {
        let list: Vec<Value> =
            (0..25).map(|n| json!({ "n": n, "tags": [if n % 2 == 0 { "even" } else { "odd" }] })).collect();
        let mut query = "size=10&tags=even".to_owned();
        let mut seen = Vec::new();
        loop {
            let page = Page::of(&query).unwrap_or_else(|e| panic!("{e}")).cut(list.iter(), "/things");
            seen.extend(page["data"].as_array().cloned().unwrap_or_default());
            let Some(next) = page["next"].as_str() else { break };
            query = next.strip_prefix("/things?").expect("the same list").to_owned();
        }
        assert_eq!(seen.len(), 13);
        assert!(Page::of("size=0").is_err() && Page::of("size=x").is_err() && Page::of("offset=!").is_err());
    }
}
