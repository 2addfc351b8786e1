//! containerd's filter expressions: `name==x`, `labels."a.b"==c`, `id~=^ab`, `labels.x`.
//!
//! Selectors joined by commas must all hold; of several filters one must. No filter at all
//! matches everything. Values and path elements may be quoted as Go quotes strings; a value may
//! also stand between `/` or `|` to spare a regular expression its backslashes.

use std::borrow::Cow;

use regex_lite::{Regex, RegexBuilder};

const REGEX_BYTES: usize = 64 * 1024;
const REGEX_DEPTH: u32 = 50;

/// A filter that cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FilterError {
    /// The expression breaks off or goes wrong.
    #[error("filter {filter:?}: {reason} at byte {at}: invalid argument")]
    Syntax {
        /// The whole expression.
        filter: String,
        /// What was expected.
        reason: &'static str,
        /// Where.
        at: usize,
    },
    /// The right side of `~=` is not a regular expression.
    #[error("filter {filter:?}: bad regular expression: invalid argument")]
    Regex {
        /// The whole expression.
        filter: String,
        /// Why.
        #[source]
        cause: regex_lite::Error,
    },
}

/// What a filter can look at.
pub(crate) trait Fields {
    /// The value at `path`, or `None` when there is no such field.
    fn field<'a>(&'a self, path: &[&str]) -> Option<Cow<'a, str>>;
}

/// The value of a label named by the rest of a path, whose dots need not have been quoted.
pub(crate) fn label<'a>(labels: &'a super::Labels, path: &[&str]) -> Option<Cow<'a, str>> {
    labels.get(&path.join(".")).map(|value| Cow::Borrowed(value.as_str()))
}

/// Several filters, of which one must match.
#[derive(Debug, Default)]
pub(crate) struct Filters(Vec<Vec<Selector>>);

#[derive(Debug)]
struct Selector {
    path: Vec<String>,
    operator: Operator,
}

#[derive(Debug)]
enum Operator {
    Present,
    Equal(String),
    NotEqual(String),
    Matches(Regex),
}

impl Filters {
    /// Reads filters; empty expressions match everything, as containerd's do.
    pub(crate) fn parse<S: AsRef<str>>(filters: &[S]) -> Result<Self, FilterError> {
        filters
            .iter()
            .map(|filter| Parser::new(filter.as_ref()).filter())
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Whether `fields` pass.
    pub(crate) fn matches(&self, fields: &impl Fields) -> bool {
        self.0.is_empty()
            || self.0.iter().any(|all| all.iter().all(|selector| selector.matches(fields)))
    }
}

impl Selector {
    fn matches(&self, fields: &impl Fields) -> bool {
        let path: Vec<&str> = self.path.iter().map(String::as_str).collect();
        let value = fields.field(&path);
        match &self.operator {
            Operator::Present => value.is_some(),
            Operator::Equal(want) => value.is_some_and(|value| value == want.as_str()),
            // An absent field differs from every value but the empty one.
            Operator::NotEqual(want) => value.unwrap_or_default() != want.as_str(),
            Operator::Matches(want) => want.is_match(&value.unwrap_or_default()),
        }
    }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Parser<'a> {
    fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    fn filter(mut self) -> Result<Vec<Selector>, FilterError> {
        let mut selectors = Vec::new();
        if self.text.is_empty() {
            return Ok(selectors);
        }
        loop {
            selectors.push(self.selector()?);
            match self.peek() {
                None => return Ok(selectors),
                Some(',') => self.at += 1,
                Some(_) => return Err(self.wrong("expected a comma or the end")),
            }
        }
    }

    fn selector(&mut self) -> Result<Selector, FilterError> {
        let mut path = vec![self.field()?];
        while self.take(".") {
            path.push(self.field()?);
        }
        let operator = if self.take("==") {
            Operator::Equal(self.value()?)
        } else if self.take("!=") {
            Operator::NotEqual(self.value()?)
        } else if self.take("~=") {
            let pattern = self.value()?;
            let regex = RegexBuilder::new(&pattern)
                .size_limit(REGEX_BYTES)
                .nest_limit(REGEX_DEPTH)
                .build()
                .map_err(|cause| FilterError::Regex { filter: self.text.to_owned(), cause })?;
            Operator::Matches(regex)
        } else {
            Operator::Present
        };
        Ok(Selector { path, operator })
    }

