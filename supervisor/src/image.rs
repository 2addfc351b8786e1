//! Image records: a name and the descriptor it stands for.
