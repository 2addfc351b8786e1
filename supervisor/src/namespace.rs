//! Namespaces and their labels.
