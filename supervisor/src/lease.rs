//! Leases: what garbage collection must keep.
