//! Blobs by digest, and ingests on their way to become blobs.
