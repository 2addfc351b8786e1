//! The process: command, environment, user, limits.

use serde_json::{Value, json};

use crate::case::Variation;

pub(super) fn all() -> Vec<Variation> {
    let v = Variation::new;
    [command(), user(), limits()]
        .into_iter()
        .flatten()
        .chain([
            v("oom score", "500", |spec, _| spec["process"]["oomScoreAdj"] = json!(500))
                .shows("/oom", "500")
                .exec(|process| process["oomScoreAdj"] = json!(600)),
            v("oom score", "the highest", |spec, _| spec["process"]["oomScoreAdj"] = json!(1000))
                .shows("/oom", "1000"),
            v("oom score", "lower than one's own, without the capability", |spec, _| {
                spec["process"]["oomScoreAdj"] = json!(-500);
            })
            .open(),
            v("oom score", "beyond the highest", |spec, _| {
                spec["process"]["oomScoreAdj"] = json!(1001);
            })
            .refused(),
            v("names", "host name", |spec, _| spec["hostname"] = json!("other"))
                .shows("/name/host", "other"),
            v("names", "no host name", |spec, _| spec["hostname"] = Value::Null),
            v("names", "host name of 64 bytes", |spec, _| {
                spec["hostname"] = json!("n".repeat(64));
            })
            .alone(),
            v("names", "host name too long", |spec, _| spec["hostname"] = json!("n".repeat(65)))
                .refused(),
            v("names", "domain name", |spec, _| spec["domainname"] = json!("example.test"))
                .shows("/name/domain", "example.test")
                .alone(),
            v("personality", "32 bits", |spec, _| {
                spec["linux"]["personality"] = json!({"domain": "LINUX32"});
            })
            .shows("/name/machine", "i686")
            .alone(),
            v("scheduler", "batch", |spec, _| {
                spec["process"]["scheduler"] = json!({"policy": "SCHED_BATCH", "nice": 5});
            })
            .open(),
        ])
        .collect()
}

