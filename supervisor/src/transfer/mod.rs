//! Images in and out: archives, registries, unpacking.
