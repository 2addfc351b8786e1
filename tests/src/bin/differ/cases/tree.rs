//! The root file system: its propagation, what is masked or protected in it, devices.

use serde_json::{Value, json};

use super::push;
use crate::case::Variation;

pub(super) fn all() -> Vec<Variation> {
    [root(), hidden(), devices()].into_iter().flatten().collect()
}

fn root() -> Vec<Variation> {
    let v = Variation::new;
    let name = "root file system";
    let propagation = "rootfs propagation";
    vec![
        v(name, "read-only", |spec, _| spec["root"]["readonly"] = json!(true))
            .shows("/paths/~1/writable", "EROFS")
            .shows("/paths/~1etc/writable", "EROFS")
            .shows("/paths/~1dev/writable", "ok")
            .exec(|_| ()),
        v(name, "by an absolute path", |spec, at| {
            spec["root"]["path"] = json!(at.dir.join("b").join(at.id).join("rootfs"));
        }),
        v(name, "by a path with dots", |spec, _| spec["root"]["path"] = json!("./x/../rootfs"))
            .open(),
        v(name, "missing", |spec, _| spec["root"]["path"] = json!("nothing")).refused(),
        v(name, "no path", |spec, _| spec["root"]["path"] = json!("")).refused(),
        v(name, "none", |spec, _| spec["root"] = Value::Null).refused(),
        v(propagation, "private", |spec, _| spec["linux"]["rootfsPropagation"] = json!("private"))
            .shows("/mounts/~1/0/peers", ""),
        v(propagation, "rprivate", |spec, _| {
            spec["linux"]["rootfsPropagation"] = json!("rprivate")
        })
        .shows("/mounts/~1/0/peers", ""),
        v(propagation, "slave", |spec, _| spec["linux"]["rootfsPropagation"] = json!("slave")),
        v(propagation, "rslave", |spec, _| spec["linux"]["rootfsPropagation"] = json!("rslave")),
        v(propagation, "shared", |spec, _| spec["linux"]["rootfsPropagation"] = json!("shared"))
            .shows("/mounts/~1/0/peers", "shared"),
        v(propagation, "rshared", |spec, _| spec["linux"]["rootfsPropagation"] = json!("rshared"))
            .shows("/mounts/~1/0/peers", "shared"),
        v(propagation, "unbindable", |spec, _| {
            spec["linux"]["rootfsPropagation"] = json!("unbindable");
        })
        .shows("/mounts/~1/0/peers", "unbindable"),
        v(propagation, "an unknown one", |spec, _| {
            spec["linux"]["rootfsPropagation"] = json!("nope");
        })
        .refused(),
    ]
}

fn hidden() -> Vec<Variation> {
    let v = Variation::new;
    let (masked, read_only) = ("masked paths", "read-only paths");
    vec![
        v(masked, "the usual", |_, _| ()).shows("/paths/~1sys~1firmware/content", "empty"),
        v(masked, "a file and a directory", |spec, _| {
            spec["linux"]["maskedPaths"] = json!(["/etc/passwd", "/data"]);
        })
        .shows("/paths/~1etc~1passwd/content", "empty")
        .shows("/paths/~1data/content", "empty")
        .exec(|_| ()),
        v(masked, "what is not there", |spec, _| {
            spec["linux"]["maskedPaths"] = json!(["/nothing", "/etc/passwd/below"]);
        }),
        v(masked, "none", |spec, _| spec["linux"]["maskedPaths"] = json!([])),
        v(masked, "through a link", |spec, _| spec["linux"]["maskedPaths"] = json!(["/link"])),
        v(masked, "relative", |spec, _| spec["linux"]["maskedPaths"] = json!(["etc/passwd"]))
            .open(),
        v(read_only, "the usual", |_, _| ()).shows("/paths/~1proc~1irq/writable", "EROFS"),
        v(read_only, "a file and a directory", |spec, _| {
            spec["linux"]["readonlyPaths"] = json!(["/etc/passwd", "/data"]);
        })
        .shows("/paths/~1etc~1passwd/writable", "EROFS")
        .shows("/paths/~1data/writable", "EROFS")
        .exec(|_| ()),
        v(read_only, "what is not there", |spec, _| {
            spec["linux"]["readonlyPaths"] = json!(["/nothing"]);
        }),
        v(read_only, "none", |spec, _| spec["linux"]["readonlyPaths"] = json!([])),
        v(read_only, "a mount", |spec, _| {
            spec["linux"]["readonlyPaths"] = json!(["/run", "/dev/shm"]);
        }),
        v(read_only, "masked as well", |spec, _| {
            spec["linux"]["readonlyPaths"] = json!(["/data"]);
            spec["linux"]["maskedPaths"] = json!(["/data"]);
        })
        .shows("/paths/~1data/content", "empty"),
    ]
}

