//! Variables in the text, before it is parsed: `${VAR}` and `$VAR` when asked for, decK's `${{ env "DECK_X" }}` always
//! (no other reader would know what to do with it). Must not know YAML beyond its comments.

use std::borrow::Cow;

use super::Dialect;

/// Fills in; `wrong` gets line, column and words of what cannot be. Nothing comes back when anything was wrong.
pub fn fill<'a>(text: &'a str, dialect: &Dialect, mut wrong: impl FnMut(u32, u32, String)) -> Option<Cow<'a, str>> {
    let wanted = if dialect.env_subst { "$" } else { "${{" };
    if !text.contains(wanted) {
        return Some(Cow::Borrowed(text));
    }
    let mut out = String::with_capacity(text.len());
    let mut sound = true;
    for (number, line) in text.split_inclusive('\n').enumerate() {
        if line.trim_start().starts_with('#') {
            out.push_str(line);
            continue;
        }
        let mut rest = line;
        while let Some(at) = rest.find('$') {
            out.push_str(&rest[..at]);
            let found = &rest[at..];
            let column = line[..line.len() - found.len()].chars().count() + 1;
            match variable(found, dialect) {
                Ok((length, value)) => {
                    out.push_str(&value);
                    rest = &found[length..];
                }
                Err(words) => {
                    sound = false;
                    wrong(number as u32 + 1, column as u32, words);
                    rest = &found[1..];
                }
            }
        }
        out.push_str(rest);
    }
    sound.then_some(Cow::Owned(out))
}

/// What begins with a dollar sign: how long it is and what it becomes; it stays when it is no variable.
fn variable(found: &str, dialect: &Dialect) -> Result<(usize, String), String> {
    if found.starts_with("${{") {
        let end = found.find("}}").ok_or("`${{` is not closed on its line")?;
        return Ok((end + 2, template(found[3..end].trim(), dialect)?));
    }
    let stay = || Ok((1, "$".to_owned()));
    if !dialect.env_subst {
        return stay();
    }
    if let Some(inner) = found.strip_prefix("${") {
        let Some(end) = inner.find('}') else { return stay() };
        let (name, default) = match inner[..end].split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (&inner[..end], None),
        };
        if !is_name(name) {
            return stay();
        }
        let value = dialect.variables.get(name).map(String::as_str).filter(|v| !v.is_empty()).or(default);
        let value = value.ok_or_else(|| format!("`${{{name}}}`: the variable is not set"))?;
        return Ok((2 + end + 1, one_line(name, value)?));
    }
    let name: String =
        found[1..].chars().take_while(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || *c == '_').collect();
    if !is_name(&name) {
        return stay();
    }
    let value = dialect.variables.get(&name).ok_or_else(|| format!("`${name}`: the variable is not set"))?;
    Ok((1 + name.len(), one_line(&name, value)?))
}

fn is_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// decK's template: `env "DECK_X"`, perhaps with a conversion that makes no difference to a text.
fn template(text: &str, dialect: &Dialect) -> Result<String, String> {
    let (call, conversion) = text.split_once('|').map_or((text, ""), |(call, c)| (call.trim(), c.trim()));
    let name = call
        .strip_prefix("env")
        .map(str::trim)
        .and_then(|quoted| quoted.strip_prefix('"')?.strip_suffix('"'))
        .filter(|_| ["", "toInt", "toFloat", "toBool"].contains(&conversion))
        .ok_or_else(|| format!("`${{{{ {text} }}}}`: only `env \"DECK_NAME\"` is known of decK's templates"))?;
    if !name.starts_with("DECK_") || !is_name(name) {
        return Err(format!("`{name}`: decK reads only variables whose names begin with DECK_"));
    }
    let value = dialect.variables.get(name).ok_or_else(|| format!("`{name}`: the variable is not set"))?;
    one_line(name, value)
}

/// A line break would change the structure of the file around it.
fn one_line(name: &str, value: &str) -> Result<String, String> {
    if value.contains(['\n', '\r']) {
        return Err(format!("`{name}` holds a line break: use {{vault://env/…}} for such values"));
    }
    Ok(value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(text: &str, env_subst: bool) -> Result<String, String> {
        let pairs = [("PORT", "80"), ("DECK_H", "a.test"), ("LINES", "a\nb"), ("EMPTY", "")];
        let variables = pairs.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        let mut errors = String::new();
        let dialect = Dialect { env_subst, variables };
        let out = fill(text, &dialect, |line, column, words| errors.push_str(&format!("{line}:{column}: {words}\n")));
        out.map(Cow::into_owned).ok_or(errors)
    }

    #[test]
    fn variables_are_filled_in_only_when_asked_for() {
        let text = "a: ${PORT}\nb: $PORT/x\nc: ${NONE:-d}\n# ${NONE}\nd: /pets$\ne: $(headers.x) ${EMPTY:-z}\n";
        assert_eq!(filled(text, false).as_deref(), Ok(text));
        assert_eq!(
            filled(text, true).as_deref(),
            Ok("a: 80\nb: 80/x\nc: d\n# ${NONE}\nd: /pets$\ne: $(headers.x) z\n")
        );
        assert!(filled("a: é ${NONE}\n", true).is_err_and(|e| e.starts_with("1:6: `${NONE}`")));
        assert!(filled("a: ${LINES}\n", true).is_err_and(|e| e.contains("line break")));
    }

    #[test]
    fn decks_templates_are_always_filled_in() {
        assert_eq!(filled("h: ${{ env \"DECK_H\" }}\n", false).as_deref(), Ok("h: a.test\n"));
        assert!(filled("h: ${{ env \"PATH\" }}\n", false).is_err_and(|e| e.contains("DECK_")));
        assert!(filled("h: ${{ env \"DECK_NONE\" | toInt }}\n", false).is_err_and(|e| e.contains("not set")));
    }
}
