//! Expressions of generated tests.

use proptest::prelude::*;

/// Tests joined by `and`, `or` and `not`, about `size` of them at the most.
pub(crate) fn expressions(test: BoxedStrategy<String>, size: u32) -> BoxedStrategy<String> {
    test.prop_recursive(3, size, 3, |inner| {
        prop_oneof![
            inner.clone().prop_map(|term| format!("not ({term})")),
            prop::collection::vec(inner.clone(), 2..4).prop_map(|terms| format!("({})", terms.join(" and "))),
            prop::collection::vec(inner, 2..4).prop_map(|terms| format!("({})", terms.join(" or "))),
        ]
    })
    .boxed()
}