fn devices() -> Vec<Variation> {
    let v = Variation::new;
    let name = "devices";
    fn one(spec: &mut Value, device: Value) {
        push(&mut spec["linux"]["devices"], device);
    }
    vec![
        v(name, "the usual", |_, _| ())
            .shows("/opens/~1dev~1null", "ok")
            .shows("/opens/~1dev~1urandom", "ok")
            .shows("/tries/mem", "open EPERM")
            .shows("/dev/~1dev~1fd", "-> /proc/self/fd")
            .shows("/dev/~1dev~1ptmx", "-> pts/ptmx"),
        v(name, "a character device", |spec, _| {
            one(
                spec,
                json!({"path": "/dev/extra", "type": "c", "major": 1, "minor": 5,
                "fileMode": 0o640, "uid": 7, "gid": 8}),
            );
        })
        .shows("/dev/~1dev~1extra", "c 1:5 640 7:8"),
        v(name, "with its type in the mode", |spec, _| {
            one(
                spec,
                json!({"path": "/dev/extra", "type": "c", "major": 1, "minor": 5,
                "fileMode": 0o020_666}),
            );
        })
        .shows("/dev/~1dev~1extra", "c 1:5 666 0:0"),
        v(name, "unbuffered", |spec, _| {
            one(
                spec,
                json!({"path": "/dev/extra", "type": "u", "major": 1, "minor": 5,
                "fileMode": 0o600}),
            );
        })
        .shows("/dev/~1dev~1extra", "c 1:5 600 0:0"),
        v(name, "a block device", |spec, _| {
            one(
                spec,
                json!({"path": "/dev/extra", "type": "b", "major": 7, "minor": 99,
                "fileMode": 0o660}),
            );
        })
        .shows("/dev/~1dev~1extra", "b 7:99 660 0:0"),
        v(name, "a fifo", |spec, _| {
            one(spec, json!({"path": "/dev/extra", "type": "p", "fileMode": 0o622}));
        })
        .shows("/dev/~1dev~1extra", "p 0:0 622 0:0"),
        v(name, "without a mode", |spec, _| {
            one(spec, json!({"path": "/dev/extra", "type": "c", "major": 1, "minor": 5}));
        }),
        v(name, "in a directory of its own", |spec, _| {
            one(
                spec,
                json!({"path": "/dev/nested/extra", "type": "c", "major": 1, "minor": 5,
                "fileMode": 0o666}),
            );
        })
        .shows("/dev/~1dev~1nested~1extra", "c 1:5 666 0:0"),
        v(name, "elsewhere", |spec, _| {
            one(
                spec,
                json!({"path": "/opt/extra", "type": "c", "major": 1, "minor": 5,
                "fileMode": 0o666}),
            );
        })
        .open(),
        v(name, "in the place of a usual one", |spec, _| {
            one(
                spec,
                json!({"path": "/dev/zero", "type": "c", "major": 1, "minor": 3,
                "fileMode": 0o600}),
            );
        })
        .open(),
        v(name, "a usual one, as it is", |spec, _| {
            one(
                spec,
                json!({"path": "/dev/null", "type": "c", "major": 1, "minor": 3,
                "fileMode": 0o666, "uid": 0, "gid": 0}),
            );
        })
        .shows("/dev/~1dev~1null", "c 1:3 666 0:0"),
        v(name, "allowed by the cgroup", |spec, _| {
            push(
                &mut spec["linux"]["resources"]["devices"],
                json!({"allow": true, "type": "c", "major": 1, "minor": 1, "access": "rwm"}),
            );
        })
        .alone(),
        v(name, "made by the cgroup's leave, not opened", |spec, _| {
            push(
                &mut spec["linux"]["resources"]["devices"],
                json!({"allow": true, "type": "b", "major": 7, "minor": 0, "access": "m"}),
            );
        })
        .shows("/tries/loop", "open EPERM"),
        v(name, "all allowed", |spec, _| {
            spec["linux"]["resources"]["devices"] = json!([{"allow": true, "access": "rwm"}]);
        })
        .alone(),
        v(name, "no rules", |spec, _| spec["linux"]["resources"]["devices"] = Value::Null).alone(),
        v(name, "a usual one denied", |spec, _| {
            push(
                &mut spec["linux"]["resources"]["devices"],
                json!({"allow": false, "type": "c", "major": 1, "minor": 7, "access": "rwm"}),
            );
        })
        .open(),
        v(name, "an unknown type", |spec, _| {
            one(spec, json!({"path": "/dev/extra", "type": "x", "major": 1, "minor": 5}));
        })
        .refused(),
        v(name, "no path", |spec, _| one(spec, json!({"type": "c", "major": 1, "minor": 5})))
            .refused(),
        v(name, "an unknown access", |spec, _| {
            push(
                &mut spec["linux"]["resources"]["devices"],
                json!({"allow": true, "type": "c", "major": 1, "minor": 1, "access": "xyz"}),
            );
        })
        .open(),
    ]
}
