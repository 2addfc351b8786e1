//! Hostile shims: what `start` prints.

use ::fuzz::Target;

use super::shim_client::bootstrap::Bootstrap;

#[test]
fn an_understood_answer_of_a_shim_is_remembered_as_it_is() {
    let words =
        &["unix://", "version", "address", "protocol", "ttrpc", "\u{8}\u{3}", "null", "2", "3"];
    Target::new("answer").words(words).run(|bytes| {
        let Ok(answer) = Bootstrap::parse(bytes) else { return };
        assert!(answer.address.contains('/') && !answer.address.contains(char::is_whitespace));
        assert_eq!(Bootstrap::from_json(&answer.to_json()), Ok(answer));
    });
}
