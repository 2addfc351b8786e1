//! Hostile images: the user and the command in their configuration, and their account files.

use ::fuzz::Target;

use super::spec::Accounts;
use crate::image::ExecutionConfig as Config;

#[test]
fn configurations_and_accounts_of_images_are_read_or_refused() {
    let words = &[
        "User",
        "Env",
        "Entrypoint",
        "Cmd",
        "WorkingDir",
        "Labels",
        "null",
        "root:x:0:0:",
        "-1",
        ":",
        "\n",
    ];
    Target::new("image").words(words).run(|bytes| {
        let user = match serde_json::from_slice::<Config>(bytes) {
            Ok(config) => config.user,
            Err(_) => "root:root".to_owned(),
        };
        let accounts = Accounts::new(bytes.to_vec(), bytes.to_vec());
        for user in [user.as_str(), "", "0", "a:b", "2147483648"] {
            if let Ok(found) = accounts.user(user) {
                assert!(
                    found
                        .additional_gids()
                        .as_ref()
                        .is_none_or(|gids| gids.len() <= bytes.len() + 1)
                );
            }
        }
    });
}
