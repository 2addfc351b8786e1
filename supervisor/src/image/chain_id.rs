//! Chain ids: the names of the snapshots that an image's layers are unpacked to.
//!
//! See the OCI image specification, config.md, "Layer ChainID".

use crate::content::Digest;

/// The chain id of each layer, the base first, from the digests of the uncompressed layers.
pub(crate) fn chain_ids(diff_ids: &[Digest]) -> Vec<Digest> {
    let mut chain: Vec<Digest> = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids {
        let next = match chain.last() {
            None => diff_id.clone(),
            Some(below) => Digest::of(format!("{below} {diff_id}").as_bytes()),
        };
        chain.push(next);
    }
    chain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_of_one_layer_are_its_diff_id() {
        assert!(chain_ids(&[]).is_empty());
        let (first, second) = (Digest::of(b"a"), Digest::of(b"b"));
        let chain = chain_ids(&[first.clone(), second.clone()]);
        assert_eq!(chain[0], first);
        assert_eq!(chain[1], Digest::of(format!("{first} {second}").as_bytes()));
    }
}
