//! The value of overlayfs' option `lowerdir`: a list of directories, separated by colons.
//!
//! In a directory's name a backslash escapes the next character. A colon, a backslash and a comma
//! need it: the comma separates options in the data of mount(2).
//! See the kernel's documentation of overlayfs, "Multiple lower layers".

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// The directories of a value, the uppermost layer first. An empty name is kept: two colons stand
/// before a layer of data only.
pub fn split_lowerdir(value: &str) -> Vec<PathBuf> {
    let mut directories = vec![String::new()];
    let mut characters = value.chars();
    while let Some(character) = characters.next() {
        let character = match character {
            ':' => {
                directories.push(String::new());
                continue;
            }
            '\\' => characters.next().unwrap_or('\\'),
            character => character,
        };
        if let Some(last) = directories.last_mut() {
            last.push(character);
        }
    }
    directories.into_iter().map(PathBuf::from).collect()
}

/// The value for some directories, the uppermost layer first.
pub fn join_lowerdir<'a>(directories: impl IntoIterator<Item = &'a Path>) -> OsString {
    let mut value = Vec::new();
    for (number, directory) in directories.into_iter().enumerate() {
        if number > 0 {
            value.push(b':');
        }
        for &byte in directory.as_os_str().as_bytes() {
            if matches!(byte, b':' | b'\\' | b',') {
                value.push(b'\\');
            }
            value.push(byte);
        }
    }
    OsString::from_vec(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_are_separated_by_colons() {
        assert_eq!(split_lowerdir("/a:/b"), [Path::new("/a"), Path::new("/b")]);
        assert_eq!(join_lowerdir([Path::new("/a"), Path::new("/b")]), "/a:/b");
    }

    #[test]
    fn a_backslash_escapes_colon_comma_and_backslash() {
        let value = r"/a\:b:/c\,d:/e\\f";
        let directories = split_lowerdir(value);
        assert_eq!(directories, [Path::new("/a:b"), Path::new("/c,d"), Path::new(r"/e\f")]);
        assert_eq!(join_lowerdir(directories.iter().map(PathBuf::as_path)), value);
    }

    #[test]
    fn other_escapes_and_a_backslash_at_the_end_are_read_as_the_kernel_reads_them() {
        assert_eq!(split_lowerdir(r"/\a:/b\"), [Path::new("/a"), Path::new(r"/b\")]);
    }

    #[test]
    fn an_empty_name_before_a_data_only_layer_is_kept() {
        assert_eq!(split_lowerdir("/a::/b").len(), 3);
    }
}
