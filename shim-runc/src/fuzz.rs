//! Hostile bytes that reach the shim itself: options, and mount and control group tables.

use ::fuzz::Target;
use shim_sdk::Payload;

use crate::options::{Options, checkpoint_options};

#[test]
fn options_of_any_bytes_are_read_or_refused() {
    Target::new("options").words(&["containerd.runc.v1.Options", "runc", "/"]).run(|value| {
        for name in ["containerd.runc.v1.Options", "runtimeoptions.v1.Options"] {
            let payload = Payload { type_url: name.to_owned(), value: value.to_vec() };
            let Ok(options) = Options::from_payload(Some(&payload)) else { continue };
            let folder = tempfile::tempdir().unwrap();
            options.write(folder.path()).unwrap();
            assert_eq!(Options::read(folder.path()).unwrap(), options);
        }
        let name = "containerd.runc.v1.CheckpointOptions".to_owned();
        let _ = checkpoint_options(Some(&Payload { type_url: name, value: value.to_vec() }));
    });
}
