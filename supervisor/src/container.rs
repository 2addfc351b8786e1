//! Container records: what to run, of which image, on which snapshot.
