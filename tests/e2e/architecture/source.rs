//! The sources of a crate as modules, items and the paths that they name.
//!
//! Reads tokens, not text: comments and strings name nothing, and a path in a macro's arguments counts.
//! It does not expand macros and does not infer types: a method call names no path.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// The path of a module within its crate; empty for the crate's root.
pub(super) type Module = Vec<String>;

/// How a path is named.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Named {
    /// `use a::b;`
    Import,
    /// `pub use a::b;`, with any visibility.
    Reexport,
    /// `a::b` or `b` in an item.
    InPlace,
}

/// A path that a source names.
#[derive(Debug)]
pub(super) struct Mention {
    /// The module that it stands in.
    pub(super) module: Module,
    /// Its segments; the last one of `use a::*` is `*`.
    pub(super) segments: Vec<String>,
    /// The name that an import or re-export gives it.
    pub(super) alias: Option<String>,
    pub(super) named: Named,
    /// It stands in code that only a test build compiles.
    pub(super) test: bool,
}

/// A source file of a crate.
#[derive(Debug, Default)]
pub(super) struct File {
    pub(super) path: PathBuf,
    pub(super) mentions: Vec<Mention>,
    /// It has the keyword `unsafe`.
    pub(super) is_unsafe: bool,
}

/// The sources of one target of a crate.
#[derive(Debug, Default)]
pub(super) struct Sources {
    pub(super) files: Vec<File>,
    /// The files of each module; two where each platform has its own.
    pub(super) modules: BTreeMap<Module, BTreeSet<usize>>,
    /// The items that each module defines.
    pub(super) items: BTreeMap<Module, BTreeSet<String>>,
}

impl Sources {
    /// Reads the target whose root is this file.
    pub(super) fn read(root: &Path) -> Self {
        let mut sources = Self::default();
        let children = root.parent().expect("a file has a directory").to_owned();
        sources.read_file(root, &children, Vec::new(), false);
        sources
    }

    fn read_file(&mut self, path: &Path, children: &Path, module: Module, test: bool) {
        let text = fs::read_to_string(path)
            .unwrap_or_else(|cause| panic!("read {}: {cause}", path.display()));
        let tokens: TokenStream =
            text.parse().unwrap_or_else(|cause| panic!("parse {}: {cause}", path.display()));
        let file = self.files.len();
        self.files.push(File { path: path.to_owned(), ..File::default() });
        self.modules.entry(module.clone()).or_default().insert(file);
        self.walk(tokens, &Position { file, children: children.to_owned(), module, test });
    }

    fn walk(&mut self, tokens: TokenStream, at: &Position) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let mut attributes = Attributes::default();
        let mut next = 0;
        while next < tokens.len() {
            let test = at.test || attributes.test;
            let mut length = 1;
            let mut item_ends = false;
            match &tokens[next] {
                TokenTree::Punct(punct) if punct.as_char() == '#' => {
                    attributes.add(tokens.get(next + 1));
                }
                TokenTree::Group(group) => {
                    self.walk(group.stream(), &Position { test, ..at.clone() });
                    item_ends = group.delimiter() == Delimiter::Brace;
                }
                TokenTree::Ident(word) => {
                    let at = Position { test, ..at.clone() };
                    let (before, rest) = tokens.split_at(next);
                    (length, item_ends) =
                        self.word(&word.to_string(), before, rest, &attributes, &at);
                }
                punct => item_ends = is(punct, ';'),
            }
            if item_ends {
                attributes = Attributes::default();
            }
            next += length;
        }
    }

    /// Reads what begins with a word; returns how many tokens it has, and whether the item ends with it.
    fn word(
        &mut self,
        word: &str,
        before: &[TokenTree],
        rest: &[TokenTree],
        attributes: &Attributes,
        at: &Position,
    ) -> (usize, bool) {
        match (word, rest.get(1)) {
            ("mod", Some(TokenTree::Ident(name))) => {
                self.module(&name.to_string(), rest.get(2), attributes, at);
                return (3, true);
            }
            // `use<'a>` in a type captures lifetimes.
            ("use", Some(after)) if !is(after, '<') => {
                let end = rest.iter().position(|token| is(token, ';')).unwrap_or(rest.len());
                let named = if exported(before) { Named::Reexport } else { Named::Import };
                for (segments, alias) in use_tree(&rest[1..end], &[]) {
                    self.mention(segments, Some(alias), named, at);
                }
                return (end + 1, true);
            }
            ("unsafe", _) => self.files[at.file].is_unsafe = true,
            (
                "struct" | "enum" | "union" | "trait" | "fn" | "type" | "const" | "static",
                Some(TokenTree::Ident(name)),
            ) => {
                self.items.entry(at.module.clone()).or_default().insert(name.to_string());
            }
            _ => {}
        }
        let (segments, length) = path(rest);
        if begins_path(before) {
            self.mention(segments, None, Named::InPlace, at);
        }
        (length, false)
    }

    fn mention(
        &mut self,
        segments: Vec<String>,
        alias: Option<String>,
        named: Named,
        at: &Position,
    ) {
        let (module, test) = (at.module.clone(), at.test);
        self.files[at.file].mentions.push(Mention { module, segments, alias, named, test });
    }

    /// `mod name;` or `mod name { … }`.
    fn module(
        &mut self,
        name: &str,
        body: Option<&TokenTree>,
        attributes: &Attributes,
        at: &Position,
    ) {
        let test = at.test;
        let mut module = at.module.clone();
        module.push(name.to_owned());
        if let Some(TokenTree::Group(group)) = body {
            self.modules.entry(module.clone()).or_default().insert(at.file);
            let children = at.children.join(name);
            self.walk(group.stream(), &Position { file: at.file, children, module, test });
            return;
        }
        if let Some(path) = &attributes.path {
            let own = self.files[at.file].path.parent().expect("a file has a directory");
            let path = own.join(path);
            let children = path.parent().expect("a file has a directory").to_owned();
            self.read_file(&path, &children, module, test);
            return;
        }
        let beside = at.children.join(format!("{name}.rs"));
        let inside = at.children.join(name).join("mod.rs");
        let path = if beside.exists() { beside } else { inside };
        self.read_file(&path, &at.children.join(name), module, test);
    }

    /// The imports and re-exports of each name in each module, outside of tests.
    pub(super) fn imports(&self) -> BTreeMap<(&[String], &str), Vec<&Mention>> {
        let mut imports: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for mention in self.files.iter().flat_map(|file| &file.mentions) {
            if let Some(alias) = &mention.alias
                && !mention.test
            {
                let key = (mention.module.as_slice(), alias.as_str());
                imports.entry(key).or_default().push(mention);
            }
        }
        imports
    }
}

