//! The policies that come with the sensor.

/// Name and text of each built-in document, as layers in this order.
pub(crate) const DOCUMENTS: &[(&str, &str)] = &[
    ("built-in:accounts.yaml", include_str!("../policies/accounts.yaml")),
    ("built-in:command-and-control.yaml", include_str!("../policies/command-and-control.yaml")),
    ("built-in:containers.yaml", include_str!("../policies/containers.yaml")),
    ("built-in:credentials.yaml", include_str!("../policies/credentials.yaml")),
    ("built-in:discovery.yaml", include_str!("../policies/discovery.yaml")),
    ("built-in:evasion.yaml", include_str!("../policies/evasion.yaml")),
    ("built-in:impact.yaml", include_str!("../policies/impact.yaml")),
    ("built-in:kernel.yaml", include_str!("../policies/kernel.yaml")),
    ("built-in:linux.yaml", include_str!("../policies/linux.yaml")),
    ("built-in:lists.yaml", include_str!("../policies/lists.yaml")),
    ("built-in:memory.yaml", include_str!("../policies/memory.yaml")),
    ("built-in:network.yaml", include_str!("../policies/network.yaml")),
    ("built-in:persistence.yaml", include_str!("../policies/persistence.yaml")),
    ("built-in:shells.yaml", include_str!("../policies/shells.yaml")),
];
