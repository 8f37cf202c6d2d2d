//! The policies that come with the sensor.

/// Name and text of each built-in document, as layers in this order.
pub(crate) const DOCUMENTS: &[(&str, &str)] = &[("built-in:linux.yaml", include_str!("../policies/linux.yaml"))];
