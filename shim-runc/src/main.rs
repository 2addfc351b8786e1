mod cgroup;
mod engine;
mod error;
mod options;
mod stats;
mod sys;
fn main() {}