fn command() -> Vec<Variation> {
    let v = Variation::new;
    let args = "command";
    vec![
        v(args, "as it is", |_, _| ()).shows("/exit", 3).alone(),
        v(args, "along the path", |spec, _| {
            spec["process"]["args"] = json!(["probe", "probe", "exit", "9"]);
        })
        .shows("/args/0", "probe")
        .exec(|process| process["args"][0] = json!("probe")),
        v(args, "relative to the directory", |spec, _| {
            spec["process"]["args"] = json!(["./probe", "probe"]);
            spec["process"]["cwd"] = json!("/bin");
        })
        .alone(),
        v(args, "empty and odd arguments", |spec, _| {
            spec["process"]["args"] =
                json!(["/bin/probe", "probe", "exit", "4", "", " a b ", "ö\n"]);
        })
        .shows("/exit", 4),
        v(args, "killed by a signal", |spec, _| {
            spec["process"]["args"] = json!(["/bin/sh", "-c", "kill -TERM $$; kill -KILL $$"]);
        })
        .alone(),
        v(args, "missing", |spec, _| spec["process"]["args"] = json!(["/bin/nothing"])).refused(),
        v(args, "missing on the path", |spec, _| spec["process"]["args"] = json!(["nothing"]))
            .refused(),
        v(args, "not executable", |spec, _| spec["process"]["args"] = json!(["/etc/script"]))
            .refused(),
        v(args, "a directory", |spec, _| spec["process"]["args"] = json!(["/etc"])).refused(),
        v(args, "text without an interpreter", |spec, _| {
            spec["process"]["args"] = json!(["/bin/text"]);
        })
        .refused(),
        v(args, "none", |spec, _| spec["process"]["args"] = json!([])).refused(),
        v(args, "no list of arguments", |spec, _| spec["process"]["args"] = Value::Null).refused(),
        v(args, "an empty word", |spec, _| spec["process"]["args"] = json!([""])).refused(),
        v(args, "a NUL in an argument", |spec, _| {
            spec["process"]["args"] = json!(["/bin/probe", "a\u{0}b"]);
        })
        .refused(),
        v(args, "no process", |spec, _| spec["process"] = Value::Null).open(),
        v("version", "1.0.0", |spec, _| spec["ociVersion"] = json!("1.0.0")),
        v("version", "1.1.0", |spec, _| spec["ociVersion"] = json!("1.1.0")),
        v("version", "1.0.2-dev", |spec, _| spec["ociVersion"] = json!("1.0.2-dev")),
        v("version", "2.0.0", |spec, _| spec["ociVersion"] = json!("2.0.0")).open(),
        v("version", "none", |spec, _| spec["ociVersion"] = Value::Null).open(),
        v("version", "nonsense", |spec, _| spec["ociVersion"] = json!("nonsense")).open(),
        v("environment", "order and duplicates", |spec, _| {
            spec["process"]["env"] = json!(["Z=1", "PATH=/bin", "A=2", "Z=3", "E=", "X=a=b"]);
        })
        .exec(|process| process["env"] = json!(["PATH=/bin", "B=1", "B=2", "HOME=/h"])),
        v("environment", "without a path", |spec, _| spec["process"]["env"] = json!(["A=1"]))
            .exec(|_| ()),
        v("environment", "none at all", |spec, _| spec["process"]["env"] = Value::Null),
        v("environment", "without a value", |spec, _| {
            spec["process"]["env"] = json!(["PATH=/bin", "NOVALUE"]);
        })
        .open(),
        v("environment", "without a name", |spec, _| {
            spec["process"]["env"] = json!(["PATH=/bin", "=value"]);
        })
        .open(),
        v("environment", "an empty home", |spec, _| {
            spec["process"]["env"] = json!(["PATH=/bin", "HOME="]);
        }),
        v("environment", "a home of one's own", |spec, _| {
            spec["process"]["env"] = json!(["PATH=/bin", "HOME=/x"]);
        }),
        v("environment", "100 kB", |spec, _| {
            let long = format!("LONG={}", "x".repeat(100_000));
            spec["process"]["env"] = json!(["PATH=/bin", long]);
        }),
        v("environment", "a NUL", |spec, _| {
            spec["process"]["env"] = json!(["PATH=/bin", "A=x\u{0}y"]);
        })
        .refused(),
        v("working directory", "/tmp", |spec, _| spec["process"]["cwd"] = json!("/tmp"))
            .shows("/cwd", "/tmp")
            .exec(|process| process["cwd"] = json!("/etc")),
        v("working directory", "made if missing", |spec, _| {
            spec["process"]["cwd"] = json!("/new/folder");
        })
        .shows("/cwd", "/new/folder"),
        v("working directory", "through a link", |spec, _| spec["process"]["cwd"] = json!("/link"))
            .shows("/cwd", "/mnt/inner"),
        v("working directory", "relative", |spec, _| spec["process"]["cwd"] = json!("tmp"))
            .refused(),
        v("working directory", "none", |spec, _| spec["process"]["cwd"] = json!("")).refused(),
        v("working directory", "a file", |spec, _| spec["process"]["cwd"] = json!("/etc/passwd"))
            .refused(),
        v("working directory", "closed to the user", |spec, _| {
            spec["process"]["cwd"] = json!("/closed");
            spec["process"]["user"] = json!({"uid": 1000, "gid": 1000});
        })
        .open(),
    ]
}

fn user() -> Vec<Variation> {
    let v = Variation::new;
    let user = "user and groups";
    vec![
        v(user, "1000", |spec, _| spec["process"]["user"] = json!({"uid": 1000, "gid": 1000}))
            .shows("/ids/uid", 1000)
            .shows("/ids/egid", 1000)
            .exec(|_| ()),
        v(user, "root in other groups", |spec, _| {
            spec["process"]["user"] = json!({"uid": 0, "gid": 0, "additionalGids": [5, 6, 4000]});
        })
        .shows("/ids/groups", json!([5, 6, 4000]))
        .exec(|process| process["user"] = json!({"uid": 7, "gid": 8, "additionalGids": [9]})),
        v(user, "groups twice", |spec, _| {
            spec["process"]["user"] = json!({"uid": 0, "gid": 3, "additionalGids": [6, 6, 3]});
        }),
        v(user, "unknown to passwd", |spec, _| {
            spec["process"]["user"] = json!({"uid": 4001, "gid": 4002});
        })
        .shows("/ids/uid", 4001)
        .exec(|process| process["user"] = json!({"uid": 0, "gid": 0})),
        v(user, "the highest", |spec, _| {
            spec["process"]["user"] = json!({"uid": 4_294_967_294_u32, "gid": 4_294_967_294_u32});
        })
        .alone(),
        v(user, "too high", |spec, _| {
            spec["process"]["user"] = json!({"uid": 4_294_967_295_u32, "gid": 0});
        })
        .refused(),
        v(user, "below zero", |spec, _| spec["process"]["user"] = json!({"uid": -1, "gid": 0}))
            .refused(),
        v("umask", "077", |spec, _| spec["process"]["user"]["umask"] = json!(0o77))
            .shows("/umask", "0077")
            .exec(|process| process["user"]["umask"] = json!(0o27)),
        v("umask", "0", |spec, _| spec["process"]["user"]["umask"] = json!(0))
            .shows("/umask", "0000"),
        v("umask", "none given", |_, _| ()).shows("/umask", "0022").exec(|_| ()),
        v("keys", "terminal size without a terminal", |spec, _| {
            spec["process"]["consoleSize"] = json!({"height": 10, "width": 20});
        }),
        v("keys", "an unknown key", |spec, _| {
            spec["unknown"] = json!({"a": 1});
            spec["process"]["unknown"] = json!([1]);
            spec["linux"]["unknown"] = json!("x");
        }),
        v("keys", "annotations", |spec, _| spec["annotations"] = json!({"org.example.a": "b"})),
        v("keys", "of a wrong type", |spec, _| spec["process"]["cwd"] = json!(5)).refused(),
        v("keys", "no linux section", |spec, _| spec["linux"] = Value::Null).open(),
    ]
}

