//! All cases, in the order in which they are run.

mod blocks;
mod durability;
pub(crate) mod file;
pub(crate) mod idle;
mod large;
mod peers;
mod processors;
pub(crate) mod ram;
mod scrub;
mod tasks;

use crate::case::Case;

pub(crate) fn all() -> Vec<Case> {
    let mut all = tasks::cases();
    all.extend(ram::cases());
    all.extend(blocks::cases());
    all.extend(file::cases());
    all.extend(scrub::cases());
    all.extend(durability::cases());
    all.extend(peers::cases());
    all.extend(idle::cases());
    all.extend(processors::cases());
    all.extend(large::cases());
    all
}

#[cfg(test)]
mod tests {
    use crate::case::Target;

    #[test]
    fn every_target_is_a_possible_ratio() {
        for case in super::all() {
            let (Target::AtMost(limit) | Target::AtLeast(limit)) = case.target;
            assert!(limit > 0.0 && limit.is_finite(), "{}", case.name);
        }
    }
}
