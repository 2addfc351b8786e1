//! Import circles between the files of a crate.

use std::collections::{BTreeMap, BTreeSet};

use super::source::{Mention, Named, Sources};

/// Which file needs which: an edge for each path that leads to an item of another file.
///
/// These are no edges:
/// - `mod child;` and a re-export of a descendant: a folder's `mod.rs` lists what the folder offers.
/// - A path from a file to an ancestor module: a folder's `mod.rs` has the types that its files share, and
///   its files cannot be used without it anyway.
/// - A path to a module itself: the paths that continue from it count.
/// - Code that only a test build compiles: a test may use every file.
pub(super) fn edges(sources: &Sources) -> BTreeSet<(usize, usize)> {
    let imports = sources.imports();
    let resolver = Resolver { sources, imports };
    let mut edges = BTreeSet::new();
    for (from, file) in sources.files.iter().enumerate() {
        for mention in file.mentions.iter().filter(|mention| !mention.test) {
            let Some(target) = resolver.resolve(mention, 0) else { continue };
            let descends =
                target.len() > mention.module.len() && target.starts_with(&mention.module);
            let ascends = mention.module.starts_with(&target);
            if ascends || mention.named == Named::Reexport && descends {
                continue;
            }
            let files = sources.modules.get(&target).into_iter().flatten();
            edges.extend(files.map(|to| (from, *to)).filter(|(from, to)| from != to));
        }
    }
    edges
}

struct Resolver<'a> {
    sources: &'a Sources,
    imports: BTreeMap<(&'a [String], &'a str), Vec<&'a Mention>>,
}

impl Resolver<'_> {
    /// The module that defines the item which a path names; `None` for another crate's and for a module.
    fn resolve(&self, mention: &Mention, depth: usize) -> Option<Vec<String>> {
        self.follow(&mention.segments, &mention.module, mention.named != Named::InPlace, depth)
    }

    /// Finds the module that a path starts from.
    fn follow(
        &self,
        segments: &[String],
        module: &[String],
        import: bool,
        depth: usize,
    ) -> Option<Vec<String>> {
        // A name that is imported under itself, as by `use a::x::{self, x}`.
        if depth > 8 {
            return None;
        }
        let first = segments.first()?;
        let mut at = module.to_vec();
        match first.as_str() {
            "crate" => at.clear(),
            "self" => {}
            "super" => drop(at.pop()),
            _ => {
                let child = [module, std::slice::from_ref(first)].concat();
                let known = self.sources.modules.contains_key(&child)
                    || self.imports.contains_key(&(module, first.as_str()));
                if !known || import && !self.sources.modules.contains_key(&child) {
                    return None;
                }
                return self.descend(module.to_vec(), segments, depth);
            }
        }
        let mut rest = &segments[1..];
        while rest.first().is_some_and(|word| word == "super") {
            at.pop();
            rest = &rest[1..];
        }
        self.descend(at, rest, depth)
    }

    fn defines(&self, module: &[String], item: &str) -> bool {
        self.sources.items.get(module).is_some_and(|items| items.contains(item))
    }

    /// Follows segments from a module; what is re-exported leads to where it is defined.
    fn descend(
        &self,
        mut at: Vec<String>,
        segments: &[String],
        depth: usize,
    ) -> Option<Vec<String>> {
        for (index, segment) in segments.iter().enumerate() {
            if segment == "*" {
                return Some(at);
            }
            let child = [at.as_slice(), std::slice::from_ref(segment)].concat();
            if self.sources.modules.contains_key(&child) {
                at = child;
                continue;
            }
            if let Some(imports) = self.imports.get(&(at.as_slice(), segment.as_str())) {
                let rest = &segments[index + 1..];
                return imports.iter().find_map(|import| {
                    let path = [import.segments.as_slice(), rest].concat();
                    self.follow(&path, &import.module, true, depth + 1)
                });
            }
            if self.defines(&at, segment) {
                return Some(at);
            }
            let globs = self.imports.get(&(at.as_slice(), "*")).into_iter().flatten();
            let through = globs.filter_map(|glob| self.resolve(glob, depth + 1));
            for module in through {
                if self.defines(&module, segment) {
                    return self.descend(module, &segments[index..], depth + 1);
                }
            }
            // A macro's product, or another crate's item under its own name.
            return Some(at);
        }
        None
    }
}

/// Whether a chain of edges leads from one file to the other.
pub(super) fn leads(from: usize, to: usize, edges: &BTreeSet<(usize, usize)>) -> bool {
    let mut seen = BTreeSet::new();
    let mut todo = vec![from];
    while let Some(at) = todo.pop() {
        for (_, next) in edges.range((at, 0)..(at + 1, 0)) {
            if *next == to {
                return true;
            }
            if seen.insert(*next) {
                todo.push(*next);
            }
        }
    }
    false
}