fn limits() -> Vec<Variation> {
    let v = Variation::new;
    vec![
        v("rlimits", "open files", |spec, _| {
            spec["process"]["rlimits"] =
                json!([{"type": "RLIMIT_NOFILE", "soft": 512, "hard": 700}]);
        })
        .shows("/limits/NOFILE", "512 700")
        .exec(|process| {
            process["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 300, "hard": 400}]);
        }),
        v("rlimits", "every kind", |spec, _| {
            let kinds = [
                "AS",
                "CORE",
                "CPU",
                "DATA",
                "FSIZE",
                "LOCKS",
                "MEMLOCK",
                "MSGQUEUE",
                "NICE",
                "NOFILE",
                "NPROC",
                "RSS",
                "RTPRIO",
                "RTTIME",
                "SIGPENDING",
                "STACK",
            ];
            let all: Vec<_> = kinds
                .iter()
                .map(|kind| {
                    let value: u64 = match *kind {
                        "AS" | "DATA" | "RSS" | "FSIZE" => 1 << 32,
                        "NICE" | "RTPRIO" => 0,
                        "MEMLOCK" => 65536,
                        "STACK" => 4 << 20,
                        _ => 1000,
                    };
                    json!({"type": format!("RLIMIT_{kind}"), "soft": value, "hard": value})
                })
                .collect();
            spec["process"]["rlimits"] = json!(all);
        })
        .shows("/limits/AS", "4294967296 4294967296")
        .shows("/limits/RTPRIO", "0 0")
        .shows("/limits/STACK", "4194304 4194304")
        .shows("/limits/SIGPENDING", "1000 1000"),
        v("rlimits", "no core", |spec, _| {
            spec["process"]["rlimits"] = json!([{"type": "RLIMIT_CORE", "soft": 0, "hard": 0}]);
        })
        .shows("/limits/CORE", "0 0")
        .exec(|_| ()),
        v("rlimits", "unlimited", |spec, _| {
            spec["process"]["rlimits"] =
                json!([{"type": "RLIMIT_FSIZE", "soft": u64::MAX, "hard": u64::MAX}]);
        })
        .shows("/limits/FSIZE", "- -"),
        v("rlimits", "none", |spec, _| spec["process"]["rlimits"] = Value::Null).exec(|_| ()),
        v("rlimits", "of a user", |spec, _| {
            spec["process"]["rlimits"] = json!([{"type": "RLIMIT_NPROC", "soft": 50, "hard": 60}]);
            spec["process"]["user"] = json!({"uid": 1000, "gid": 1000});
        })
        .shows("/limits/NPROC", "50 60")
        .alone(),
        v("rlimits", "soft above hard", |spec, _| {
            spec["process"]["rlimits"] =
                json!([{"type": "RLIMIT_NOFILE", "soft": 900, "hard": 700}]);
        })
        .refused(),
        v("rlimits", "raised without the capability", |spec, _| {
            spec["process"]["rlimits"] =
                json!([{"type": "RLIMIT_MEMLOCK", "soft": 1_u64 << 40, "hard": 1_u64 << 40}]);
        })
        .open(),
        v("rlimits", "one twice", |spec, _| {
            spec["process"]["rlimits"] = json!([
                {"type": "RLIMIT_NOFILE", "soft": 300, "hard": 500},
                {"type": "RLIMIT_NOFILE", "soft": 400, "hard": 600},
            ]);
        })
        .refused(),
        v("rlimits", "an unknown kind", |spec, _| {
            spec["process"]["rlimits"] = json!([{"type": "RLIMIT_NOPE", "soft": 1, "hard": 1}]);
        })
        .refused(),
    ]
}
