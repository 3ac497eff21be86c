//! Which files of a crate use names of which others.
//!
//! Paths are read as tokens, also inside macros. A path is followed through `use` and re-exports to the file that
//! defines its name: a file that takes a name by way of its parent's `pub use` imports from the definition, and not
//! from the parent. What a module takes from those that it is a part of is no import: a folder's `mod.rs` defines what
//! its files share, and uses them. What is compiled for tests only is left out. Calls of methods are not seen: a type
//! has its methods wherever they lie.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use quote::ToTokens;
use syn::{Expr, ExprLit, Item, Lit, Meta, UseTree};

use crate::names::{is_for_tests, parse};
use crate::shown;

/// For each file, the files that it takes names from.
pub(crate) type Graph = BTreeMap<String, BTreeSet<String>>;

/// Module path from the crate's root.
type ModulePath = Vec<String>;

/// A module: where it stands, and what its names mean.
#[derive(Default)]
struct Module {
    file: String,
    children: BTreeSet<String>,
    /// Names that `use` brings in, and the paths that they stand for.
    imported: HashMap<String, Vec<String>>,
    /// Modules of which `use` brings in everything.
    globs: Vec<Vec<String>>,
    defined: BTreeSet<String>,
    /// All paths in the module's own code.
    paths: Vec<Vec<String>>,
}

impl Module {
    /// Whether a name may lead somewhere from here.
    fn has(&self, name: &str) -> bool {
        self.defined.contains(name) || self.imported.contains_key(name) || !self.globs.is_empty()
    }
}

#[derive(Default)]
struct Modules(BTreeMap<ModulePath, Module>);

pub(crate) fn of_crate(root: &Path) -> Graph {
    let mut modules = Modules::default();
    modules.read(root, Vec::new());
    let mut graph = Graph::new();
    for (path, module) in &modules.0 {
        let arrows = graph.entry(module.file.clone()).or_default();
        for used in module.paths.iter().chain(module.imported.values()) {
            arrows.extend(
                modules
                    .definition_of(path, used)
                    .and_then(|target| modules.arrow(path, &target)),
            );
        }
        for glob in &module.globs {
            arrows.extend(
                modules
                    .module_of(path, glob, 0)
                    .and_then(|target| modules.arrow(path, &target)),
            );
        }
    }
    graph
}

impl Modules {
    fn read(&mut self, file: &Path, path: ModulePath) {
        let folder = match file.file_name().and_then(|name| name.to_str()) {
            Some("lib.rs" | "main.rs" | "mod.rs") => file.parent().expect("a folder").to_owned(),
            _ => file.with_extension(""),
        };
        let items = parse(file).items;
        self.read_items(file, &folder, path, &items);
    }

    fn read_items(&mut self, file: &Path, folder: &Path, path: ModulePath, items: &[Item]) {
        let mut module = Module {
            file: shown(file),
            ..Module::default()
        };
        for item in items {
            match item {
                Item::Mod(child) if is_for_tests(&child.attrs) => {}
                Item::Mod(child) => {
                    let name = child.ident.to_string();
                    let child_path = [path.clone(), vec![name.clone()]].concat();
                    module.children.insert(name.clone());
                    match &child.content {
                        Some((_, items)) => {
                            self.read_items(file, &folder.join(&name), child_path, items);
                        }
                        None => {
                            let child_file = path_attribute(&child.attrs)
                                .map(|named| file.parent().expect("a folder").join(named))
                                .unwrap_or_else(|| file_of_child(folder, &name));
                            self.read(&child_file, child_path);
                        }
                    }
                }
                Item::Use(used) if !is_for_tests(&used.attrs) => {
                    collect_use(&used.tree, &mut Vec::new(), &mut module);
                }
                item => {
                    if let Some(name) = defined_name(item) {
                        module.defined.insert(name);
                    }
                    if !is_for_tests(attributes(item)) {
                        collect_paths(item.to_token_stream(), &[], &mut module.paths);
                    }
                }
            }
        }
        self.0.insert(path, module);
    }

    /// The module that a path leads to as far as it names modules, and what is left of it.
    fn walk(
        &self,
        from: &ModulePath,
        path: &[String],
        depth: usize,
    ) -> Option<(ModulePath, Vec<String>)> {
        if depth > 16 {
            return None;
        }
        let mut at = from.clone();
        let mut rest = path;
        match path.first()?.as_str() {
            "crate" => {
                at.clear();
                rest = &path[1..];
            }
            "self" => rest = &path[1..],
            "super" => {
                while rest.first().is_some_and(|word| word == "super") {
                    at.pop()?;
                    rest = &rest[1..];
                }
            }
            _ => {}
        }
        while let Some(word) = rest.first() {
            let module = self.0.get(&at)?;
            if module.children.contains(word) {
                at.push(word.clone());
                rest = &rest[1..];
            } else if module.defined.contains(word) {
                break;
            } else if let Some(target) = module.imported.get(word) {
                let full = [target.as_slice(), &rest[1..]].concat();
                // A `use` of the same name from elsewhere: of another crate, if it does not lead to this one's modules.
                return (full != path || at != *from)
                    .then(|| self.walk(&at, &full, depth + 1))
                    .flatten();
            } else {
                // What comes by a glob may be another re-export there.
                return module.globs.iter().find_map(|glob| {
                    let target = self.module_of(&at, glob, depth + 1)?;
                    (target != at && self.0[&target].has(word))
                        .then(|| self.walk(&target, rest, depth + 1))
                        .flatten()
                });
            }
        }
        Some((at, rest.to_vec()))
    }

