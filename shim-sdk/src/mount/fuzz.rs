//! Fuzz target: the mount table of the host. It has the mounts of containers, whose paths an image
//! or a process may choose.

use std::os::unix::ffi::OsStrExt;

use ::fuzz::Target;

use super::linux::mount_points;

#[test]
fn mount_points_are_read_whatever_their_names() {
    Target::new("mountinfo").words(&["\\040", "\\134", "\\012", " - ", "\\777", "\\"]).run(
        |bytes| {
            let lines = bytes.split(|byte| *byte == b'\n').count();
            assert!(mount_points(bytes).count() <= lines);
            // The kernel writes these bytes of a path in octal.
            let path: Vec<u8> =
                bytes.iter().copied().filter(|byte| *byte != 0).take(4000).collect();
            let mut line = b"36 35 98:0 / ".to_vec();
            for byte in &path {
                match byte {
                    b' ' | b'\t' | b'\n' | b'\\' => line.extend(format!("\\{byte:03o}").bytes()),
                    _ => line.push(*byte),
                }
            }
            line.extend(b" rw - tmpfs tmpfs rw\n");
            let points: Vec<_> = mount_points(&line).collect();
            assert_eq!(points.len(), 1);
            assert_eq!(points[0].as_os_str().as_bytes(), path);
        },
    );
}
