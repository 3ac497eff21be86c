//! Which names a file gives.

use std::fs;
use std::path::Path;

use syn::visit::Visit;
use syn::{
    Attribute, ImplItemConst, Item, ItemConst, ItemMod, ItemStatic, TraitItemConst, Visibility,
};

pub(crate) fn parse(file: &Path) -> syn::File {
    let contents = fs::read_to_string(file).expect("a text");
    syn::parse_file(&contents).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// Whether what has these attributes is compiled for tests only.
pub(crate) fn is_for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute
                .meta
                .require_list()
                .is_ok_and(|list| is_test_condition(&list.tokens.to_string()))
    })
}

/// Whether a condition holds in tests only: `test`, or `all` of that and more. What is there for `any` of tests and
/// something else is compiled without tests too.
fn is_test_condition(condition: &str) -> bool {
    let condition = condition.replace(' ', "");
    let conditions = condition
        .strip_prefix("all(")
        .and_then(|rest| rest.strip_suffix(')'));
    conditions
        .unwrap_or(&condition)
        .split(',')
        .any(|condition| condition == "test")
}

/// The names of all constants and statics of a file.
pub(crate) fn constants(file: &Path) -> Vec<String> {
    #[derive(Default)]
    struct Constants(Vec<String>);
    impl<'ast> Visit<'ast> for Constants {
        fn visit_item_const(&mut self, item: &'ast ItemConst) {
            self.0.push(item.ident.to_string());
        }
        fn visit_item_static(&mut self, item: &'ast ItemStatic) {
            self.0.push(item.ident.to_string());
        }
        fn visit_trait_item_const(&mut self, item: &'ast TraitItemConst) {
            self.0.push(item.ident.to_string());
        }
        fn visit_impl_item_const(&mut self, item: &'ast ImplItemConst) {
            self.0.push(item.ident.to_string());
        }
    }
    let mut found = Constants::default();
    found.visit_file(&parse(file));
    found.0
}

/// The names of types and traits that other files can use.
pub(crate) fn visible_types(file: &Path) -> Vec<String> {
    #[derive(Default)]
    struct Types(Vec<String>);
    impl<'ast> Visit<'ast> for Types {
        fn visit_item(&mut self, item: &'ast Item) {
            let (name, visibility) = match item {
                Item::Struct(item) => (&item.ident, &item.vis),
                Item::Enum(item) => (&item.ident, &item.vis),
                Item::Union(item) => (&item.ident, &item.vis),
                Item::Trait(item) => (&item.ident, &item.vis),
                Item::Type(item) => (&item.ident, &item.vis),
                _ => return syn::visit::visit_item(self, item),
            };
            let name = name.to_string();
            // One of several that are compiled under different conditions is the same type.
            if !matches!(visibility, Visibility::Inherited) && !self.0.contains(&name) {
                self.0.push(name);
            }
        }
        fn visit_item_mod(&mut self, item: &'ast ItemMod) {
            if !is_for_tests(&item.attrs) {
                syn::visit::visit_item_mod(self, item);
            }
        }
    }
    let mut found = Types::default();
    found.visit_file(&parse(file));
    found.0
}
