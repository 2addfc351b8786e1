//! Snapshots: a tree in metadata, directories and mounts by a driver.