#[derive(Clone)]
struct Position {
    file: usize,
    /// Where the files of child modules are.
    children: PathBuf,
    module: Module,
    test: bool,
}

/// What the attributes before an item say.
#[derive(Default)]
struct Attributes {
    test: bool,
    path: Option<String>,
}

impl Attributes {
    /// Adds what stands in the brackets after `#`; `#!` and a `#` in a macro have none there.
    fn add(&mut self, brackets: Option<&TokenTree>) {
        let Some(TokenTree::Group(attribute)) = brackets else { return };
        let tokens: Vec<TokenTree> = attribute.stream().into_iter().collect();
        match tokens.as_slice() {
            [TokenTree::Ident(name), TokenTree::Group(condition)] if name == "cfg" => {
                self.test |= condition.stream().to_string() == "test";
            }
            [TokenTree::Ident(name)] if name == "test" => self.test = true,
            [TokenTree::Ident(name), _, TokenTree::Literal(path)] if name == "path" => {
                self.path = Some(path.to_string().trim_matches('"').to_owned());
            }
            _ => {}
        }
    }
}

fn is(token: &TokenTree, char: char) -> bool {
    matches!(token, TokenTree::Punct(punct) if punct.as_char() == char)
}

/// Whether a path begins after these tokens: it is no field or method, and not the end of `<T as X>::f`.
fn begins_path(before: &[TokenTree]) -> bool {
    match before {
        [.., first, second] if is(first, '.') && is(second, '.') => true,
        [.., dot] if is(dot, '.') => false,
        [.., end, first, second] if is(first, ':') && is(second, ':') => {
            !is(end, '>') && !matches!(end, TokenTree::Ident(_))
        }
        _ => true,
    }
}

/// Whether the tokens before a `use` end with a visibility.
fn exported(before: &[TokenTree]) -> bool {
    let public =
        |token: Option<&TokenTree>| matches!(token, Some(TokenTree::Ident(word)) if word == "pub");
    match before {
        [.., group, TokenTree::Group(scope)] if scope.delimiter() == Delimiter::Parenthesis => {
            public(Some(group))
        }
        _ => public(before.last()),
    }
}

/// The path that these tokens begin with, and how many tokens it has.
fn path(tokens: &[TokenTree]) -> (Vec<String>, usize) {
    let mut segments = Vec::new();
    let mut length = 0;
    while let Some(TokenTree::Ident(segment)) = tokens.get(length) {
        segments.push(segment.to_string());
        length += 1;
        match (tokens.get(length), tokens.get(length + 1), tokens.get(length + 2)) {
            (Some(first), Some(second), Some(TokenTree::Ident(_)))
                if is(first, ':') && is(second, ':') =>
            {
                length += 2;
            }
            _ => break,
        }
    }
    (segments, length)
}

/// The paths of a `use`, each with the name that it gives.
fn use_tree(tokens: &[TokenTree], prefix: &[String]) -> Vec<(Vec<String>, String)> {
    let mut segments = prefix.to_vec();
    let mut alias = None;
    let mut words = tokens.iter();
    while let Some(token) = words.next() {
        match token {
            TokenTree::Ident(word) if word == "as" => {
                alias = words.next().map(ToString::to_string);
            }
            TokenTree::Ident(word) if word == "self" && !segments.is_empty() => {}
            TokenTree::Ident(word) => segments.push(word.to_string()),
            TokenTree::Punct(star) if star.as_char() == '*' => segments.push("*".to_owned()),
            TokenTree::Group(group) => {
                let inner: Vec<TokenTree> = group.stream().into_iter().collect();
                let branches = inner.split(|token| is(token, ',')).filter(|one| !one.is_empty());
                return branches.flat_map(|branch| use_tree(branch, &segments)).collect();
            }
            TokenTree::Punct(_) | TokenTree::Literal(_) => {}
        }
    }
    let alias = alias.or_else(|| segments.last().cloned()).unwrap_or_default();
    vec![(segments, alias)]
}
