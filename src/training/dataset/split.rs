//! Which rows are held out: a pure function of the conversations, a share and a seed.

use std::collections::BTreeMap;

use super::digest::mix;

/// What a row is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// To learn from.
    Train,
    /// To judge by.
    HeldOut,
}

/// The share that is held out where nothing else is said.
pub const USUAL_SHARE: f64 = 0.2;

/// The side of each row, in their order. `conversations` has the group of each row: the rows of one are all on one side. About
/// `share` of the rows are held out: conversations in an order that the seed gives are taken as long as they fit, so that it is never
/// more than that, and less only by less than one conversation's size. Where the share would be less than the smallest conversation
/// and there are two or more, that one is held out. One conversation alone is all to learn from.
pub fn split(conversations: &[u64], share: f64, seed: u64) -> Vec<Side> {
    // By conversation: rows.
    let mut sizes: BTreeMap<u64, usize> = BTreeMap::new();
    for conversation in conversations {
        *sizes.entry(*conversation).or_default() += 1;
    }
    let mut order: Vec<(u64, u64, usize)> =
        sizes.iter().map(|(conversation, rows)| (mix(conversation ^ mix(seed.wrapping_add(1))), *conversation, *rows)).collect();
    order.sort_unstable();
    #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of rows")]
    let wanted = (conversations.len() as f64 * share.clamp(0.0, 1.0)).round() as usize;
    let mut held_out = std::collections::HashSet::new();
    let mut rows = 0;
    for (_, conversation, size) in &order {
        if rows + size <= wanted && held_out.len() + 1 < order.len() {
            held_out.insert(*conversation);
            rows += size;
        }
    }
    if held_out.is_empty() && share > 0.0 && order.len() > 1 {
        held_out.extend(order.iter().min_by_key(|(place, _, size)| (*size, *place)).map(|(_, conversation, _)| *conversation));
    }
    let side = |conversation| if held_out.contains(conversation) { Side::HeldOut } else { Side::Train };
    conversations.iter().map(side).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_row_in_five_is_held_out_and_always_the_same_ones() {
        let conversations: Vec<u64> = (0..1000).collect();
        let sides = split(&conversations, USUAL_SHARE, 7);
        assert_eq!(sides.iter().filter(|side| **side == Side::HeldOut).count(), 200);
        assert_eq!(sides, split(&conversations, USUAL_SHARE, 7));
        let other = split(&conversations, USUAL_SHARE, 8);
        let both = sides.iter().zip(&other).filter(|(a, b)| **a == Side::HeldOut && **b == Side::HeldOut).count();
        assert!((20..=65).contains(&both), "another seed holds out others: {both} of 200 are the same");
    }

    proptest! {
        #[test]
        fn conversations_stay_together_and_the_share_is_kept(
            conversations in prop::collection::vec(0u64..40, 0..200),
            share in 0.0f64..=1.0,
            seed: u64,
        ) {
            let sides = split(&conversations, share, seed);
            prop_assert_eq!(sides.len(), conversations.len());
            let mut side_of: HashMap<u64, Side> = HashMap::new();
            for (conversation, side) in conversations.iter().zip(&sides) {
                prop_assert_eq!(*side_of.entry(*conversation).or_insert(*side), *side);
            }
            let held_out = sides.iter().filter(|side| **side == Side::HeldOut).count();
            let smallest = side_of.keys().map(|c| conversations.iter().filter(|have| *have == c).count()).min().unwrap_or(0);
            let wanted = (conversations.len() as f64 * share).round() as usize;
            prop_assert!(held_out <= wanted.max(smallest));
            if !conversations.is_empty() {
                prop_assert!(sides.contains(&Side::Train), "there is always something to learn");
            }
            if side_of.len() > 1 && share > 0.0 {
                prop_assert!(held_out > 0, "and something to judge by");
            }
        }

        #[test]
        fn rows_that_are_added_elsewhere_do_not_change_the_order_of_rows(rows in prop::collection::vec(0u64..1000, 1..60), seed: u64) {
            let mut turned = rows.clone();
            turned.reverse();
            let mut sides = split(&turned, USUAL_SHARE, seed);
            sides.reverse();
            prop_assert_eq!(split(&rows, USUAL_SHARE, seed), sides);
        }
    }
}