    /// The module that defines what a path names, if it is one of this crate's and the path names more than a module.
    fn definition_of(&self, from: &ModulePath, path: &[String]) -> Option<ModulePath> {
        let (module, rest) = self.walk(from, path, 0)?;
        (!rest.is_empty()).then_some(module)
    }

    /// The file of a module that another one uses, unless that is the file itself or the one that it is a part of.
    fn arrow(&self, from: &ModulePath, to: &ModulePath) -> Option<String> {
        let file = &self.0[to].file;
        (*file != self.0[from].file && !from.starts_with(to)).then(|| file.clone())
    }

    fn module_of(&self, from: &ModulePath, path: &[String], depth: usize) -> Option<ModulePath> {
        let (module, rest) = self.walk(from, path, depth)?;
        rest.is_empty().then_some(module)
    }
}

fn path_attribute(attributes: &[syn::Attribute]) -> Option<String> {
    attributes
        .iter()
        .find_map(|attribute| match &attribute.meta {
            Meta::NameValue(pair) if pair.path.is_ident("path") => match &pair.value {
                Expr::Lit(ExprLit {
                    lit: Lit::Str(path),
                    ..
                }) => Some(path.value()),
                _ => None,
            },
            _ => None,
        })
}

fn file_of_child(folder: &Path, name: &str) -> PathBuf {
    let beside = folder.join(format!("{name}.rs"));
    match beside.exists() {
        true => beside,
        false => folder.join(name).join("mod.rs"),
    }
}

fn attributes(item: &Item) -> &[syn::Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Union(item) => &item.attrs,
        _ => &[],
    }
}

fn defined_name(item: &Item) -> Option<String> {
    Some(match item {
        Item::Const(item) => item.ident.to_string(),
        Item::Enum(item) => item.ident.to_string(),
        Item::Fn(item) => item.sig.ident.to_string(),
        Item::Macro(item) => item.ident.as_ref()?.to_string(),
        Item::Static(item) => item.ident.to_string(),
        Item::Struct(item) => item.ident.to_string(),
        Item::Trait(item) => item.ident.to_string(),
        Item::Type(item) => item.ident.to_string(),
        Item::Union(item) => item.ident.to_string(),
        _ => return None,
    })
}

fn collect_use(tree: &UseTree, prefix: &mut Vec<String>, module: &mut Module) {
    match tree {
        UseTree::Path(path) => {
            prefix.push(path.ident.to_string());
            collect_use(&path.tree, prefix, module);
            prefix.pop();
        }
        UseTree::Name(name) if name.ident == "self" => {
            if let Some(last) = prefix.last() {
                module.imported.insert(last.clone(), prefix.clone());
            }
        }
        UseTree::Name(name) => {
            let name = name.ident.to_string();
            let full = [prefix.as_slice(), std::slice::from_ref(&name)].concat();
            module.imported.insert(name, full);
        }
        UseTree::Rename(renamed) => {
            let full = [prefix.as_slice(), &[renamed.ident.to_string()]].concat();
            module.imported.insert(renamed.rename.to_string(), full);
        }
        UseTree::Glob(_) => module.globs.push(prefix.clone()),
        UseTree::Group(group) => {
            for tree in &group.items {
                collect_use(tree, prefix, module);
            }
        }
    }
}

/// All paths of at least two words, wherever they stand. `prefix` is what stands before the braces of a `use` inside of
/// a function.
fn collect_paths(tokens: TokenStream, prefix: &[String], paths: &mut Vec<Vec<String>>) {
    let mut path = prefix.to_vec();
    let mut colons = 0;
    for token in tokens {
        match token {
            TokenTree::Ident(word) => {
                if colons != 2 {
                    end_path(&mut path, prefix, paths);
                }
                path.push(word.to_string());
                colons = 0;
            }
            TokenTree::Punct(mark) if mark.as_char() == ':' => colons += 1,
            TokenTree::Group(group) => {
                let is_of_use = colons == 2 && group.delimiter() == Delimiter::Brace;
                let outer = if is_of_use { path.clone() } else { Vec::new() };
                collect_paths(group.stream(), &outer, paths);
                end_path(&mut path, prefix, paths);
                colons = 0;
            }
            _ => {
                end_path(&mut path, prefix, paths);
                colons = 0;
            }
        }
    }
    end_path(&mut path, prefix, paths);
}

fn end_path(path: &mut Vec<String>, prefix: &[String], paths: &mut Vec<Vec<String>>) {
    let ended = std::mem::replace(path, prefix.to_vec());
    if ended.len() > prefix.len().max(1) {
        paths.push(ended);
    }
}

/// The sets of files each of which reaches all others of its set.
pub(crate) fn circles(graph: &Graph) -> Vec<Vec<String>> {
    let reached: BTreeMap<&String, BTreeSet<&String>> = graph
        .keys()
        .map(|file| (file, reachable(graph, file)))
        .collect();
    let mut circles = BTreeSet::new();
    for (file, others) in &reached {
        let circle: Vec<String> = others
            .iter()
            .filter(|other| reached.get(*other).is_some_and(|back| back.contains(*file)))
            .map(|other| (*other).clone())
            .collect();
        if circle.len() > 1 {
            circles.insert(circle);
        }
    }
    circles.into_iter().collect()
}

fn reachable<'a>(graph: &'a Graph, from: &String) -> BTreeSet<&'a String> {
    let mut reached = BTreeSet::new();
    let mut next: Vec<&String> = graph[from].iter().collect();
    while let Some(file) = next.pop() {
        if reached.insert(file) {
            next.extend(graph.get(file).into_iter().flatten());
        }
    }
    reached
}
