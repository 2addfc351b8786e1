#!/bin/sh
# rustc for the workspace's own crates, with counters; what is generated has nothing to be found.
case ${CARGO_PKG_NAME:-} in
  protos) exec "$@" ;;
  *) exec "$@" -C instrument-coverage --cfg fuzz_coverage ;;
esac