    fn field(&mut self) -> Result<String, FilterError> {
        if self.peek() == Some('"') {
            return self.quoted('"');
        }
        let name: String = self.run(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
        if name.is_empty() { Err(self.wrong("expected a field name")) } else { Ok(name) }
    }

    fn value(&mut self) -> Result<String, FilterError> {
        match self.peek() {
            Some(quote @ ('"' | '/' | '|')) => self.quoted(quote),
            _ => {
                let value = self.run(|c| c != ',' && !c.is_whitespace());
                if value.is_empty() { Err(self.wrong("expected a value")) } else { Ok(value) }
            }
        }
    }

    /// Reads up to the closing `quote`. Only between double quotes do escapes mean anything but
    /// "this quote".
    fn quoted(&mut self, quote: char) -> Result<String, FilterError> {
        self.at += quote.len_utf8();
        let mut out = String::new();
        loop {
            let c = self.next().ok_or_else(|| self.wrong("expected the closing quote"))?;
            if c == quote {
                return Ok(out);
            }
            if c != '\\' {
                out.push(c);
                continue;
            }
            let escaped = self.next().ok_or_else(|| self.wrong("expected an escape"))?;
            match escaped {
                _ if escaped == quote => out.push(quote),
                _ if quote != '"' => out.extend(['\\', escaped]),
                'n' => out.push('\n'),
                't' => out.push('\t'),
                'r' => out.push('\r'),
                '\\' => out.push('\\'),
                'x' => out.push(self.code_point(2)?),
                'u' => out.push(self.code_point(4)?),
                'U' => out.push(self.code_point(8)?),
                _ => return Err(self.wrong("unknown escape")),
            }
        }
    }

    fn code_point(&mut self, digits: usize) -> Result<char, FilterError> {
        let text = self.text.get(self.at..self.at + digits);
        let c = text
            .and_then(|hex| u32::from_str_radix(hex, 16).ok())
            .and_then(char::from_u32)
            .ok_or_else(|| self.wrong("bad escape"))?;
        self.at += digits;
        Ok(c)
    }

    fn run(&mut self, accept: impl Fn(char) -> bool) -> String {
        let rest = &self.text[self.at..];
        let end = rest.find(|c| !accept(c)).unwrap_or(rest.len());
        self.at += end;
        rest[..end].to_owned()
    }

    fn take(&mut self, token: &str) -> bool {
        let taken = self.text[self.at..].starts_with(token);
        if taken {
            self.at += token.len();
        }
        taken
    }

    fn peek(&self) -> Option<char> {
        self.text[self.at..].chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += c.len_utf8();
        Some(c)
    }

    fn wrong(&self, reason: &'static str) -> FilterError {
        FilterError::Syntax { filter: self.text.to_owned(), reason, at: self.at }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::Labels;

    struct Thing {
        name: &'static str,
        labels: Labels,
    }

    impl Fields for Thing {
        fn field<'a>(&'a self, path: &[&str]) -> Option<Cow<'a, str>> {
            match path {
                ["name"] => Some(self.name.into()),
                ["labels", rest @ ..] => label(&self.labels, rest),
                _ => None,
            }
        }
    }

    fn thing() -> Thing {
        let labels = [("a.b/c", "d"), ("plain", "x,y"), ("empty", "")];
        let labels = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Thing { name: "docker.io/library/busybox:1", labels }
    }

    fn matches(filters: &[&str]) -> bool {
        Filters::parse(filters).unwrap().matches(&thing())
    }

    #[test]
    fn selectors_match_as_containerd_s_do() {
        for (filter, want) in [
            ("", true),
            ("name==docker.io/library/busybox:1", true),
            ("name==other", false),
            ("name!=other", true),
            ("name", true),
            ("nothing", false),
            ("nothing!=x", true),
            ("labels.plain", true),
            ("labels.empty", true),
            ("labels.\"a.b/c\"==d", true),
            ("labels.plain==\"x,y\"", true),
            ("labels.plain==x", false),
            ("name~=^docker\\.io/.*:1$", true),
            ("name~=/busybox/", true),
            ("name~=|lib.*|", true),
            ("name~=^busybox", false),
            ("name~=bus,labels.plain", true),
            ("name~=bus,labels.absent", false),
        ] {
            assert_eq!(matches(&[filter]), want, "{filter}");
        }
    }

    #[test]
    fn of_several_filters_one_is_enough() {
        assert!(matches(&["name==other", "labels.plain"]));
        assert!(!matches(&["name==other", "labels.absent"]));
        assert!(Filters::default().matches(&thing()));
    }

    #[test]
    fn broken_filters_are_refused() {
        for filter in
            ["==x", "name==", "name==\"x", "name=x", "a,", ".a", "name~=(", "a b", "a.\"\\q\""]
        {
            assert!(Filters::parse(&[filter]).is_err(), "{filter}");
        }
    }
}
